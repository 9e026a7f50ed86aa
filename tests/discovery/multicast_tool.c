/* SPDX-License-Identifier: MIT */
/* multicast_tool.c - one half of multicast discovery as a program, for netns.py.
 *   multicast_tool answer GROUP:PORT TCPPORT LETTER   a responder until end of file on stdin
 *   multicast_tool ask GROUP:PORT                     prints what is found; asks once at the start
 *                                                     and for each line of stdin, ends with it */
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fail.h"
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

static int answer(const char *group, const char *port, const char *letter)
{
    struct discovery_responder *r;
    uint8_t id[16] = {(uint8_t)letter[0]};
    if (discovery_responder_new(&r, group, (uint16_t)atoi(port), id) != 0) {
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

static int ask(const char *group)
{
    const struct trk_discovery_config config = {.multicast = group};
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
    if (argc == 5 && strcmp(argv[1], "answer") == 0) {
        return answer(argv[2], argv[3], argv[4]);
    }
    if (argc == 3 && strcmp(argv[1], "ask") == 0) {
        return ask(argv[2]);
    }
    fprintf(stderr, "usage: multicast_tool answer GROUP:PORT TCPPORT LETTER | ask GROUP:PORT\n");
    return 2;
}
