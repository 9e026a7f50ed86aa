/* SPDX-License-Identifier: MIT */
/* peer.h - for tests of sessions: a session's end that notes what happens to it, a listener that
 * makes such ends, raw sockets, and waiting without sleeping. */
#ifndef TESTS_NET_PEER_H
#define TESTS_NET_PEER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/session.h"

#define PEER_MESSAGES_MAX 16384

/* When an end closes its own session. */
enum peer_close { PEER_NEVER, PEER_IN_OPEN, PEER_IN_MESSAGE, PEER_FLUSH_IN_MESSAGE, PEER_IN_CLOSE };

struct peer {
    struct net_loop *loop;
    struct net_session *session;
    struct net_session_options opt;
    bool is_echo;             /* sends back what comes */
    bool is_wary;             /* never sets trusted */
    bool is_quiet;            /* counts messages without keeping them */
    enum peer_close closes;
    uint64_t fail_after;      /* for mem_fail_after during connect */
    int result;               /* of accept or connect */
    const char *address;      /* of the last connect */
    int fd;                   /* of the last accept */

    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int opened, closed;       /* calls of on_open, on_close */
    int error;                /* of on_close */
    char why[256];
    size_t count;             /* messages */
    struct wire_message messages[PEER_MESSAGES_MAX];
};

/* Two loops on threads of their own: clients are here, servers there. NULL when they are freed. */
extern struct net_loop *here, *there;
void loops_start(void);
void loops_free(void); /* all callbacks have been left then */
void loops_end(void);  /* frees them; checks that no memory and no descriptor is left */

struct peer *peer_new(struct net_loop *loop);
void peer_free(struct peer *p); /* with all it has got; its session must be closed */
/* Both run on the loop thread and return when they have. 0 or TRK_E*. */
int peer_connect(struct peer *p, const char *address);
int peer_accept(struct peer *p, int fd);
void peer_send(struct peer *p, uint8_t type, uint32_t stream, struct blob *body); /* must go */
void peer_close(struct peer *p, bool flush); /* and waits for on_close */
/* Wait; ten seconds without it fail the test. */
void peer_wait_messages(struct peer *p, size_t count);
void peer_wait_opened(struct peer *p);
void peer_wait_closed(struct peer *p);

/* Runs fn(arg) on the loop thread and returns when it has. */
void on_loop(struct net_loop *loop, void (*fn)(void *arg), void *arg);
/* A blob of size bytes that depend on seed; and whether a blob is that. */
struct blob *pattern(size_t size, unsigned seed);
bool is_pattern(const struct blob *b, size_t size, unsigned seed);
struct blob *text_blob(const char *text);

/* A listener that accepts into ends, oldest first. */
struct server {
    struct net_loop *loop;
    int fd;
    char address[128];
    struct net_listener *listener;
    struct peer *ends[64]; /* made before; taken in order */
    size_t ready, taken;
};
void server_start(struct server *s, struct net_loop *loop, const char *address);
struct peer *server_expect(struct server *s); /* the end of the next connection */
void server_stop(struct server *s);

/* A client and what it connects to. */
struct pair {
    struct server server; /* there */
    struct peer *client;  /* here; not connected yet */
    struct peer *end;     /* of the server: of the next connection */
};
void pair_make(struct pair *p, const char *address);
void pair_connect(struct pair *p); /* and says hello */
void pair_greet(struct pair *p);   /* and both have heard of each other */
void pair_close(struct pair *p);   /* the client closes; frees all */
void pair_free(struct pair *p);    /* with the loops */

/* Threads that send at once, each over the stream of its number: messages that are numbered from 0,
 * short ones but for twenty. */
#define SENDERS 4
struct sender {
    struct peer *peer;
    uint32_t number; /* below SENDERS */
    uint32_t count;  /* of messages, at least 20 */
};
void *sender_run(void *sender);
/* Behind its first message p has what senders sent, that of each in order and whole. */
void senders_check(const struct peer *p);

/* A folder of the test's own, and an address in it. */
void make_folder(void);
void remove_folder(void);
const char *in_folder(const char *name); /* "/tmp/.../name", valid until the next call */
const char *unix_in_folder(const char *name); /* "unix:/tmp/.../name", the same */

int count_fds(void);
void write_all(int fd, const void *bytes, size_t size);
/* Reads until end of file or size bytes; returns how many. Blocks. */
size_t read_all(int fd, void *bytes, size_t size);
/* A frame with an empty or given body, written raw. */
void write_frame(int fd, uint8_t type, uint8_t flags, uint32_t stream, const void *body,
                 size_t size);

#endif
