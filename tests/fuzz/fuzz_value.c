/* SPDX-License-Identifier: MIT */
/* fuzz_value.c - bytes of a record's value into its decoders. What decodes lies within the bytes
 * and encodes to the same bytes again. Byte 0: which one (255: elements); of
 * results also how many. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "ckpt/value.h"
#include "fuzz.h"
#include "trickle/error.h"

static void same(struct blob *again, const uint8_t *bytes, size_t size)
{
    assert(again != NULL && again->size == size && memcmp(again->data, bytes, size) == 0);
    blob_unref(again);
}

static void try_result(uint64_t count, const uint8_t *bytes, size_t size)
{
    struct value_result v;

    if (value_result_decode(&v, count, bytes, size) == 0) {
        const uint8_t *end = v.payloads;
        for (uint64_t i = 0; i < count; i++) {
            assert(v.statuses[i] <= TRK_STATUS_ERROR);
            end += le_load_u32(v.sizes + i * 4);
        }
        assert(end == bytes + size);
    }
}

static void try_elements(const uint8_t *bytes, size_t size)
{
    uint8_t head[VALUE_ELEMENTS_HEAD];
    struct value_elements v;

    if (value_elements_decode(&v, bytes, size) == 0) {
        const uint8_t *end = v.elements;
        for (uint32_t i = 0; i < v.count; i++) {
            end += le_load_u32(v.sizes + (size_t)i * 4);
        }
        assert(end == bytes + size && v.size == (size_t)(end - v.elements));
        value_elements_put(head, v.count);
        assert(memcmp(head, bytes, sizeof(head)) == 0);
    }
}

static void try_value(unsigned which, const uint8_t *bytes, size_t size)
{
    struct value_attempt *all;
    struct value_stage stage;
    struct value_work work;
    struct value_state state;
    size_t count;

    if (which == 0) {
        if (value_stage_decode(&stage, bytes, size) == 0) {
            same(value_stage_encode(&stage), bytes, size);
        }
    } else if (which == 1) {
        if (value_work_decode(&work, bytes, size) == 0) {
            same(value_work_encode(&work), bytes, size);
        }
    } else if (which == 2) {
        if (value_attempts_decode(&all, &count, bytes, size) == 0) {
            same(value_attempts_encode(all, count), bytes, size);
            mem_free(all);
        }
    } else if (which == 3) {
        if (value_state_decode(&state, bytes, size) == 0) {
            same(value_state_encode(&state), bytes, size);
        }
    } else if (which == UINT8_MAX) {
        try_elements(bytes, size);
    } else {
        try_result(which - 4, bytes, size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes;

    if (size < 1) {
        return 0;
    }
    bytes = malloc(size - 1 + (size == 1)); /* exact, for the sanitizer */
    assert(bytes != NULL);
    memcpy(bytes, data + 1, size - 1);
    try_value(data[0], bytes, size - 1);
    free(bytes);
    return 0;
}
