/* SPDX-License-Identifier: MIT */
/* tls_rig.c - see tls_rig.h. */
#define OPENSSL_SUPPRESS_DEPRECATED /* RAND_set_rand_method: the short way, and only for tests */
#include "tls_rig.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <string.h>

#include "auth/derive.h"
#include "base/hash.h"
#include "keys.h"
#include "net/record.h"

/* --- randomness --------------------------------------------------------------------------- */

static struct {
    uint64_t side, count; /* whose turn it is, how many it has had */
} turn[2] = {{0, 0}, {1, 0}};
static int side;

static int fill(unsigned char *out, int size)
{
    for (int at = 0; at < size; at += (int)sizeof(struct digest)) {
        struct digest digest;
        size_t left = (size_t)(size - at);
        turn[side].count++;
        digest = hash_digest(&turn[side], sizeof(turn[side]));
        memcpy(out + at, digest.bytes, left < sizeof(digest) ? left : sizeof(digest));
    }
    return 1;
}

static int always(void) { return 1; }

static void use_side(bool is_caller)
{
    static const RAND_METHOD method = {.bytes = fill, .pseudorand = fill, .status = always};

    if (RAND_get_rand_method() != &method) {
        RAND_set_rand_method(&method);
    }
    side = is_caller ? 1 : 0;
}

/* --- our ends ----------------------------------------------------------------------------- */

struct net_tls *tls_rig_end(bool is_caller, bool has_key)
{
    struct auth_keys keys;
    struct net_tls *t;

    fuzz_keys(&keys);
    if (!has_key) {
        keys.key[0].secret[0] ^= 1;
        keys.key[1].secret[0] ^= 1;
    }
    use_side(is_caller);
    turn[side].count = 0;
    int rc = net_tls_new(&t, &keys, is_caller ? AUTH_INITIATOR : AUTH_VM, is_caller);
    assert(rc == 0);
    return t;
}

void tls_rig_output(struct net_tls *t, struct tls_rig_flight *f)
{
    size_t size;
    const uint8_t *bytes = net_tls_output(t, &size);

    if (f != NULL) {
        assert(size <= TLS_RIG_BYTES - f->size);
        memcpy(f->bytes + f->size, bytes, size);
        f->size += size;
    }
    net_tls_sent(t, size);
}

int tls_rig_step(struct net_tls *t, bool is_caller, const void *bytes, size_t size,
                 struct tls_rig_flight *f)
{
    use_side(is_caller);
    net_tls_feed(t, bytes, size);
    int rc = net_tls_handshake(t);
    tls_rig_output(t, f);
    return rc;
}

/* --- a peer of OpenSSL's own -------------------------------------------------------------- */

static uint8_t psk[AUTH_DERIVED_BYTES];
static uint8_t secrets[2][RECORD_SECRET]; /* of what the caller writes, of what the other does */

static SSL_SESSION *session_of(SSL *ssl)
{
    SSL_SESSION *session = SSL_SESSION_new();

    SSL_SESSION_set1_master_key(session, psk, sizeof(psk));
    SSL_SESSION_set_cipher(session, SSL_CIPHER_find(ssl, (const unsigned char *)"\x13\x01"));
    SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION);
    return session;
}

static int offer(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_size,
                 SSL_SESSION **session)
{
    static const char text[] = "trickle1:430f85e8:initiator";

    *session = session_of(ssl);
    *id = (const unsigned char *)text;
    *id_size = sizeof(text) - 1;
    return 1;
}

static int accept_any(SSL *ssl, const unsigned char *id, size_t id_size, SSL_SESSION **session)
{
    *session = session_of(ssl);
    return 1;
}

static void note_secret(const SSL *ssl, const char *line)
{
    static const char *const names[2] = {"CLIENT_TRAFFIC_SECRET_0 ", "SERVER_TRAFFIC_SECRET_0 "};

    for (int i = 0; i < 2; i++) {
        size_t size;
        if (strncmp(line, names[i], strlen(names[i])) == 0) {
            int rc = OPENSSL_hexstr2buf_ex(secrets[i], RECORD_SECRET, &size,
                                           strrchr(line, ' ') + 1, '\0');
            assert(rc == 1 && size == RECORD_SECRET);
        }
    }
}

static SSL *peer_new(bool is_caller)
{
    static SSL_CTX *context;
    struct auth_keys keys;

    if (context == NULL) {
        fuzz_keys(&keys);
        int rc = auth_derive(psk, &keys.key[0], AUTH_TLS_INITIATOR);
        context = SSL_CTX_new(TLS_method());
        assert(rc == 0 && context != NULL);
        SSL_CTX_set_keylog_callback(context, note_secret);
        SSL_CTX_set_psk_use_session_callback(context, offer);
        SSL_CTX_set_psk_find_session_callback(context, accept_any);
        SSL_CTX_set_num_tickets(context, 0);
        SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256");
    }
    SSL *ssl = SSL_new(context);
    assert(ssl != NULL);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    if (is_caller) {
        SSL_set_connect_state(ssl);
    } else {
        SSL_set_accept_state(ssl);
    }
    return ssl;
}

static void peer_step(SSL *ssl, bool is_caller, const struct tls_rig_flight *in,
                      struct tls_rig_flight *out)
{
    use_side(is_caller);
    BIO_write(SSL_get_rbio(ssl), in->bytes, (int)in->size);
    SSL_do_handshake(ssl);
    int size = BIO_read(SSL_get_wbio(ssl), out->bytes, TLS_RIG_BYTES);
    out->size = size > 0 ? (size_t)size : 0;
}

struct net_tls *tls_rig_shaken(bool is_caller, struct net_record *peer)
{
    static struct tls_rig_flight ours, theirs;
    struct net_tls *t = tls_rig_end(is_caller, true);
    SSL *ssl = peer_new(!is_caller);
    int rc = TRK_AGAIN;

    turn[is_caller ? 0 : 1].count = 0;
    theirs.size = 0;
    for (int i = 0; i < 3 && rc == TRK_AGAIN; i++) {
        if (i > 0 || !is_caller) {
            ours.size = i > 0 ? ours.size : 0;
            peer_step(ssl, !is_caller, &ours, &theirs);
        }
        ours.size = 0;
        rc = tls_rig_step(t, is_caller, theirs.bytes, theirs.size, &ours);
    }
    assert(rc == 0);
    SSL_free(ssl);
    ERR_clear_error();
    memset(peer, 0, sizeof(*peer));
    rc = net_record_init(peer, EVP_aes_128_gcm(), secrets[is_caller ? 1 : 0], true);
    assert(rc == 0);
    return t;
}
