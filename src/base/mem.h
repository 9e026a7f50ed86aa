/* SPDX-License-Identifier: MIT */
/* mem.h - the one seam through which src/, vm/ allocate, so that tests can fail the n-th call. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t size);              /* NULL when out of memory */
void *mem_zalloc(size_t count, size_t size); /* zeroed; checks the product */
void *mem_realloc(void *ptr, size_t size); /* as realloc: ptr stays valid on NULL */
char *mem_strdup(const char *s);
void mem_free(void *ptr);

/* Tests: the n-th allocation from now (1: the next) and all after it fail; 0: none fails. */
void mem_fail_after(uint64_t n);
uint64_t mem_live(void); /* allocations not yet freed in this process */

#endif
