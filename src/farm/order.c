/* SPDX-License-Identifier: MIT */
/* order.c - orders to supervisors about one VM: drain it, stop it. Sent over the watch session,
 * answered by a sentence. */
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/farm_impl.h"

struct order {
    struct list node; /* farm->orders while it waits for an answer */
    struct trk_farm *farm;
    struct waiter waiter;
    char verb[16], host[64];
    uint32_t pid;
    uint32_t stream;
    int error;
    char answer[256];
    bool is_done, is_abandoned; /* [m] abandoned: the farm thread frees it */
};

static void order_free(struct order *o)
{
    waiter_fini(&o->waiter);
    mem_free(o);
}

static void order_finish(struct order *o, int error, const char *answer, size_t size)
{
    bool is_abandoned;

    list_remove(&o->node);
    pthread_mutex_lock(&o->farm->mutex);
    o->error = error;
    snprintf(o->answer, sizeof(o->answer), "%.*s", (int)(size < 255 ? size : 255), answer);
    o->is_done = true;
    is_abandoned = o->is_abandoned;
    if (!is_abandoned) {
        waiter_post(&o->waiter);
    }
    pthread_mutex_unlock(&o->farm->mutex);
    if (is_abandoned) {
        order_free(o);
    }
}

static void order_fail(struct order *o, int error, const char *why)
{
    order_finish(o, error, why, strlen(why));
}

void order_on_reply(struct trk_farm *farm, const struct wire_message *msg)
{
    struct wire_reply reply;
    struct list *pos, *tmp;

    if (wire_reply_decode(&reply, msg->body) < 0) {
        net_count_drop();
        return;
    }
    list_for_each_safe(pos, tmp, &farm->orders) {
        struct order *o = container_of(pos, struct order, node);
        if (o->stream == msg->stream) {
            order_finish(o, reply.status == TRK_STATUS_OK ? 0 : TRK_EDENIED, reply.payload,
                         reply.size);
            return;
        }
    }
}

void order_fail_all(struct trk_farm *farm)
{
    while (!list_is_empty(&farm->orders)) {
        order_fail(container_of(farm->orders.next, struct order, node), TRK_ECLOSED,
                   "the farm is closed");
    }
}

static struct slot *slot_of(struct trk_farm *farm, const struct order *o)
{
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->sup != NULL && slot->sup->session != NULL && slot->info.pid == o->pid &&
            (o->host[0] == '\0' || strcmp(o->host, slot->info.host) == 0)) {
            return slot;
        }
    }
    return NULL;
}

static void order_on_loop(void *arg)
{
    struct order *o = arg;
    struct slot *slot = slot_of(o->farm, o);
    struct wire_request request = {.op = TRK_OP_CALL, .name = o->verb,
                                   .name_size = strlen(o->verb)};
    char pid[16];
    struct blob *body;

    if (o->farm->is_closing || slot == NULL) {
        order_fail(o, TRK_EINVAL, "no VM with that pid answers; trickle vms lists them");
        return;
    }
    request.payload = pid;
    request.size = (size_t)snprintf(pid, sizeof(pid), "%u", o->pid);
    o->stream = ++o->farm->next_order;
    body = wire_request_encode(&request);
    list_push_back(&o->farm->orders, &o->node);
    if (body == NULL || net_session_send(slot->sup->session, WIRE_REQUEST, o->stream, body) < 0) {
        order_fail(o, TRK_EIO, "its supervisor cannot be reached");
    }
}

static struct order *order_new(struct trk_farm *farm, const char *verb, const char *host,
                               uint32_t pid)
{
    struct order *o = mem_zalloc(1, sizeof(*o));

    if (o == NULL || waiter_init(&o->waiter) < 0) {
        mem_free(o);
        return NULL;
    }
    list_init(&o->node);
    o->farm = farm;
    o->pid = pid;
    snprintf(o->verb, sizeof(o->verb), "%s", verb);
    snprintf(o->host, sizeof(o->host), "%s", host != NULL ? host : "");
    return o;
}

int trk_vms_order(struct trk_farm *farm, const char *verb, const char *host, uint32_t pid,
                  int timeout_ms, char *answer, size_t size)
{
    uint64_t until = sys_now_ns() + (uint64_t)(timeout_ms < 0 ? 5000 : timeout_ms) * 1000000u;
    struct order *o;
    bool is_done;
    int rc = farm_usable(farm);

    if (rc < 0) {
        return rc;
    }
    o = order_new(farm, verb, host, pid);
    if (o == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    rc = net_loop_post(farm->loop, order_on_loop, o);
    if (rc < 0) {
        order_free(o);
        return fail(rc, "the farm is closed");
    }
    while (waiter_wait(&o->waiter, 50) == TRK_AGAIN && sys_now_ns() < until) {
    }
    pthread_mutex_lock(&farm->mutex);
    is_done = o->is_done;
    o->is_abandoned = !is_done;
    pthread_mutex_unlock(&farm->mutex);
    if (!is_done) {
        return fail(TRK_ETIMEDOUT, "the supervisor of VM %u did not answer", pid);
    }
    rc = o->error;
    snprintf(answer, size, "%s", o->answer);
    if (rc < 0) {
        fail(rc, "%s", o->answer);
    }
    order_free(o);
    return rc;
}
