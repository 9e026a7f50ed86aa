/* SPDX-License-Identifier: MIT */
/* fuzz_key.c - any text as that of a key file, or of what comes on a pipe. What is taken is written
 * as the same text, but for a newline at its end; what is refused leaves no secret behind. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct auth_keys none;
    char again[AUTH_TEXT_MAX];
    struct auth_keys keys;
    char *text = malloc(size + (size == 0)); /* exact, for the sanitizer */

    assert(text != NULL);
    memcpy(text, data, size);
    if (auth_keys_parse(&keys, text, size, "it") == 0) {
        size_t length = auth_keys_format(&keys, again);
        assert(length == size || length == size + 1);
        assert(memcmp(again, text, size) == 0);
    } else {
        assert(memcmp(&keys, &none, sizeof(keys)) == 0);
    }
    free(text);
    return 0;
}
