/* SPDX-License-Identifier: MIT */
/* death.c - how a VM's process died, and why, as far as can be known.
 *
 *   why       from            meaning
 *   ends it chose itself: it noted them in its page first (a lease, a drain, a timeout ...)
 *   MEMORY, DRAINED           this supervisor killed it, and knows why
 *   OOM       the kernel      SIGKILL that nobody here sent, and evidence (oom.c)
 *   UNKNOWN                   signal, status and memory must speak for themselves
 *
 * Only a SIGKILL is ours: a process that managed to die in another way before it came did that by
 * itself, and must answer for it. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/sys.h"
#include "vm/supervisor.h"

bool death_is_expected(enum wire_end end)
{
    return end == WIRE_END_LEASE || end == WIRE_END_DRAINED || end == WIRE_END_RECYCLED ||
           end == WIRE_END_DEAF;
}

static enum wire_end find_end(struct vm_child *vm, int status)
{
    bool is_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    unsigned noted = atomic_load(&vm->page->end);
    if (is_killed && vm->end != WIRE_END_UNKNOWN) {
        return vm->end;
    }
    if (noted != WIRE_END_UNKNOWN && noted < WIRE_END_COUNT) {
        return (enum wire_end)noted;
    }
    return is_killed && oom_has_killed(&vm->sup->oom, vm->pid) ? WIRE_END_OOM : WIRE_END_UNKNOWN;
}

/* "killed by SIGSEGV" */
static void describe(const struct wire_death *death, char *text, size_t size)
{
    if (death->end == WIRE_END_TIMEOUT) {
        snprintf(text, size, "ended at a timeout");
    } else if (death->end == WIRE_END_MEMORY) {
        snprintf(text, size, "killed over its memory limit");
    } else if (death->end == WIRE_END_OOM) {
        snprintf(text, size, "killed by the kernel for lack of memory");
    } else if (death->signal != 0) {
        const char *name = sigabbrev_np(death->signal);
        snprintf(text, size, "killed by SIG%s", name != NULL ? name : "?");
    } else {
        snprintf(text, size, "exited with status %d", death->exit_status);
    }
}

/* For people: the log, and the VM's note. */
static void note_death(struct vm_child *vm, const struct wire_death *death)
{
    char how[64], where[96] = "", said[256];
    describe(death, how, sizeof(how));
    if (death->has_element) {
        snprintf(where, sizeof(where), " while running element %" PRIu64 " of stage %u",
                 death->index_of_element, death->stage);
    }
    if (death->is_expected) {
        log_info("vm", "VM %u (pid %d) has ended: %s%s", vm->index, (int)vm->pid, how, where);
        return;
    }
    output_last_line(vm, said, sizeof(said));
    char note[512];
    snprintf(note, sizeof(note), "%s%s%s%s", how, where, said[0] == '\0' ? "" : ": ", said);
    snprintf(vm->note, sizeof(vm->note), "%.*s", (int)sizeof(vm->note) - 1, note);
    /* The first time in a row is news, but not to who started us for one run: that run tells it. */
    bool is_news = vm->failures == 0 && !vm->sup->opt.is_quiet;
    log_write(is_news ? LOG_WARN : LOG_INFO, "vm", "VM %u (pid %d) %s", vm->index,
              (int)vm->pid, note);
}

enum wire_end death_report(struct vm_child *vm, int status, const struct rusage *usage)
{
    const struct vm_page *page = vm->page;
    enum wire_end end = find_end(vm, status);
    uint64_t now_ns = sys_now_ns(), start_ns = atomic_load(&page->start_ns);
    char output[DEATH_OUTPUT];
    struct wire_death death = {.pid = (uint32_t)vm->pid,
                               .index = vm->index,
                               .signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0,
                               .exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 0,
                               .is_expected = death_is_expected(end),
                               .end = end,
                               .rss_max_bytes = (uint64_t)usage->ru_maxrss * 1024,
                               .output = output};
    memcpy(death.vm, page->incarnation, 16);
    /* An element may end in the moment in which its timeout ends its process. */
    death.has_element = atomic_load(&page->has_element) != 0 || end == WIRE_END_TIMEOUT;
    if (death.has_element) {
        death.stage = page->stage;
        death.attempt = page->attempt;
        death.index_of_element = page->index;
        death.ran_ns = now_ns > start_ns ? now_ns - start_ns : 0;
    }
    death.output_size = output_last(vm, output, sizeof(output));
    note_death(vm, &death);
    if (atomic_load(&page->has_lease)) {
        memcpy(death.lease, page->lease, 16);
        watch_death(vm->sup, &death);
    }
    return end;
}
