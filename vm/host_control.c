/* SPDX-License-Identifier: MIT */
/* host_control.c - what the supervisor says to this VM: keys, where to dial in,
 * drain, stop (host.h).
 *
 * Keys come before the process has started, so that its net thread reads them before any user
 * code runs; later ones (they were rotated) wait in the socket, and are read before a connection
 * by TCP is accepted, so that one that was made with them is not refused. A session by a key that
 * is none of the new ones ends, and what runs for it (host_net.c).
 *
 * Without keys, when there are to be some, TCP is not accepted at all. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "vm/host_impl.h"

/* The supervisor has gone: nobody will look after this process and its children any more. */
static _Noreturn void die_with_group(struct host *h)
{
    if (getpgrp() == h->pid) {
        kill(-h->pid, SIGKILL);
    }
    _exit(1);
}

static void take_keys(struct host *h, const char *text, size_t size)
{
    struct auth_keys keys;
    if (auth_keys_parse(&keys, text, size, "what the supervisor sent") < 0) {
        log_error("vm", "%s", fail_text());
        return;
    }
    h->keys = keys;
    auth_keys_clear(&keys);
    net_sessions_revoke(h->loop, &h->keys);
}

/* --- dialing in ---------------------------------------------------------------------- */

static void take_dial(struct host *h, const char *text, size_t size)
{
    char address[HOST_DIAL_MAX], digits[33];
    uint8_t token[16];
    if (size >= sizeof(address) || size < 34 || text[32] != ' ') {
        log_error("vm", "the supervisor does not say where to dial in");
        return;
    }
    snprintf(digits, sizeof(digits), "%.32s", text);
    snprintf(address, sizeof(address), "%.*s", (int)(size - 33), text + 33);
    if (vm_hex_parse(token, digits)) {
        host_dial(h, token, address);
    }
}

/* One message at the start of what has come. Returns its bytes; 0: more must come. */
static size_t obey(struct host *h)
{
    const uint8_t *in = h->control_in;
    if (in[0] == 'S') {
        _exit(0);
    }
    if (in[0] == 'D') {
        host_leave(h, WIRE_END_DRAINED);
        return 1;
    }
    if (in[0] != 'K' && in[0] != 'J') {
        return 1; /* of a later version */
    }
    size_t size = h->control_size > 1 ? in[1] : sizeof(h->control_in);
    if (h->control_size < 2 + size) {
        return 0;
    }
    if (in[0] == 'K') {
        take_keys(h, (const char *)in + 2, size);
    } else {
        take_dial(h, (const char *)in + 2, size);
    }
    return 2 + size;
}

void host_control_read(struct host *h)
{
    for (;;) {
        ssize_t n = recv(h->fds.control, h->control_in + h->control_size,
                         sizeof(h->control_in) - h->control_size, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n <= 0) {
            die_with_group(h);
        }
        h->control_size += (size_t)n;
        size_t used;
        while (h->control_size > 0 && (used = obey(h)) > 0) {
            h->control_size -= used;
            memmove(h->control_in, h->control_in + used, h->control_size);
            explicit_bzero(h->control_in + h->control_size, used);
        }
    }
}
