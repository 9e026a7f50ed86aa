/* SPDX-License-Identifier: MIT */
/* session_tls.c - a session's handshake, and its reading through TLS. The loop thread; writing is
 * in session_out.c.
 *
 * net_tls keeps no input between turns but a part of a record: whatever was received is decrypted
 * at once, straight into the message that it belongs to; without the mutex, which senders need. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/hash.h"
#include "base/log.h"
#include "net/session_impl.h"

/* The loop's memory for reading holds both: what came, and one record's plain text behind it. */
#define CIPHER_BYTES (NET_SCRATCH_BYTES - NET_TLS_RECORD)

static void forget_stranger(struct net_session *s)
{
    if (!list_is_empty(&s->stranger)) {
        list_remove(&s->stranger);
        net_loop_strangers(s->loop)->count--;
    }
}

/* See NET_STRANGERS_MAX. */
static struct net_session *pick_stranger(const struct net_strangers *all)
{
    struct net_session *one[NET_STRANGERS_MAX], *picked = NULL;
    uint64_t tag[NET_STRANGERS_MAX]; /* side by side: they are compared n * n times */
    unsigned n = 0, most = 0;
    struct list *pos;
    list_for_each(pos, &all->list) {
        one[n] = container_of(pos, struct net_session, stranger);
        tag[n] = one[n]->address_tag;
        n++;
    }
    for (unsigned i = 0; i < n; i++) {
        unsigned rank = net_tls_has_met(one[i]->tls) ? 0 : NET_STRANGERS_MAX;
        for (unsigned k = 0; k < n; k++) {
            rank += tag[k] == tag[i];
        }
        if (rank > most) {
            most = rank;
            picked = one[i];
        }
    }
    return picked;
}

/* Makes room for one more. */
static void evict_stranger(struct net_strangers *all)
{
    struct net_session *s = pick_stranger(all);
    forget_stranger(s);
    net_count_drop();
    net_session_fail(s, TRK_EFULL, "%s gave way: %u others are in their TLS handshake", s->peer,
                     NET_STRANGERS_MAX);
}

static void note_stranger(struct net_session *s)
{
    struct net_strangers *all = net_loop_strangers(s->loop);
    const char *port = strrchr(s->peer, ':');
    struct digest digest = hash_digest(s->peer, port != NULL ? (size_t)(port - s->peer) : 0);
    memcpy(&s->address_tag, digest.bytes, sizeof(s->address_tag));
    if (all->count >= NET_STRANGERS_MAX) {
        evict_stranger(all);
    }
    list_push_back(&all->list, &s->stranger);
    all->count++;
}

int net_session_use_tls(struct net_session *s, const struct net_session_options *opt,
                        bool is_caller)
{
    int rc = net_tls_new(&s->tls, opt->keys, opt->role, is_caller);
    if (rc == 0 && !is_caller) {
        note_stranger(s);
    }
    return rc;
}

/* One step of the handshake. 0: over; TRK_AGAIN; TRK_E*. */
static int shake(struct net_session *s)
{
    pthread_mutex_lock(&s->mutex);
    int rc = net_tls_handshake(s->tls);
    if (rc == TRK_AGAIN && s->received_bytes >= NET_HANDSHAKE_BYTES) {
        net_tls_refuse(s->tls, "its TLS handshake is too long");
        rc = TRK_EDENIED;
    }
    net_session_write_out(s, NET_TURN_BYTES);
    pthread_mutex_unlock(&s->mutex);
    if (rc == 0) {
        log_debug("net", "%s: TLS handshake done", s->peer);
        forget_stranger(s);
        net_session_open(s);
        net_session_tell_open(s); /* before the messages that came with the handshake's end */
    }
    return rc;
}

int net_session_begin_tls(struct net_session *s)
{
    s->phase = SHAKING;
    s->shake_ms = s->received_ms + NET_HANDSHAKE_MS;
    pthread_mutex_lock(&s->mutex);
    s->is_up = true;
    pthread_mutex_unlock(&s->mutex);
    int rc = shake(s);
    return rc < 0 ? fail(rc, "%s", net_tls_why(s->tls)) : 0;
}

/* Decrypts all that was fed. As *rc of net_session_receive_tls. */
static int decrypt(struct net_session *s)
{
    uint8_t *plain = net_loop_scratch(s->loop) + CIPHER_BYTES;
    while (!net_session_is_deaf(s)) {
        size_t room = NET_TLS_RECORD, got;
        uint8_t *direct = wire_assembler_direct(s->in, &room);
        int rc = net_tls_read(s->tls, direct != NULL ? direct : plain, room, &got);
        if (rc != 0 || got == 0) {
            return rc;
        }
        rc = direct != NULL
                 ? wire_assembler_filled(s->in, got, net_session_on_assembled, s)
                 : wire_assembler_feed(s->in, plain, got, net_session_on_assembled, s);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

ssize_t net_session_receive_tls(struct net_session *s, size_t *asked, int *rc)
{
    uint8_t *scratch = net_loop_scratch(s->loop);
    bool is_shaking = s->phase == SHAKING;
    *asked = is_shaking ? NET_HANDSHAKE_BYTES - s->received_bytes : CIPHER_BYTES;
    *rc = 0;
    ssize_t n = recv(s->fd, scratch, *asked, MSG_DONTWAIT);
    if (n < 0) {
        return -errno;
    }
    s->received_bytes += (uint64_t)n;
    /* Closing with flush: what is queued goes out when the handshake is over. */
    if (n == 0 || (s->wish != CLOSE_NOT && !is_shaking)) {
        return n;
    }
    s->received_ms = uv_now(net_loop_uv(s->loop));
    net_tls_feed(s->tls, scratch, (size_t)n);
    *rc = is_shaking ? shake(s) : 0;
    if (*rc == TRK_AGAIN) {
        *rc = 0;
        return n;
    }
    *rc = *rc == 0 ? decrypt(s) : *rc;
    return n;
}

bool net_session_end_tls(struct net_session *s)
{
    pthread_mutex_lock(&s->mutex);
    if (!s->has_said_end) {
        s->has_said_end = true;
        net_tls_end(s->tls);
    }
    net_session_write_out(s, NET_TURN_BYTES);
    bool is_sent = !net_session_has_output(s) && !s->is_writing;
    pthread_mutex_unlock(&s->mutex);
    return is_sent;
}

void net_session_leave_tls(struct net_session *s)
{
    size_t size;
    forget_stranger(s);
    if (!s->is_up || s->write_errno != 0) {
        return;
    }
    if (s->may_speak && !s->has_said_end) {
        net_tls_end(s->tls);
    }
    const uint8_t *bytes = net_tls_output(s->tls, &size);
    if (size > 0) {
        /* An alert, or that nothing follows; who cannot take it now sees the connection cut. */
        (void)!net_session_send_bytes(s->fd, bytes, size);
    }
}
