/* SPDX-License-Identifier: MIT */
/* fuzz_exec.c - the encodings of the module "exec": a command (from a STAGE), an element (from a
 * RUN), a result (from a VM). What is accepted is written back byte for byte, and words can be made
 * of a command. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "fuzz.h"
#include "trickle/exec.h"
#include "trickle/trickle.h"

static void check_same(int rc, void *again, size_t again_size, const uint8_t *bytes, size_t size)
{
    assert(rc == 0 && again_size == size && memcmp(again, bytes, size) == 0);
    mem_free(again);
}

static void check_spec(const uint8_t *bytes, size_t size)
{
    static const struct trk_exec_bytes fields[] = {{"a/b.c", 5}, {"it's", 4}};
    struct trk_exec_spec *spec;
    struct trk_exec_bytes *words;
    void *again = NULL;
    size_t n = 0;

    if (trk_exec_spec_decode(bytes, size, &spec) < 0) {
        return;
    }
    if (trk_exec_argv(spec, fields, 2, 1, &words, &n) == 0) {
        assert(n == spec->argc);
        mem_free(words);
    }
    int rc = trk_exec_spec_encode(spec, &again, &n);
    check_same(rc, again, n, bytes, size);
    mem_free(spec);
}

static void check_element(const uint8_t *bytes, size_t size)
{
    struct trk_exec_bytes *fields;
    void *again = NULL;
    size_t count, n = 0;

    if (trk_exec_element_decode(bytes, size, &fields, &count) < 0) {
        return;
    }
    int rc = trk_exec_element_encode(fields, count, &again, &n);
    check_same(rc, again, n, bytes, size);
    mem_free(fields);
}

static void check_result(const uint8_t *bytes, size_t size)
{
    struct trk_exec_result result;
    void *again = NULL;
    size_t n = 0;

    /* An outcome of a later version is read, and not written. */
    if (trk_exec_result_decode(bytes, size, &result) < 0 || result.outcome > TRK_EXEC_UNKNOWN) {
        return;
    }
    int rc = trk_exec_result_encode(&result, &again, &n);
    check_same(rc, again, n, bytes, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t live = mem_live();
    uint8_t *bytes = malloc(size > 0 ? size : 1); /* of its exact size, for the sanitizer */

    assert(bytes != NULL);
    memcpy(bytes, data, size);
    check_spec(bytes, size);
    check_element(bytes, size);
    check_result(bytes, size);
    free(bytes);
    assert(mem_live() == live);
    return 0;
}
