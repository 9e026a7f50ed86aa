/* SPDX-License-Identifier: MIT */
/* fuzz_hosts.c - any text as a list of hosts. Byte 0: bit 0, the text is that of a file that the
 * list names; bit 1, it is a list of multicast groups. Each address found is one that can be
 * parsed. No name is looked up, no file opened but the one. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "discovery/discovery_impl.h"
#include "discovery/group.h"
#include "fuzz.h"
#include "net/address.h"

static void found(void *ctx, const char *address)
{
    struct net_address a;
    int rc = net_address_parse(&a, address);

    assert(rc == 0 && a.sa.ss_family != AF_UNIX);
}

static void try_list(const char *list)
{
    const struct trk_discovery_config config = {.hosts = list};
    const struct trk_discovery_sink sink = {.found = found};
    uint64_t live = mem_live();
    void *state;

    if (discovery_hosts.open(&config, &sink, &state) == 0) {
        if (discovery_hosts.fd(state) < 0) { /* no names */
            int rc = discovery_hosts.ask(state);
            assert(rc == 0);
        }
        discovery_hosts.close(state);
    }
    assert(mem_live() == live);
}

static void try_file(const char *text, size_t size)
{
    char list[64];
    int fd = memfd_create("hosts", MFD_CLOEXEC);

    assert(fd >= 0 && write(fd, text, size) == (ssize_t)size);
    snprintf(list, sizeof(list), "@/proc/self/fd/%d", fd);
    try_list(list);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct discovery_group groups[DISCOVERY_GROUPS_MAX];

    if (size < 1) {
        return 0;
    }
    char *text = malloc(size);
    assert(text != NULL);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    if (data[0] & 1) {
        try_file(text, size - 1);
    } else if (data[0] & 2) {
        int count = discovery_groups_parse(groups, text);
        assert(count <= DISCOVERY_GROUPS_MAX);
    } else {
        for (char *at = text; (at = strchr(at, '@')) != NULL;) {
            *at = 'a'; /* files of this machine are none of the fuzzer's business */
        }
        try_list(text);
    }
    free(text);
    return 0;
}
