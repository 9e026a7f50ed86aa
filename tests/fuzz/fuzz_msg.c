/* SPDX-License-Identifier: MIT */
/* fuzz_msg.c - the first byte chooses the kind of message, the rest is its body. What is accepted
 * is encoded, decoded and encoded again to the same bytes; nothing stays allocated. */
#include <assert.h>
#include <string.h>

#include "../wire/samples.h"
#include "base/mem.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct blob *body, *first = NULL, *second = NULL;
    enum sample_kind kind;
    uint64_t live = mem_live();

    if (size == 0) {
        return 0;
    }
    kind = (enum sample_kind)(data[0] % SAMPLE_KIND_COUNT);
    body = blob_dup(data + 1, size - 1); /* of its exact size, for the sanitizer */
    assert(body != NULL);
    if (sample_again(kind, body, &first) == 0) {
        int rc = sample_again(kind, first, &second);

        assert(rc == 0 && first->size == second->size);
        assert(memcmp(first->data, second->data, first->size) == 0);
        assert(!sample_is_flat(kind) || (first->size == body->size &&
                                         memcmp(first->data, body->data, body->size) == 0));
    }
    blob_unref(body);
    blob_unref(first);
    blob_unref(second);
    assert(mem_live() == live);
    return 0;
}
