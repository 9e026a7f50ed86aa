/* SPDX-License-Identifier: MIT */
/* host_state.c - checkpoints inside an element. Compute thread, inside the module's run.
 *
 *   trk_vm_checkpoint --STATE--> initiator, records it --STATE_DONE--> agent, net thread: wakes us
 *
 * When the initiator has gone it goes to the spool instead: the compute thread writes it itself,
 * or the net thread does when the lease ends while we wait. What the element's next run begins
 * with came before its RUN, or is what this run saved last. */
#include <errno.h>
#include <string.h>

#include "base/fail.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/sys.h"
#include "trickle/work.h"
#include "vm/host_impl.h"

#define STATE_BYTES_MAX (TRK_ELEMENT_BYTES_MAX - 4096) /* with what is stored around it */

void host_state_begin(struct host *h, const struct agent_job *job)
{
    h->element = job;
    h->state = job->state != NULL ? blob_ref(job->state) : NULL;
    h->state_bytes = job->state_bytes;
    h->state_size = job->state_size;
    h->has_element_digest = h->has_moved = false;
}

void host_state_end(struct host *h)
{
    h->element = NULL;
    blob_unref(h->state);
    blob_unref(h->state_sent);
    h->state = h->state_sent = NULL;
}

/* NULL: *rc says why. */
static struct host *here(int *rc)
{
    struct host *h = host_serving();
    *rc = TRK_END;
    if (h == NULL || h->element == NULL || !h->element->is_durable) {
        return NULL;
    }
    if (sys_is_forked()) {
        *rc = fail(TRK_EFORKED, "a checkpoint was made after fork: only the VM's own process can");
        return NULL;
    }
    if (!pthread_equal(h->compute_thread, pthread_self())) {
        *rc = fail(TRK_EINVAL, "a checkpoint was made from a thread that user code has started: "
                               "only the thread that runs the element can");
        return NULL;
    }
    return h;
}

/* The message; NULL: out of memory. */
static struct blob *make_state(struct host *h, const void *bytes, size_t size)
{
    const struct agent_job *job = h->element;
    struct wire_state m = {.stage = job->stage, .attempt = job->attempt, .index = job->index,
                           .bytes = bytes, .size = size};
    if (!h->has_element_digest) {
        h->element_digest = hash_digest(job->payload, job->size);
        h->has_element_digest = true;
    }
    memcpy(m.element, h->element_digest.bytes, 16);
    pthread_mutex_lock(&h->lock);
    m.seq = h->state_seq = agent_next_state(h->agent);
    pthread_mutex_unlock(&h->lock);
    return wire_state_encode(&m);
}

int trk_vm_checkpoint(const void *bytes, size_t size)
{
    int rc;
    struct host *h = here(&rc);
    if (h == NULL) {
        return rc;
    }
    if (size > STATE_BYTES_MAX) {
        return fail(TRK_ETOOBIG, "the state of a checkpoint is over its limit of 1 GiB");
    }
    struct blob *body = make_state(h, bytes, size);
    if (body == NULL) {
        return fail(TRK_ENOMEM, "out of memory: the state was not saved");
    }
    blob_unref(h->state_sent); /* one that was interrupted */
    h->state_sent = blob_ref(body);
    pthread_mutex_lock(&h->lock);
    h->state_error = 0;
    agent_hold_state(h->agent, body, h->element->fingerprint);
    if (agent_is_orphan(h->agent)) {
        rc = host_spool_state(h);
    }
    pthread_mutex_unlock(&h->lock);
    host_send(h, WIRE_STATE, 0, body);
    return trk_vm_checkpoint_wait();
}

int trk_vm_checkpoint_wait(void)
{
    int rc;
    struct host *h = here(&rc);
    struct wire_state sent;
    if (h == NULL || h->state_sent == NULL) {
        return rc;
    }
    for (;;) {
        pthread_mutex_lock(&h->lock);
        bool is_done = agent_state_is_done(h->agent, h->state_seq);
        rc = h->state_error;
        pthread_mutex_unlock(&h->lock);
        if (is_done) {
            break;
        }
        if (sem_wait(&h->answer_wake) < 0 && errno == EINTR) {
            return TRK_AGAIN;
        }
    }
    if (rc < 0) {
        blob_unref(h->state_sent);
        h->state_sent = NULL;
        return fail(rc, "the program has gone, and this machine's disk did not take the state");
    }
    blob_unref(h->state);
    h->state = h->state_sent;
    h->state_sent = NULL;
    rc = wire_state_decode(&sent, h->state);
    h->state_bytes = sent.bytes;
    h->state_size = sent.size;
    h->has_moved = atomic_load(&h->is_to_move);
    return rc < 0 ? rc : h->has_moved ? TRK_EMOVED : 0;
}

int trk_vm_restore(const void **bytes, size_t *size)
{
    int rc;
    struct host *h = here(&rc);
    if (h == NULL || h->state == NULL) {
        return h == NULL ? rc : TRK_END;
    }
    *bytes = h->state_bytes;
    *size = h->state_size;
    return 0;
}
