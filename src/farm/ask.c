/* SPDX-License-Identifier: MIT */
/* ask.c - asks the program that runs a job: the other end of control.c. One question per
 * connection, on a loop that the calling thread runs until the answer or the timeout. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "net/loop.h"
#include "net/session.h"
#include "trickle/view.h"
#include "wire/msg.h"

#define STREAM 1

struct question {
    struct net_loop *loop;
    const char *verb, *argument;
    char *answer;   /* the REPLY's payload, terminated; NULL: none yet */
    size_t size;
    int error;      /* while there is no answer */
    char why[256];
};

static void finish(struct question *q, int error, const char *why)
{
    if (q->answer == NULL) {
        q->error = error;
        snprintf(q->why, sizeof(q->why), "%s", why);
    }
    net_loop_stop(q->loop);
}

static void on_welcome(struct question *q, struct net_session *session, const struct blob *body)
{
    struct wire_request request = {.op = TRK_OP_CALL, .name = q->verb,
                                   .name_size = strlen(q->verb), .payload = q->argument,
                                   .size = strlen(q->argument)};
    struct wire_welcome welcome;
    struct blob *encoded;

    if (wire_welcome_decode(&welcome, body) < 0) {
        finish(q, TRK_ECORRUPT, "the answer is not Trickle's");
        return;
    }
    if (!welcome.is_accepted) { /* the file was left behind, and its name is another's now */
        finish(q, TRK_END, welcome.reason);
        return;
    }
    net_session_set_trusted(session);
    encoded = wire_request_encode(&request);
    if (encoded == NULL || net_session_send(session, WIRE_REQUEST, STREAM, encoded) < 0) {
        finish(q, TRK_EIO, "the program has ended");
    }
}

static void on_reply(struct question *q, const struct blob *body)
{
    struct wire_reply reply;

    if (wire_reply_decode(&reply, body) < 0) {
        finish(q, TRK_ECORRUPT, "the answer is not Trickle's");
        return;
    }
    if (reply.status != TRK_STATUS_OK) {
        snprintf(q->why, sizeof(q->why), "%.*s", (int)(reply.size < 255 ? reply.size : 255),
                 (const char *)reply.payload);
        q->error = TRK_EDENIED;
        net_loop_stop(q->loop);
        return;
    }
    q->answer = mem_alloc(reply.size + 1);
    if (q->answer != NULL) {
        memcpy(q->answer, reply.payload, reply.size);
        q->answer[reply.size] = '\0';
        q->size = reply.size;
    }
    finish(q, TRK_ENOMEM, "out of memory");
}

static void on_message(struct net_session *session, void *user, struct wire_message *msg)
{
    struct question *q = user;

    if (msg->type == WIRE_WELCOME) {
        on_welcome(q, session, msg->body);
    } else if (msg->type == WIRE_REPLY) {
        on_reply(q, msg->body);
    }
    blob_unref(msg->body);
}

static void on_close(struct net_session *session, void *user, int error, const char *why)
{
    struct question *q = user;

    if (q->error == TRK_EIO && q->why[0] == '\0') { /* nothing was decided yet */
        finish(q, TRK_END, why);
    }
}

static void on_timeout(uv_timer_t *timer)
{
    finish(timer->data, TRK_ETIMEDOUT, "the program that runs the job does not answer");
}

static const struct net_session_ops ops = {.on_message = on_message, .on_close = on_close};

/* Runs the loop until the question is answered, or will not be. */
static void put_question(struct question *q, const char *address, const uint8_t uuid[16],
                         int timeout_ms)
{
    struct net_session_options opt = {.ops = &ops, .user = q,
                                      .hello_ms = (uint32_t)timeout_ms + 1};
    struct wire_hello hello = {.purpose = WIRE_PURPOSE_WATCH, .pid = (uint32_t)getpid(),
                               .program = "trickle"};
    struct net_session *session;
    struct blob *body;
    uv_timer_t timer;

    memcpy(hello.job, uuid, sizeof(hello.job));
    sys_host_name(hello.host, sizeof(hello.host));
    (void)!sys_random(hello.incarnation, sizeof(hello.incarnation));
    body = wire_hello_encode(&hello);
    if (body == NULL) {
        snprintf(q->why, sizeof(q->why), "out of memory");
        return;
    }
    if (net_session_connect(q->loop, address, &opt, &session) < 0) {
        snprintf(q->why, sizeof(q->why), "%s", fail_text());
        blob_unref(body);
        return;
    }
    uv_timer_init(net_loop_uv(q->loop), &timer);
    timer.data = q;
    uv_timer_start(&timer, on_timeout, (uint64_t)timeout_ms, 0);
    if (net_session_send(session, WIRE_HELLO, 0, body) == 0) {
        net_loop_run(q->loop);
    }
    uv_close((uv_handle_t *)&timer, NULL);
    net_session_close(session, false);
    net_loop_join(q->loop); /* ends the session and the timer */
    net_session_unref(session);
}

/* Where the program listens. TRK_END: nobody runs the job, or it has no farm yet. */
static int find_address(struct trk_view *view, char *address, size_t size, uint8_t uuid[16])
{
    struct trk_view_info *info = mem_alloc(sizeof(*info)); /* large, for a stack */
    void *bytes = NULL;
    size_t length = 0;
    int rc = info == NULL ? fail(TRK_ENOMEM, "out of memory") : trk_view_get_info(view, info);

    if (rc == 0) {
        memcpy(uuid, info->uuid, 16);
        rc = info->is_running && info->has_store
                 ? trk_view_note(view, TRK_NOTE_TELEMETRY, "control", &bytes, &length) : TRK_END;
    }
    if (rc == 0) {
        snprintf(address, size, "%.*s", (int)length, (const char *)bytes);
    }
    mem_free(info);
    trk_free(bytes);
    return rc;
}

int trk_view_ask(struct trk_view *view, const char *verb, const char *argument, int timeout_ms,
                 char **answer, size_t *size)
{
    struct question q = {.verb = verb, .argument = argument != NULL ? argument : "",
                         .error = TRK_EIO};
    uint8_t uuid[16];
    char address[128];
    int rc = find_address(view, address, sizeof(address), uuid);

    if (rc != 0) {
        return rc;
    }
    rc = net_loop_new(&q.loop);
    if (rc < 0) {
        return fail(rc, "out of memory");
    }
    put_question(&q, address, uuid, timeout_ms > 0 ? timeout_ms : 1);
    net_loop_free(q.loop);
    if (q.answer == NULL) {
        return q.error == TRK_END ? TRK_END : fail(q.error, "%s", q.why);
    }
    *answer = q.answer;
    *size = q.size;
    return 0;
}
