/* SPDX-License-Identifier: MIT */
/* loop_impl.h - what sessions and listeners share with the loop: posts that cannot fail for lack
 * of memory, and being closed with the loop. */
#ifndef NET_LOOP_IMPL_H
#define NET_LOOP_IMPL_H

#include <stddef.h>

#include "base/list.h"
#include "net/loop.h"

/* A post in the caller's storage. It must stay until fn has run, and is free to be posted again
 * from then on (fn included). */
struct net_task {
    struct net_task *next; /* in the queue */
    void (*fn)(void *arg);
    void *arg;
    bool is_owned; /* made by net_loop_post: freed before fn runs */
};
/* As net_loop_post, without allocating. Any thread. TRK_ECLOSED: not posted. */
TRK_MUST_USE int net_loop_post_task(struct net_loop *loop, struct net_task *task);

/* Something that net_loop_free closes when nobody did before. close must remove the node. */
struct net_closer {
    struct list node;
    void (*close)(struct net_closer *closer);
};
void net_loop_add_closer(struct net_loop *loop, struct net_closer *closer); /* loop thread */
void net_loop_remove_closer(struct net_closer *closer);                     /* loop thread */
struct list *net_loop_closers(struct net_loop *loop); /* all of them; loop thread */

/* The accepted sessions of this loop that are in their TLS handshake (net_session.stranger), oldest
 * first. Loop thread. */
struct net_strangers {
    struct list list;
    unsigned count;
};
struct net_strangers *net_loop_strangers(struct net_loop *loop);

/* Memory for reading into within one callback; shared by all sessions of the loop. */
#define NET_SCRATCH_BYTES ((size_t)256 * 1024)
uint8_t *net_loop_scratch(struct net_loop *loop);

#endif
