/* SPDX-License-Identifier: MIT */
/* crypto.h - the one door to OpenSSL, which closes when the process ends.
 *
 * exit() takes OpenSSL down (its exit handler, which any part of the program may have had it
 * register) while loops and senders still run. So all that is asked of OpenSSL is asked between
 * enter and leave, and an exit handler of ours, registered behind OpenSSL's and therefore run
 * before it, waits until nobody is inside and lets nobody in from then on. Who is not let in does
 * without: a session with TLS neither says nor hears anything any more (tls.h), the rest fails.
 *
 * A fork waits for the same moment: the child, which has none of our threads, finds the door free
 * and OpenSSL's locks as well, and ends in order. */
#ifndef AUTH_CRYPTO_H
#define AUTH_CRYPTO_H

#include <stdbool.h>

#include "trickle/error.h"

/* false: the process is ending, and nothing is to be left. Any thread; do not nest, do not wait
 * for other threads inside. */
TRK_MUST_USE bool auth_crypto_enter(void);
void auth_crypto_leave(void);

#endif
