/* SPDX-License-Identifier: MIT */
/* fuzz.h - the entry point each fuzz_*.c has, in libFuzzer's shape. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
