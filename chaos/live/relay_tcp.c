/* SPDX-License-Identifier: MIT */
/* relay_tcp.c - see relay_tcp.h. */
#include "relay_tcp.h"

#include <stdlib.h>
#include <string.h>

#define ROWS 4096
#define WAYS 8
#define TLS_HANDSHAKE 22 /* type of a record; then the version, 3.x */

struct tcp_table {
    uint64_t packets;
    struct tcp_connection row[ROWS][WAYS];
};

struct tcp_table *tcp_table_new(void) { return calloc(1, sizeof(struct tcp_table)); }

void tcp_table_free(struct tcp_table *t) { free(t); }

/* The same for both directions. FNV-1a of each end, added. */
static uint64_t hash_end(const struct ip_address *a, uint16_t port)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < sizeof(a->byte); i++) {
        h = (h ^ a->byte[i]) * UINT64_C(0x100000001b3);
    }
    h = (h ^ (port & 0xff)) * UINT64_C(0x100000001b3);
    return (h ^ port >> 8) * UINT64_C(0x100000001b3);
}

static bool is_end(const struct tcp_end *e, const struct ip_address *a, uint16_t port)
{
    return e->port == port && ip_address_same(&e->address, a);
}

/* Which end has sent p; -1: it is of another connection. */
static int sender_of(const struct tcp_connection *c, const struct packet *p)
{
    for (int i = 0; i < 2; i++) {
        if (c->is_used && is_end(&c->end[i], &p->from, p->from_port) &&
            is_end(&c->end[1 - i], &p->to, p->to_port)) {
            return i;
        }
    }
    return -1;
}

static struct tcp_connection *find(struct tcp_connection *row, const struct packet *p)
{
    for (int i = 0; i < WAYS; i++) {
        if (sender_of(&row[i], p) >= 0) {
            return &row[i];
        }
    }
    return NULL;
}

static struct tcp_connection *oldest(struct tcp_connection *row)
{
    struct tcp_connection *best = row;
    for (int i = 0; i < WAYS; i++) {
        if (!row[i].is_used) {
            return &row[i];
        }
        best = row[i].heard < best->heard ? &row[i] : best;
    }
    return best;
}

static void begin(struct tcp_connection *c, const struct packet *p, uint16_t from, uint16_t to,
                  bool has_syn)
{
    *c = (struct tcp_connection){.is_used = true, .is_known = !has_syn, .first_seq = p->seq};
    c->end[0] = (struct tcp_end){.address = p->from, .port = p->from_port, .machine = from};
    c->end[1] = (struct tcp_end){.address = p->to, .port = p->to_port, .machine = to};
}

/* What the opener's first bytes are, when p has them. */
static enum tcp_opening look(struct tcp_connection *c, const struct packet *p)
{
    if (c->is_known || p->payload_bytes == 0 || p->seq != c->first_seq + 1) {
        return TCP_OPENING_NOT;
    }
    c->is_known = true;
    return p->payload_bytes >= 2 && p->payload[0] == TLS_HANDSHAKE && p->payload[1] == 3
               ? TCP_OPENING_TLS : TCP_OPENING_PLAIN;
}

struct tcp_connection *tcp_table_note(struct tcp_table *t, const struct packet *p, uint16_t from,
                                      uint16_t to, enum tcp_opening *opening)
{
    uint64_t hash = hash_end(&p->from, p->from_port) + hash_end(&p->to, p->to_port);
    struct tcp_connection *row = t->row[(hash ^ hash >> 32) % ROWS];
    struct tcp_connection *c = find(row, p);
    bool is_syn = (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
    *opening = TCP_OPENING_NOT;
    if ((p->flags & TCP_RST) != 0) {
        if (c != NULL && !c->is_reset) {
            c->is_used = false;
        }
        return NULL;
    }
    if (c == NULL || (is_syn && p->seq != c->first_seq)) {
        c = c == NULL ? oldest(row) : c;
        begin(c, p, from, to, is_syn);
        *opening = is_syn ? TCP_OPENING_BEGUN : TCP_OPENING_NOT;
    }
    int which = sender_of(c, p);
    struct tcp_end *end = &c->end[which];
    c->heard = ++t->packets;
    end->last = *p;
    end->last.payload = NULL;
    if (which == 0 && *opening == TCP_OPENING_NOT) {
        *opening = look(c, p);
    }
    end->has_ended |= (p->flags & TCP_FIN) != 0;
    return c;
}

static bool is_between(const struct tcp_connection *c, int a, int b)
{
    for (int i = 0; i < 2; i++) {
        if ((a < 0 || c->end[i].machine == a) && (b < 0 || c->end[1 - i].machine == b)) {
            return true;
        }
    }
    return false;
}

unsigned tcp_table_reset(struct tcp_table *t, int a, int b,
                         void (*each)(void *ctx, const struct tcp_end *end,
                                      const struct tcp_end *other), void *ctx)
{
    unsigned count = 0;
    for (size_t i = 0; i < ROWS * WAYS; i++) {
        struct tcp_connection *c = &t->row[i / WAYS][i % WAYS];
        bool is_over = c->end[0].has_ended && c->end[1].has_ended;
        if (!c->is_used || c->is_reset || is_over || !is_between(c, a, b)) {
            continue;
        }
        c->is_reset = true;
        count++;
        for (int k = 0; k < 2; k++) {
            if (c->end[k].last.is_tcp) {
                each(ctx, &c->end[k], &c->end[1 - k]);
            }
        }
    }
    return count;
}
