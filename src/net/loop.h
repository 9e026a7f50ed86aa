/* SPDX-License-Identifier: MIT */
/* loop.h - a libuv loop on a thread of its own or of the caller, with a thread-safe way in. */
#ifndef NET_LOOP_H
#define NET_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "trickle/error.h"

struct net_loop;

TRK_MUST_USE int net_loop_new(struct net_loop **out);
/* Runs on the calling thread until net_loop_stop. All handles must be closed by then or by
 * net_loop_free, which runs their close callbacks. Sessions that are still open are closed by
 * net_loop_free too, without waiting for what they have queued: their on_close runs in it. */
void net_loop_run(struct net_loop *loop);
/* Starts a thread "name" with all signals blocked that runs the loop; joined by net_loop_free. */
TRK_MUST_USE int net_loop_start_thread(struct net_loop *loop, const char *name);
void net_loop_stop(struct net_loop *loop); /* any thread */
/* Stops and waits for the thread, runs what close callbacks are left. From then on net_loop_post
 * is TRK_ECLOSED; the memory stays until net_loop_free (which joins by itself when this was not
 * called). */
void net_loop_join(struct net_loop *loop);
void net_loop_free(struct net_loop *loop);

uv_loop_t *net_loop_uv(struct net_loop *loop);
uint64_t net_loop_now_ms(struct net_loop *loop); /* cached by the loop turn; loop thread */

/* Runs fn(arg) on the loop thread, soon, in order of posting. Any thread. After the loop has
 * stopped TRK_ECLOSED and fn will not run. A post that returned 0 always runs: at the latest when
 * the loop stops, or in net_loop_free when it never ran. What is posted while posts run has its
 * turn after the sockets. */
TRK_MUST_USE int net_loop_post(struct net_loop *loop, void (*fn)(void *arg), void *arg);
/* Is the caller on the loop thread? Before the loop runs that is the thread that made it. */
bool net_loop_is_here(struct net_loop *loop);

#endif
