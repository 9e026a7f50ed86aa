/* SPDX-License-Identifier: MIT */
/* fuzz_address.c - any text as the address of a peer. What is taken is written as a text that
 * stands for the same address. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "fuzz.h"
#include "net/address.h"

/* The name of a socket that does not listen yet: it is written without its ending. */
static bool is_unfinished(const struct net_address *a)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)&a->sa;

    return a->sa.ss_family == AF_UNIX &&
           un->sun_path[strlen(un->sun_path) - 1] == NET_UNIX_UNFINISHED;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), again[NET_ADDRESS_TEXT], third[NET_ADDRESS_TEXT];
    struct net_address a, b;

    assert(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    if (net_address_parse(&a, text) == 0) {
        net_address_format(&a, again, sizeof(again));
        if (!is_unfinished(&a)) {
            int rc = net_address_parse(&b, again);
            assert(rc == 0);
            net_address_format(&b, third, sizeof(third));
            assert(strcmp(again, third) == 0);
        }
    }
    free(text);
    return 0;
}
