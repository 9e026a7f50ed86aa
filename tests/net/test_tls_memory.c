/* SPDX-License-Identifier: MIT */
/* test_tls_memory.c - the n-th allocation fails, ours or OpenSSL's, for every n until a session
 * with keys comes about: refused or closed with a reason, nothing lost. OpenSSL allocates by
 * base/mem.h here, which a program around us could not be asked to do. */
#include "base/fail.h" /* before check.h, which has a macro fail */

#include <check.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <string.h>

#include "auth/derive.h"
#include "base/mem.h"
#include "net/tls.h"
#include "tests/suite.h"

static struct auth_keys ours;

static void *ssl_alloc(size_t size, const char *file, int line) { return mem_alloc(size); }

static void *ssl_realloc(void *old, size_t size, const char *file, int line)
{
    return mem_realloc(old, size);
}

static void ssl_free(void *old, const char *file, int line) { mem_free(old); }

/* One record from one to the other; false and a reason when memory was missing. */
static bool say(struct net_tls *from, struct net_tls *to)
{
    const struct iovec iov = {(void *)"the word", 8};
    uint8_t got[16];
    size_t size, read = 0;
    if (net_tls_write(from, &iov, 1) != 8) {
        return false;
    }
    const uint8_t *bytes = net_tls_output(from, &size);
    net_tls_feed(to, bytes, size);
    int rc = net_tls_read(to, got, sizeof(got), &read);
    net_tls_sent(from, size);
    if (rc != 0) {
        ck_assert_str_ne(net_tls_why(to), "");
        return false;
    }
    ck_assert_uint_eq(read, 8);
    ck_assert_mem_eq(got, "the word", 8);
    return true;
}

static int step(struct net_tls *from, struct net_tls *to)
{
    size_t size;
    const uint8_t *bytes = net_tls_output(from, &size);
    net_tls_feed(to, bytes, size);
    int rc = net_tls_handshake(to);
    net_tls_sent(from, size);
    if (rc < 0) {
        ck_assert(rc == TRK_ENOMEM || rc == TRK_EDENIED);
        ck_assert_str_ne(net_tls_why(to), "");
    }
    return rc;
}

/* Both ends and a word each way. Returns true when all of it worked. */
static bool converse(void)
{
    struct net_tls *a = NULL, *b = NULL;
    bool is_done = false;
    if (net_tls_new(&a, &ours, AUTH_INITIATOR, true) == 0 &&
        net_tls_new(&b, &ours, AUTH_VM, false) == 0 && net_tls_handshake(a) == TRK_AGAIN &&
        step(a, b) == TRK_AGAIN && step(b, a) == 0 && step(a, b) == 0) {
        is_done = say(a, b) && say(b, a);
        net_tls_rekey(a);
        is_done = is_done && say(a, b);
        net_tls_end(a);
    }
    net_tls_free(a);
    net_tls_free(b);
    return is_done;
}

START_TEST(every_failing_allocation_is_survived)
{
    ck_assert_int_eq(auth_key_make(&ours.key[0]), 0);
    ours.count = 1;
    ck_assert(converse()); /* makes what OpenSSL keeps */
    uint64_t live = mem_live(), n = 1;
    bool is_done = false;
    for (; n < 20000 && !is_done; n++) {
        mem_fail_after(n);
        is_done = converse();
        mem_fail_after(0);
        ck_assert_msg(ERR_peek_error() == 0, "allocation %u left an error", (unsigned)n);
        ck_assert_msg(mem_live() <= live, "allocation %u: %d are left", (unsigned)n,
                      (int)(mem_live() - live));
    }
    ck_assert(is_done);
    ck_assert_uint_gt(n, 100);
    ck_assert(converse());
}
END_TEST

/* The first connection of a process, and what OpenSSL makes with it for good. What failed there
 * OpenSSL may not try again: connections are refused then, and nothing worse. */
START_TEST(failing_beginnings_only_refuse)
{
    ck_assert_int_eq(auth_key_make(&ours.key[0]), 0);
    ours.count = 1;
    mem_fail_after((uint64_t)_i * 97 + 1);
    bool is_done = converse();
    mem_fail_after(0);
    ck_assert(_i > 0 || !is_done);
    (void)!converse();
    ERR_clear_error();
}
END_TEST

START_TEST(derived_keys_and_macs_fail_with_a_sentence)
{
    uint8_t out[AUTH_DERIVED_BYTES];
    int rc = TRK_ENOMEM;
    uint64_t n = 1;
    ck_assert_int_eq(auth_key_make(&ours.key[0]), 0);
    ck_assert_int_eq(auth_derive(out, &ours.key[0], AUTH_TLS_VM), 0);
    uint64_t live = mem_live();
    for (; rc != 0 && n < 1000; n++) {
        mem_fail_after(n);
        rc = auth_derive(out, &ours.key[0], AUTH_TLS_VM);
        rc = rc == 0 ? auth_mac(out, out, "x", 1) : rc;
        mem_fail_after(0);
        ck_assert(rc == 0 || (rc == TRK_ENOMEM && strstr(fail_text(), "OpenSSL") != NULL));
        ck_assert_uint_le(mem_live(), live);
    }
    ck_assert_int_eq(rc, 0);
    ck_assert_uint_gt(n, 2);
}
END_TEST

int main(void)
{
    if (CRYPTO_set_mem_functions(ssl_alloc, ssl_realloc, ssl_free) != 1) {
        return 1;
    }
    Suite *s = suite_create("tls_memory");
    TCase *t = tcase_create("tls_memory");
    tcase_set_timeout(t, 50);
    tcase_add_test(t, every_failing_allocation_is_survived);
    tcase_add_loop_test(t, failing_beginnings_only_refuse, 0, 40);
    tcase_add_test(t, derived_keys_and_macs_fail_with_a_sentence);
    suite_add_tcase(s, t);
    return run_suite(s);
}
