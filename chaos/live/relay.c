/* SPDX-License-Identifier: MIT */
/* relay.c - joins the networks of machines that are namespaces, and does to their packets what
 * networks do: delay, loss, duplication, reordering, too little bandwidth, partitions, resets.
 *
 * In each machine's namespace it has a TUN device. IPv4 and IPv6 packets that come out of one go
 * into another by their destination, which has to be an address that this machine was given (or,
 * of fe80::/10, has used); multicast goes to all others. What happens on the way is set for each
 * pair and direction (relay_link.h). Nothing of a packet is ever changed.
 *
 *   relay [SEED]       random decisions follow from it; two runs with the same packets are the same
 *
 * Standard input has commands, a line each, and standard output an answer to each, a line that
 * begins with "ok" or "error". At the end of the input it ends, and the devices with it.
 *
 *   machine NAME PID DEVICE        makes DEVICE in the network namespace of the process
 *   address NAME [ADDRESS]...      those that it has from now on
 *   gone NAME                      removes its device
 *   link FROM TO [SETTING NUMBER]... of what FROM sends to TO; "*": each machine
 *   reset A B                      ends the TCP connections between them; answers how many
 *   count                          answers all counters as JSON
 *   record FILE BYTES              all packets, as they come in, as pcap, until it is so long
 *   record off */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "relay_link.h"
#include "relay_packet.h"
#include "relay_queue.h"
#include "relay_tcp.h"

#define MACHINES_MAX 32
#define ADDRESSES_MAX 8
#define NAME_MAX_BYTES 32
#define PACKETS_PER_TURN 64 /* read from one machine before the others have theirs */
#define WORDS_MAX 32
#define LINE_MAX_BYTES 4096
#define NS_PER_S UINT64_C(1000000000)

struct machine {
    char name[NAME_MAX_BYTES]; /* "": this place is free */
    int fd;                    /* its device; -1: gone */
    struct ip_address address[ADDRESSES_MAX];
    unsigned address_count;
};

static struct {
    uint64_t seed;
    struct machine machine[MACHINES_MAX];
    unsigned machine_count; /* places in use, from the first on */
    struct link link[MACHINES_MAX][MACHINES_MAX]; /* [from][to] */
    struct queue queue;
    struct tcp_table *tcp;
    uint64_t nowhere;       /* packets to an address that nobody has */
    FILE *record;           /* or NULL */
    uint64_t record_left;   /* bytes that may still be recorded */
    int own_namespace;
} relay;

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void answer(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void answer(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

/* --- packets ----------------------------------------------------------------------------- */

static void put_into(unsigned from, unsigned to, const uint8_t *bytes, size_t size)
{
    struct link *l = &relay.link[from][to];
    ssize_t n = relay.machine[to].fd < 0 ? -1 : write(relay.machine[to].fd, bytes, size);
    if (n == (ssize_t)size) {
        l->count.delivered++;
    } else {
        l->count.refused++;
    }
}

static void send_on(unsigned from, unsigned to, const struct packet *p, const uint8_t *bytes,
                    size_t size)
{
    struct link *l = &relay.link[from][to];
    uint64_t now = clock_ns(), due[LINK_COPIES_MAX];
    unsigned copies = link_pass(l, size, p->is_multicast, now, due);
    for (unsigned i = 0; i < copies; i++) {
        if (due[i] <= now && relay.queue.count == 0) {
            put_into(from, to, bytes, size);
        } else if (!queue_put(&relay.queue, due[i], (uint16_t)from, (uint16_t)to, bytes, size)) {
            l->count.overflow++;
        }
    }
}

static void deliver_due(void)
{
    uint64_t now = clock_ns();
    struct queued *one;
    while ((one = queue_take(&relay.queue, now)) != NULL) {
        put_into(one->from, one->to, one->bytes, one->size);
        free(one);
    }
}

/* The machine that has the address; -1: none. */
static int owner_of(const struct ip_address *a)
{
    for (unsigned i = 0; i < relay.machine_count; i++) {
        for (unsigned k = 0; k < relay.machine[i].address_count; k++) {
            if (ip_address_same(&relay.machine[i].address[k], a)) {
                return (int)i;
            }
        }
    }
    return -1;
}

/* Addresses of the link are the kernel's choice: it tells them by sending. */
static void learn(unsigned from, const struct ip_address *a)
{
    struct machine *m = &relay.machine[from];
    if (ip_address_is_link_local(a) && owner_of(a) < 0 && m->address_count < ADDRESSES_MAX) {
        m->address[m->address_count++] = *a;
    }
}

/* Says to the sender of p that its connection is no more. */
static void forge_reset(unsigned sender, unsigned other, const struct packet *p)
{
    uint8_t bytes[PACKET_RESET_MAX];
    put_into(other, sender, bytes, packet_reset(bytes, p));
    relay.link[other][sender].count.resets++;
}

/* Notes what a packet of TCP tells. true: it goes no further. */
static bool follow_tcp(unsigned from, unsigned to, const struct packet *p)
{
    enum tcp_opening opening;
    struct tcp_connection *c = tcp_table_note(relay.tcp, p, (uint16_t)from, (uint16_t)to, &opening);
    struct link_counters *count = &relay.link[from][to].count;
    count->connections += opening == TCP_OPENING_BEGUN;
    count->tls += opening == TCP_OPENING_TLS;
    count->plain += opening == TCP_OPENING_PLAIN;
    if (c != NULL && c->is_reset) {
        forge_reset(from, to, p);
        return true;
    }
    return false;
}

static void record(const uint8_t *bytes, size_t size)
{
    struct timespec t;
    if (relay.record == NULL || relay.record_left < size + 16) {
        return;
    }
    clock_gettime(CLOCK_REALTIME, &t);
    uint32_t head[4] = {(uint32_t)t.tv_sec, (uint32_t)t.tv_nsec, (uint32_t)size, (uint32_t)size};
    relay.record_left -= size + 16;
    fwrite(head, sizeof(head), 1, relay.record);
    fwrite(bytes, size, 1, relay.record);
}

static void on_packet(unsigned from, const uint8_t *bytes, size_t size)
{
    struct packet p;
    record(bytes, size);
    if (!packet_parse(&p, bytes, size)) {
        return;
    }
    learn(from, &p.from);
    if (p.is_multicast) {
        for (unsigned to = 0; to < relay.machine_count; to++) {
            if (to != from && relay.machine[to].fd >= 0) {
                send_on(from, to, &p, bytes, size);
            }
        }
        return;
    }
    int to = owner_of(&p.to);
    if (to < 0 || (unsigned)to == from) {
        relay.nowhere++;
    } else if (!p.is_tcp || !follow_tcp(from, (unsigned)to, &p)) {
        send_on(from, (unsigned)to, &p, bytes, size);
    }
}

static void read_from(unsigned from)
{
    static uint8_t bytes[PACKET_MAX];
    struct machine *m = &relay.machine[from];
    for (int i = 0; i < PACKETS_PER_TURN; i++) {
        ssize_t n = read(m->fd, bytes, sizeof(bytes));
        if (n > 0) {
            on_packet(from, bytes, (size_t)n);
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else if (n < 0 && errno == EAGAIN) {
            return;
        } else { /* the namespace has gone, and the device with it */
            close(m->fd);
            m->fd = -1;
            return;
        }
    }
}

/* --- commands ---------------------------------------------------------------------------- */

static int machine_named(const char *name)
{
    for (unsigned i = 0; i < relay.machine_count; i++) {
        if (strcmp(relay.machine[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

/* Which machines a word means. */
static bool selects(const char *word, unsigned number)
{
    return strcmp(word, "*") == 0 || strcmp(word, relay.machine[number].name) == 0;
}

/* 0 or errno; the device is made where the process is that opens it. */
static int open_device(const char *pid, const char *device, int *out)
{
    char path[64];
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    snprintf(path, sizeof(path), "/proc/%.20s/ns/net", pid);
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", device);
    int there = open(path, O_RDONLY | O_CLOEXEC);
    if (there < 0 || setns(there, CLONE_NEWNET) != 0) {
        int error = errno;
        if (there >= 0) {
            close(there);
        }
        return error;
    }
    close(there);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    int error = fd < 0 || ioctl(fd, TUNSETIFF, &request) != 0 ? errno : 0;
    if (setns(relay.own_namespace, CLONE_NEWNET) != 0) {
        abort(); /* all that follows would happen at the wrong place */
    }
    if (error != 0 && fd >= 0) {
        close(fd);
    }
    *out = fd;
    return error;
}

/* A link's numbers depend on the seed and the two names. */
static uint64_t link_seed(const char *from, const char *to)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ relay.seed;
    for (const char *words[2] = {from, to}, **w = words; w < words + 2; w++) {
        for (const char *c = *w; c == *w || c[-1] != '\0'; c++) {
            h = (h ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
        }
    }
    return h;
}

static void add_machine(char **word, unsigned count)
{
    int fd = -1;
    if (count != 4 || strlen(word[1]) >= NAME_MAX_BYTES || strlen(word[3]) >= IFNAMSIZ) {
        answer("error usage: machine NAME PID DEVICE");
        return;
    }
    if (machine_named(word[1]) >= 0 || relay.machine_count == MACHINES_MAX) {
        answer("error %s: there is such a machine already, or are %d", word[1], MACHINES_MAX);
        return;
    }
    int error = open_device(word[2], word[3], &fd);
    if (error != 0) {
        answer("error no device %s in the namespace of process %s: %s", word[3], word[2],
               strerror(error));
        return;
    }
    unsigned number = relay.machine_count++;
    struct machine *m = &relay.machine[number];
    *m = (struct machine){.fd = fd};
    snprintf(m->name, sizeof(m->name), "%s", word[1]);
    for (unsigned i = 0; i < relay.machine_count; i++) {
        const char *other = relay.machine[i].name;
        link_init(&relay.link[number][i], link_seed(m->name, other));
        link_init(&relay.link[i][number], link_seed(other, m->name));
    }
    answer("ok");
}

static void set_addresses(char **word, unsigned count)
{
    int number = count < 2 ? -1 : machine_named(word[1]);
    struct ip_address all[ADDRESSES_MAX];
    if (number < 0 || count - 2 > ADDRESSES_MAX) {
        answer("error usage: address NAME [ADDRESS]..., at most %d", ADDRESSES_MAX);
        return;
    }
    for (unsigned i = 2; i < count; i++) {
        if (!ip_address_parse(&all[i - 2], word[i])) {
            answer("error %s is no IP address", word[i]);
            return;
        }
    }
    struct machine *m = &relay.machine[number];
    m->address_count = count - 2;
    memcpy(m->address, all, m->address_count * sizeof(all[0]));
    answer("ok");
}

static void set_links(char **word, unsigned count)
{
    unsigned done = 0;
    if (count < 3 || count % 2 == 0) {
        answer("error usage: link FROM TO [SETTING NUMBER]...");
        return;
    }
    for (unsigned from = 0; from < relay.machine_count; from++) {
        for (unsigned to = 0; to < relay.machine_count; to++) {
            if (from == to || !selects(word[1], from) || !selects(word[2], to)) {
                continue;
            }
            struct link changed = relay.link[from][to];
            for (unsigned i = 3; i < count; i += 2) {
                if (!link_set(&changed, word[i], word[i + 1])) {
                    answer("error there is no setting %s, or it cannot be %s", word[i],
                           word[i + 1]);
                    return;
                }
            }
            relay.link[from][to] = changed;
            done++;
        }
    }
    if (done == 0) {
        answer("error no link from %s to %s", word[1], word[2]);
    } else {
        answer("ok %u", done);
    }
}

static void reset_end(void *ctx, const struct tcp_end *end, const struct tcp_end *other)
{
    forge_reset(end->machine, other->machine, &end->last);
}

static void reset_connections(char **word, unsigned count)
{
    int machine[2] = {-1, -1};
    for (unsigned i = 1; i < count && i < 3; i++) {
        machine[i - 1] = machine_named(word[i]);
        if (machine[i - 1] < 0 && strcmp(word[i], "*") != 0) {
            count = 0;
        }
    }
    if (count != 3) {
        answer("error usage: reset A B");
        return;
    }
    answer("ok %u", tcp_table_reset(relay.tcp, machine[0], machine[1], reset_end, NULL));
}

static void tell_counters(void)
{
    char text[512];
    const char *comma = "";
    if (relay.record != NULL) {
        fflush(relay.record);
    }
    printf("ok {\"nowhere\":%" PRIu64 ",\"waiting\":%zu,\"links\":[", relay.nowhere,
           relay.queue.count);
    for (unsigned from = 0; from < relay.machine_count; from++) {
        for (unsigned to = 0; to < relay.machine_count; to++) {
            if (from != to) {
                link_format(&relay.link[from][to], text, sizeof(text));
                printf("%s{\"from\":\"%s\",\"to\":\"%s\",%s}", comma, relay.machine[from].name,
                       relay.machine[to].name, text);
                comma = ",";
            }
        }
    }
    answer("]}");
}

static void set_record(char **word, unsigned count)
{
    /* pcap with nanoseconds, packets that begin with IP. */
    static const uint32_t head[6] = {0xa1b23c4d, 4 << 16 | 2, 0, 0, PACKET_MAX, 101};
    if (count < 2 || count > 3) {
        answer("error usage: record FILE BYTES, or record off");
        return;
    }
    if (relay.record != NULL) {
        fclose(relay.record);
        relay.record = NULL;
    }
    if (count == 3) {
        relay.record = fopen(word[1], "we");
        if (relay.record == NULL) {
            answer("error %s: %s", word[1], strerror(errno));
            return;
        }
        fwrite(head, sizeof(head), 1, relay.record);
        relay.record_left = strtoull(word[2], NULL, 10);
    }
    answer("ok");
}

static void on_command(char *line)
{
    char *word[WORDS_MAX], *rest = NULL;
    unsigned count = 0;
    for (char *w = strtok_r(line, " ", &rest); w != NULL && count < WORDS_MAX;
         w = strtok_r(NULL, " ", &rest)) {
        word[count++] = w;
    }
    const char *what = count == 0 ? "" : word[0];
    int number = count == 2 ? machine_named(word[1]) : -1;
    if (strcmp(what, "machine") == 0) {
        add_machine(word, count);
    } else if (strcmp(what, "address") == 0) {
        set_addresses(word, count);
    } else if (strcmp(what, "link") == 0) {
        set_links(word, count);
    } else if (strcmp(what, "reset") == 0) {
        reset_connections(word, count);
    } else if (strcmp(what, "count") == 0) {
        tell_counters();
    } else if (strcmp(what, "record") == 0) {
        set_record(word, count);
    } else if (strcmp(what, "gone") == 0 && number >= 0) {
        struct machine *m = &relay.machine[number];
        if (m->fd >= 0) {
            close(m->fd);
        }
        m->fd = -1;
        m->address_count = 0;
        answer("ok");
    } else {
        answer("error %s: no such command or machine", what);
    }
}

/* Reads what there is of the input. false: it is over. */
static bool read_commands(void)
{
    static char line[LINE_MAX_BYTES];
    static size_t size;
    ssize_t n = read(STDIN_FILENO, line + size, sizeof(line) - size);
    if (n <= 0) {
        return n < 0 && errno == EINTR;
    }
    size += (size_t)n;
    char *end;
    while ((end = memchr(line, '\n', size)) != NULL) {
        *end = '\0';
        size_t taken = (size_t)(end - line) + 1;
        on_command(line);
        memmove(line, line + taken, size - taken);
        size -= taken;
    }
    return size < sizeof(line);
}

/* --- the loop ---------------------------------------------------------------------------- */

/* Waits for packets, commands, and until the next packet is due. */
static bool turn(void)
{
    struct pollfd all[MACHINES_MAX + 1];
    for (unsigned i = 0; i < relay.machine_count; i++) {
        all[i] = (struct pollfd){.fd = relay.machine[i].fd, .events = POLLIN};
    }
    unsigned count = relay.machine_count;
    all[count] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
    uint64_t due = queue_due_ns(&relay.queue), now = clock_ns();
    uint64_t wait = due <= now ? 0 : due - now;
    struct timespec timeout = {(time_t)(wait / NS_PER_S), (long)(wait % NS_PER_S)};
    int ready = ppoll(all, count + 1, due == UINT64_MAX ? NULL : &timeout, NULL);
    if (ready < 0) {
        return errno == EINTR;
    }
    deliver_due();
    for (unsigned i = 0; i < count; i++) {
        if (all[i].revents != 0) {
            read_from(i);
        }
    }
    return all[count].revents == 0 || read_commands();
}

int main(int argc, char **argv)
{
    relay.seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    relay.own_namespace = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    relay.tcp = tcp_table_new();
    if (argc > 2 || relay.own_namespace < 0 || relay.tcp == NULL) {
        fprintf(stderr, "relay: usage: relay [SEED], with network namespaces\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN); /* nobody waits for an answer: the input ends, too */
    signal(SIGINT, SIG_IGN);  /* Ctrl-C is for who started us, and ends the input */
    while (turn()) {
    }
    if (relay.record != NULL) {
        fclose(relay.record);
    }
    queue_fini(&relay.queue);
    tcp_table_free(relay.tcp);
    return 0;
}
