/* SPDX-License-Identifier: MIT */
/* hosts.c - supervisors named in a list: "10.0.0.5:4711,[fe80::1%eth0]:4711,render1:4711", or
 * in a file: "@/etc/render/hosts" stands for what is in there, one or more in a line, "#" begins
 * a comment.
 *
 * Numeric addresses are reported by ask() itself. Names are resolved by a thread of their own,
 * because that may block for long, and are reported through process(), with all the addresses
 * they have (a supervisor may listen on one of them only).
 *
 * The thread is detached: nobody waits for a slow name server when the farm closes. What it and
 * the module share is a counted struct lookup, which is freed by the last of them. */
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "discovery/discovery_impl.h"

#define HOST_MAX 256
#define ADDRESS_MAX 128
#define FILE_BYTES_MAX (1u << 20)

/* One entry of the list, or one address of a name. */
struct host {
    struct list node;
    char name[HOST_MAX]; /* entry: without brackets */
    char port[8];
    char address[ADDRESS_MAX]; /* "tcp:...": numeric entries and answers; else "" */
};

struct lookup {
    atomic_int refs;
    int event_fd;           /* there are answers */
    struct list names;      /* struct host; fixed */
    pthread_mutex_t mutex;  /* guards what follows */
    struct list answers;    /* struct host, not yet reported */
    bool is_asked;          /* the names are to be looked up (again) */
    bool is_running;        /* a thread is at work, or is about to look at is_asked */
};

struct hosts {
    struct trk_discovery_sink sink;
    struct list numeric;   /* struct host */
    struct lookup *lookup; /* NULL: no names */
};

static void free_all(struct list *head)
{
    struct list *node;
    while ((node = list_pop_front(head)) != NULL) {
        mem_free(container_of(node, struct host, node));
    }
}

/* --- names ------------------------------------------------------------------------------ */

static struct lookup *lookup_new(void)
{
    struct lookup *l = mem_zalloc(1, sizeof(*l));
    if (l == NULL) {
        return NULL;
    }
    l->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (l->event_fd < 0 || sys_fd_add(l->event_fd) != 0) {
        if (l->event_fd >= 0) {
            close(l->event_fd);
        }
        mem_free(l);
        return NULL;
    }
    atomic_init(&l->refs, 1);
    list_init(&l->names);
    list_init(&l->answers);
    pthread_mutex_init(&l->mutex, NULL);
    return l;
}

static void lookup_unref(struct lookup *l)
{
    if (l == NULL || atomic_fetch_sub(&l->refs, 1) != 1) {
        return;
    }
    sys_fd_remove(l->event_fd);
    close(l->event_fd);
    free_all(&l->names);
    free_all(&l->answers);
    pthread_mutex_destroy(&l->mutex);
    mem_free(l);
}

/* "tcp:HOST:PORT" of a socket address. */
static bool format(const struct addrinfo *info, char *address, size_t size)
{
    char host[ADDRESS_MAX - 16], port[8];
    if (getnameinfo(info->ai_addr, info->ai_addrlen, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return false;
    }
    snprintf(address, size, info->ai_family == AF_INET6 ? "tcp:[%s]:%s" : "tcp:%s:%s", host,
             port);
    return true;
}

static void resolve(struct lookup *l, const struct host *h)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV};
    struct addrinfo *all;
    int rc = getaddrinfo(h->name, h->port, &hints, &all);
    if (rc != 0) {
        log_warn("discovery", "cannot find the host %s: %s", h->name, gai_strerror(rc));
        return;
    }
    for (const struct addrinfo *info = all; info != NULL; info = info->ai_next) {
        struct host *answer = mem_zalloc(1, sizeof(*answer));
        if (answer == NULL || !format(info, answer->address, sizeof(answer->address))) {
            mem_free(answer);
            continue;
        }
        pthread_mutex_lock(&l->mutex);
        list_push_back(&l->answers, &answer->node);
        pthread_mutex_unlock(&l->mutex);
    }
    freeaddrinfo(all);
    uint64_t one = 1;
    (void)!write(l->event_fd, &one, sizeof(one));
}

/* Is there another round to do? If not the thread has to end. */
static bool take_round(struct lookup *l)
{
    pthread_mutex_lock(&l->mutex);
    /* With one reference left, ours, nobody wants to know any more. */
    bool is_asked = l->is_asked && atomic_load(&l->refs) > 1;
    l->is_asked = false;
    l->is_running = is_asked;
    pthread_mutex_unlock(&l->mutex);
    return is_asked;
}

static void *lookup_main(void *arg)
{
    struct lookup *l = arg;
    pthread_setname_np(pthread_self(), "trickle-names");
    while (take_round(l)) {
        const struct list *node;
        list_for_each(node, &l->names) {
            if (atomic_load(&l->refs) > 1) {
                resolve(l, container_of(node, struct host, node));
            }
        }
    }
    lookup_unref(l);
    return NULL;
}

static int lookup_start(struct lookup *l)
{
    pthread_mutex_lock(&l->mutex);
    bool was_running = l->is_running;
    l->is_asked = true;
    l->is_running = true;
    pthread_mutex_unlock(&l->mutex);
    if (was_running) {
        return 0; /* it goes round again */
    }
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t old;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    atomic_fetch_add(&l->refs, 1);
    int error = sys_block_signals(&old) != 0 ? EAGAIN : 0;
    if (error == 0) {
        error = pthread_create(&thread, &attr, lookup_main, l);
        sys_restore_signals(&old);
    }
    pthread_attr_destroy(&attr);
    if (error != 0) {
        atomic_fetch_sub(&l->refs, 1);
        l->is_running = false; /* no thread: no lock needed */
        return fail(TRK_EIO, "cannot start a thread: %s", strerror(error));
    }
    return 0;
}

/* --- the list --------------------------------------------------------------------------- */

/* Could it be a host's name or an IPv4 address? What is not can only be a typing error. */
static bool is_name(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (!isalnum(c) && c != '.' && c != '-' && c != '_') {
            return false;
        }
    }
    return true;
}

/* Takes one entry apart: [text, text+size). */
static int parse_entry(struct host *h, const char *text, size_t size)
{
    const char *colon = memrchr(text, ':', size);
    size_t host_size = colon != NULL ? (size_t)(colon - text) : 0;
    size_t port_size = colon != NULL ? size - host_size - 1 : 0;
    bool has_brackets = host_size > 2 && text[0] == '[' && colon[-1] == ']';
    const char *host = text + (has_brackets ? 1 : 0);
    host_size -= has_brackets ? 2 : 0;
    if (host_size == 0 || host_size >= sizeof(h->name) || port_size == 0 || port_size > 5 ||
        (!has_brackets && !is_name(host, host_size))) {
        return fail(TRK_EINVAL, "hosts: \"%.*s\" is not of the form HOST:PORT (IPv6: [HOST]:PORT)",
                    (int)(size < 200 ? size : 200), text);
    }
    memcpy(h->name, host, host_size);
    memcpy(h->port, colon + 1, port_size);
    long port = strspn(h->port, "0123456789") == port_size ? atol(h->port) : 0;
    if (port < 1 || port > 65535) {
        return fail(TRK_EINVAL, "hosts: \"%.*s\": the port must be a number from 1 to 65535",
                    (int)(size < 200 ? size : 200), text);
    }
    const struct addrinfo hints = {.ai_family = has_brackets ? AF_INET6 : AF_INET,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *info;
    if (getaddrinfo(h->name, h->port, &hints, &info) == 0) {
        (void)!format(info, h->address, sizeof(h->address));
        freeaddrinfo(info);
    } else if (has_brackets) {
        return fail(TRK_EINVAL, "hosts: \"%.*s\" is not an IPv6 address with a port",
                    (int)(size < 200 ? size : 200), text);
    }
    return 0;
}

static int add_entry(struct hosts *hosts, const char *text, size_t size)
{
    struct host *h = mem_zalloc(1, sizeof(*h));
    if (h == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    int rc = parse_entry(h, text, size);
    if (rc == 0 && h->address[0] == '\0' && hosts->lookup == NULL) {
        hosts->lookup = lookup_new();
        rc = hosts->lookup == NULL ? fail(TRK_EIO, "cannot prepare to look up %s", h->name) : 0;
    }
    if (rc != 0) {
        mem_free(h);
        return rc;
    }
    list_push_back(h->address[0] != '\0' ? &hosts->numeric : &hosts->lookup->names, &h->node);
    return 0;
}

static void hosts_close(void *state)
{
    struct hosts *hosts = state;
    free_all(&hosts->numeric);
    lookup_unref(hosts->lookup);
    mem_free(hosts);
}

/* All of text, separated by blanks and commas; comments are passed over. */
static int add_lines(struct hosts *hosts, const char *text)
{
    int rc = 0;
    while (rc == 0 && *text != '\0') {
        size_t size = strcspn(text, " \t\r\n,#");
        if (size > 0) {
            rc = add_entry(hosts, text, size);
        } else {
            size = *text == '#' ? strcspn(text, "\n") : 1;
        }
        text += size;
    }
    return rc;
}

static int add_file(struct hosts *hosts, const char *name)
{
    FILE *file = fopen(name, "re");
    if (file == NULL) {
        return fail(TRK_EINVAL, "hosts: cannot read %.200s: %s", name, strerror(errno));
    }
    char *text = mem_alloc(FILE_BYTES_MAX + 1);
    if (text == NULL) {
        fclose(file);
        return fail(TRK_ENOMEM, "out of memory");
    }
    errno = 0;
    size_t size = fread(text, 1, FILE_BYTES_MAX + 1, file);
    int error = ferror(file) != 0 ? errno : 0, rc = 0;
    fclose(file);
    if (error != 0) {
        rc = fail(TRK_EINVAL, "hosts: cannot read %.200s: %s", name, strerror(error));
    } else if (size > FILE_BYTES_MAX || memchr(text, '\0', size) != NULL) {
        rc = fail(TRK_EINVAL, "hosts: %.200s is no list of HOST:PORT", name);
    } else {
        text[size] = '\0';
        rc = add_lines(hosts, text);
        if (rc < 0) {
            char why[512];
            snprintf(why, sizeof(why), "%s", fail_text());
            rc = fail(rc, "%s (in %.200s)", why, name);
        }
    }
    mem_free(text);
    return rc;
}

/* One of the list: an entry, or a file of them. */
static int add_item(struct hosts *hosts, const char *text, size_t size)
{
    char name[4096];
    if (size == 0 || text[0] != '@') {
        return add_entry(hosts, text, size);
    }
    if (size - 1 >= sizeof(name)) {
        return fail(TRK_EINVAL, "hosts: the name of a file is too long");
    }
    memcpy(name, text + 1, size - 1);
    name[size - 1] = '\0';
    return add_file(hosts, name);
}

static int add_list(struct hosts *hosts, const char *at)
{
    int rc = 0;
    while (rc == 0 && *at != '\0') {
        size_t size = strcspn(at, ",");
        size_t blanks = strspn(at, " \t");
        size_t end = size;
        while (end > blanks && (at[end - 1] == ' ' || at[end - 1] == '\t')) {
            end--;
        }
        rc = add_item(hosts, at + blanks, end > blanks ? end - blanks : 0);
        at += size + (at[size] == ',' ? 1 : 0);
    }
    return rc;
}

static int hosts_open(const struct trk_discovery_config *config,
                      const struct trk_discovery_sink *sink, void **state)
{
    struct hosts *hosts = mem_zalloc(1, sizeof(*hosts));
    if (hosts == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    hosts->sink = *sink;
    list_init(&hosts->numeric);
    int rc = config->hosts != NULL ? add_list(hosts, config->hosts) : 0;
    if (rc != 0) {
        hosts_close(hosts);
        return rc;
    }
    *state = hosts;
    return 0;
}

static int hosts_ask(void *state)
{
    struct hosts *hosts = state;
    const struct list *node;
    list_for_each(node, &hosts->numeric) {
        hosts->sink.found(hosts->sink.ctx, container_of(node, struct host, node)->address);
    }
    return hosts->lookup != NULL ? lookup_start(hosts->lookup) : 0;
}

static int hosts_fd(void *state)
{
    const struct hosts *hosts = state;
    return hosts->lookup != NULL ? hosts->lookup->event_fd : -1;
}

static void hosts_process(void *state)
{
    struct hosts *hosts = state;
    struct lookup *l = hosts->lookup;
    uint64_t count;
    if (l == NULL) {
        return;
    }
    (void)!read(l->event_fd, &count, sizeof(count));
    for (;;) {
        pthread_mutex_lock(&l->mutex);
        struct list *node = list_pop_front(&l->answers);
        pthread_mutex_unlock(&l->mutex);
        if (node == NULL) {
            return;
        }
        struct host *answer = container_of(node, struct host, node);
        hosts->sink.found(hosts->sink.ctx, answer->address);
        mem_free(answer);
    }
}

const struct trk_discovery_module discovery_hosts = {
    .abi = TRK_DISCOVERY_ABI,
    .size = sizeof(struct trk_discovery_module),
    .name = "hosts",
    .is_immediate = false, /* names take their time */
    .open = hosts_open,
    .ask = hosts_ask,
    .fd = hosts_fd,
    .process = hosts_process,
    .close = hosts_close,
};
