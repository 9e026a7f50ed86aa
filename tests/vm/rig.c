/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sys.h"

#define WAIT_MS 10000
#define ARGS_MAX 16

/* --- waiting --------------------------------------------------------------------------- */

void wait_until(bool (*fn)(const void *arg), const void *arg)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    uint64_t end = sys_now_ns() + (uint64_t)WAIT_MS * 1000000;
    while (!fn(arg)) {
        ck_assert_msg(sys_now_ns() < end, "waited for ten seconds");
        nanosleep(&pause, NULL); /* between two looks; the time limit is the only clock */
    }
}

bool process_is_gone(const void *pid)
{
    char name[64], state = '?';
    snprintf(name, sizeof(name), "/proc/%d/stat", (int)*(const pid_t *)pid);
    FILE *f = fopen(name, "r");
    if (f == NULL) {
        return true;
    }
    int n = fscanf(f, "%*d (%*[^)]) %c", &state);
    fclose(f);
    return n != 1 || state == 'Z';
}

static void wait_changed(struct client *c, uint64_t start_ns)
{
    struct timespec until;
    ck_assert_msg(sys_now_ns() - start_ns < (uint64_t)WAIT_MS * 1000000, "waited ten seconds");
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    pthread_cond_timedwait(&c->changed, &c->mutex, &until);
}

/* --- clients --------------------------------------------------------------------------- */

static void note_vms(struct client *c, const struct blob *body)
{
    struct wire_vms vms;
    ck_assert_int_eq(wire_vms_decode(&vms, body), 0);
    for (size_t i = 0; i < vms.count; i++) {
        ck_assert_uint_lt(vms.infos[i].index, RIG_VMS_MAX);
        c->infos[vms.infos[i].index] = vms.infos[i];
    }
    if (vms.is_all) {
        c->infos_count = vms.count;
    }
    mem_free(vms.infos);
}

static void on_message(struct net_session *s, void *user, struct wire_message *msg)
{
    struct client *c = user;
    pthread_mutex_lock(&c->mutex);
    if (msg->type == WIRE_WELCOME) {
        net_session_set_trusted(s);
    }
    if (msg->type == WIRE_VMS) {
        note_vms(c, msg->body);
        blob_unref(msg->body);
    } else {
        ck_assert_uint_lt(c->count, CLIENT_MESSAGES_MAX);
        c->messages[c->count++] = *msg;
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

static void on_close(struct net_session *s, void *user, int error, const char *why)
{
    struct client *c = user;
    pthread_mutex_lock(&c->mutex);
    c->is_closed = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

static const struct net_session_ops client_ops = {.on_message = on_message, .on_close = on_close};

struct open {
    struct client *client;
    const char *address;
};

static void open_on_loop(void *arg)
{
    struct open *o = arg;
    struct client *c = o->client;
    struct net_session_options opt = {.ops = &client_ops, .user = c, .hello_ms = WAIT_MS};
    ck_assert_int_eq(net_session_connect(c->rig->loop, o->address, &opt, &c->session), 0);
    int rc = net_session_send(c->session, WIRE_HELLO, 0, wire_hello_encode(&c->hello));
    (void)rc; /* closed: seen when the welcome does not come */
    pthread_mutex_lock(&c->mutex);
    o->address = NULL;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

/* A client with its connection under way. */
static struct client *start_client(struct rig *r, const char *address,
                                   const struct wire_hello *hello)
{
    struct client *c = calloc(1, sizeof(*c));
    ck_assert_ptr_nonnull(c);
    c->rig = r;
    c->hello = *hello;
    pthread_mutex_init(&c->mutex, NULL);
    pthread_cond_init(&c->changed, NULL);
    struct open o = {c, address};
    uint64_t start = sys_now_ns();
    ck_assert_int_eq(net_loop_post(r->loop, open_on_loop, &o), 0);
    pthread_mutex_lock(&c->mutex);
    while (o.address != NULL) {
        wait_changed(c, start);
    }
    pthread_mutex_unlock(&c->mutex);
    return c;
}

/* Waits for an answer or the end of the connection. */
static bool is_answered(struct client *c)
{
    uint64_t start = sys_now_ns();
    pthread_mutex_lock(&c->mutex);
    while (c->count == 0 && !c->is_closed) {
        wait_changed(c, start);
    }
    bool has_answer = c->count > 0;
    pthread_mutex_unlock(&c->mutex);
    return has_answer;
}

static struct client *open_client(struct rig *r, const char *address,
                                  const struct wire_hello *hello)
{
    struct client *c = start_client(r, address, hello);
    while (!is_answered(c)) { /* a process that ends has nothing to say: again, as farms do */
        client_free(c);
        c = start_client(r, address, hello);
    }
    struct wire_message msg = client_take(c, WIRE_WELCOME);
    ck_assert_int_eq(wire_welcome_decode(&c->welcome, msg.body), 0);
    blob_unref(msg.body);
    return c;
}

static struct wire_hello make_hello(uint32_t purpose, uint8_t job, uint64_t epoch, uint8_t id)
{
    struct wire_hello hello = {.purpose = purpose, .epoch = epoch, .pid = (uint32_t)getpid()};
    memset(hello.incarnation, id, 16);
    memset(hello.job, job, 16);
    snprintf(hello.program, sizeof(hello.program), "client%d", id);
    snprintf(hello.host, sizeof(hello.host), "here");
    return hello;
}

struct client *client_open(struct rig *r, const char *address, uint32_t purpose, uint8_t id)
{
    struct wire_hello hello = make_hello(purpose, id, 1, id);
    return open_client(r, address, &hello);
}

struct client *client_open_epoch(struct rig *r, const char *address, uint8_t job, uint64_t epoch,
                                 uint8_t id)
{
    struct wire_hello hello = make_hello(WIRE_PURPOSE_LEASE, job, epoch, id);
    return open_client(r, address, &hello);
}

struct trk_vm_info rig_vm(struct rig *r, uint32_t i)
{
    pthread_mutex_lock(&r->watch->mutex);
    struct trk_vm_info info = r->watch->infos[i];
    pthread_mutex_unlock(&r->watch->mutex);
    return info;
}

struct client *client_lease(struct rig *r, uint32_t vm, uint8_t id)
{
    struct trk_vm_info info = rig_vm(r, vm);
    struct client *c = client_open(r, info.address, WIRE_PURPOSE_LEASE, id);
    ck_assert_msg(c->welcome.is_accepted, "refused: %s", c->welcome.reason);
    return c;
}

void client_send(struct client *c, uint8_t type, uint32_t stream, struct blob *body)
{
    ck_assert_ptr_nonnull(body);
    ck_assert_int_eq(net_session_send(c->session, type, stream, body), 0);
}

/* Under the mutex; the index of the oldest message of that type, or count. */
static size_t find_message(struct client *c, uint8_t type)
{
    size_t i = 0;
    while (i < c->count && c->messages[i].type != type) {
        i++;
    }
    return i;
}

struct wire_message client_take(struct client *c, uint8_t type)
{
    uint64_t start = sys_now_ns();
    size_t i;
    pthread_mutex_lock(&c->mutex);
    while ((i = find_message(c, type)) == c->count) {
        ck_assert_msg(!c->is_closed, "closed while waiting for %s", wire_type_name(type));
        wait_changed(c, start);
    }
    struct wire_message msg = c->messages[i];
    c->count--;
    memmove(&c->messages[i], &c->messages[i + 1], (c->count - i) * sizeof(msg));
    pthread_mutex_unlock(&c->mutex);
    return msg;
}

struct wire_message client_next(struct client *c)
{
    uint64_t start = sys_now_ns();
    pthread_mutex_lock(&c->mutex);
    while (c->count == 0) {
        ck_assert_msg(!c->is_closed, "closed while waiting for anything");
        wait_changed(c, start);
    }
    uint8_t type = c->messages[0].type;
    pthread_mutex_unlock(&c->mutex);
    return client_take(c, type);
}

bool client_has(struct client *c, uint8_t type)
{
    pthread_mutex_lock(&c->mutex);
    bool has = find_message(c, type) < c->count;
    pthread_mutex_unlock(&c->mutex);
    return has;
}

void client_wait_closed(struct client *c)
{
    uint64_t start = sys_now_ns();
    pthread_mutex_lock(&c->mutex);
    while (!c->is_closed) {
        wait_changed(c, start);
    }
    pthread_mutex_unlock(&c->mutex);
}

void client_free(struct client *c)
{
    net_session_close(c->session, false);
    client_wait_closed(c);
    for (size_t i = 0; i < c->count; i++) {
        blob_unref(c->messages[i].body);
    }
    net_session_unref(c->session);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->mutex);
    free(c);
}

void client_bye(struct client *c)
{
    client_send(c, WIRE_BYE, 0, blob_new(0));
    client_wait_closed(c);
    client_free(c);
}

void client_wait_vms(struct client *c)
{
    uint64_t start = sys_now_ns();
    pthread_mutex_lock(&c->mutex);
    while (c->infos_count == 0) {
        wait_changed(c, start);
    }
    pthread_mutex_unlock(&c->mutex);
}

static int ask(struct client *c, const char *name, const char *payload, char *text, size_t size)
{
    static uint32_t stream;
    struct wire_request request = {.op = TRK_OP_CALL,
                                   .name = name,
                                   .name_size = strlen(name),
                                   .payload = payload,
                                   .size = strlen(payload)};
    struct wire_reply reply;
    client_send(c, WIRE_REQUEST, ++stream, wire_request_encode(&request));
    struct wire_message msg = client_take(c, WIRE_REPLY);
    ck_assert_uint_eq(msg.stream, stream);
    ck_assert_int_eq(wire_reply_decode(&reply, msg.body), 0);
    snprintf(text, size, "%.*s", (int)reply.size, (const char *)reply.payload);
    blob_unref(msg.body);
    return reply.status;
}

int client_call(struct client *c, const char *payload, char *text, size_t size)
{
    return ask(c, "f", payload, text, size);
}

int client_order(struct client *watch, const char *verb, uint32_t pid, char *text, size_t size)
{
    char payload[16];
    snprintf(payload, sizeof(payload), "%u", pid);
    return ask(watch, verb, payload, text, size);
}

void client_stage(struct client *c, uint32_t stage, const char *function)
{
    struct wire_stage m = {.stage = stage, .function = function, .size = strlen(function)};
    client_send(c, WIRE_STAGE, 0, wire_stage_encode(&m));
}

void client_stage_timeout(struct client *c, uint32_t stage, uint32_t timeout_ms)
{
    struct wire_stage m = {.stage = stage, .timeout_ms = timeout_ms, .function = "f", .size = 1};
    client_send(c, WIRE_STAGE, 0, wire_stage_encode(&m));
}

void client_run(struct client *c, uint32_t stage, uint64_t first, uint32_t count,
                const char *const *payloads)
{
    struct wire_part parts[2048];
    ck_assert_uint_le(count, 2048);
    for (uint32_t i = 0; i < count; i++) {
        parts[i] = (struct wire_part){payloads[i], strlen(payloads[i])};
    }
    client_send(c, WIRE_RUN, 0, wire_run_encode(stage, 1, first, parts, count));
}

void client_note(struct client *c, uint8_t type, struct wire_note note)
{
    client_send(c, type, 0, wire_note_encode(&note));
}

struct wire_death client_take_death_output(struct rig *r, char *text, size_t size)
{
    struct wire_message msg = client_take(r->watch, WIRE_DEATH);
    struct wire_death death;
    ck_assert_int_eq(wire_death_decode(&death, msg.body), 0);
    snprintf(text, size, "%.*s", (int)death.output_size, (const char *)death.output);
    death.output = NULL;
    blob_unref(msg.body);
    return death;
}

struct wire_death client_take_death(struct rig *r)
{
    char text[8];
    return client_take_death_output(r, text, sizeof(text));
}

struct trk_vm_info rig_wait_vm(struct rig *r, uint32_t i, uint32_t state, const uint8_t *not)
{
    struct client *c = r->watch;
    uint64_t start = sys_now_ns();
    pthread_mutex_lock(&c->mutex);
    while (c->infos[i].state != state ||
           (not != NULL && memcmp(c->infos[i].incarnation, not, 16) == 0)) {
        ck_assert_msg(!c->is_closed, "the supervisor has gone");
        wait_changed(c, start);
    }
    struct trk_vm_info info = c->infos[i];
    pthread_mutex_unlock(&c->mutex);
    return info;
}

/* --- the supervisor -------------------------------------------------------------------- */

const char *rig_program(const char *name, char *path, size_t size)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    ck_assert_int_gt(n, 0);
    exe[n] = '\0'; /* BUILD/tests/vm/test_x */
    snprintf(path, size, "%s/%s", dirname(exe), name);
    return path;
}

static void spawn(struct rig *r, char *const argv[], int out)
{
    r->pid = fork();
    ck_assert_int_ge(r->pid, 0);
    if (r->pid == 0) {
        char path[PATH_MAX + 32];
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* it ends with a test that fails, too */
        dup2(out, 1);
        dup2(out, 2);
        execv(rig_program("../../trickle-vm", path, sizeof(path)), argv);
        perror("execv");
        _exit(127);
    }
}

/* Until there is a line "ready" (its descriptor) or the end; returns whether it came. */
static bool read_ready(int fd)
{
    char bytes[16] = "";
    size_t size = 0;
    ssize_t n;
    while (size < sizeof(bytes) - 1 && (n = read(fd, bytes + size, sizeof(bytes) - 1 - size)) > 0) {
        size += (size_t)n;
    }
    return strcmp(bytes, "ready\n") == 0;
}

static void find_address(struct rig *r)
{
    DIR *dir = opendir(r->dir);
    struct dirent *entry;
    ck_assert_ptr_nonnull(dir);
    while ((entry = readdir(dir)) != NULL) {
        size_t size = strlen(entry->d_name);
        if (strncmp(entry->d_name, "s-", 2) == 0 && entry->d_name[size - 1] == 'k') {
            snprintf(r->address, sizeof(r->address), "unix:%s/%.40s", r->dir, entry->d_name);
        }
    }
    closedir(dir);
}

void rig_start(struct rig *r, int vms, ...)
{
    char count[16], ready[16], echo[PATH_MAX + 32];
    char *argv[ARGS_MAX] = {(char *)"trickle-vm", (char *)"-n", count, (char *)"--exec",
                            (char *)(uintptr_t)rig_program("echo_vm", echo, sizeof(echo)),
                            (char *)"--ready-fd", ready};
    int argc = 7, fds[2], out;
    va_list args;
    va_start(args, vms);
    char *arg;
    while ((arg = va_arg(args, char *)) != NULL && argc < ARGS_MAX - 1) {
        argv[argc++] = arg;
    }
    va_end(args);
    memset(r, 0, sizeof(*r));
    snprintf(r->dir, sizeof(r->dir), "/tmp/trickle-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(r->dir));
    setenv("TRICKLE_RUNTIME", r->dir, 1);
    snprintf(r->home, sizeof(r->home), "%s.home", r->dir);
    setenv("TRICKLE_HOME", r->home, 1);
    char file[96];
    snprintf(file, sizeof(file), "%s.log", r->dir);
    out = open(file, O_RDWR | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_eq(pipe(fds), 0);
    fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    snprintf(count, sizeof(count), "%d", vms);
    snprintf(ready, sizeof(ready), "%d", fds[1]);
    spawn(r, argv, out);
    close(fds[1]);
    bool is_ready = read_ready(fds[0]);
    close(fds[0]);
    ssize_t n = pread(out, r->said, sizeof(r->said) - 1, 0);
    close(out);
    unlink(file);
    ck_assert_msg(is_ready, "trickle-vm did not start: %s", n > 0 ? r->said : "");
    find_address(r);
    ck_assert_int_eq(net_loop_new(&r->loop), 0);
    ck_assert_int_eq(net_loop_start_thread(r->loop, "test"), 0);
    r->watch = client_open(r, r->address, WIRE_PURPOSE_WATCH, 1);
    ck_assert(r->watch->welcome.is_accepted);
    client_wait_vms(r->watch);
}

int rig_wait_exit(struct rig *r)
{
    int status;
    ck_assert_int_eq(waitpid(r->pid, &status, 0), r->pid);
    return status;
}

static bool is_empty(const void *dir)
{
    return rmdir(dir) == 0 || errno == ENOENT;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

void rig_finish(struct rig *r)
{
    client_free(r->watch);
    net_loop_free(r->loop);
    wait_until(is_empty, r->dir);
    nftw(r->home, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void rig_stop(struct rig *r)
{
    ck_assert_int_eq(kill(r->pid, SIGTERM), 0);
    int status = rig_wait_exit(r);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
    ck_assert_msg(is_empty(r->dir), "it has left files in %s", r->dir);
    rig_finish(r);
}

int rig_run(char *said, size_t size, ...)
{
    struct rig r;
    char *argv[ARGS_MAX] = {(char *)"trickle-vm"};
    int argc = 1, fds[2], status;
    va_list args;
    va_start(args, size);
    while ((argv[argc] = va_arg(args, char *)) != NULL && argc < ARGS_MAX - 1) {
        argc++;
    }
    va_end(args);
    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    spawn(&r, argv, fds[1]);
    close(fds[1]);
    size_t got = 0;
    ssize_t n;
    while (got < size - 1 && (n = read(fds[0], said + got, size - 1 - got)) > 0) {
        got += (size_t)n;
    }
    said[got] = '\0';
    close(fds[0]);
    status = rig_wait_exit(&r);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
