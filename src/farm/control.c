/* SPDX-License-Identifier: MIT */
/* control.c - the control socket of a running job: trickle status, why and cancel ask there.
 *
 * A unix socket "j-UUID.sock" in the farm's runtime directory, private to the user; where it is
 * stands in the job's store (telemetry "control"). Sessions as with a supervisor: HELLO(watch, the
 * job's UUID), WELCOME, then REQUEST(call, verb, argument) and REPLY. The farm thread answers, so a
 * program that computes or holds the GIL does not delay it.
 *
 *   status    {"pid", "epoch", "works": [{"stage": number in the store, or null, "name", "added",
 *             "is_closed", "done", "restored", "failed", "reissued", "vms", "seconds"}], "vms":
 *             [{"host", "index", "pid", "state", "stage", "work", "element", "queued", "seconds"}],
 *             "store": {"syncs", "sync_seconds", "queued_bytes", "is_paused", "text"}}
 *             element is null where a VM has nothing to do; seconds: since it began
 *   attempts  [{"attempt", "outcome", "host", "index", "pid", "started_ms", "duration_ns",
 *             "signal", "exit_status", "rss_max_bytes", "output" (hexadecimal)}]
 *   cancel    "ok", and then SIGTERM to this process */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/drive_impl.h"

#define CLIENTS_MAX 64u
#define ADDRESS_MAX 128

struct control {
    struct trk_farm *farm;
    struct net_listener *listener;
    int fd;
    char address[ADDRESS_MAX];
    struct list clients;
    uint32_t clients_count;
};

struct client {
    struct list node;        /* control->clients */
    struct control *control; /* NULL: closed */
    struct net_session *session;
    bool is_accepted;
};

/* --- what VMs are busy with ---------------- */

void busy_assigned(struct slot *slot, uint32_t stage, uint64_t first, uint64_t count)
{
    struct busy *busy = &slot->busy;

    if (busy->lease != slot->lease_number) {
        *busy = (struct busy){.lease = slot->lease_number};
    }
    if (busy->count == 0) {
        busy->since_ns = sys_now_ns();
    }
    if (busy->count < BUSY_RUNS) {
        busy->runs[busy->count++] = (struct busy_run){stage, first, first + count};
    }
}

void busy_done(struct slot *slot, uint32_t stage, uint64_t first, uint64_t count)
{
    struct busy *busy = &slot->busy;
    uint64_t end = first + count;
    uint32_t kept = 0;

    if (busy->lease != slot->lease_number) {
        return;
    }
    for (uint32_t i = 0; i < busy->count; i++) {
        struct busy_run run = busy->runs[i];
        if (run.stage == stage && first < run.end && end > run.first) {
            if (i == 0 && first <= run.first) {
                busy->since_ns = sys_now_ns();
            }
            if (first <= run.first) {
                run.first = end;
            } else {
                run.end = first; /* given back: always the end of a run */
            }
        }
        if (run.first < run.end) {
            busy->runs[kept++] = run;
        }
    }
    busy->count = kept;
}

/* --- JSON ---------------- */

static void put_seconds(struct buf *b, const char *name, uint64_t since_ns)
{
    uint64_t now = sys_now_ns();

    json_put(b, "\"%s\":", name);
    json_put_seconds(b, since_ns == 0 || now < since_ns ? 0 : now - since_ns);
}

static const char *yes_no(bool yes)
{
    return yes ? "true" : "false";
}

/* --- answers ---------------- */

static void put_work(struct buf *b, struct trk_work *work)
{
    struct sched_stage_info info = {.added = 0};
    struct trk_progress progress;

    if (sched_stage_get(work->farm->sched, work->stage, &info) < 0) {
        return;
    }
    pthread_mutex_lock(&work->mutex);
    progress = work->progress;
    pthread_mutex_unlock(&work->mutex);
    json_put(b, "{\"stage\":");
    if (work->store_stage != 0) {
        json_put(b, "%u", work->store_stage);
    } else {
        json_put(b, "null");
    }
    json_put(b, ",\"name\":");
    json_put_text(b, work->name);
    json_put(b, ",\"added\":%" PRIu64 ",\"is_closed\":%s,\"done\":%" PRIu64
             ",\"restored\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"reissued\":%" PRIu64
             ",\"vms\":%u,", info.added, yes_no(info.is_closed), progress.done,
             progress.restored, progress.failed, info.reissued, info.vms);
    put_seconds(b, "seconds", work->opened_ns);
    json_put(b, "}");
}

static const char *state_name(const struct slot *slot)
{
    if (slot->vm->is_leaving) {
        return "leaving";
    }
    return slot->vm->is_suspect ? "silent" : "leased";
}

static void put_busy(struct buf *b, const struct slot *slot)
{
    const struct busy *busy = &slot->busy;
    struct trk_farm *farm = slot->vm->farm;
    uint64_t queued = 0;

    for (uint32_t i = 0; busy->lease == slot->lease_number && i < busy->count; i++) {
        queued += busy->runs[i].end - busy->runs[i].first;
    }
    for (uint32_t i = 0; queued > 0 && i < busy->count; i++) {
        struct trk_work *work = drive_work_of(farm, busy->runs[i].stage);
        if (work != NULL) { /* else it was cancelled */
            json_put(b, ",\"stage\":%s", work->store_stage == 0 ? "null" : "");
            if (work->store_stage != 0) {
                json_put(b, "%u", work->store_stage);
            }
            json_put(b, ",\"work\":");
            json_put_text(b, work->name);
            json_put(b, ",\"element\":%" PRIu64 ",\"queued\":%" PRIu64 ",",
                     busy->runs[i].first, queued - 1);
            put_seconds(b, "seconds", busy->since_ns);
            return;
        }
    }
    json_put(b, ",\"stage\":null,\"work\":null,\"element\":null,\"queued\":0,\"seconds\":0");
}

static void put_vm(struct buf *b, const struct slot *slot)
{
    json_put(b, "{\"host\":");
    json_put_text(b, slot->vm->info.host);
    json_put(b, ",\"index\":%u,\"pid\":%u,\"state\":\"%s\"", slot->vm->info.index,
             slot->vm->info.pid, state_name(slot));
    put_busy(b, slot);
    json_put(b, "}");
}

static void put_store(struct buf *b, struct trk_job *job)
{
    struct trk_job_state state;

    trk_job_get_state(job, &state);
    json_put(b, "{\"syncs\":%" PRIu64 ",\"sync_seconds\":", state.syncs);
    json_put_seconds(b, state.sync_ns);
    json_put(b, ",\"queued_bytes\":%" PRIu64 ",\"is_paused\":%s,\"text\":", state.queued_bytes,
             yes_no(state.is_paused));
    json_put_text(b, state.text);
    json_put(b, "}");
}

static void answer_status(struct trk_farm *farm, struct buf *b)
{
    const char *comma = "";
    struct list *pos;

    json_put(b, "{\"pid\":%ld,\"epoch\":%u,\"works\":[", (long)getpid(), farm->job->epoch);
    list_for_each(pos, &farm->works) {
        struct trk_work *work = container_of(pos, struct trk_work, node);
        if (work->is_open) {
            json_put(b, "%s", comma);
            put_work(b, work);
            comma = ",";
        }
    }
    json_put(b, "],\"vms\":[");
    comma = "";
    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot_is_live(slot)) {
            json_put(b, "%s", comma);
            put_vm(b, slot);
            comma = ",";
        }
    }
    json_put(b, "],\"store\":");
    put_store(b, farm->job);
    json_put(b, "}");
}

static const char *outcome_name(uint32_t outcome)
{
    static const char *const names[] = {"done", "exception", "died", "timeout", "memory", "oom",
                                        "lost"};

    return outcome < sizeof(names) / sizeof(names[0]) ? names[outcome] : "unknown";
}

static void put_attempt(struct buf *b, const struct trk_attempt *a)
{
    json_put(b, "{\"attempt\":%u,\"outcome\":\"%s\",\"host\":", a->attempt,
             outcome_name(a->outcome));
    json_put_text(b, a->vm_host);
    json_put(b, ",\"index\":%u,\"pid\":%u,\"started_ms\":%" PRIu64 ",\"duration_ns\":%" PRIu64
             ",\"signal\":%d,\"exit_status\":%d,\"rss_max_bytes\":%" PRIu64 ",\"output\":\"",
             a->vm_index, a->vm_pid, a->started_ms, a->duration_ns, a->signal, a->exit_status,
             a->rss_max_bytes);
    for (size_t i = 0; i < a->output_size; i++) {
        json_put(b, "%02x", (unsigned char)a->output[i]);
    }
    json_put(b, "\"}");
}

/* "STAGE INDEX", the stage as the store counts. */
static void answer_attempts(struct trk_farm *farm, const char *argument, struct buf *b)
{
    unsigned long long index = 0;
    unsigned stage = 0;
    struct list *pos;

    json_put(b, "[");
    if (sscanf(argument, "%u %llu", &stage, &index) == 2 && stage != 0) {
        list_for_each(pos, &farm->works) {
            struct trk_work *work = container_of(pos, struct trk_work, node);
            struct trk_attempt *attempts;
            size_t count;
            if (work->store_stage != stage ||
                history_get(work, stage, index, &attempts, &count) < 0) {
                continue;
            }
            for (size_t i = 0; i < count; i++) {
                json_put(b, "%s", i > 0 ? "," : "");
                put_attempt(b, &attempts[i]);
            }
            trk_attempts_free(attempts, count);
            break;
        }
    }
    json_put(b, "]");
}

/* --- sessions ---------------- */

static void client_send(struct client *c, uint8_t type, uint32_t stream, struct blob *body)
{
    if (body == NULL || net_session_send(c->session, type, stream, body) < 0) {
        net_session_close(c->session, false);
    }
}

static int on_hello(struct client *c, const struct wire_message *msg)
{
    const struct trk_farm *farm = c->control->farm;
    struct wire_welcome welcome = {.is_accepted = true};
    struct wire_hello hello;

    if (msg->type != WIRE_HELLO || wire_hello_decode(&hello, msg->body) < 0) {
        return TRK_ECORRUPT;
    }
    if (hello.purpose != WIRE_PURPOSE_WATCH || memcmp(hello.job, farm->job->uuid, 16) != 0) {
        welcome.is_accepted = false;
        snprintf(welcome.reason, sizeof(welcome.reason), "another job runs here");
    }
    c->is_accepted = welcome.is_accepted;
    client_send(c, WIRE_WELCOME, 0, wire_welcome_encode(&welcome));
    if (c->is_accepted) {
        net_session_set_trusted(c->session);
    } else {
        net_session_close(c->session, true);
    }
    return 0;
}

static bool is_verb(const struct wire_request *r, const char *verb)
{
    return r->op == TRK_OP_CALL && r->name_size == strlen(verb) &&
           memcmp(r->name, verb, r->name_size) == 0;
}

static int on_request(struct client *c, const struct wire_message *msg)
{
    struct wire_reply reply = {.status = TRK_STATUS_OK};
    struct trk_farm *farm = c->control->farm;
    struct wire_request request;
    char argument[64] = "";
    bool is_cancel;
    struct buf b;

    if (msg->type != WIRE_REQUEST || wire_request_decode(&request, msg->body) < 0) {
        return TRK_ECORRUPT;
    }
    if (request.size < sizeof(argument)) {
        memcpy(argument, request.payload, request.size);
    }
    buf_init(&b);
    is_cancel = is_verb(&request, "cancel");
    if (is_verb(&request, "status")) {
        answer_status(farm, &b);
    } else if (is_verb(&request, "attempts")) {
        answer_attempts(farm, argument, &b);
    } else {
        json_put(&b, is_cancel ? "ok" : "there is no such request");
        reply.status = is_cancel ? TRK_STATUS_OK : TRK_STATUS_ERROR;
    }
    if (b.has_failed) {
        buf_fini(&b);
        return TRK_ENOMEM;
    }
    reply.payload = b.blob->data;
    reply.size = b.blob->size;
    client_send(c, WIRE_REPLY, msg->stream, wire_reply_encode(&reply));
    buf_fini(&b);
    if (is_cancel) {
        log_info("farm", "the job was cancelled by process %u",
                 net_session_peer_pid(c->session));
        kill(getpid(), SIGTERM);
    }
    return 0;
}

static void on_message(struct net_session *session, void *user, struct wire_message *msg)
{
    struct client *c = user;
    int rc = 0;

    c->session = session;
    if (c->control != NULL) {
        rc = c->is_accepted ? on_request(c, msg) : on_hello(c, msg);
    }
    blob_unref(msg->body);
    if (rc < 0) {
        net_count_drop();
        net_session_close(session, false);
    }
}

static void client_detach(struct client *c)
{
    list_remove(&c->node);
    if (c->control != NULL) {
        c->control->clients_count--;
        c->control = NULL;
    }
}

static void on_close(struct net_session *session, void *user, int error, const char *why)
{
    struct client *c = user;

    client_detach(c);
    mem_free(c);
    net_session_unref(session);
}

static const struct net_session_ops client_ops = {.on_message = on_message, .on_close = on_close};

static void on_accept(void *user, int fd)
{
    struct control *control = user;
    struct client *c = control->clients_count < CLIENTS_MAX ? mem_zalloc(1, sizeof(*c)) : NULL;
    struct net_session_options opt = {.ops = &client_ops, .user = c};

    if (c == NULL) {
        net_count_drop();
        close(fd);
        return;
    }
    c->control = control;
    control->clients_count++;
    list_push_back(&control->clients, &c->node);
    if (net_session_accept(control->farm->loop, fd, &opt, &c->session) < 0) {
        client_detach(c);
        mem_free(c);
    }
}

/* --- life ---------------- */

static int listen_at(struct control *control)
{
    const uint8_t *u = control->farm->job->uuid;
    char bound[ADDRESS_MAX];
    int rc, n = snprintf(control->address, sizeof(control->address),
                         "unix:%s/j-%02x%02x%02x%02x%02x%02x%02x%02x.sock",
                         control->farm->runtime_dir, u[0], u[1], u[2], u[3], u[4], u[5], u[6],
                         u[7]);

    if (n < 0 || (size_t)n >= sizeof(control->address)) {
        return fail(TRK_EINVAL, "the name of the runtime directory is too long");
    }
    control->fd = net_listen_fd(control->address, bound, sizeof(bound));
    if (control->fd < 0) {
        return control->fd;
    }
    rc = sys_fd_add(control->fd);
    if (rc == 0) {
        rc = net_listener_start(control->farm->loop, control->fd, on_accept, control,
                                &control->listener);
        if (rc < 0) {
            sys_fd_remove(control->fd);
        }
    }
    if (rc < 0) {
        unlink(control->address + strlen("unix:"));
        close(control->fd);
    }
    return rc;
}

void control_open(struct trk_farm *farm)
{
    struct control *control;
    int rc;

    if (farm->job == NULL || farm->sched == NULL) {
        return; /* no job, or its opening has failed meanwhile */
    }
    control = mem_zalloc(1, sizeof(*control));
    rc = control == NULL ? fail(TRK_ENOMEM, "out of memory") : 0;
    if (rc == 0) {
        control->farm = farm;
        list_init(&control->clients);
        rc = listen_at(control);
    }
    if (rc < 0) {
        log_warn("farm", "trickle status and cancel will not reach this program: %s", fail_text());
        mem_free(control);
        return;
    }
    farm->control = control;
    rc = trk_job_put(farm->job, TRK_NOTE_TELEMETRY, "control", control->address,
                     strlen(control->address), false, 0);
    if (rc < 0) {
        log_warn("farm", "%s", fail_text());
    }
}

void control_close(struct trk_farm *farm)
{
    struct control *control = farm->control;

    if (control == NULL) {
        return;
    }
    farm->control = NULL;
    net_listener_close(control->listener);
    unlink(control->address + strlen("unix:"));
    sys_fd_remove(control->fd);
    close(control->fd);
    while (!list_is_empty(&control->clients)) {
        struct client *c = container_of(control->clients.next, struct client, node);
        client_detach(c);
        net_session_close(c->session, false); /* on_close frees it */
    }
    mem_free(control);
}
