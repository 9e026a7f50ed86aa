/* SPDX-License-Identifier: MIT */
/* join.c - supervisors that dial in: --join HOST:PORT, to a program that nobody here could be
 * found by.
 *
 *   WAITING --timer--> ASKING (discovery_hosts finds the addresses) --found--> DIALING
 *      ^                 nothing found: the timer again                          |  JOIN
 *      |                                                                         v
 *      +-- all addresses failed, or the session has ended --------- watched (watch.c)
 *
 * What connects is the session of a watcher: from the program's HELLO on it is as if the program
 * had connected to us. Whoever is not there is tried again for ever, after a time that grows to
 * BACK_OFF_MAX_MS and differs from one supervisor to the next; a program that has asked for a VM
 * and ends is followed by the next one at once. The program waits as long for us (FARM_JOIN_MS).
 *
 * When the program wants a VM it says so here (DIAL), and the VM is told by its control socket
 * (host.h): it connects to the same address, and only there. If it cannot be told, because its
 * process has just ended, nothing needs to be said: the program learns of the next process. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "net/address.h"
#include "vm/supervisor.h"

#define BACK_OFF_FIRST_MS 100u
#define BACK_OFF_MAX_MS 3000u
#define ADDRESSES_MAX 8 /* of a name; more are not tried */

/* One program's address. */
struct join {
    struct supervisor *sup;
    const char *where;            /* as it was typed */
    void *hosts;                  /* state of discovery_hosts; NULL: not opened */
    struct watched_fd *hosts_fd;  /* NULL: it is an address, not a name */
    uv_timer_t timer;             /* the next try */
    uint32_t wait_ms;             /* before the next one but one */
    char addresses[ADDRESSES_MAX][NET_ADDRESS_TEXT]; /* of this try */
    size_t count, next;           /* of these: found, not yet tried */
    bool is_dialing;              /* there is a session */
    char refused[TRK_VM_TEXT_MAX]; /* what was told last at the level of warnings */
};

static void on_timer(uv_timer_t *timer);

/* Somewhere about the time that is due: else all supervisors come in the same moment. */
static void try_later(struct join *j)
{
    uint16_t random = 0;
    if (j->sup->is_stopping) {
        return;
    }
    (void)!sys_random(&random, sizeof(random)); /* 0 will do */
    uint64_t ms = j->wait_ms - j->wait_ms / 4 + (uint64_t)j->wait_ms / 2 * random / UINT16_MAX;
    uv_timer_start(&j->timer, on_timer, ms, 0);
    j->wait_ms = j->wait_ms < BACK_OFF_MAX_MS / 2 ? j->wait_ms * 2 : BACK_OFF_MAX_MS;
}

static void dial_next(struct join *j)
{
    while (!j->is_dialing && j->next < j->count) {
        const char *address = j->addresses[j->next++];
        j->is_dialing = watch_dial(j->sup, address, j) == 0;
        if (!j->is_dialing) {
            log_info("vm", "cannot join %s: %s", j->where, fail_text());
        }
    }
    if (j->is_dialing) {
        uv_timer_stop(&j->timer);
    }
}

static void on_found(void *ctx, const char *address)
{
    struct join *j = ctx;
    for (size_t i = 0; i < j->count; i++) {
        if (strcmp(j->addresses[i], address) == 0) {
            return;
        }
    }
    if (j->count < ADDRESSES_MAX && !j->sup->is_stopping) {
        snprintf(j->addresses[j->count++], sizeof(j->addresses[0]), "%s", address);
        dial_next(j);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct join *j = timer->data;
    keys_look(j->sup);
    j->count = j->next = 0;
    try_later(j); /* if nothing is found */
    if (discovery_hosts.ask(j->hosts) < 0) {
        log_warn("vm", "cannot join %s: %s", j->where, fail_text());
    }
}

void join_wanted(struct join *j)
{
    j->wait_ms = BACK_OFF_FIRST_MS;
}

void join_ended(struct join *j, const char *why, bool is_refused)
{
    j->is_dialing = false;
    if (is_refused && strncmp(j->refused, why, sizeof(j->refused) - 1) != 0) {
        snprintf(j->refused, sizeof(j->refused), "%s", why);
        log_warn("vm", "cannot join %s: %s", j->where, why);
    } else {
        log_info("vm", "%s: %s", j->where, why);
    }
    if (!j->sup->is_stopping) {
        dial_next(j);
    }
    if (!j->is_dialing) {
        try_later(j);
    }
}

/* --- VMs ------------------------------------------------------------------------------ */

static struct vm_child *find_vm(struct supervisor *sup, const uint8_t incarnation[16])
{
    for (uint32_t i = 0; i < sup->opt.count; i++) {
        struct vm_child *vm = &sup->vms[i];
        if (vm->pid != 0 && memcmp(vm->page->incarnation, incarnation, 16) == 0) {
            return vm;
        }
    }
    return NULL;
}

void join_tell_vm(struct supervisor *sup, const struct wire_join *dial, const char *address)
{
    struct vm_child *vm = find_vm(sup, dial->id);
    char message[2 + HOST_DIAL_MAX];
    size_t n = 2;
    if (vm == NULL || vm->control == NULL) {
        log_debug("vm", "a VM is to dial in that has just ended");
        return;
    }
    for (size_t i = 0; i < sizeof(dial->token); i++) {
        n += (size_t)snprintf(message + n, sizeof(message) - n, "%02x", dial->token[i]);
    }
    n += (size_t)snprintf(message + n, sizeof(message) - n, " %s", address);
    message[0] = 'J';
    message[1] = (char)(n - 2);
    if (send(watched_fd_get(vm->control), message, n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)n) {
        log_warn("vm", "VM %u cannot be told to dial in: %s", vm->index, strerror(errno));
    }
    explicit_bzero(message, sizeof(message));
}

/* --- life ----------------------------------------------------------------------------- */

static void on_names(void *user)
{
    struct join *j = user;
    discovery_hosts.process(j->hosts);
}

static int start_one(struct supervisor *sup, struct join *j, const char *where)
{
    struct trk_discovery_config config = {.hosts = where};
    struct trk_discovery_sink sink = {.ctx = j, .found = on_found};
    j->sup = sup;
    j->where = where;
    j->wait_ms = BACK_OFF_FIRST_MS;
    uv_timer_init(net_loop_uv(sup->loop), &j->timer); /* cannot fail, nor can this: */
    j->timer.data = j;
    uv_timer_start(&j->timer, on_timer, 0, 0);
    int rc = discovery_hosts.open(&config, &sink, &j->hosts);
    if (rc < 0) {
        j->hosts = NULL;
        return rc;
    }
    int fd = discovery_hosts.fd(j->hosts);
    if (fd < 0) {
        return 0;
    }
    fd = fcntl(fd, F_DUPFD_CLOEXEC, 3); /* a copy: the module closes its own */
    j->hosts_fd = fd >= 0 ? watched_fd_new(sup, fd, on_names, j) : NULL;
    return j->hosts_fd != NULL ? 0 : fail(TRK_EIO, "cannot wait for names to be looked up");
}

int join_start(struct supervisor *sup)
{
    if (sup->opt.joins_count == 0) {
        return 0;
    }
    sup->joins = mem_zalloc(sup->opt.joins_count, sizeof(*sup->joins));
    if (sup->joins == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < sup->opt.joins_count; i++) {
        int rc = start_one(sup, &sup->joins[i], sup->opt.joins[i]);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

void join_stop(struct supervisor *sup)
{
    for (size_t i = 0; sup->joins != NULL && i < sup->opt.joins_count; i++) {
        struct join *j = &sup->joins[i];
        if (j->hosts == NULL) {
            continue;
        }
        uv_timer_stop(&j->timer);
        watched_fd_close(j->hosts_fd);
        discovery_hosts.close(j->hosts);
        j->hosts_fd = NULL;
        j->hosts = NULL;
    }
}
