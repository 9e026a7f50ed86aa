/* SPDX-License-Identifier: MIT */
/* host_hold.c - what happens to durable results when their initiator is not there.
 *
 *   the lease ends        what is held of durable stages goes to the spool, at once: the element
 *                         that still runs may take an hour, or its process with it
 *   ... without BYE       an element of a durable stage that runs is finished: the agent is an
 *                         orphan, leased to nobody that is there, the VM is drained for itself
 *   it has ended          its result goes to the spool, and the process ends as ever
 *
 * One file per visit to the disk, so that each is whole; the file of a state goes when the next
 * state, or the result, of that element is there. When the disk does not take
 * it that is said, and the elements run again.
 *
 * Under the host's lock while it writes: nobody is there who would have to wait. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/log.h"
#include "ckpt/home.h"
#include "vm/host_impl.h"
#include "vm/spool.h"

void host_hold_open(struct host *h, const struct wire_hello *hello)
{
    char notice[512];
    h->home[0] = '\0';
    if (hello->epoch == 0) {
        return; /* not a job that could come again */
    }
    /* Now, because the environment is still as the supervisor made it. */
    if (ckpt_home(h->home, sizeof(h->home), notice, sizeof(notice)) < 0) {
        log_warn("vm", "results cannot be held for their job when its program has gone: %s",
                 fail_text());
        h->home[0] = '\0';
    }
}

/* One name per visit: files are never changed. */
static void make_name(struct host *h, char name[SPOOL_NAME_MAX])
{
    int n = snprintf(name, SPOOL_NAME_MAX, "%016" PRIx64 "-", agent_holder(h->agent)->epoch);
    for (int i = 0; i < 16; i++) {
        n += snprintf(name + n, SPOOL_NAME_MAX - (size_t)n, "%02x", h->page->incarnation[i]);
    }
    snprintf(name + n, SPOOL_NAME_MAX - (size_t)n, "-%u", ++h->spooled);
}

static int begin(struct host *h, uint64_t bytes, char name[SPOOL_NAME_MAX],
                 struct spool_writer **out)
{
    const struct spool_limits limits = {.seconds = h->page->hold_seconds,
                                        .bytes = h->page->hold_bytes};
    int rc = h->home[0] != '\0' ? 0 : fail(TRK_EIO, "there is no state directory");
    rc = rc < 0 ? rc : spool_trim(h->home, &limits, bytes);
    if (rc < 0) {
        return rc;
    }
    make_name(h, name);
    return spool_create(out, h->home, agent_holder(h->agent)->job, agent_holder(h->agent)->epoch,
                        name);
}

/* It is of no use any more. */
static void remove_state(struct host *h)
{
    if (h->state_name[0] != '\0') {
        spool_remove(h->home, agent_holder(h->agent)->job, h->state_name);
        h->state_name[0] = '\0';
    }
}

/* --- results -------------------------------------------------------------------------- */

/* All results of one message. *has_state: the element that has a state in the spool is among
 * them. */
static int add_results(struct host *h, struct spool_writer *w, const struct agent_kept *kept,
                       uint32_t *count, bool *has_state)
{
    struct wire_result r;
    int rc = wire_result_decode(&r, kept->body);
    const uint8_t *at = rc == 0 ? r.payloads : NULL;
    for (uint32_t i = 0; rc == 0 && i < r.count; i++) {
        struct spool_entry e = {.kind = WIRE_HELD_RESULT, .status = r.statuses[i],
                                .stage = r.stage, .attempt = r.attempt, .index = r.first + i,
                                .payload = at, .size = le_load_u32(r.sizes + 4 * (size_t)i)};
        memcpy(e.element, kept->digests[i].bytes, 16);
        memcpy(e.fingerprint, kept->fingerprint, 16);
        rc = spool_add(w, &e);
        at += e.size;
        *count += rc == 0;
        *has_state |= h->state_name[0] != '\0' && h->spooled_stage == r.stage &&
                      h->spooled_index == r.first + i;
    }
    return rc;
}

static uint64_t kept_bytes(struct host *h)
{
    struct agent_kept kept;
    uint64_t bytes = 0;
    for (uint64_t seq = 0; agent_kept_next(h->agent, &seq, &kept);) {
        bytes += kept.body->size + (uint64_t)kept.count * SPOOL_ENTRY;
    }
    return bytes;
}

static int write_results(struct host *h, uint32_t *count, bool *has_state)
{
    struct spool_writer *w;
    struct agent_kept kept;
    char name[SPOOL_NAME_MAX];
    int rc = begin(h, kept_bytes(h), name, &w);
    if (rc < 0) {
        return rc;
    }
    for (uint64_t seq = 0; rc == 0 && agent_kept_next(h->agent, &seq, &kept);) {
        rc = add_results(h, w, &kept, count, has_state);
    }
    if (rc < 0) {
        spool_abort(w);
        return rc;
    }
    return spool_commit(w);
}

/* Under the lock. */
static void spool_results(struct host *h)
{
    uint32_t count = 0;
    bool has_state = false;
    if (agent_kept(h->agent) == 0) {
        return;
    }
    if (write_results(h, &count, &has_state) < 0) {
        log_error("vm", "results are lost, their elements run again: %s", fail_text());
    } else {
        log_info("vm", "%u results are held for a program that has gone", count);
        if (has_state) {
            remove_state(h);
        }
    }
    agent_let_go(h->agent, UINT64_MAX);
}

/* --- states --------------------------------------------------------------------------- */

static int write_state(struct host *h, const struct agent_kept *kept,
                       const struct wire_state *state)
{
    char name[SPOOL_NAME_MAX];
    struct spool_writer *w;
    struct spool_entry e = {.kind = WIRE_HELD_STATE, .stage = state->stage,
                            .attempt = state->attempt, .index = state->index,
                            .payload = state->bytes, .size = state->size};
    int rc = begin(h, state->size + SPOOL_ENTRY, name, &w);
    if (rc < 0) {
        return rc;
    }
    memcpy(e.element, state->element, 16);
    memcpy(e.fingerprint, kept->fingerprint, 16);
    rc = spool_add(w, &e);
    if (rc < 0) {
        spool_abort(w);
        return rc;
    }
    rc = spool_commit(w);
    if (rc == 0) {
        remove_state(h);
        snprintf(h->state_name, sizeof(h->state_name), "%s", name);
    }
    return rc;
}

int host_spool_state(struct host *h)
{
    struct agent_kept kept;
    struct wire_state state;
    if (!agent_kept_state(h->agent, &kept) || wire_state_decode(&state, kept.body) < 0) {
        return 0;
    }
    int rc = write_state(h, &kept, &state);
    if (rc < 0) {
        log_error("vm", "a checkpoint is lost: %s", fail_text());
    } else {
        h->spooled_stage = state.stage;
        h->spooled_index = state.index;
    }
    h->state_error = rc;
    agent_state_done(h->agent, state.seq); /* it is not worth waiting for any more */
    sem_post(&h->answer_wake);
    return rc;
}

/* --- the end of a lease ----------------------------------------------------------------- */

bool host_hold_begin(struct host *h, bool has_vanished)
{
    bool goes_on = has_vanished && h->home[0] != '\0' && atomic_load(&h->is_running) &&
                   h->run_is_element && h->run_is_durable &&
                   !agent_is_cancelled(h->agent, h->run_stage);
    if (agent_is_leased(h->agent)) {
        agent_orphan(h->agent);
        spool_results(h);
        host_spool_state(h);
    }
    if (goes_on) {
        log_info("vm", "the program that leased this VM has gone: its element %" PRIu64
                 " of stage %u is finished for it", h->run_index, h->run_stage);
        h->is_draining = true; /* the compute thread says when it has ended */
    }
    return goes_on;
}

void host_hold_late(struct host *h)
{
    pthread_mutex_lock(&h->lock);
    if (agent_is_orphan(h->agent)) {
        spool_results(h);
    }
    pthread_mutex_unlock(&h->lock);
}
