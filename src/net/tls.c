/* SPDX-License-Identifier: MIT */
/* tls.c - see tls.h.
 *
 * OpenSSL is part of the program around us, which may use it, too (Python does): its error queue
 * is left clean where we may be on somebody's thread, its memory functions and its configuration
 * are not touched. It is entered through the door of auth/crypto.h only, and nobody waits inside;
 * our one context is never freed.
 *
 * OpenSSL does the handshake. The traffic secrets that come out of it (it tells them by its key
 * log, which goes nowhere but here) key the two directions of record.h; then OpenSSL's connection
 * is freed. From then on reading and writing share nothing: each may be in another thread. */
#include "net/tls.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "auth/crypto.h"
#include "auth/derive.h"
#include "base/fail.h"
#include "base/mem.h"
#include "net/record.h"

#define OTHER_BYTES 256 /* kept for a KeyUpdate before and an alert behind the records */
#define OUT_BYTES (NET_TLS_RECORDS * RECORD_MAX + OTHER_BYTES)
#define REKEY_RECORDS (UINT64_C(1) << 22) /* net_tls_set_rekey */

#define SUITES "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
#define GCM_SUITE 0x1301 /* the first of them */
#define SUITE_OF_PSK "\x13\x01" /* names the hash, SHA-256, that both of them have */
#define IDENTITY "trickle1:"
#define IDENTITY_MAX 64

#define KEY_UPDATE "\x18\x00\x00\x01\x00" /* the message: "mine are new"; asks for nothing */
#define KEY_UPDATE_BYTES 5

#define ALERT_CLOSE_NOTIFY 0
#define ALERT_BAD_RECORD 20

struct net_tls {
    SSL *ssl;                   /* until the handshake is over */
    bool is_caller;
    enum auth_role caller;      /* the role of who calls, which chooses the keys */
    struct {
        char id[AUTH_ID_DIGITS + 1];
        uint8_t psk[AUTH_DERIVED_BYTES];
    } key[AUTH_KEYS_MAX];       /* cleared when the handshake is over */
    size_t key_count;
    char identity[IDENTITY_MAX]; /* of key[0], for the caller */
    char key_id[AUTH_ID_DIGITS + 1]; /* of the key in use; "": the caller has named none yet */
    bool has_begun;             /* the first byte from the peer was looked at */
    bool has_found;             /* answering: the caller has named one of our keys */
    uint8_t secret[2][RECORD_SECRET]; /* of what the caller writes, of what the other does */
    unsigned secret_count;      /* known so far */
    char why[160];              /* net_tls_why */
    struct net_tls *next_kept;  /* in kept */

    /* Reading. */
    bool has_failed;            /* for good: handshake, reading */
    const uint8_t *in;          /* borrowed: what is left of the bytes fed */
    size_t in_size;
    struct net_record reading;
    size_t part_size;           /* of part: a record that is not whole yet */
    size_t rest_at, rest_end;   /* of rest: plain text that is not read yet */

    /* Writing. */
    bool has_write_failed;      /* for good */
    struct net_record writing;
    uint64_t rekey_records;     /* after so many under one key comes the next */
    size_t out_start, out_end;  /* of out: bytes to be sent */

    uint8_t part[RECORD_MAX], rest[RECORD_PLAIN], out[OUT_BYTES]; /* not zeroed */
};

/* --- the BIO ----------------------------------------------------------------------------- */

static int bio_read(BIO *bio, char *to, size_t size, size_t *got)
{
    struct net_tls *t = BIO_get_data(bio);
    size_t n = size < t->in_size ? size : t->in_size;
    BIO_clear_retry_flags(bio);
    if (n == 0) {
        BIO_set_retry_read(bio);
        return 0;
    }
    memcpy(to, t->in, n);
    t->in += n;
    t->in_size -= n;
    *got = n;
    return 1;
}

/* Full only when the peer makes OpenSSL answer without end: then the connection has failed. */
static int bio_write(BIO *bio, const char *bytes, size_t size, size_t *taken)
{
    struct net_tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (size > OUT_BYTES - t->out_end) {
        return 0;
    }
    memcpy(t->out + t->out_end, bytes, size);
    t->out_end += size;
    *taken = size;
    return 1;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    return command == BIO_CTRL_FLUSH; /* always done; all else is not for us */
}

/* --- the context ------------------------------------------------------------------------- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static SSL_CTX *context;     /* of all connections; NULL: it could not be made */
static BIO_METHOD *method;
static struct net_tls *kept; /* could not be freed any more: the process is ending */

/* "CLIENT_TRAFFIC_SECRET_0 RANDOM SECRET", and SERVER: both come before the handshake's end. */
static void note_secret(const SSL *ssl, const char *line)
{
    static const char *const names[2] = {"CLIENT_TRAFFIC_SECRET_0 ", "SERVER_TRAFFIC_SECRET_0 "};
    struct net_tls *t = SSL_get_app_data(ssl);
    const char *hex = strrchr(line, ' ');
    for (int i = 0; i < 2; i++) {
        size_t size = 0;
        if (strncmp(line, names[i], strlen(names[i])) == 0 && hex != NULL &&
            OPENSSL_hexstr2buf_ex(t->secret[i], RECORD_SECRET, &size, hex + 1, '\0') == 1 &&
            size == RECORD_SECRET) {
            t->secret_count++;
        }
    }
}

static int refuse_certificate(int is_fine, X509_STORE_CTX *store) { return 0; }

static SSL_CTX *make_context(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    if (ctx == NULL) {
        return NULL;
    }
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_clear_options(ctx, SSL_OP_ENABLE_MIDDLEBOX_COMPAT | SSL_OP_ALLOW_NO_DHE_KEX);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, refuse_certificate);
    SSL_CTX_set_keylog_callback(ctx, note_secret);
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(ctx, SUITES) != 1 ||
        SSL_CTX_set1_groups_list(ctx, "X25519:P-256") != 1 ||
        SSL_CTX_set_num_tickets(ctx, 0) != 1 || SSL_CTX_set_max_early_data(ctx, 0) != 1) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

static BIO_METHOD *make_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "trickle");
    if (m != NULL && (BIO_meth_set_read_ex(m, bio_read) != 1 ||
                      BIO_meth_set_write_ex(m, bio_write) != 1 ||
                      BIO_meth_set_ctrl(m, bio_control) != 1)) {
        BIO_meth_free(m);
        return NULL;
    }
    return m;
}

/* Made by the first connection; when that fails the next one tries again. */
static bool have_context(void)
{
    pthread_mutex_lock(&mutex);
    if (context == NULL) {
        context = make_context();
    }
    if (method == NULL) {
        method = make_method();
    }
    bool answer = context != NULL && method != NULL;
    pthread_mutex_unlock(&mutex);
    return answer;
}

/* --- keys -------------------------------------------------------------------------------- */

static const char *role_name(enum auth_role role)
{
    return role == AUTH_INITIATOR ? "initiator" : "vm";
}

static SSL_SESSION *make_session(SSL *ssl, const uint8_t psk[AUTH_DERIVED_BYTES])
{
    const SSL_CIPHER *suite = SSL_CIPHER_find(ssl, (const unsigned char *)SUITE_OF_PSK);
    SSL_SESSION *session = SSL_SESSION_new();
    if (session == NULL || suite == NULL ||
        SSL_SESSION_set1_master_key(session, psk, AUTH_DERIVED_BYTES) != 1 ||
        SSL_SESSION_set_cipher(session, suite) != 1 ||
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
        SSL_SESSION_free(session);
        return NULL;
    }
    return session;
}

static int offer_key(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_size,
                     SSL_SESSION **session)
{
    struct net_tls *t = SSL_get_app_data(ssl);
    *session = make_session(ssl, t->key[0].psk);
    *id = (const unsigned char *)t->identity;
    *id_size = strlen(t->identity);
    return *session != NULL;
}

/* The caller's identity: which of our keys is it of? -1, and why, when it is of none. */
static int find_key(struct net_tls *t, const char *id, size_t size)
{
    const size_t head = sizeof(IDENTITY) - 1, role_at = head + AUTH_ID_DIGITS + 1;
    if (size < role_at || memcmp(id, IDENTITY, head) != 0 || id[role_at - 1] != ':' ||
        strspn(id + head, "0123456789abcdef") < AUTH_ID_DIGITS) {
        net_tls_refuse(t, "it offers a key that is not one of Trickle's");
        return -1;
    }
    const char *role = role_name(t->caller);
    if (size - role_at != strlen(role) || memcmp(id + role_at, role, size - role_at) != 0) {
        snprintf(t->why, sizeof(t->why), "it has the wrong role: only %s may call here",
                 t->caller == AUTH_INITIATOR ? "initiators" : "VMs");
        return -1;
    }
    for (size_t i = 0; i < t->key_count; i++) {
        if (memcmp(t->key[i].id, id + head, AUTH_ID_DIGITS) == 0) {
            return (int)i;
        }
    }
    snprintf(t->why, sizeof(t->why), "its key %.*s is not one of ours (%s%s%s)", AUTH_ID_DIGITS,
             id + head, t->key[0].id, t->key_count > 1 ? ", " : "",
             t->key_count > 1 ? t->key[1].id : "");
    return -1;
}

/* An unknown key is no error here: without one the handshake fails, for want of a certificate. */
static int accept_key(SSL *ssl, const unsigned char *id, size_t id_size, SSL_SESSION **session)
{
    struct net_tls *t = SSL_get_app_data(ssl);
    char text[IDENTITY_MAX] = "";
    memcpy(text, id, id_size < sizeof(text) ? id_size : 0);
    int found = find_key(t, text, id_size < sizeof(text) ? id_size : 0);
    *session = NULL;
    if (found < 0) {
        return 1;
    }
    t->has_found = true;
    memcpy(t->key_id, t->key[found].id, sizeof(t->key_id));
    t->why[0] = '\0';
    *session = make_session(ssl, t->key[found].psk);
    return *session != NULL;
}

static int set_keys(struct net_tls *t, const struct auth_keys *keys)
{
    enum auth_use use = t->caller == AUTH_INITIATOR ? AUTH_TLS_INITIATOR : AUTH_TLS_VM;
    assert(keys->count > 0 && keys->count <= AUTH_KEYS_MAX);
    t->key_count = keys->count;
    for (size_t i = 0; i < keys->count; i++) {
        memcpy(t->key[i].id, keys->key[i].id, sizeof(t->key[i].id));
        int rc = auth_derive(t->key[i].psk, &keys->key[i], use);
        if (rc != 0) {
            return rc;
        }
    }
    snprintf(t->identity, sizeof(t->identity), IDENTITY "%s:%s", t->key[0].id,
             role_name(t->caller));
    if (t->is_caller) {
        memcpy(t->key_id, t->key[0].id, sizeof(t->key_id));
    }
    return 0;
}

bool net_tls_is_revoked(const struct net_tls *t, const struct auth_keys *keys)
{
    if (t->key_id[0] != '\0') {
        return auth_keys_find(keys, t->key_id, AUTH_ID_DIGITS) == NULL;
    }
    for (size_t i = 0; i < t->key_count; i++) {
        if (auth_keys_find(keys, t->key[i].id, AUTH_ID_DIGITS) == NULL) {
            return true;
        }
    }
    return false;
}

/* --- life -------------------------------------------------------------------------------- */

static bool set_ssl(struct net_tls *t)
{
    t->ssl = have_context() ? SSL_new(context) : NULL;
    BIO *bio = t->ssl != NULL ? BIO_new(method) : NULL;
    if (bio == NULL || SSL_set_app_data(t->ssl, t) != 1) {
        BIO_free(bio);
        return false;
    }
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio); /* takes it */
    if (t->is_caller) {
        SSL_set_connect_state(t->ssl);
        SSL_set_psk_use_session_callback(t->ssl, offer_key);
    } else {
        SSL_set_accept_state(t->ssl);
        SSL_set_verify(t->ssl, SSL_VERIFY_NONE, NULL); /* asks for no certificate */
        SSL_set_psk_find_session_callback(t->ssl, accept_key);
    }
    return true;
}

static int make_ssl(struct net_tls *t)
{
    if (!auth_crypto_enter()) {
        return fail(TRK_ECLOSED, "the process is ending");
    }
    ERR_set_mark();
    bool is_done = set_ssl(t);
    ERR_pop_to_mark();
    auth_crypto_leave();
    return is_done ? 0 : fail(TRK_ENOMEM, "OpenSSL cannot begin a TLS connection: out of memory");
}

int net_tls_new(struct net_tls **out, const struct auth_keys *keys, enum auth_role role,
                bool is_caller)
{
    struct net_tls *t = mem_alloc(sizeof(*t));
    if (t == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    memset(t, 0, offsetof(struct net_tls, part));
    t->is_caller = is_caller;
    t->rekey_records = REKEY_RECORDS;
    enum auth_role other = role == AUTH_INITIATOR ? AUTH_VM : AUTH_INITIATOR;
    t->caller = is_caller ? role : other;
    int rc = set_keys(t, keys);
    rc = rc == 0 ? make_ssl(t) : rc;
    if (rc != 0) {
        net_tls_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

static void keep(struct net_tls *t)
{
    pthread_mutex_lock(&mutex);
    t->next_kept = kept;
    kept = t;
    pthread_mutex_unlock(&mutex);
}

void net_tls_free(struct net_tls *t)
{
    if (t == NULL) {
        return;
    }
    if (!auth_crypto_enter()) {
        keep(t);
        return;
    }
    SSL_free(t->ssl); /* with its BIO */
    net_record_fini(&t->reading);
    net_record_fini(&t->writing);
    auth_crypto_leave();
    OPENSSL_cleanse(t->key, sizeof(t->key));
    OPENSSL_cleanse(t->secret, sizeof(t->secret));
    mem_free(t);
}

/* --- what goes wrong --------------------------------------------------------------------- */

bool net_tls_has_met(const struct net_tls *t) { return t->secret_count > 0; }

void net_tls_refuse(struct net_tls *t, const char *why)
{
    snprintf(t->why, sizeof(t->why), "%s", why);
}

const char *net_tls_why(const struct net_tls *t) { return t->why; }

/* The first of OpenSSL's reasons, with the queue emptied; *is_memory: one of them is memory. */
static unsigned long take_error(bool *is_memory)
{
    unsigned long first = ERR_peek_error(), error;
    *is_memory = false;
    while ((error = ERR_get_error()) != 0) {
        *is_memory = *is_memory || ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE;
    }
    return first;
}

/* A reason of the handshake that has a sentence of its own, or NULL. */
static const char *sentence_of(const struct net_tls *t, int reason)
{
    switch (reason) {
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_VERSION_TOO_LOW:
    case SSL_R_VERSION_TOO_HIGH:
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_WRONG_SSL_VERSION:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
        return "it does not speak TLS 1.3";
    case SSL_R_BINDER_DOES_NOT_VERIFY:
        return "it does not have the key that it names: a wrong key, or a changed handshake";
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_NO_SUITABLE_KEY_SHARE:
        return "it has no cipher or no key exchange that we take";
    case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM: /* a certificate is wanted, then */
    case SSL_R_NO_CERTIFICATE_SET:
        return t->has_found ? "it does not want fresh keys besides" : "it offers no key";
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
        return "it shows a certificate and not the farm's key";
    default:
        return NULL;
    }
}

static bool is_alert(int reason)
{
    return reason >= SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256;
}

static int explain_handshake(struct net_tls *t)
{
    bool is_memory;
    int reason = ERR_GET_REASON(take_error(&is_memory));
    t->has_failed = true;
    if (is_memory) {
        net_tls_refuse(t, "out of memory");
        return TRK_ENOMEM;
    }
    if (t->why[0] != '\0') {
        return TRK_EDENIED; /* accept_key has said it */
    }
    const char *text = sentence_of(t, reason);
    if (text != NULL) {
        net_tls_refuse(t, text);
    } else if (is_alert(reason) && t->is_caller) {
        snprintf(t->why, sizeof(t->why),
                 "it refuses our key %s (compare trickle key show on both machines)", t->key[0].id);
    } else {
        const char *error = ERR_reason_error_string(ERR_PACK(ERR_LIB_SSL, 0, reason));
        snprintf(t->why, sizeof(t->why), "the TLS handshake failed: %s",
                 error != NULL ? error : "it is broken");
    }
    return TRK_EDENIED;
}

/* --- handshake --------------------------------------------------------------------------- */

void net_tls_feed(struct net_tls *t, const void *bytes, size_t size)
{
    assert(t->in_size == 0 || t->has_failed);
    t->in = bytes;
    t->in_size = size;
}

/* Before OpenSSL sees anything: is this TLS at all? */
static bool is_tls(struct net_tls *t)
{
    if (t->has_begun || t->in_size == 0) {
        return true;
    }
    t->has_begun = true;
    if (t->in[0] == RECORD_HANDSHAKE || t->in[0] == RECORD_ALERT) {
        return true;
    }
    net_tls_refuse(t, t->is_caller ? "it does not answer in TLS: does it listen with --insecure?"
                                   : "plain text came, and here is only TLS");
    t->has_failed = true;
    return false;
}

/* Hands over from OpenSSL to the two directions. */
static int end_handshake(struct net_tls *t)
{
    /* True when the key was used. OpenSSL has no other way left to come here; if it had, stop. */
    if (SSL_session_reused(t->ssl) != 1 || SSL_version(t->ssl) != TLS1_3_VERSION ||
        t->secret_count != 2) {
        net_tls_refuse(t, "it did not use the farm's key");
        t->has_failed = true;
        return TRK_EDENIED;
    }
    bool is_gcm = SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(t->ssl)) == GCM_SUITE;
    const EVP_CIPHER *cipher = is_gcm ? EVP_aes_128_gcm() : EVP_chacha20_poly1305();
    int mine = t->is_caller ? 0 : 1;
    int rc = net_record_init(&t->writing, cipher, t->secret[mine], true);
    rc = rc == 0 ? net_record_init(&t->reading, cipher, t->secret[1 - mine], false) : rc;
    OPENSSL_cleanse(t->key, sizeof(t->key));
    OPENSSL_cleanse(t->secret, sizeof(t->secret));
    SSL_free(t->ssl);
    t->ssl = NULL;
    if (rc != 0) {
        ERR_clear_error();
        net_tls_refuse(t, "out of memory");
        t->has_failed = true;
    }
    return rc;
}

static int shake(struct net_tls *t)
{
    ERR_clear_error(); /* the loop's thread; SSL_get_error looks at the whole queue */
    int rc = SSL_do_handshake(t->ssl);
    if (rc == 1) {
        return end_handshake(t);
    }
    return SSL_get_error(t->ssl, rc) == SSL_ERROR_WANT_READ ? TRK_AGAIN : explain_handshake(t);
}

int net_tls_handshake(struct net_tls *t)
{
    if (t->has_failed || !is_tls(t)) {
        return TRK_EDENIED;
    }
    if (!auth_crypto_enter()) {
        t->in_size = 0;
        return TRK_AGAIN;
    }
    int rc = shake(t);
    auth_crypto_leave();
    return rc;
}

/* --- reading ----------------------------------------------------------------------------- */

static int drop(struct net_tls *t, const char *why)
{
    ERR_clear_error(); /* the loop's thread */
    net_tls_refuse(t, why);
    t->has_failed = true;
    return TRK_ECORRUPT;
}

/* Adds to part what it lacks of size bytes. */
static bool fill_part(struct net_tls *t, size_t size)
{
    size_t want = size - t->part_size, n = want < t->in_size ? want : t->in_size;
    memcpy(t->part + t->part_size, t->in, n);
    t->part_size += n;
    t->in += n;
    t->in_size -= n;
    return n == want;
}

/* The next whole record, in place where it is whole among the bytes fed. 0, with *record NULL when
 * more must come, or TRK_ECORRUPT. */
static int next_record(struct net_tls *t, const uint8_t **record)
{
    bool is_begun = t->part_size > 0;
    *record = NULL;
    if (is_begun || t->in_size < RECORD_HEAD) {
        if (t->part_size < RECORD_HEAD && !fill_part(t, RECORD_HEAD)) {
            return 0;
        }
        is_begun = true;
    }
    size_t size = net_record_size(is_begun ? t->part : t->in);
    if (size == 0) {
        return drop(t, "it was changed on its way (TLS)");
    }
    if (!is_begun && t->in_size >= size) {
        *record = t->in;
        t->in += size;
        t->in_size -= size;
    } else if (fill_part(t, size)) {
        *record = t->part;
        t->part_size = 0;
    }
    return 0;
}

/* The plain text of a record in one piece, where room was too small for it. */
static const uint8_t *join(struct net_tls *t, const uint8_t *out, size_t room, size_t size)
{
    if (size <= room) {
        return out;
    }
    memmove(t->rest + room, t->rest, size - room);
    memcpy(t->rest, out, room);
    return t->rest;
}

/* A record that is not data: an alert or a KeyUpdate. */
static int take_other(struct net_tls *t, uint8_t type, const uint8_t *text, size_t size)
{
    if (type == RECORD_ALERT && size == 2) {
        return text[1] == ALERT_CLOSE_NOTIFY
                   ? TRK_END
                   : drop(t, "it says that what we sent was changed on its way");
    }
    if (type == RECORD_HANDSHAKE && size == KEY_UPDATE_BYTES &&
        memcmp(text, KEY_UPDATE, KEY_UPDATE_BYTES) == 0) {
        return net_record_rekey(&t->reading) == 0 ? 0 : drop(t, "OpenSSL makes no next keys");
    }
    return drop(t, "it is not Trickle's TLS");
}

static size_t take_rest(struct net_tls *t, uint8_t *out, size_t room)
{
    size_t left = t->rest_end - t->rest_at, n = left < room ? left : room;
    memcpy(out, t->rest + t->rest_at, n);
    t->rest_at += n;
    return n;
}

static int read_some(struct net_tls *t, uint8_t *out, size_t room, size_t *got)
{
    *got = take_rest(t, out, room);
    while (*got == 0 && !t->has_failed) {
        const uint8_t *record;
        uint8_t type;
        size_t size;
        int rc = next_record(t, &record);
        if (rc != 0 || record == NULL) {
            return rc;
        }
        rc = net_record_open(&t->reading, record, out, room, t->rest, &type, &size);
        if (rc != 0) {
            return drop(t, "it was changed on its way (TLS)");
        }
        if (type == RECORD_DATA) {
            *got = size < room ? size : room;
            t->rest_at = 0;
            t->rest_end = size - *got;
        } else if ((rc = take_other(t, type, join(t, out, room, size), size)) != 0) {
            return rc;
        }
    }
    return t->has_failed ? TRK_ECORRUPT : 0;
}

int net_tls_read(struct net_tls *t, uint8_t *out, size_t room, size_t *got)
{
    if (!auth_crypto_enter()) {
        t->in_size = 0;
        *got = 0;
        return 0;
    }
    int rc = read_some(t, out, room, got);
    auth_crypto_leave();
    return rc;
}

/* --- writing ----------------------------------------------------------------------------- */

/* There is room: each caller sees to that. */
static bool seal(struct net_tls *t, enum net_record_type type, const struct iovec *iov, size_t skip,
                 size_t size)
{
    assert(OUT_BYTES - t->out_end >= size + RECORD_EXTRA);
    ERR_set_mark(); /* any thread's queue */
    int rc = net_record_seal(&t->writing, type, iov, skip, size, t->out + t->out_end);
    ERR_pop_to_mark();
    t->has_write_failed = t->has_write_failed || rc != 0;
    t->out_end += rc == 0 ? size + RECORD_EXTRA : 0;
    return rc == 0;
}

static size_t size_of(const struct iovec *iov, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        size += iov[i].iov_len;
    }
    return size;
}

static void rekey(struct net_tls *t)
{
    const struct iovec update = {(void *)KEY_UPDATE, KEY_UPDATE_BYTES};
    if (t->has_write_failed || OUT_BYTES - t->out_end < OTHER_BYTES ||
        !seal(t, RECORD_HANDSHAKE, &update, 0, KEY_UPDATE_BYTES)) {
        return; /* there is no room now: the next write tries again */
    }
    ERR_set_mark();
    t->has_write_failed = net_record_rekey(&t->writing) != 0;
    ERR_pop_to_mark();
}

void net_tls_rekey(struct net_tls *t)
{
    if (auth_crypto_enter()) {
        rekey(t);
        auth_crypto_leave();
    }
}

void net_tls_set_rekey(struct net_tls *t, uint64_t records) { t->rekey_records = records; }

ssize_t net_tls_write(struct net_tls *t, const struct iovec *iov, size_t count)
{
    size_t left = size_of(iov, count), all = left, skip = 0;
    if (!auth_crypto_enter()) {
        return (ssize_t)all;
    }
    if (t->writing.number >= t->rekey_records) {
        rekey(t);
    }
    while (left > 0 && !t->has_write_failed) {
        size_t size = left < RECORD_PLAIN ? left : RECORD_PLAIN;
        if (t->out_end + size + RECORD_EXTRA > OUT_BYTES - OTHER_BYTES) {
            break; /* behind a KeyUpdate it may already lie in what is kept */
        }
        if (!seal(t, RECORD_DATA, iov, skip, size)) {
            break;
        }
        left -= size;
        for (skip += size; left > 0 && skip >= iov->iov_len; iov++) {
            skip -= iov->iov_len;
        }
    }
    auth_crypto_leave();
    return t->has_write_failed ? TRK_EIO : (ssize_t)(all - left);
}

void net_tls_end(struct net_tls *t)
{
    uint8_t alert[2] = {1, ALERT_CLOSE_NOTIFY};
    const struct iovec iov = {alert, sizeof(alert)};
    if (t->has_failed) {
        alert[0] = 2; /* fatal */
        alert[1] = ALERT_BAD_RECORD;
    }
    if (t->writing.ctx != NULL && !t->has_write_failed &&
        OUT_BYTES - t->out_end >= sizeof(alert) + RECORD_EXTRA && auth_crypto_enter()) {
        (void)!seal(t, RECORD_ALERT, &iov, 0, sizeof(alert));
        auth_crypto_leave();
    }
}

/* --- output ------------------------------------------------------------------------------ */

const uint8_t *net_tls_output(const struct net_tls *t, size_t *size)
{
    *size = t->out_end - t->out_start;
    return t->out + t->out_start;
}

void net_tls_sent(struct net_tls *t, size_t size)
{
    assert(size <= t->out_end - t->out_start);
    t->out_start += size;
    if (t->out_start == t->out_end) {
        t->out_start = t->out_end = 0;
    }
}
