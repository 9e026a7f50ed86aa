/* SPDX-License-Identifier: MIT */
/* net.c - see net.h. */
#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "sim.h"

/* --- packets and queues -------------------------------------------------------------------- */

static struct packet *packet_new(struct sim *s)
{
    struct packet *p = s->net.spare;
    if (p == NULL) {
        return sim_alloc(1, sizeof(*p));
    }
    s->net.spare = p->next;
    memset(p, 0, sizeof(*p));
    return p;
}

static void packet_free(struct sim *s, struct packet *p)
{
    if (p->is_started) {
        wire_cutter_fini(&p->cutter);
    } else {
        blob_unref(p->body);
    }
    p->next = s->net.spare;
    s->net.spare = p;
}

static void queue_push(struct queue *q, struct packet *p)
{
    p->next = NULL;
    if (q->first == NULL) {
        q->first = p;
    } else {
        q->last->next = p;
    }
    q->last = p;
    q->count++;
}

static struct packet *queue_pop(struct queue *q)
{
    struct packet *p = q->first;
    assert(p != NULL && q->count > 0);
    q->first = p->next;
    q->count--;
    return p;
}

static void queue_clear(struct sim *s, struct queue *q)
{
    while (q->first != NULL) {
        packet_free(s, queue_pop(q));
    }
}

static bool is_control(uint8_t type)
{
    return type == WIRE_PING || type == WIRE_PONG || type == WIRE_ACK || type == WIRE_RECALL ||
           type == WIRE_RECALLED || type == WIRE_CANCEL || type == WIRE_BYE;
}

/* --- sending ------------------------------------------------------------------------------- */

static void arrive_next(struct sim *s, struct conn *c, enum way way)
{
    struct pipe *p = &c->pipe[way];
    if (p->flight.first != NULL && !p->has_event && !p->is_waiting) {
        p->has_event = true;
        clock_at(&s->clock, p->flight.first->arrives_ns, EVENT_ARRIVE, c->id, way);
    }
}

static void fly(struct sim *s, struct conn *c, enum way way, struct packet *packet)
{
    struct pipe *p = &c->pipe[way];
    uint64_t delay = s->plan.latency_ns;
    if (s->plan.jitter_ns > 0) {
        delay += dice_below(&s->dice, s->plan.jitter_ns);
    }
    packet->arrives_ns = s->clock.now_ns + delay;
    packet->arrives_ns = packet->arrives_ns > p->last_ns ? packet->arrives_ns : p->last_ns;
    p->last_ns = packet->arrives_ns;
    queue_push(&p->flight, packet);
    arrive_next(s, c, way);
}

/* The next frame of the first message of a lane; the message goes when it was its last one. */
static struct packet *cut(struct sim *s, struct queue *lane)
{
    struct packet *message = lane->first, *frame = packet_new(s);
    uint8_t head[WIRE_HEAD_MAX];
    const uint8_t *data;
    size_t head_size, data_size;
    if (!message->is_started) {
        wire_cutter_init(&message->cutter, message->type, message->stream, message->body);
        message->is_started = true;
    }
    wire_cutter_next(&message->cutter, head, &head_size, &data, &data_size);
    frame->body = blob_new(head_size + data_size);
    if (frame->body == NULL) {
        sim_broken(s, "out of memory");
    }
    memcpy(frame->body->data, head, head_size);
    if (data_size > 0) {
        memcpy(frame->body->data + head_size, data, data_size);
    }
    frame->body->size = head_size + data_size;
    frame->type = message->type;
    if (wire_cutter_is_done(&message->cutter)) {
        packet_free(s, queue_pop(lane));
    }
    return frame;
}

static void pump(struct sim *s, struct conn *c, enum way way)
{
    struct pipe *p = &c->pipe[way];
    while (p->control.first != NULL || p->bulk.first != NULL) {
        struct queue *lane = p->control.first != NULL ? &p->control : &p->bulk;
        struct packet *packet;
        if (p->flight.count >= s->plan.window || p->has_pump) {
            return; /* goes on when something has arrived, or the wire is free */
        }
        if (p->free_ns > s->clock.now_ns) {
            p->has_pump = true;
            clock_at(&s->clock, p->free_ns, EVENT_PUMP, c->id, way);
            return;
        }
        packet = s->plan.has_frames && !lane->first->is_end ? cut(s, lane) : queue_pop(lane);
        if (s->plan.byte_ps > 0 && !packet->is_end) {
            p->free_ns = s->clock.now_ns + packet->body->size * s->plan.byte_ps / 1000;
        }
        fly(s, c, way, packet);
    }
}

int net_send(struct sim *s, struct conn *c, enum way way, uint8_t type, uint32_t stream,
             struct blob *body)
{
    struct pipe *p = &c->pipe[way];
    struct packet *packet;
    if (way == TO_VM && !farm_output(s)) {
        blob_unref(body);
        return TRK_ECLOSED;
    }
    if (body == NULL) {
        sim_broken(s, "out of memory: a %s could not be encoded", wire_type_name(type));
    }
    if (!c->is_open[way == TO_VM ? END_FARM : END_VM] || p->is_shut) {
        blob_unref(body);
        return c->is_open[way == TO_VM ? END_FARM : END_VM] ? 0 : TRK_ECLOSED;
    }
    packet = packet_new(s);
    packet->type = type;
    packet->stream = stream;
    packet->body = body;
    queue_push(is_control(type) ? &p->control : &p->bulk, packet);
    pump(s, c, way);
    return 0;
}

/* --- opening and closing ------------------------------------------------------------------- */

struct conn *net_connect(struct sim *s, enum conn_kind kind, uint32_t vm)
{
    struct net *n = &s->net;
    struct conn *c = sim_alloc(1, sizeof(*c));
    if (n->count == n->cap) {
        n->cap = n->cap > 0 ? 2 * n->cap : 16;
        n->conns = sim_grow(n->conns, n->cap, sizeof(*n->conns));
    }
    if (n->live_count == n->live_cap) {
        n->live_cap = n->live_cap > 0 ? 2 * n->live_cap : 16;
        n->live = sim_grow(n->live, n->live_cap, sizeof(*n->live));
    }
    c->id = n->count++;
    c->kind = kind;
    c->vm = vm;
    c->is_open[END_FARM] = c->is_open[END_VM] = c->is_live = true;
    n->conns[c->id] = c;
    n->live[n->live_count++] = c->id;
    for (int way = 0; s->plan.has_frames && way < WAY_COUNT; way++) {
        c->pipe[way].assembler = wire_assembler_new();
        if (c->pipe[way].assembler == NULL) {
            sim_broken(s, "out of memory");
        }
    }
    return c;
}

struct conn *net_conn(struct sim *s, uint32_t id)
{
    assert(id < s->net.count);
    return s->net.conns[id];
}

void net_trust(struct conn *c, enum way way)
{
    if (c->pipe[way].assembler != NULL) {
        wire_assembler_set_trusted(c->pipe[way].assembler, true);
    }
}

static void push_end(struct sim *s, struct conn *c, enum way way)
{
    struct packet *packet = packet_new(s);
    packet->is_end = true;
    queue_push(&c->pipe[way].bulk, packet);
    pump(s, c, way);
}

/* Closed at both ends: nobody looks for it any more. */
static void unlist(struct sim *s, struct conn *c)
{
    struct net *n = &s->net;
    if (c->is_open[END_FARM] || c->is_open[END_VM] || !c->is_live) {
        return;
    }
    for (uint32_t i = 0; i < n->live_count; i++) {
        if (n->live[i] == c->id) {
            memmove(&n->live[i], &n->live[i + 1], (n->live_count - i - 1) * sizeof(*n->live));
            n->live_count--;
            break;
        }
    }
    c->is_live = false;
}

void net_close(struct sim *s, struct conn *c, enum end end, enum leave how)
{
    enum way way = end == END_FARM ? TO_VM : TO_FARM;
    struct pipe *p = &c->pipe[way];
    if (!c->is_open[end]) {
        return;
    }
    c->is_open[end] = false;
    if (!p->is_shut) {
        p->is_shut = true;
        if (how != LEAVE_FLUSH) {
            queue_clear(s, &p->control);
            queue_clear(s, &p->bulk);
        }
        if (how != LEAVE_SILENT) {
            push_end(s, c, way);
        }
    }
    unlist(s, c);
}

static void break_way(struct sim *s, struct conn *c, enum way way)
{
    struct pipe *p = &c->pipe[way];
    struct queue kept = {0};
    uint64_t keep = dice_below(&s->dice, p->flight.count + 1);
    struct packet *end = packet_new(s);
    p->is_shut = true;
    queue_clear(s, &p->control);
    queue_clear(s, &p->bulk);
    while (p->flight.first != NULL) {
        struct packet *packet = queue_pop(&p->flight);
        if (kept.count < keep) {
            queue_push(&kept, packet);
        } else if (kept.count == keep && s->plan.has_frames && !packet->is_end) {
            packet->body->size = dice_below(&s->dice, packet->body->size + 1); /* torn */
            queue_push(&kept, packet);
            keep = 0;
        } else {
            packet_free(s, packet);
        }
    }
    p->flight = kept;
    end->is_end = true;
    fly(s, c, way, end);
}

void net_break(struct sim *s, struct conn *c)
{
    break_way(s, c, TO_VM);
    break_way(s, c, TO_FARM);
}

void net_refuse(struct sim *s, struct conn *c, enum way way)
{
    struct packet *end = packet_new(s);
    end->is_end = true;
    c->pipe[way].is_shut = true;
    fly(s, c, way, end);
}

void net_desert(struct sim *s, bool is_power)
{
    for (uint32_t i = 0; i < s->net.live_count;) {
        struct conn *c = net_conn(s, s->net.live[i]);
        if (c->is_open[END_FARM]) {
            c->is_deserted = is_power && c->is_open[END_VM];
            if (c->is_deserted && c->kind == CONN_LEASE) {
                clock_in(&s->clock, s->plan.vm_dead_ns, EVENT_VM_SILENT, c->vm, c->id);
            }
            net_close(s, c, END_FARM, is_power ? LEAVE_SILENT : LEAVE_ABRUPT);
        }
        i = c->is_live ? i + 1 : i;
    }
}

/* --- arriving ------------------------------------------------------------------------------ */

static bool takes_packets(struct sim *s, const struct conn *c, enum way way)
{
    uint32_t machine = c->kind == CONN_WATCH ? c->vm : vm_machine(s, c->vm);
    if (s->vms.machines[machine].is_cut[way]) {
        return false;
    }
    if (way == TO_FARM) {
        return !s->farm.is_paused;
    }
    return c->kind == CONN_WATCH || vm_takes_packets(s, c);
}

static void hand_over(struct sim *s, struct conn *c, enum way way, struct wire_message *msg)
{
    sim_note(s, (uint64_t)c->id << 16 ^ msg->type ^ s->clock.now_ns << 20);
    if (way == TO_VM) {
        vm_on_message(s, c, msg);
    } else {
        farm_on_message(s, c, msg);
    }
}

static int on_assembled(void *ctx, struct wire_message *msg)
{
    struct sim *s = ctx;
    struct conn *c = s->net.feeding;
    enum way way = s->net.feeding_way;
    if (!c->is_open[way == TO_VM ? END_VM : END_FARM]) {
        blob_unref(msg->body);
        return TRK_ECLOSED; /* closed by the message before */
    }
    hand_over(s, c, way, msg);
    return 0;
}

/* Feeds bytes as they might come out of a socket: in one piece or several, by either door. */
static int feed(struct sim *s, struct pipe *p, const uint8_t *bytes, size_t size)
{
    int rc = 0;
    while (rc == 0 && size > 0) {
        size_t n = dice_chance(&s->dice, 500) ? size : 1 + dice_below(&s->dice, size);
        size_t room;
        uint8_t *door = dice_chance(&s->dice, 500) ? wire_assembler_direct(p->assembler, &room)
                                                   : NULL;
        if (door != NULL) {
            n = n < room ? n : room;
            memcpy(door, bytes, n);
            rc = wire_assembler_filled(p->assembler, n, on_assembled, s);
        } else {
            rc = wire_assembler_feed(p->assembler, bytes, n, on_assembled, s);
        }
        bytes += n;
        size -= n;
    }
    return rc;
}

static void deliver(struct sim *s, struct conn *c, enum way way, struct packet *packet)
{
    enum end end = way == TO_VM ? END_VM : END_FARM;
    struct wire_message msg = {.type = packet->type, .stream = packet->stream};
    int rc;
    if (!c->is_open[end]) {
        return; /* nobody is there any more */
    }
    if (packet->is_end) {
        c->is_open[end] = false;
        c->pipe[way == TO_VM ? TO_FARM : TO_VM].is_shut = true;
        unlist(s, c);
        if (way == TO_VM) {
            vm_on_close(s, c);
        } else {
            farm_on_close(s, c);
        }
        return;
    }
    if (!s->plan.has_frames) {
        msg.body = packet->body;
        packet->body = NULL;
        hand_over(s, c, way, &msg);
        return;
    }
    s->net.feeding = c;
    s->net.feeding_way = way;
    rc = feed(s, &c->pipe[way], packet->body->data, packet->body->size);
    if (rc != 0 && rc != TRK_ECLOSED) {
        sim_broken(s, "connection %u: bytes of our own making were refused: %s", c->id,
                   trk_strerror(rc));
    }
}

void net_on_arrive(struct sim *s, uint32_t id, enum way way)
{
    struct conn *c = net_conn(s, id);
    struct pipe *p = &c->pipe[way];
    struct packet *packet;
    p->has_event = false;
    if (p->flight.first == NULL) {
        return;
    }
    if (c->is_open[way == TO_VM ? END_VM : END_FARM] && !takes_packets(s, c, way)) {
        p->is_waiting = true;
        return;
    }
    packet = queue_pop(&p->flight);
    deliver(s, c, way, packet);
    packet_free(s, packet);
    arrive_next(s, c, way);
    pump(s, c, way);
}

void net_on_pump(struct sim *s, uint32_t id, enum way way)
{
    struct conn *c = net_conn(s, id);
    c->pipe[way].has_pump = false;
    pump(s, c, way);
}

void net_kick(struct sim *s)
{
    for (uint32_t i = 0; i < s->net.live_count; i++) {
        struct conn *c = net_conn(s, s->net.live[i]);
        for (int way = 0; way < WAY_COUNT; way++) {
            if (c->pipe[way].is_waiting && takes_packets(s, c, (enum way)way)) {
                c->pipe[way].is_waiting = false;
                arrive_next(s, c, (enum way)way);
            }
        }
    }
}

void net_fini(struct sim *s)
{
    struct net *n = &s->net;
    for (uint32_t i = 0; i < n->count; i++) {
        struct conn *c = n->conns[i];
        for (int way = 0; way < WAY_COUNT; way++) {
            queue_clear(s, &c->pipe[way].control);
            queue_clear(s, &c->pipe[way].bulk);
            queue_clear(s, &c->pipe[way].flight);
            wire_assembler_free(c->pipe[way].assembler);
        }
        mem_free(c);
    }
    while (n->spare != NULL) {
        struct packet *p = n->spare;
        n->spare = p->next;
        mem_free(p);
    }
    mem_free(n->conns);
    mem_free(n->live);
}
