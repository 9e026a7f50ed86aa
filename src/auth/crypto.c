/* SPDX-License-Identifier: MIT */
/* crypto.c - see crypto.h. Who is inside holds the door for reading; it is shut for writing.
 *
 * Shutting waits for a second and no longer: a signal handler that calls exit() or fork() may have
 * interrupted somebody inside. */
#include "auth/crypto.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"

#define SHUT_SECONDS 1

static pthread_rwlock_t door = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static atomic_bool is_closed; /* for good */
static pthread_once_t forks = PTHREAD_ONCE_INIT, first = PTHREAD_ONCE_INIT;
static _Thread_local bool has_shut; /* this thread, for the fork that it is in */

static bool shut(void)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SHUT_SECONDS;
    return pthread_rwlock_clockwrlock(&door, CLOCK_MONOTONIC, &until) == 0;
}

static void at_exit(void)
{
    bool is_shut = shut();
    is_closed = true;
    if (is_shut) {
        pthread_rwlock_unlock(&door);
    }
}

static void before_fork(void) { has_shut = shut(); }

static void after_fork_in_parent(void)
{
    if (has_shut) {
        pthread_rwlock_unlock(&door);
    }
}

/* The lock belongs to a thread of the parent's: this one has another ID. */
static void after_fork_in_child(void)
{
    static const pthread_rwlock_t fresh = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
    door = fresh;
}

static void watch_forks(void)
{
    if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0) {
        log_warn("auth", "out of memory: a forked child may hang");
    }
}

/* From inside: a child that is forked meanwhile would find OpenSSL half prepared, for ever. */
static void prepare(void)
{
    /* Behind this OpenSSL has registered its exit handler, if it ever will; when asked to load
     * nothing it would not even do that. */
    if (OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CRYPTO_STRINGS, NULL) != 1 || atexit(at_exit) != 0) {
        log_warn("auth", "out of memory: the end of this process may not be in order");
    }
}

bool auth_crypto_enter(void)
{
    pthread_once(&forks, watch_forks);
    pthread_rwlock_rdlock(&door);
    if (is_closed) {
        pthread_rwlock_unlock(&door);
        return false;
    }
    pthread_once(&first, prepare);
    return true;
}

void auth_crypto_leave(void) { pthread_rwlock_unlock(&door); }
