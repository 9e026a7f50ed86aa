/* SPDX-License-Identifier: MIT */
/* host_compute.c - the computing half of a VM: take a job, run it, send what it gave.
 *
 * Jobs are taken one at a time under the lock, so that all the others can be recalled and
 * cancelled until the last moment; the lock is free nearly always. Around an element stand: the
 * note in the page (so that the supervisor can name the element should it kill the process), one
 * reading of the clock (the end of one element is the start of the next), and a look whether this
 * is still the same process: user code may have forked, and its child comes back here too.
 *
 * Results are gathered and sent when FLUSH_NS have passed since the last sending, when 64 KiB
 * are there, at the end of a batch, and before anything else is done or waited for. A result larger
 * than that travels alone, straight from the reply buffer. Each message is held in the agent
 * before it is sent. What waits while the next element turns out to be long is sent by the net
 * thread (host_late.c). */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "vm/host_impl.h"
#include "wire/msg.h"

#define FLUSH_NS 4000000u /* as long as a batch is to take: each sending wakes three threads */
#define RECYCLE_PERCENT 80 /* of the memory limit, between elements */
#define FLUSH_BYTES 65536u
#define GATHER_MAX 4096u
#define NAME_MAX_BYTES 4096u /* of a request, see wire/msg.h */

struct gather {
    uint32_t stage, attempt, count;
    uint64_t first;   /* index of result 0; they are consecutive */
    uint64_t busy_ns; /* computing on these */
    bool is_durable;  /* they outlive the initiator */
    uint8_t fingerprint[16]; /* durable: of the code */
    size_t bytes;
    uint8_t statuses[GATHER_MAX];
    uint32_t sizes[GATHER_MAX];
    struct digest digests[GATHER_MAX]; /* durable: of the elements' bytes */
    uint8_t payloads[2 * FLUSH_BYTES]; /* below the limit, one more fits */
};

/* No memory for what keeps a result safe. The process ends: the initiator sees it at once and
 * gives the elements to another VM, which is better than to stumble on. */
_Noreturn void host_out_of_memory(void)
{
    log_error("vm", "out of memory: this VM ends and starts again");
    _exit(HOST_EXIT_MEMORY);
}

/* A page that the kernel empties in every forked child: looking at it costs nothing, where
 * getpid() costs a fifth of a trivial element. NULL: this kernel cannot do it. */
static void make_fork_mark(struct host *h)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        return;
    }
    if (madvise(at, size, MADV_WIPEONFORK) < 0) {
        munmap(at, size);
        return;
    }
    h->fork_mark = at;
    *h->fork_mark = 1;
}

/* User code forked, and its child returned into our loop: it must not touch anything here. */
static void leave_if_forked(const struct host *h)
{
    bool is_forked = h->fork_mark != NULL ? *h->fork_mark == 0 : getpid() != h->pid;
    if (is_forked) {
        _exit(0);
    }
}

/* --- sending ------------------------------------------------------------------------- */

void host_send(struct host *h, uint8_t type, uint32_t stream, struct blob *body)
{
    pthread_mutex_lock(&h->lock);
    struct net_session *s = h->session != NULL ? net_session_ref(h->session) : NULL;
    pthread_mutex_unlock(&h->lock);
    if (s == NULL) {
        blob_unref(body); /* the lease has ended */
        return;
    }
    int rc = net_session_send(s, type, stream, body);
    net_session_unref(s);
    if (rc == TRK_ENOMEM) {
        host_out_of_memory();
    }
    if (rc < 0) { /* the lease has ended, or is about to */
        log_debug("vm", "%s not sent: %s", wire_type_name(type), trk_strerror(rc));
    }
}

/* The sequence number for the next RESULT message; 0: the lease has ended, nobody wants it. */
static uint64_t next_seq(struct host *h)
{
    pthread_mutex_lock(&h->lock);
    bool is_wanted = h->session != NULL || agent_is_orphan(h->agent);
    uint64_t seq = is_wanted ? agent_next_seq(h->agent) : 0;
    pthread_mutex_unlock(&h->lock);
    return seq;
}

/* Holds and sends one RESULT message; takes body (NULL: there was no memory for it). digests:
 * NULL: its results do not outlive the initiator. */
static void send_results(struct host *h, const struct wire_result *head, struct blob *body,
                         const struct digest *digests, const uint8_t fingerprint[16])
{
    int rc = 0;
    if (body == NULL) {
        host_out_of_memory();
    }
    pthread_mutex_lock(&h->lock);
    if (h->session == NULL && !agent_is_orphan(h->agent)) {
        rc = 0; /* nobody wants it */
    } else if (digests != NULL) {
        rc = agent_hold_durable(h->agent, head->seq, body, head->count, digests, fingerprint);
    } else {
        rc = agent_hold(h->agent, head->seq, body);
    }
    pthread_mutex_unlock(&h->lock);
    if (rc < 0) {
        host_out_of_memory();
    }
    host_send(h, WIRE_RESULT, 0, body);
}

void host_flush(struct host *h)
{
    struct gather *g = h->gather;
    if (g->count == 0) {
        return;
    }
    struct wire_result head = {.stage = g->stage,
                               .attempt = g->attempt,
                               .first = g->first,
                               .count = g->count,
                               .seq = next_seq(h),
                               .busy_ns = g->busy_ns};
    if (head.seq != 0) {
        send_results(h, &head, wire_result_encode(&head, g->statuses, g->sizes, g->payloads,
                                                  g->bytes),
                     g->is_durable ? g->digests : NULL, g->fingerprint);
    }
    g->count = 0;
    g->bytes = 0;
    g->busy_ns = 0;
}

/* Sends the answer in the reply buffer as it stands there. */
static void send_alone(struct host *h, const struct agent_job *job, bool is_durable,
                       uint8_t status, uint64_t busy_ns)
{
    struct digest digest;
    uint32_t size = (uint32_t)rai_reply_size(&h->reply);
    struct wire_result head = {.stage = job->stage,
                               .attempt = job->attempt,
                               .first = job->index,
                               .count = 1,
                               .seq = next_seq(h),
                               .busy_ns = busy_ns};
    if (head.seq != 0) {
        struct blob *body = rai_reply_take(&h->reply);
        wire_result_one_head(body->data, &head, status, size);
        if (is_durable) {
            digest = hash_digest(job->payload, job->size);
        }
        send_results(h, &head, body, is_durable ? &digest : NULL, job->fingerprint);
    }
}

/* Adds the answer in the reply buffer to what is gathered. */
static void gather_add(struct gather *g, const struct trk_rai_reply *reply,
                       const struct agent_job *job, bool is_durable, uint8_t status,
                       uint64_t busy_ns)
{
    size_t size = rai_reply_size(reply);
    if (g->count == 0) {
        g->stage = job->stage;
        g->attempt = job->attempt;
        g->first = job->index;
        g->is_durable = is_durable;
        memcpy(g->fingerprint, job->fingerprint, 16);
    }
    if (is_durable) {
        g->digests[g->count] = hash_digest(job->payload, job->size);
    }
    g->statuses[g->count] = status;
    g->sizes[g->count] = (uint32_t)size;
    memcpy(g->payloads + g->bytes, rai_reply_bytes(reply), size);
    g->bytes += size;
    g->busy_ns += busy_ns;
    g->count++;
}

/* --- jobs ---------------------------------------------------------------------------- */

static void reply_begin(struct host *h, size_t prefix)
{
    if (rai_reply_begin(&h->reply, prefix) < 0) {
        host_out_of_memory();
    }
}

static void run_request(struct host *h, const struct agent_job *job)
{
    char name[NAME_MAX_BYTES + 1];
    size_t name_size = job->request.name_size;
    int status = TRK_STATUS_ERROR;
    reply_begin(h, WIRE_REPLY_HEAD);
    if (name_size <= NAME_MAX_BYTES) {
        memcpy(name, job->request.name, name_size);
        name[name_size] = '\0';
        struct trk_rai_request request = {.op = (enum trk_op)job->request.op,
                                          .object = job->request.object,
                                          .name = name,
                                          .payload = job->request.payload,
                                          .size = job->request.size};
        status = host_request(h, &request);
        leave_if_forked(h);
    }
    atomic_store(&h->is_running, false);
    status = rai_reply_end(&h->reply, status);
    if (job->stream == 0 && status == TRK_STATUS_OK) {
        return; /* nobody waits for it; a failure may still be of interest */
    }
    struct blob *body = rai_reply_take(&h->reply);
    wire_reply_head(body->data, (uint8_t)status);
    host_send(h, WIRE_REPLY, job->stream, body);
}

static void open_stage(struct host *h, const struct agent_job *job)
{
    int status;
    struct host_stage *stage = mem_zalloc(1, sizeof(*stage));
    if (stage == NULL) {
        host_out_of_memory();
    }
    reply_begin(h, 0);
    stage->number = job->stage;
    stage->module = host_modules_get(h, job->module, &status);
    if (stage->module != NULL) {
        host_modules_enter(h, stage->module);
        status = stage->module->table.stage_open(stage->module->state, job->stage, job->payload,
                                                 job->size, &h->reply);
    }
    leave_if_forked(h);
    atomic_store(&h->is_running, false);
    stage->status = rai_reply_end(&h->reply, status);
    if (stage->status != TRK_STATUS_OK) {
        stage->payload = rai_reply_take(&h->reply);
    }
    stage->next = h->stages;
    h->stages = stage;
}

static void close_stage(struct host *h, const struct agent_job *job)
{
    struct host_stage *stage = host_stage_find(h, job->stage);
    h->stages = stage->next; /* it is the first now */
    if (stage->status == TRK_STATUS_OK && stage->module->table.stage_close != NULL) {
        host_modules_enter(h, stage->module);
        stage->module->table.stage_close(stage->module->state, job->stage);
        leave_if_forked(h);
    }
    blob_unref(stage->payload);
    mem_free(stage);
    atomic_store(&h->is_running, false);
}

static int run_module(struct host *h, const struct agent_job *job)
{
    if (atomic_load_explicit(&h->interrupted_run, memory_order_relaxed) == h->run) {
        static const char why[] = "cancelled before it began";
        int rc = trk_rai_reply_write(&h->reply, why, strlen(why));
        (void)rc; /* the reply remembers it */
        return TRK_STATUS_ERROR;
    }
    const struct host_stage *stage = h->run_in;
    if (stage->status != TRK_STATUS_OK) {
        int rc = trk_rai_reply_write(&h->reply, stage->payload->data, stage->payload->size);
        (void)rc; /* the reply remembers it */
        return stage->status;
    }
    struct trk_rai_element element = {.stage = job->stage,
                                      .attempt = job->attempt,
                                      .index = job->index,
                                      .payload = job->payload,
                                      .size = job->size};
    host_modules_enter(h, stage->module);
    host_state_begin(h, job);
    int status = stage->module->table.run(stage->module->state, &element, &h->reply);
    host_state_end(h);
    return status;
}

/* The element goes on elsewhere from the state that it saved. When the holder has gone that is in
 * the spool already. */
static void give_back(struct host *h, const struct agent_job *job)
{
    struct wire_note note = {.stage = job->stage, .first = job->index, .count = 1,
                             .flag = 1};
    struct blob *body = wire_note_encode(&note);
    if (body == NULL) {
        host_out_of_memory();
    }
    host_flush(h);
    host_send(h, WIRE_RECALLED, 0, body);
}

/* Between elements, after results were sent: has this process grown near its limit? */
static bool has_grown(const struct host *h)
{
    return h->memory_limit != 0 && vm_rss_bytes(0) > h->memory_limit / 100 * RECYCLE_PERCENT;
}

/* This was the last element that this process runs. */
static void recycle(struct host *h)
{
    pthread_mutex_lock(&h->lock);
    bool is_draining = h->is_draining;
    h->is_draining = true;
    pthread_mutex_unlock(&h->lock);
    if (!is_draining && net_loop_post(h->loop, host_net_recycle, h) == TRK_ENOMEM) {
        host_out_of_memory();
    }
}

/* The net thread may be sending what was gathered before: it is done in a moment. */
static void end_element(struct vm_page *page)
{
    unsigned running = 1;
    while (!atomic_compare_exchange_strong_explicit(&page->has_element, &running, 0,
                                                    memory_order_acq_rel, memory_order_relaxed)) {
        running = 1;
        sched_yield();
    }
}

/* Runs one element that started at now_ns; returns when it ended. */
static uint64_t run_element(struct host *h, const struct agent_job *job, uint64_t now_ns)
{
    struct gather *g = h->gather;
    struct vm_page *page = h->page;
    if (g->count > 0 && (g->stage != job->stage || g->attempt != job->attempt ||
                         g->first + g->count != job->index)) {
        host_flush(h);
    }
    bool has_results = g->count > 0; /* from the next note on they are not ours alone */
    reply_begin(h, WIRE_RESULT_ONE_HEAD);
    page->stage = job->stage;
    page->attempt = job->attempt;
    page->index = job->index;
    atomic_store_explicit(&page->start_ns, now_ns, memory_order_relaxed);
    atomic_store_explicit(&page->has_element, 1, memory_order_release);
    if (has_results && !atomic_load_explicit(&h->is_late_armed, memory_order_relaxed)) {
        host_late_arm(h);
    }
    int status = run_module(h, job);
    leave_if_forked(h);
    bool is_last = ++h->served == h->recycle_after;
    end_element(page);
    atomic_store_explicit(&h->is_running, false, memory_order_release);
    uint64_t end_ns = sys_now_ns();
    if (status == TRK_RAI_MOVED && h->has_moved) {
        give_back(h, job);
        return end_ns;
    }
    status = rai_reply_end(&h->reply, status);
    /* What an interrupt made of it is the answer to that interrupt, and no result for later. */
    bool is_durable = job->is_durable && atomic_load(&h->interrupted_run) != h->run;
    if (g->count > 0 && g->is_durable != is_durable) {
        host_flush(h);
    }
    if (rai_reply_size(&h->reply) > FLUSH_BYTES) {
        host_flush(h);
        send_alone(h, job, is_durable, (uint8_t)status, end_ns - now_ns);
    } else {
        gather_add(g, &h->reply, job, is_durable, (uint8_t)status, end_ns - now_ns);
        if (!job->is_last && !is_last && g->bytes < FLUSH_BYTES && g->count < GATHER_MAX &&
            end_ns - h->flushed_ns < FLUSH_NS) {
            return end_ns;
        }
        host_flush(h);
    }
    if (is_last || has_grown(h)) {
        recycle(h);
    }
    /* Sending took its time, which is no element's. */
    h->flushed_ns = sys_now_ns();
    return h->flushed_ns;
}

static void wait_for_work(struct host *h)
{
    host_modules_enter(h, NULL);
    while (sem_wait(&h->wake) < 0 && errno == EINTR) {
    }
}

enum next { NEXT_JOB, NEXT_WAIT, NEXT_FLUSH, NEXT_DRAINED, NEXT_END };

static enum next next_job(struct host *h, struct agent_job *job, bool is_drained)
{
    enum next next = NEXT_JOB;
    job->kind = AGENT_NOTHING;
    pthread_mutex_lock(&h->lock);
    if (h->is_ending) {
        next = NEXT_END;
    } else {
        /* What was asked is answered also by a VM that leaves; work goes back. */
        if (!h->is_draining || agent_has_request(h->agent)) {
            agent_next(h->agent, job);
        }
        if (job->kind != AGENT_NOTHING) {
            h->run++;
            h->run_is_element = job->kind == AGENT_ELEMENT;
            h->run_is_durable = job->is_durable;
            h->run_stage = job->stage;
            h->run_index = job->index;
            h->run_timeout_ms = job->timeout_ms;
            h->run_in = h->run_is_element ? host_stage_find(h, job->stage) : NULL;
            atomic_store_explicit(&h->is_running, true, memory_order_relaxed);
        } else if (h->gather->count > 0) {
            next = NEXT_FLUSH;
        } else if (h->is_draining && !is_drained) {
            next = NEXT_DRAINED;
        } else {
            h->is_waiting = true;
            next = NEXT_WAIT;
        }
    }
    pthread_mutex_unlock(&h->lock);
    return next;
}

static uint64_t run_job(struct host *h, struct agent_job *job, uint64_t now_ns)
{
    if (job->kind == AGENT_ELEMENT) {
        /* 0: something else came before; the first element starts now. */
        now_ns = run_element(h, job, now_ns != 0 ? now_ns : sys_now_ns());
    } else {
        host_flush(h);
        if (job->kind == AGENT_REQUEST) {
            run_request(h, job);
        } else if (job->kind == AGENT_STAGE) {
            open_stage(h, job);
        } else {
            close_stage(h, job);
        }
        now_ns = 0;
    }
    agent_job_done(job);
    return now_ns;
}

int host_compute_init(struct host *h)
{
    rai_reply_init(&h->reply);
    make_fork_mark(h);
    h->gather = mem_zalloc(1, sizeof(*h->gather));
    return h->gather != NULL ? 0 : TRK_ENOMEM;
}

void host_compute(struct host *h)
{
    uint64_t now_ns = 0;
    bool is_drained = false;
    for (;;) {
        struct agent_job job;
        switch (next_job(h, &job, is_drained)) {
        case NEXT_JOB:
            is_drained = false;
            now_ns = run_job(h, &job, now_ns);
            break;
        case NEXT_FLUSH:
            host_flush(h);
            now_ns = 0;
            break;
        case NEXT_DRAINED:
            is_drained = true;
            if (net_loop_post(h->loop, host_net_drained, h) < 0) {
                return; /* the net thread is gone: nobody to say goodbye to */
            }
            break;
        case NEXT_WAIT:
            wait_for_work(h);
            now_ns = 0;
            break;
        case NEXT_END:
            return;
        }
    }
}
