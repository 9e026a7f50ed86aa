/* SPDX-License-Identifier: MIT */
/* test_tls.c - two ends of TLS in memory, and somebody between them: who gets through and who does
 * not, with which reason; each byte of the handshake and of the first records changed, left out,
 * played again. Ends that are not ours are OpenSSL's own. */
#include "base/fail.h" /* before check.h, which has a macro fail */

#include <check.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#include "auth/derive.h"
#include "base/mem.h"
#include "net/record.h"
#include "net/tls.h"
#include "tests/suite.h"

static struct auth_keys ours, theirs;
static uint64_t live_before;

static void setup(void)
{
    ours.count = theirs.count = 1;
    ck_assert_int_eq(auth_key_make(&ours.key[0]), 0);
    ck_assert_int_eq(auth_key_make(&theirs.key[0]), 0);
    live_before = mem_live();
}

static void teardown(void)
{
    ck_assert_uint_eq(mem_live(), live_before);
    ck_assert_uint_eq(ERR_peek_error(), 0);
}

static struct net_tls *end_new(const struct auth_keys *keys, enum auth_role role, bool is_caller)
{
    struct net_tls *t;
    int rc = net_tls_new(&t, keys, role, is_caller);
    ck_assert_msg(rc == 0, "%s", fail_text());
    return t;
}

static struct net_tls *caller_new(void) { return end_new(&ours, AUTH_INITIATOR, true); }
static struct net_tls *vm_new(void) { return end_new(&ours, AUTH_VM, false); }

static void check_why(const struct net_tls *t, const char *text)
{
    ck_assert_msg(strstr(net_tls_why(t), text) != NULL, "\"%s\" is not in: %s", text,
                  net_tls_why(t));
}

#define BYTES_MAX 100000

/* What one end has sent. */
struct flight {
    uint8_t bytes[BYTES_MAX];
    size_t size;
};

static void take_output(struct net_tls *t, struct flight *f)
{
    size_t size;
    const uint8_t *bytes = net_tls_output(t, &size);
    ck_assert_uint_le(size, BYTES_MAX - f->size);
    memcpy(f->bytes + f->size, bytes, size);
    f->size += size;
    net_tls_sent(t, size);
}

/* A step of t with these bytes; what it answers is added to f. */
static int step(struct net_tls *t, const void *bytes, size_t size, struct flight *f)
{
    net_tls_feed(t, bytes, size);
    int rc = net_tls_handshake(t);
    take_output(t, f);
    return rc;
}

/* The whole handshake: the caller's hello, the answer, the caller's end. */
struct shake {
    struct flight hello, answer, finish, rest;
    int caller, other; /* how they ended */
};

static void shake_hands(struct net_tls *a, struct net_tls *b, struct shake *s)
{
    memset(s, 0, sizeof(*s));
    s->caller = step(a, "", 0, &s->hello);
    ck_assert_int_eq(s->caller, TRK_AGAIN);
    s->other = step(b, s->hello.bytes, s->hello.size, &s->answer);
    s->caller = step(a, s->answer.bytes, s->answer.size, &s->finish);
    if (s->other == TRK_AGAIN) {
        s->other = step(b, s->finish.bytes, s->finish.size, &s->rest);
    }
}

static void shake_well(struct net_tls *a, struct net_tls *b)
{
    static struct shake s;
    shake_hands(a, b, &s);
    ck_assert_msg(s.caller == 0 && s.other == 0, "%s / %s", net_tls_why(a), net_tls_why(b));
    ck_assert_uint_le(s.hello.size + s.finish.size, 1000); /* far below the session's limit */
    ck_assert_uint_eq(s.rest.size, 0);                     /* no tickets */
}

static void write_text(struct net_tls *t, const char *text, struct flight *f)
{
    const struct iovec iov = {(void *)text, strlen(text)};
    ck_assert_int_eq(net_tls_write(t, &iov, 1), (ssize_t)iov.iov_len);
    take_output(t, f);
}

/* Feeds f and reads all there is; returns how it ended. */
static int read_flight(struct net_tls *t, const uint8_t *bytes, size_t size, char *text,
                       size_t room)
{
    size_t got = 1, at = 0;
    int rc = 0;
    net_tls_feed(t, bytes, size);
    while (rc == 0 && got > 0) {
        rc = net_tls_read(t, (uint8_t *)text + at, room - 1 - at, &got);
        at += got;
    }
    text[at] = '\0';
    return rc;
}

static void check_talk(struct net_tls *from, struct net_tls *to, const char *text)
{
    static struct flight f;
    char got[256];
    f.size = 0;
    write_text(from, text, &f);
    ck_assert_int_eq(read_flight(to, f.bytes, f.size, got, sizeof(got)), 0);
    ck_assert_str_eq(got, text);
}

static void free_both(struct net_tls *a, struct net_tls *b)
{
    net_tls_free(a);
    net_tls_free(b);
}

/* --- who gets through ----------------------------------------------------------------------- */

START_TEST(same_key_talks_both_ways)
{
    bool is_dial_in = _i == 1;
    struct net_tls *a = end_new(&ours, is_dial_in ? AUTH_VM : AUTH_INITIATOR, true);
    struct net_tls *b = end_new(&ours, is_dial_in ? AUTH_INITIATOR : AUTH_VM, false);
    shake_well(a, b);
    check_talk(a, b, "hello");
    check_talk(b, a, "welcome");
    net_tls_rekey(a);
    check_talk(a, b, "under new keys");
    check_talk(b, a, "under old ones");
    free_both(a, b);
}
END_TEST

/* Each write is one record: before the fourth comes a KeyUpdate, before the seventh the next; also
 * where there is room for nothing else. */
START_TEST(keys_are_renewed_after_so_many_records)
{
    enum { RECORDS = 10, EVERY = 3 };
    static uint8_t bytes[NET_TLS_RECORDS * NET_TLS_RECORD];
    const struct iovec full = {bytes, sizeof(bytes)};
    static struct flight f;
    struct net_tls *a = caller_new(), *b = vm_new();
    char got[RECORDS + 1];
    shake_well(a, b);
    net_tls_set_rekey(a, EVERY);
    f.size = 0;
    for (int i = 0; i < RECORDS; i++) {
        size_t before = f.size, update = i > 0 && i % EVERY == 0 ? 5 + RECORD_EXTRA : 0;
        char text[2] = {(char)('0' + i), '\0'};
        write_text(a, text, &f);
        ck_assert_msg(f.size - before == 1 + RECORD_EXTRA + update, "%d: %zu bytes", i,
                      f.size - before);
    }
    ck_assert_int_eq(read_flight(b, f.bytes, f.size, got, sizeof(got)), 0);
    ck_assert_str_eq(got, "0123456789");
    ck_assert_int_eq(net_tls_write(a, &full, 1), (ssize_t)sizeof(bytes));
    ck_assert_int_eq(net_tls_write(a, &full, 1), 0); /* but the update has room of its own */
    net_tls_end(a);
    size_t size, n = 1, sum = 0;
    const uint8_t *output = net_tls_output(a, &size);
    net_tls_feed(b, output, size);
    int rc = 0;
    while (rc == 0 && n > 0) {
        rc = net_tls_read(b, bytes, sizeof(bytes), &n);
        sum += rc == 0 ? n : 0;
    }
    ck_assert_int_eq(rc, TRK_END);
    ck_assert_uint_eq(sum, sizeof(bytes));
    free_both(a, b);
}
END_TEST

/* Rotation: offers[0] is what the caller offers. '1': new, '0': old, 'x': neither. */
static const struct {
    const char *caller, *other;
    bool is_fine;
} rotations[] = {
    {"0", "0", true},   {"0", "10", true},  {"10", "10", true}, {"1", "10", true},
    {"10", "1", true},  {"1", "1", true},   {"0", "1", false},  {"1", "0", false},
    {"10", "0", false}, {"x", "10", false}, {"x", "0", false},
};

static struct auth_keys keys_of(const char *text, const struct auth_key *all)
{
    struct auth_keys keys = {.count = strlen(text)};
    for (size_t i = 0; i < keys.count; i++) {
        keys.key[i] = all[text[i] == 'x' ? 2 : text[i] - '0'];
    }
    return keys;
}

START_TEST(rotation_takes_both_and_revoked_is_refused)
{
    static struct shake s;
    struct auth_key all[3];
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(auth_key_make(&all[i]), 0);
    }
    struct auth_keys one = keys_of(rotations[_i].caller, all);
    struct auth_keys two = keys_of(rotations[_i].other, all);
    struct net_tls *a = end_new(&one, AUTH_INITIATOR, true);
    struct net_tls *b = end_new(&two, AUTH_VM, false);
    shake_hands(a, b, &s);
    if (rotations[_i].is_fine) {
        ck_assert_msg(s.caller == 0 && s.other == 0, "%s / %s", net_tls_why(a), net_tls_why(b));
    } else {
        ck_assert_int_eq(s.caller, TRK_EDENIED);
        ck_assert_int_eq(s.other, TRK_EDENIED);
        check_why(b, "is not one of ours");
        check_why(b, one.key[0].id);
        check_why(b, two.key[0].id);
        check_why(a, "refuses our key");
        check_why(a, one.key[0].id);
    }
    free_both(a, b);
}
END_TEST

/* It knows the ID, which is no secret. */
START_TEST(wrong_secret_under_the_right_id_is_refused)
{
    static struct shake s;
    memcpy(theirs.key[0].id, ours.key[0].id, sizeof(ours.key[0].id));
    struct net_tls *a = end_new(&theirs, AUTH_INITIATOR, true), *b = vm_new();
    shake_hands(a, b, &s);
    ck_assert_int_eq(s.other, TRK_EDENIED);
    ck_assert_int_eq(s.caller, TRK_EDENIED);
    check_why(b, "a wrong key");
    free_both(a, b);
}
END_TEST

/* A man in the middle who cannot make a handshake has others make it: he throws an initiator's
 * call back at an initiator (one that takes dial-ins), a VM's at a VM. */
START_TEST(reflected_handshake_is_refused)
{
    static struct shake s;
    enum auth_role role = _i == 0 ? AUTH_INITIATOR : AUTH_VM;
    struct net_tls *a = end_new(&ours, role, true), *b = end_new(&ours, role, false);
    shake_hands(a, b, &s);
    ck_assert_int_eq(s.other, TRK_EDENIED);
    ck_assert_int_eq(s.caller, TRK_EDENIED);
    check_why(b, "wrong role");
    free_both(a, b);
    /* And its own hello, or its answer, at itself. */
    a = end_new(&ours, role, true);
    struct flight hello = {.size = 0}, answer = {.size = 0};
    ck_assert_int_eq(step(a, "", 0, &hello), TRK_AGAIN);
    ck_assert_int_eq(step(a, hello.bytes, hello.size, &answer), TRK_EDENIED);
    net_tls_free(a);
}
END_TEST

/* --- others' ends ------------------------------------------------------------------------- */

static uint8_t foreign_psk[32];
static char foreign_id[64];

static int foreign_use(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *size,
                       SSL_SESSION **session)
{
    *session = SSL_SESSION_new();
    SSL_SESSION_set1_master_key(*session, foreign_psk, sizeof(foreign_psk));
    SSL_SESSION_set_cipher(*session, SSL_CIPHER_find(ssl, (const unsigned char *)"\x13\x01"));
    SSL_SESSION_set_protocol_version(*session, TLS1_3_VERSION);
    *id = (const unsigned char *)foreign_id;
    *size = strlen(foreign_id);
    return 1;
}

static unsigned old_psk(SSL *ssl, const char *hint, char *id, unsigned id_size, unsigned char *psk,
                        unsigned psk_size)
{
    snprintf(id, id_size, "%s", foreign_id);
    memcpy(psk, foreign_psk, sizeof(foreign_psk));
    return sizeof(foreign_psk);
}

enum foreign {
    NO_KEY, OLD_VERSION, OLD_VERSION_PSK, OTHER_NAME, NO_ROLE, SERVER_ROLE, OTHER_SUITE,
    OTHER_GROUP, PSK_ALONE, FOREIGN_COUNT
};
static const char *const foreign_says[FOREIGN_COUNT] = {
    [NO_KEY] = "offers no key",
    [OLD_VERSION] = "TLS 1.3",
    [OLD_VERSION_PSK] = "TLS 1.3",
    [OTHER_NAME] = "not one of Trickle's",
    [NO_ROLE] = "not one of Trickle's",
    [SERVER_ROLE] = "wrong role",
    [OTHER_SUITE] = "cipher",
    [OTHER_GROUP] = "key exchange",
    [PSK_ALONE] = "key exchange",
};

static SSL *foreign_new(SSL_CTX *ctx, bool is_caller)
{
    SSL *ssl = SSL_new(ctx);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    if (is_caller) {
        SSL_set_connect_state(ssl);
    } else {
        SSL_set_accept_state(ssl);
    }
    return ssl;
}

static SSL_CTX *foreign_context(enum foreign kind)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    SSL_CTX_set_security_level(ctx, 0);
    snprintf(foreign_id, sizeof(foreign_id), "trickle1:%s:initiator", ours.key[0].id);
    ck_assert_int_eq(auth_derive(foreign_psk, &ours.key[0], AUTH_TLS_INITIATOR), 0);
    if (kind != NO_KEY && kind != OLD_VERSION && kind != OLD_VERSION_PSK) {
        SSL_CTX_set_psk_use_session_callback(ctx, foreign_use);
    }
    if (kind == OLD_VERSION || kind == OLD_VERSION_PSK) {
        SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
    }
    if (kind == OLD_VERSION_PSK) {
        SSL_CTX_set_psk_client_callback(ctx, old_psk);
        SSL_CTX_set_cipher_list(ctx, "PSK");
    } else if (kind == OTHER_NAME) {
        snprintf(foreign_id, sizeof(foreign_id), "Client_identity");
    } else if (kind == NO_ROLE) {
        snprintf(foreign_id, sizeof(foreign_id), "trickle1:%s", ours.key[0].id);
    } else if (kind == SERVER_ROLE) {
        snprintf(foreign_id, sizeof(foreign_id), "trickle1:%s:vm", ours.key[0].id);
    } else if (kind == OTHER_SUITE) {
        SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_CCM_SHA256");
    } else if (kind == OTHER_GROUP || kind == PSK_ALONE) {
        SSL_CTX_set1_groups_list(ctx, "P-521");
    }
    if (kind == PSK_ALONE) {
        SSL_CTX_set_options(ctx, SSL_OP_ALLOW_NO_DHE_KEX); /* would do without fresh keys */
    }
    return ctx;
}

static size_t foreign_output(SSL *ssl, uint8_t *bytes)
{
    int n = BIO_read(SSL_get_wbio(ssl), bytes, BYTES_MAX);
    return n > 0 ? (size_t)n : 0;
}

/* TLS of other kinds, also by somebody who has the key: no weaker way in. */
START_TEST(other_kinds_of_tls_are_refused)
{
    static struct flight hello, answer;
    SSL_CTX *ctx = foreign_context((enum foreign)_i);
    SSL *ssl = foreign_new(ctx, true);
    struct net_tls *b = vm_new();
    hello.size = answer.size = 0;
    SSL_do_handshake(ssl);
    hello.size = foreign_output(ssl, hello.bytes);
    ck_assert_uint_gt(hello.size, 0);
    ck_assert_int_eq(step(b, hello.bytes, hello.size, &answer), TRK_EDENIED);
    check_why(b, foreign_says[_i]);
    ck_assert_uint_gt(answer.size, 0); /* an alert: the other side can say something, too */
    ck_assert_uint_lt(answer.size, 16);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    ERR_clear_error();
    net_tls_free(b);
}
END_TEST

static void foreign_feed(SSL *ssl, struct flight *f)
{
    ck_assert_int_eq(BIO_write(SSL_get_rbio(ssl), f->bytes, (int)f->size), (int)f->size);
    f->size = 0;
}

static void check_foreign_reads(SSL *ssl, struct flight *f, const char *text)
{
    char got[64] = "";
    foreign_feed(ssl, f);
    ck_assert_int_eq(SSL_read(ssl, got, sizeof(got) - 1), (int)strlen(text));
    ck_assert_str_eq(got, text);
}

/* Our records are TLS 1.3: OpenSSL reads and writes them, with either cipher, through new keys of
 * both sides, up to the end. */
START_TEST(records_are_those_of_openssl)
{
    static struct flight f;
    char got[64];
    SSL_CTX *ctx = foreign_context(FOREIGN_COUNT);
    SSL_CTX_set_ciphersuites(ctx, _i == 0 ? "TLS_AES_128_GCM_SHA256"
                                          : "TLS_CHACHA20_POLY1305_SHA256");
    SSL *ssl = foreign_new(ctx, true);
    struct net_tls *b = vm_new();
    SSL_do_handshake(ssl);
    f.size = foreign_output(ssl, f.bytes);
    struct flight answer = {.size = 0};
    ck_assert_int_eq(step(b, f.bytes, f.size, &answer), TRK_AGAIN);
    foreign_feed(ssl, &answer);
    ck_assert_int_eq(SSL_do_handshake(ssl), 1);
    f.size = foreign_output(ssl, f.bytes);
    ck_assert_int_eq(step(b, f.bytes, f.size, &answer), 0);
    for (int i = 0; i < 3; i++) {
        write_text(b, "to OpenSSL", &answer);
        check_foreign_reads(ssl, &answer, "to OpenSSL");
        ck_assert_int_eq(SSL_write(ssl, "from OpenSSL", 12), 12);
        f.size = foreign_output(ssl, f.bytes);
        ck_assert_int_eq(read_flight(b, f.bytes, f.size, got, sizeof(got)), 0);
        ck_assert_str_eq(got, "from OpenSSL");
        net_tls_rekey(b);
        ck_assert_int_eq(SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
    }
    net_tls_end(b);
    take_output(b, &answer);
    foreign_feed(ssl, &answer);
    ck_assert_int_eq(SSL_read(ssl, got, sizeof(got)), 0);
    ck_assert_int_eq(SSL_get_error(ssl, 0), SSL_ERROR_ZERO_RETURN);
    SSL_shutdown(ssl);
    f.size = foreign_output(ssl, f.bytes);
    ck_assert_int_eq(read_flight(b, f.bytes, f.size, got, sizeof(got)), TRK_END);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    net_tls_free(b);
}
END_TEST

/* Whoever answers must have the key: a certificate, of whomever, is nothing. */
START_TEST(server_with_a_certificate_is_refused)
{
    static struct flight hello, answer;
    uint8_t bytes[BYTES_MAX];
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    EVP_PKEY *pkey = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_set_pubkey(cert, pkey);
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_sign(cert, pkey, EVP_sha256());
    ck_assert_int_eq(SSL_CTX_use_certificate(ctx, cert), 1);
    ck_assert_int_eq(SSL_CTX_use_PrivateKey(ctx, pkey), 1);
    if (_i == 1) {
        SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
    }
    SSL *ssl = foreign_new(ctx, false);
    struct net_tls *a = caller_new();
    hello.size = answer.size = 0;
    ck_assert_int_eq(step(a, "", 0, &hello), TRK_AGAIN);
    BIO_write(SSL_get_rbio(ssl), hello.bytes, (int)hello.size);
    SSL_do_handshake(ssl);
    size_t size = foreign_output(ssl, bytes);
    ck_assert_int_eq(step(a, bytes, size, &answer), TRK_EDENIED);
    check_why(a, _i == 1 ? "TLS 1.3" : "certificate");
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    X509_free(cert);
    EVP_PKEY_free(pkey);
    ERR_clear_error();
    net_tls_free(a);
}
END_TEST

START_TEST(what_is_not_tls_is_refused_at_its_first_byte)
{
    static const char *const texts[] = {"T", "GET / HTTP/1.1\r\n\r\n", "", "\x17\x03\x03"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct flight f = {.size = 0};
        struct net_tls *b = vm_new();
        size_t size = strlen(texts[i]) > 0 ? strlen(texts[i]) : 1; /* "": a zero byte */
        ck_assert_int_eq(step(b, texts[i], size, &f), TRK_EDENIED);
        check_why(b, "plain text");
        ck_assert_uint_eq(f.size, 0); /* it learns nothing */
        ck_assert_int_eq(step(b, texts[i], size, &f), TRK_EDENIED); /* for good */
        net_tls_free(b);
        struct net_tls *a = caller_new();
        ck_assert_int_eq(step(a, "", 0, &f), TRK_AGAIN);
        ck_assert_int_eq(step(a, texts[i], size, &f), TRK_EDENIED);
        check_why(a, "--insecure");
        net_tls_free(a);
    }
}
END_TEST

/* --- a man in the middle ------------------------------------------------------------------ */

enum part { PART_HELLO, PART_ANSWER, PART_FINISH, PART_WORD, PART_REPLY, PART_COUNT };

/* What was said is heard as it was said, or not at all: with a reason, or still waited for (a
 * length was changed, and the session's limits end it). */
static int hear(struct net_tls *t, const struct flight *f, const char *said)
{
    char got[64];
    int rc = read_flight(t, f->bytes, f->size, got, sizeof(got));
    ck_assert_msg(got[0] == '\0' || strcmp(got, said) == 0, "\"%s\" was heard", got);
    ck_assert(rc == 0 || (rc == TRK_ECORRUPT && net_tls_why(t)[0] != '\0'));
    return rc;
}

static void change(struct flight *f, size_t bit)
{
    if (bit < 8 * f->size) {
        f->bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

/* One conversation with a bit of one part changed, until it ends. f: its parts. */
static void converse(struct net_tls *a, struct net_tls *b, struct flight f[PART_COUNT + 1],
                     enum part part, size_t bit)
{
    struct net_tls *const to[] = {b, a, b};
    int rc = step(a, "", 0, &f[PART_HELLO]), a_rc = TRK_AGAIN;
    for (int i = PART_HELLO; i <= PART_FINISH; i++) {
        struct flight *next = i < PART_FINISH ? &f[i + 1] : &f[PART_COUNT];
        if ((int)part == i) {
            change(&f[i], bit);
        }
        rc = step(to[i], f[i].bytes, f[i].size, next);
        a_rc = to[i] == a ? rc : a_rc;
        if (rc < 0) {
            ck_assert_int_eq(rc, TRK_EDENIED);
            ck_assert_str_ne(net_tls_why(to[i]), "");
            return;
        }
    }
    if (a_rc != 0 || rc != 0) {
        return; /* one waits for more, which the session's time limit ends */
    }
    write_text(a, "the word", &f[PART_WORD]);
    change(&f[PART_WORD], part == PART_WORD ? bit : SIZE_MAX);
    if (hear(b, &f[PART_WORD], "the word") == 0) {
        write_text(b, "the reply", &f[PART_REPLY]);
        change(&f[PART_REPLY], part == PART_REPLY ? bit : SIZE_MAX);
        (void)!hear(a, &f[PART_REPLY], "the reply");
    }
}

/* Returns the size of the part. */
static size_t talk_changed(enum part part, size_t bit)
{
    static struct flight f[PART_COUNT + 1];
    struct net_tls *a = caller_new(), *b = vm_new();
    for (int i = 0; i <= PART_COUNT; i++) {
        f[i].size = 0;
    }
    converse(a, b, f, part, bit);
    free_both(a, b);
    return f[part].size;
}

START_TEST(no_changed_byte_changes_a_word)
{
    size_t size = talk_changed((enum part)_i, SIZE_MAX);
    ck_assert_uint_gt(size, 20);
    for (size_t byte = 0; byte < size; byte++) {
        talk_changed((enum part)_i, 8 * byte + byte % 8);
    }
}
END_TEST

/* All that an initiator once said is said again to the same VM. */
START_TEST(replayed_session_is_refused)
{
    static struct shake s;
    static struct flight word, answer;
    struct net_tls *a = caller_new(), *b = vm_new();
    shake_hands(a, b, &s);
    ck_assert_int_eq(s.other, 0);
    word.size = 0;
    write_text(a, "run this", &word);
    free_both(a, b);
    b = vm_new();
    answer.size = 0;
    ck_assert_int_eq(step(b, s.hello.bytes, s.hello.size, &answer), TRK_AGAIN);
    ck_assert_int_eq(step(b, s.finish.bytes, s.finish.size, &answer), TRK_EDENIED);
    ck_assert_str_ne(net_tls_why(b), "");
    net_tls_free(b);
    /* And all that a VM once said to an initiator. */
    a = caller_new();
    struct flight hello = {.size = 0};
    ck_assert_int_eq(step(a, "", 0, &hello), TRK_AGAIN);
    ck_assert_int_eq(step(a, s.answer.bytes, s.answer.size, &answer), TRK_EDENIED);
    net_tls_free(a);
}
END_TEST

enum meddling { REPEATED, LEFT_OUT, SWAPPED, THROWN_BACK, MEDDLING_COUNT };

START_TEST(records_come_once_and_in_order)
{
    static struct flight one, two;
    char got[64];
    struct net_tls *a = caller_new(), *b = vm_new();
    shake_well(a, b);
    one.size = two.size = 0;
    write_text(a, "one", &one);
    write_text(a, "two", &two);
    if (_i == REPEATED) {
        ck_assert_int_eq(read_flight(b, one.bytes, one.size, got, sizeof(got)), 0);
        ck_assert_str_eq(got, "one");
        ck_assert_int_eq(read_flight(b, one.bytes, one.size, got, sizeof(got)), TRK_ECORRUPT);
    } else if (_i == LEFT_OUT || _i == SWAPPED) {
        ck_assert_int_eq(read_flight(b, two.bytes, two.size, got, sizeof(got)), TRK_ECORRUPT);
    } else {
        ck_assert_int_eq(read_flight(a, one.bytes, one.size, got, sizeof(got)), TRK_ECORRUPT);
    }
    ck_assert_str_eq(got, "");
    check_why(_i == THROWN_BACK ? a : b, "changed on its way");
    free_both(a, b);
}
END_TEST

START_TEST(the_end_is_said_under_the_keys)
{
    static struct flight f;
    char got[64];
    struct net_tls *a = caller_new(), *b = vm_new();
    shake_well(a, b);
    f.size = 0;
    write_text(a, "last", &f);
    net_tls_end(a);
    take_output(a, &f);
    ck_assert_int_eq(read_flight(b, f.bytes, f.size, got, sizeof(got)), TRK_END);
    ck_assert_str_eq(got, "last");
    free_both(a, b);
}
END_TEST

/* --- amounts ------------------------------------------------------------------------------ */

#define OUTPUT_MAX (NET_TLS_RECORDS * (NET_TLS_RECORD + 22) + 256)

/* Any pieces, any sizes: the same bytes come out; output never grows beyond its limit. */
START_TEST(pieces_come_back_as_one_stream)
{
    static uint8_t in[1000000], out[sizeof(in)];
    struct net_tls *a = caller_new(), *b = vm_new();
    unsigned seed = (unsigned)_i + 1;
    size_t written = 0, got_all = 0;
    shake_well(a, b);
    for (size_t i = 0; i < sizeof(in); i++) {
        in[i] = (uint8_t)rand_r(&seed);
    }
    while (written < sizeof(in)) {
        struct iovec iov[8];
        size_t offered = 0, count = 0, size;
        for (; count < 8 && written + offered < sizeof(in); count++) {
            size_t most = rand_r(&seed) % 3 == 0 ? OUTPUT_MAX / 2 : 40;
            size_t n = 1 + (size_t)rand_r(&seed) % most;
            n = n < sizeof(in) - written - offered ? n : sizeof(in) - written - offered;
            iov[count] = (struct iovec){in + written + offered, n};
            offered += n;
        }
        ssize_t taken = net_tls_write(a, iov, count);
        ck_assert_int_gt(taken, 0);
        ck_assert_uint_le((size_t)taken, offered);
        written += (size_t)taken;
        const uint8_t *bytes = net_tls_output(a, &size);
        ck_assert_uint_le(size, OUTPUT_MAX);
        for (size_t at = 0; at < size;) { /* it arrives in pieces, too */
            size_t n = 1 + (size_t)rand_r(&seed) % 30000, got = 1;
            n = n < size - at ? n : size - at;
            net_tls_feed(b, bytes + at, n);
            while (got > 0) {
                size_t room = 1 + (size_t)rand_r(&seed) % 20000;
                room = room < sizeof(out) - got_all ? room : sizeof(out) - got_all;
                ck_assert_int_eq(net_tls_read(b, out + got_all, room > 0 ? room : 1, &got), 0);
                got_all += got;
            }
            at += n;
        }
        net_tls_sent(a, size);
    }
    ck_assert_uint_eq(got_all, sizeof(in));
    ck_assert_mem_eq(in, out, sizeof(in));
    free_both(a, b);
}
END_TEST

/* New keys and the end are no text, and need no room for any. */
START_TEST(new_keys_and_end_fit_any_room)
{
    size_t room = (size_t)_i, got = 1;
    static struct flight f;
    uint8_t text[16] = "";
    struct net_tls *a = caller_new(), *b = vm_new();
    shake_well(a, b);
    f.size = 0;
    net_tls_rekey(a);
    write_text(a, "t", &f);
    net_tls_feed(b, f.bytes, f.size);
    int rc = net_tls_read(b, text, room, &got);
    ck_assert_msg(rc == 0 && got == 1 && text[0] == 't', "room for %zu: %d, %s", room, rc,
                  net_tls_why(b));
    f.size = 0;
    net_tls_end(a);
    take_output(a, &f);
    net_tls_feed(b, f.bytes, f.size);
    ck_assert_int_eq(net_tls_read(b, text, room, &got), TRK_END);
    free_both(a, b);
}
END_TEST

/* No room: nothing is taken, nothing is lost. */
START_TEST(full_output_takes_no_more)
{
    static uint8_t bytes[OUTPUT_MAX];
    const struct iovec iov = {bytes, sizeof(bytes)};
    struct net_tls *a = caller_new(), *b = vm_new();
    shake_well(a, b);
    ssize_t taken = net_tls_write(a, &iov, 1);
    ck_assert_int_eq(taken, NET_TLS_RECORDS * NET_TLS_RECORD);
    ck_assert_int_eq(net_tls_write(a, &iov, 1), 0);
    net_tls_end(a); /* has its own room */
    ck_assert_str_eq(net_tls_why(a), "");
    free_both(a, b);
}
END_TEST

static void add_tests(TCase *t)
{
    tcase_add_loop_test(t, same_key_talks_both_ways, 0, 2);
    tcase_add_test(t, keys_are_renewed_after_so_many_records);
    tcase_add_loop_test(t, rotation_takes_both_and_revoked_is_refused, 0,
                        (int)(sizeof(rotations) / sizeof(rotations[0])));
    tcase_add_test(t, wrong_secret_under_the_right_id_is_refused);
    tcase_add_loop_test(t, reflected_handshake_is_refused, 0, 2);
    tcase_add_loop_test(t, other_kinds_of_tls_are_refused, 0, FOREIGN_COUNT);
    tcase_add_loop_test(t, records_are_those_of_openssl, 0, 2);
    tcase_add_loop_test(t, server_with_a_certificate_is_refused, 0, 2);
    tcase_add_test(t, what_is_not_tls_is_refused_at_its_first_byte);
    tcase_add_loop_test(t, no_changed_byte_changes_a_word, 0, PART_COUNT);
    tcase_add_test(t, replayed_session_is_refused);
    tcase_add_loop_test(t, records_come_once_and_in_order, 0, MEDDLING_COUNT);
    tcase_add_test(t, the_end_is_said_under_the_keys);
    tcase_add_loop_test(t, pieces_come_back_as_one_stream, 0, 8);
    tcase_add_loop_test(t, new_keys_and_end_fit_any_room, 1, 8);
    tcase_add_test(t, full_output_takes_no_more);
}

int main(void)
{
    Suite *s = suite_create("tls");
    TCase *t = tcase_create("tls");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 50);
    add_tests(t);
    suite_add_tcase(s, t);
    return run_suite(s);
}
