/* SPDX-License-Identifier: MIT */
/* hostile.c - a peer that has no key and means no good. Connects again and again to each of the
 * addresses and sends what it should not.
 *
 *   hostile [OPTION]... MODE ADDRESS...      tcp:HOST:PORT (numeric, IPv6 in []) or unix:PATH
 *
 *   garbage   random bytes, 1 to 4096; then it is gone at once
 *   half      the begin of a TLS handshake, of a frame, or nothing; then it stays
 *   huge      TLS records and frames that announce far more than there can be; then it stays
 *   replay    what a genuine peer has sent, from FILE; then it stays
 *
 *   --count N     connections in all (0: until it is stopped)
 *   --rate N      new connections in a second at most (0: as fast as it can)
 *   --open N      connections at the same time (64)
 *   --hold MS     how long it stays where it does, unless the other side closes (2000)
 *   --seed N      of what is random (1)
 *   --file FILE
 *
 * At the end, also by SIGTERM or SIGINT, it prints one line of JSON: what became of them. It closes
 * by a reset, so that its ports are free at once. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define ADDRESSES_MAX 256
#define TEXT_MAX 4096
#define FILE_MAX (1u << 20)
#define EVENTS_MAX 64
#define CONNECT_MS 2000
#define REFUSED_PAUSE_MS 2 /* nobody listens: as fast as it can would only burn a core */

enum mode { GARBAGE, HALF, HUGE, REPLAY, MODES };
static const char *const mode_names[MODES] = {"garbage", "half", "huge", "replay"};

struct target {
    struct sockaddr_storage sa;
    socklen_t size;
};

/* One connection, or the place for one. */
struct peer {
    int fd;               /* -1: free */
    bool is_connected;
    const uint8_t *text;  /* what it has to send: own, or of the file */
    size_t size, sent;
    uint64_t until_ms;    /* then it is given up */
    uint8_t own[TEXT_MAX];
};

static struct {
    enum mode mode;
    struct target target[ADDRESSES_MAX];
    unsigned target_count, target_next;
    uint64_t count, rate, hold_ms, random;
    unsigned open_max;
    uint8_t *file;
    size_t file_size;
    struct peer *peer;
    int epoll;
    unsigned open, connecting; /* of peer, and of these not yet connected */
    uint64_t begun_ms, paused_until_ms;
    /* What became of them. */
    uint64_t connections, refused, timed_out, closed_by_peer, sent_bytes, received_bytes;
} h;

static volatile sig_atomic_t is_stopped;

static void on_signal(int number) { is_stopped = 1; }

static uint64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* xorshift64* */
static uint64_t draw(void)
{
    h.random ^= h.random >> 12;
    h.random ^= h.random << 25;
    h.random ^= h.random >> 27;
    return h.random * UINT64_C(0x2545f4914f6cdd1d);
}

/* --- what it says ------------------------------------------------------------------------ */

/* A TLS record that holds the begin of a ClientHello; the rest never comes. */
static size_t put_half_hello(uint8_t *out)
{
    static const uint8_t begin[] = {22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3};
    memcpy(out, begin, sizeof(begin));
    for (size_t i = sizeof(begin); i < 60; i++) {
        out[i] = (uint8_t)draw();
    }
    return 60;
}

/* The header of one of Trickle's frames. */
static size_t put_frame(uint8_t *out, uint8_t type, uint8_t flags, uint32_t length)
{
    const uint8_t head[16] = {'T', 'k', 2, type, flags, 0, 0, 0, 0, 0, 0, 0,
                              (uint8_t)length, (uint8_t)(length >> 8), (uint8_t)(length >> 16),
                              (uint8_t)(length >> 24)};
    memcpy(out, head, sizeof(head));
    return sizeof(head);
}

static size_t put_huge(uint8_t *out)
{
    static const uint8_t record[] = {22, 3, 3, 0xff, 0xff};          /* 65,535 bytes */
    static const uint8_t hello[] = {22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff}; /* 16 MiB */
    size_t size;
    switch (draw() % 4) {
    case 0:
        memcpy(out, record, sizeof(record));
        size = sizeof(record);
        break;
    case 1:
        memcpy(out, hello, sizeof(hello));
        size = sizeof(hello);
        break;
    case 2:
        size = put_frame(out, 1, 0, UINT32_MAX);
        break;
    default: /* the first of several fragments, of 2^60 bytes in all */
        size = put_frame(out, 1, 3, 65536);
        memset(out + size, 0, 8);
        out[size + 7] = 0x10;
        size += 8;
        break;
    }
    memset(out + size, 0xff, TEXT_MAX - size);
    return TEXT_MAX;
}

static void choose_text(struct peer *p)
{
    p->text = p->own;
    switch (h.mode) {
    case GARBAGE:
        p->size = 1 + draw() % TEXT_MAX;
        for (size_t i = 0; i < p->size; i += 8) {
            uint64_t r = draw();
            memcpy(p->own + i, &r, sizeof(r));
        }
        break;
    case HALF:
        switch (draw() % 3) {
        case 0:
            p->size = put_half_hello(p->own);
            break;
        case 1:
            p->size = put_frame(p->own, 1, 0, 100) + 20;
            break;
        default:
            p->size = 0;
        }
        break;
    case HUGE:
        p->size = put_huge(p->own);
        break;
    case REPLAY:
        p->text = h.file;
        p->size = h.file_size;
        break;
    case MODES:
        break;
    }
}

/* --- connections ------------------------------------------------------------------------- */

static void end(struct peer *p)
{
    struct linger reset = {.l_onoff = 1};
    setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(p->fd);
    p->fd = -1;
    h.open--;
    h.connecting -= !p->is_connected;
}

static void say(struct peer *p)
{
    while (p->sent < p->size) {
        ssize_t n = send(p->fd, p->text + p->sent, p->size - p->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            return;
        }
        if (n < 0) {
            h.closed_by_peer++;
            end(p);
            return;
        }
        p->sent += (size_t)n;
        h.sent_bytes += (uint64_t)n;
    }
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = p};
    if (h.mode == GARBAGE) {
        end(p);
    } else {
        epoll_ctl(h.epoll, EPOLL_CTL_MOD, p->fd, &ev);
    }
}

static void hear(struct peer *p)
{
    static uint8_t scratch[65536];
    ssize_t n;
    while ((n = recv(p->fd, scratch, sizeof(scratch), MSG_DONTWAIT)) > 0) {
        h.received_bytes += (uint64_t)n;
    }
    if (n == 0 || errno != EAGAIN) {
        h.closed_by_peer++;
        end(p);
    }
}

static void on_event(struct peer *p, uint32_t events)
{
    int error = 0;
    socklen_t size = sizeof(error);
    if (p->fd >= 0 && !p->is_connected) {
        getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0) {
            h.refused++;
            h.paused_until_ms = clock_ms() + REFUSED_PAUSE_MS;
            end(p);
            return;
        }
        p->is_connected = true;
        h.connecting--;
        h.connections++;
        p->until_ms = clock_ms() + h.hold_ms;
    }
    if (p->fd >= 0 && (events & EPOLLOUT) != 0) {
        say(p);
    }
    if (p->fd >= 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        hear(p);
    }
}

static void begin(struct peer *p)
{
    const struct target *t = &h.target[h.target_next++ % h.target_count];
    p->fd = socket(t->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->fd < 0) {
        h.paused_until_ms = clock_ms() + REFUSED_PAUSE_MS;
        return;
    }
    h.open++;
    h.connecting++;
    p->is_connected = false;
    p->sent = 0;
    p->until_ms = clock_ms() + CONNECT_MS;
    choose_text(p);
    if (connect(p->fd, (const struct sockaddr *)&t->sa, t->size) != 0 && errno != EINPROGRESS) {
        h.refused++;
        h.paused_until_ms = clock_ms() + REFUSED_PAUSE_MS;
        end(p);
        return;
    }
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT, .data.ptr = p};
    epoll_ctl(h.epoll, EPOLL_CTL_ADD, p->fd, &ev);
}

/* How many have been begun, whatever became of them. */
static uint64_t begun(void) { return h.connections + h.refused + h.timed_out; }

static bool may_begin(uint64_t now)
{
    uint64_t all = begun() + h.connecting;
    return !is_stopped && h.open < h.open_max && now >= h.paused_until_ms &&
           (h.count == 0 || all < h.count) &&
           (h.rate == 0 || all <= (now - h.begun_ms) * h.rate / 1000);
}

static void fill(void)
{
    for (unsigned i = 0; i < h.open_max && may_begin(clock_ms()); i++) {
        if (h.peer[i].fd < 0) {
            begin(&h.peer[i]);
        }
    }
}

static void give_up_late(uint64_t now)
{
    for (unsigned i = 0; i < h.open_max; i++) {
        struct peer *p = &h.peer[i];
        if (p->fd >= 0 && now >= p->until_ms) {
            h.timed_out += !p->is_connected;
            end(p);
        }
    }
}

static bool is_over(void)
{
    return is_stopped || (h.count != 0 && begun() >= h.count && h.open == 0);
}

static void run(void)
{
    struct epoll_event events[EVENTS_MAX];
    h.begun_ms = clock_ms();
    while (!is_over()) {
        fill();
        int n = epoll_wait(h.epoll, events, EVENTS_MAX, h.rate == 0 && h.open > 0 ? 10 : 1);
        for (int i = 0; i < n; i++) {
            on_event(events[i].data.ptr, events[i].events);
        }
        give_up_late(clock_ms());
    }
}

/* --- the command line -------------------------------------------------------------------- */

static bool parse_tcp(struct target *t, char *text)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&t->sa;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&t->sa;
    char *colon = strrchr(text, ':');
    if (colon == NULL) {
        return false;
    }
    *colon = '\0';
    uint16_t port = htons((uint16_t)atoi(colon + 1));
    if (text[0] == '[' && colon[-1] == ']') {
        colon[-1] = '\0';
        v6->sin6_family = AF_INET6;
        v6->sin6_port = port;
        t->size = sizeof(*v6);
        return inet_pton(AF_INET6, text + 1, &v6->sin6_addr) == 1;
    }
    v4->sin_family = AF_INET;
    v4->sin_port = port;
    t->size = sizeof(*v4);
    return inet_pton(AF_INET, text, &v4->sin_addr) == 1;
}

static bool parse_target(struct target *t, char *text)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&t->sa;
    if (strncmp(text, "tcp:", 4) == 0) {
        return parse_tcp(t, text + 4);
    }
    if (strncmp(text, "unix:", 5) != 0 || strlen(text + 5) >= sizeof(un->sun_path)) {
        return false;
    }
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, text + 5, strlen(text + 5));
    t->size = sizeof(*un);
    return true;
}

static bool read_file(const char *name)
{
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    h.file = malloc(FILE_MAX);
    ssize_t n = fd < 0 || h.file == NULL ? -1 : read(fd, h.file, FILE_MAX);
    h.file_size = n > 0 ? (size_t)n : 0;
    if (fd >= 0) {
        close(fd);
    }
    return n >= 0;
}

static bool parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"count", 1, NULL, 'c'}, {"rate", 1, NULL, 'r'}, {"open", 1, NULL, 'o'},
        {"hold", 1, NULL, 'h'}, {"seed", 1, NULL, 's'}, {"file", 1, NULL, 'f'},
        {NULL, 0, NULL, 0}};
    uint64_t open_max = 64, seed = 1;
    int letter;
    h.hold_ms = 2000;
    while ((letter = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (letter == 'f' && !read_file(optarg)) {
            fprintf(stderr, "hostile: cannot read %s\n", optarg);
            return false;
        }
        uint64_t *const number = letter == 'c' ? &h.count : letter == 'r' ? &h.rate
                                 : letter == 'o' ? &open_max : letter == 'h' ? &h.hold_ms
                                 : letter == 's' ? &seed : NULL;
        if (letter == '?') {
            return false;
        }
        if (number != NULL) {
            *number = strtoull(optarg, NULL, 10);
        }
    }
    const char *mode = optind < argc ? argv[optind++] : "";
    while (h.mode < MODES && strcmp(mode_names[h.mode], mode) != 0) {
        h.mode++;
    }
    for (; optind < argc && h.target_count < ADDRESSES_MAX; optind++) {
        if (!parse_target(&h.target[h.target_count++], argv[optind])) {
            return false;
        }
    }
    h.open_max = open_max > 0 && open_max <= 60000 ? (unsigned)open_max : 64;
    h.random = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    return h.mode < MODES && h.target_count > 0 && (h.mode != REPLAY || h.file_size > 0);
}

int main(int argc, char **argv)
{
    if (!parse(argc, argv)) {
        fprintf(stderr,
                "hostile: usage: hostile [OPTION]... garbage|half|huge|replay ADDRESS...\n");
        return 2;
    }
    struct rlimit files = {h.open_max + 64, h.open_max + 64};
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    h.epoll = epoll_create1(EPOLL_CLOEXEC);
    h.peer = calloc(h.open_max, sizeof(*h.peer));
    if (h.epoll < 0 || h.peer == NULL) {
        return 1;
    }
    for (unsigned i = 0; i < h.open_max; i++) {
        h.peer[i].fd = -1;
    }
    run();
    uint64_t ms = clock_ms() - h.begun_ms;
    printf("{\"mode\":\"%s\",\"connections\":%" PRIu64 ",\"refused\":%" PRIu64
           ",\"timed_out\":%" PRIu64 ",\"closed_by_peer\":%" PRIu64 ",\"sent_bytes\":%" PRIu64
           ",\"received_bytes\":%" PRIu64 ",\"ms\":%" PRIu64 "}\n",
           mode_names[h.mode], h.connections, h.refused, h.timed_out, h.closed_by_peer,
           h.sent_bytes, h.received_bytes, ms);
    free(h.peer);
    free(h.file);
    return 0;
}
