/* SPDX-License-Identifier: MIT */
/* multicast_tool.c - one half of multicast discovery as a program, for netns.py.
 *   multicast_tool answer GROUPS TCPPORT LETTER KEYS  a responder until end of file on stdin
 *   multicast_tool ask GROUPS KEYS                    prints what is found; asks once at the start
 *                                                     and for each line of stdin, ends with it
 * GROUPS: as of TRICKLE_MULTICAST, or "default". KEYS: "-": none; else a letter for each. */
#include "base/fail.h" /* before others that have a fail of their own */

#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "auth/keys.h"
#include "finder.h"

static int complain(void)
{
    fprintf(stderr, "multicast_tool: %s\n", fail_text());
    return 1;
}

/* Waits for fd or stdin. Returns 0 at the end of stdin, 1 for a line there, 2 for fd. */
static int wait_either(int fd)
{
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    char line[64];
    if (poll(p, 2, -1) < 0) {
        return 0;
    }
    if (p[1].revents != 0) {
        return read(STDIN_FILENO, line, sizeof(line)) > 0 ? 1 : 0;
    }
    return 2;
}

static const char *groups_of(const char *text)
{
    return strcmp(text, "default") == 0 ? NULL : text;
}

/* NULL: none. */
static const struct auth_keys *keys_of(const char *letters)
{
    static struct auth_keys keys;
    keys.count = strlen(letters);
    if (strcmp(letters, "-") == 0 || keys.count > AUTH_KEYS_MAX) {
        return NULL;
    }
    for (size_t i = 0; i < keys.count; i++) {
        memset(keys.key[i].secret, letters[i], sizeof(keys.key[i].secret));
        snprintf(keys.key[i].id, sizeof(keys.key[i].id), "%08x", (unsigned char)letters[i]);
    }
    return &keys;
}

static int answer(char **argv)
{
    struct discovery_responder *r;
    uint8_t id[16] = {(uint8_t)argv[2][0]};
    uint16_t port = (uint16_t)atoi(argv[1]);
    const struct discovery_responder_options opt = {
        .multicast = groups_of(argv[0]), .keys = keys_of(argv[3]), .ipv4_port = port,
        .ipv6_port = port, .supervisor = id};
    if (discovery_responder_open(&r, &opt) != 0) {
        return complain();
    }
    puts("ready");
    fflush(stdout);
    while (wait_either(discovery_responder_fd(r)) != 0) {
        discovery_responder_process(r);
    }
    discovery_responder_free(r);
    return 0;
}

static void print_found(void *ctx, const char *address)
{
    puts(address);
    fflush(stdout);
}

static int ask(char **argv)
{
    const struct trk_discovery_config config = {.multicast = groups_of(argv[0]),
                                                .keys = keys_of(argv[1])};
    const struct trk_discovery_sink sink = {.found = print_found};
    void *state;
    int what = 1;
    if (discovery_multicast.open(&config, &sink, &state) != 0) {
        return complain();
    }
    while (what != 0) {
        if (what == 1 && discovery_multicast.ask(state) != 0) {
            return complain();
        }
        if (what == 1) {
            puts("asked");
            fflush(stdout);
        }
        discovery_multicast.process(state);
        what = wait_either(discovery_multicast.fd(state));
    }
    discovery_multicast.close(state);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "answer") == 0) {
        return answer(argv + 2);
    }
    if (argc == 4 && strcmp(argv[1], "ask") == 0) {
        return ask(argv + 2);
    }
    fprintf(stderr, "usage: multicast_tool answer GROUPS TCPPORT LETTER KEYS | ask GROUPS KEYS\n");
    return 2;
}
