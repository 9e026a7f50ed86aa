/* SPDX-License-Identifier: MIT */
/* keys.c - the farm's keys in a supervisor: from the user's file to its VMs and its sockets.
 *
 * The file is looked at when somebody connects by TCP, at SIGHUP, and every few seconds: a VM's
 * own socket does not tell us who comes, and a key that was taken out of the file must not open
 * it for long. Nor may a session go on that was opened with it.
 *
 * VMs get the keys by their control socket (host.h), as text, when they start and when the keys
 * have changed. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "vm/supervisor.h"

#define LOOK_MS 2000u

const struct auth_keys *keys_of(const struct supervisor *sup)
{
    return sup->opt.keys != NULL ? &sup->opt.keys->keys : NULL;
}

void keys_send(const struct supervisor *sup, int control)
{
    char message[2 + AUTH_TEXT_MAX];
    if (sup->opt.keys == NULL) {
        return;
    }
    size_t size = auth_keys_format(keys_of(sup), message + 2);
    message[0] = 'K';
    message[1] = (char)size;
    if (send(control, message, 2 + size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)(2 + size)) {
        log_warn("vm", "a VM cannot be given the key: %s", strerror(errno));
    }
    explicit_bzero(message, sizeof(message));
}

void keys_look(struct supervisor *sup)
{
    int rc = sup->opt.keys != NULL ? auth_watch_look(sup->opt.keys) : 0;
    if (rc < 0) {
        log_warn("vm", "%s", fail_text());
    }
    if (rc <= 0) {
        return;
    }
    log_info("vm", "the keys have changed; the first is %s", keys_of(sup)->key[0].id);
    net_sessions_revoke(sup->loop, keys_of(sup));
    for (uint32_t i = 0; i < sup->opt.count; i++) {
        if (sup->vms[i].control != NULL) {
            keys_send(sup, watched_fd_get(sup->vms[i].control));
        }
    }
    if (sup->responder != NULL &&
        discovery_responder_set_keys(sup->responder, keys_of(sup)) < 0) {
        log_warn("vm", "questions are answered with the old keys: %s", fail_text());
    }
}

static void on_timer(uv_timer_t *timer)
{
    keys_look(timer->data);
}

/* Does this process belong to a terminal that is still there? */
static bool has_terminal(void)
{
    int fd = open("/dev/tty", O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

/* A terminal that has gone ends what ran in it; else it means, as for any daemon: look again. */
static void on_hangup(uv_signal_t *signal, int number)
{
    struct supervisor *sup = signal->data;
    if (sup->has_terminal && !has_terminal()) {
        supervisor_stop(sup, number);
    } else {
        keys_look(sup);
    }
}

int keys_start(struct supervisor *sup)
{
    if (sup->opt.keys == NULL) {
        return 0;
    }
    sup->has_terminal = has_terminal();
    uv_timer_init(net_loop_uv(sup->loop), &sup->keys_timer); /* cannot fail, nor can this: */
    sup->keys_timer.data = sup;
    uv_timer_start(&sup->keys_timer, on_timer, LOOK_MS, LOOK_MS);
    int rc = uv_signal_init(net_loop_uv(sup->loop), &sup->hangup);
    sup->hangup.data = sup;
    rc = rc == 0 ? uv_signal_start(&sup->hangup, on_hangup, SIGHUP) : rc;
    return rc == 0 ? 0 : fail(TRK_EIO, "cannot wait for signals: %s", uv_strerror(rc));
}
