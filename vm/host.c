/* SPDX-License-Identifier: MIT */
/* host.c - trk_vm_serve(): takes over what the supervisor handed down, and starts both halves. */
#include "vm/host.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/sys.h"
#include "vm/host_impl.h"

static struct host the_host; /* one per process, until it ends */
static atomic_bool is_serving;

struct host *host_serving(void)
{
    return atomic_load(&is_serving) ? &the_host : NULL;
}

static int take_fds(struct host *h)
{
    const char *text = getenv(VM_FDS_ENV);
    if (text == NULL) {
        return fail(TRK_EINVAL, "%s is not set: VMs are started by trickle-vm", VM_FDS_ENV);
    }
    if (vm_fds_parse(&h->fds, text) < 0) {
        return fail(TRK_EINVAL, "%s cannot be read: %s", VM_FDS_ENV, text);
    }
    unsetenv(VM_FDS_ENV);
    h->fds.listen = vm_fd_raise(h->fds.listen);
    h->fds.control = vm_fd_raise(h->fds.control);
    h->fds.tcp = vm_fd_raise(h->fds.tcp);
    /* What user code starts must not inherit these: its sockets would outlive this process. */
    if (sys_fd_add(h->fds.listen) < 0 || sys_fd_add(h->fds.control) < 0 ||
        (h->fds.tcp >= 0 && sys_fd_add(h->fds.tcp) < 0)) {
        return fail(TRK_EINVAL, "the descriptors that %s names are not open", VM_FDS_ENV);
    }
    return 0;
}

static int map_page(struct host *h)
{
    void *at = mmap(NULL, sizeof(struct vm_page), PROT_READ | PROT_WRITE, MAP_SHARED,
                    h->fds.page, 0);
    if (at == MAP_FAILED) {
        return fail(TRK_EIO, "cannot map the page shared with the supervisor: %s",
                    strerror(errno));
    }
    close(h->fds.page);
    /* A child that user code forks has no business in it. */
    (void)madvise(at, sizeof(struct vm_page), MADV_DONTFORK);
    h->page = at;
    if (h->page->magic != VM_PAGE_MAGIC) {
        munmap(at, sizeof(struct vm_page));
        return fail(TRK_EVERSION, "the supervisor is of another version of Trickle");
    }
    return 0;
}

static void describe_module(struct host *h)
{
    snprintf(h->page->module, sizeof(h->page->module), "%s", h->own.table.name);
    snprintf(h->page->version, sizeof(h->page->version), "%s", h->own.table.version);
}

/* The loop's descriptors are made in there: not where user code will have its own. */
static int start_net(struct host *h)
{
    bool taken[VM_FD_FLOOR];
    vm_fd_fill(taken);
    int rc = host_net_start(h);
    vm_fd_unfill(taken);
    return rc;
}

static int start(struct host *h, const struct trk_rai_module *module, void *state)
{
    int rc = take_fds(h);
    if (rc < 0) {
        return rc;
    }
    rc = map_page(h);
    if (rc < 0) {
        return rc;
    }
    sys_host_name(h->host_name, sizeof(h->host_name));
    h->pid = getpid();
    h->memory_limit = h->page->memory_limit;
    h->recycle_after = h->page->recycle_after;
    h->agent = agent_new();
    if (h->agent == NULL || host_compute_init(h) < 0) {
        return fail(TRK_ENOMEM, "out of memory at the start of the VM");
    }
    rc = host_modules_open(h, module, state);
    if (rc < 0) {
        return rc;
    }
    describe_module(h);
    agent_use_fences(h->agent, h->page->fences);
    h->compute_thread = pthread_self();
    if (pthread_mutex_init(&h->lock, NULL) != 0 || sem_init(&h->wake, 0, 0) < 0 ||
        sem_init(&h->answer_wake, 0, 0) < 0) {
        return fail(TRK_EIO, "cannot make a lock");
    }
    rc = start_net(h);
    return rc < 0 ? fail(rc, "cannot start the net thread: %s", trk_strerror(rc)) : 0;
}

bool trk_is_forked(void)
{
    return sys_is_forked();
}

int trk_vm_serve(const struct trk_rai_module *module, void *state)
{
    static atomic_flag has_served = ATOMIC_FLAG_INIT;
    struct host *h = &the_host;
    if (atomic_flag_test_and_set(&has_served)) {
        return fail(TRK_ECLOSED, "a process can be a VM only once");
    }
    int rc = start(h, module, state);
    if (rc < 0) {
        return rc;
    }
    atomic_store(&is_serving, true);
    host_compute(h);
    host_modules_close(h);
    return 0;
}
