/* SPDX-License-Identifier: MIT */
/* fake_trickle.c - the public C API without VMs, for tests of the Python extension alone.
 *
 * A farm of this process: two VMs that answer at once, work that comes back as it was added.
 * What shall go wrong is said by names:
 *
 *   request  echo | raise | error | slow (40 ms) | never | lost | refused | notice (a notice with
 *            the payload as its text)
 *   work     echo | odd (odd elements are exceptions) | late (each result only after a wait) |
 *            pairs (results in the order 1, 0, 3, 2, ...) | stuck (no result ever)
 *            attempts of element i: i of them, which tell the options of the work
 *   order    drain of pid 7; others are refused
 *   connect  max 77: TRK_ENOVMS; max 88: never done
 *
 * trk_vm_serve reads commands from what standard input was at its start, see serve_line(), and
 * answers to what standard output was. Waiting is poll() without
 * descriptors, which signals end as they end the waits of the real library. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "trickle/trickle.h"

#define FAKE_VMS 2
#define SLOW_MS 40
#define AHEAD_DEFAULT 100000

static _Thread_local char last_error[256];
static pid_t opener; /* the process that opened the last farm */

struct trk_vm {
    atomic_uint refs;
    struct trk_farm *farm;
    uint32_t index;
    bool is_lost;
};

struct trk_farm {
    atomic_uint refs;
    atomic_bool is_closed;
    pthread_mutex_t mutex;
    struct trk_vm *vms[FAKE_VMS];
    char *notices[64];
    size_t notices_count;
    bool is_listening;
};

struct trk_vmlist {
    struct trk_farm *farm;
    uint32_t max;
};

struct trk_call {
    char kind[16];
    int64_t due_ms;
    char *payload;
    size_t size;
};

struct entry {
    char *bytes;
    size_t size;
};

struct trk_work {
    char kind[16];
    struct entry *entries; /* all that were added, by index */
    size_t added, taken, cap, ahead;
    bool is_closed, is_left_open, is_cancelled, is_ready;
    struct trk_work_options opt;
};

static int fail(int error, const char *text)
{
    snprintf(last_error, sizeof(last_error), "%s", text);
    return error;
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int sleep_ms(int ms)
{
    poll(NULL, 0, ms);
    return TRK_AGAIN;
}

const char *trk_last_error(void)
{
    return last_error;
}

const char *trk_strerror(int error)
{
    switch (error) {
#define ERROR_TEXT(name, number, text) \
    case number:                       \
        return text;
        TRK_ERROR_MAP(ERROR_TEXT)
#undef ERROR_TEXT
    default:
        return "no error of ours";
    }
}

bool trk_is_forked(void)
{
    return opener != 0 && opener != getpid();
}

/* --- farm -------------------------------------------------------------------------------- */

int trk_farm_new(struct trk_farm **out, const struct trk_farm_options *opt)
{
    struct trk_farm *farm;

    if (opt->program != NULL && strcmp(opt->program, "denied") == 0) {
        return fail(TRK_EDENIED, "the fake was asked to fail");
    }
    opener = getpid();
    farm = calloc(1, sizeof(*farm));
    atomic_init(&farm->refs, 1);
    pthread_mutex_init(&farm->mutex, NULL);
    farm->is_listening = opt->listen != NULL;
    for (uint32_t i = 0; i < FAKE_VMS; i++) {
        farm->vms[i] = calloc(1, sizeof(struct trk_vm));
        atomic_init(&farm->vms[i]->refs, 1);
        farm->vms[i]->farm = farm;
        farm->vms[i]->index = i;
    }
    *out = farm;
    return 0;
}

const char *trk_farm_listening(const struct trk_farm *farm)
{
    return farm->is_listening ? "127.0.0.1:4711" : NULL;
}

struct trk_farm *trk_farm_ref(struct trk_farm *farm)
{
    atomic_fetch_add(&farm->refs, 1);
    return farm;
}

void trk_farm_unref(struct trk_farm *farm)
{
    if (atomic_fetch_sub(&farm->refs, 1) == 1) {
        for (size_t i = 0; i < farm->notices_count; i++) {
            free(farm->notices[i]);
        }
        pthread_mutex_destroy(&farm->mutex);
        free(farm);
    }
}

void trk_farm_close(struct trk_farm *farm, uint32_t timeout_ms)
{
    atomic_store(&farm->is_closed, true);
    for (int i = 0; i < FAKE_VMS; i++) {
        trk_vm_unref(farm->vms[i]);
    }
    trk_farm_unref(farm);
}

int trk_farm_notice(struct trk_farm *farm, int timeout_ms, struct trk_notice *out)
{
    int rc = TRK_AGAIN;

    pthread_mutex_lock(&farm->mutex);
    if (farm->notices_count > 0) {
        memset(out, 0, sizeof(*out));
        out->kind = TRK_NOTICE_OUTPUT;
        out->vm_pid = 7;
        out->vm_index = 1;
        snprintf(out->vm_host, sizeof(out->vm_host), "here");
        out->text = farm->notices[0];
        out->size = strlen(out->text);
        memmove(farm->notices, farm->notices + 1, --farm->notices_count * sizeof(char *));
        rc = 0;
    }
    pthread_mutex_unlock(&farm->mutex);
    if (rc == TRK_AGAIN && atomic_load(&farm->is_closed)) {
        return fail(TRK_ECLOSED, "the farm is closed");
    }
    return rc == 0 || timeout_ms == 0 ? rc : sleep_ms(timeout_ms < 0 ? 1000 : timeout_ms);
}

void trk_notice_free(struct trk_notice *notice)
{
    free(notice->text);
}

static void vm_info(struct trk_vm_info *info, uint32_t index, bool is_lost)
{
    memset(info, 0, sizeof(*info));
    memset(info->incarnation, (int)index + 1, sizeof(info->incarnation));
    info->index = index;
    info->state = is_lost ? TRK_VM_LOST : TRK_VM_LEASED;
    info->pid = 100 + index;
    info->cores = 2;
    info->memory_bytes = (uint64_t)1 << 40;
    snprintf(info->host, sizeof(info->host), "h\xc3\xa9re");
    memset(info->note, 'n', sizeof(info->note)); /* not even terminated */
}

int trk_vms_list(struct trk_farm *farm, int timeout_ms, struct trk_vm_info **out, size_t *count)
{
    *out = calloc(FAKE_VMS, sizeof(**out));
    for (uint32_t i = 0; i < FAKE_VMS; i++) {
        vm_info(&(*out)[i], i, false);
    }
    *count = FAKE_VMS;
    return 0;
}

int trk_vms_order(struct trk_farm *farm, const char *verb, const char *host, uint32_t pid,
                  int timeout_ms, char *answer, size_t size)
{
    if (strcmp(verb, "drain") != 0 || (host != NULL && strcmp(host, "here") != 0) || pid != 7) {
        return fail(TRK_EDENIED, "there is no such VM here");
    }
    snprintf(answer, size, "it drains, for %d ms", timeout_ms);
    return 0;
}

void trk_vms_list_free(struct trk_vm_info *infos)
{
    free(infos);
}

/* --- lists and VMs ----------------------------------------------------------------------- */

int trk_connect_start(struct trk_farm *farm, uint32_t max, bool need_all, uint32_t wait_ms,
                      struct trk_vmlist **out)
{
    *out = calloc(1, sizeof(**out));
    (*out)->farm = trk_farm_ref(farm);
    (*out)->max = max;
    return 0;
}

int trk_connect_wait(struct trk_vmlist *list, int timeout_ms)
{
    if (list->max == 77) {
        return fail(TRK_ENOVMS, "2 VMs answered, 77 were asked for");
    }
    return list->max == 88 ? sleep_ms(timeout_ms) : 0;
}

size_t trk_vmlist_refresh(struct trk_vmlist *list)
{
    return FAKE_VMS;
}

size_t trk_vmlist_length(const struct trk_vmlist *list)
{
    return FAKE_VMS;
}

struct trk_vm *trk_vmlist_get(struct trk_vmlist *list, size_t i)
{
    return i < FAKE_VMS && !atomic_load(&list->farm->is_closed)
               ? trk_vm_ref(list->farm->vms[i]) : NULL;
}

void trk_vmlist_close(struct trk_vmlist *list)
{
}

void trk_vmlist_free(struct trk_vmlist *list)
{
    trk_farm_unref(list->farm);
    free(list);
}

struct trk_vm *trk_vm_ref(struct trk_vm *vm)
{
    atomic_fetch_add(&vm->refs, 1);
    return vm;
}

void trk_vm_unref(struct trk_vm *vm)
{
    if (vm != NULL && atomic_fetch_sub(&vm->refs, 1) == 1) {
        free(vm);
    }
}

void trk_vm_get_info(struct trk_vm *vm, struct trk_vm_info *out)
{
    vm_info(out, vm->index, vm->is_lost);
}

bool trk_vm_is_lost(struct trk_vm *vm)
{
    return vm->is_lost;
}

void trk_vm_lost_reason(struct trk_vm *vm, char *text, size_t size)
{
    snprintf(text, size, "%s", vm->is_lost ? "killed by SIGKILL" : "");
}

/* --- calls ------------------------------------------------------------------------------- */

static int call_new(struct trk_vm *vm, const char *name, const void *payload, size_t size,
                    struct trk_call **out)
{
    struct trk_call *call;

    if (strcmp(name, "refused") == 0) {
        return fail(TRK_ETOOBIG, "larger than the limit");
    }
    if (strcmp(name, "notice") == 0) {
        pthread_mutex_lock(&vm->farm->mutex);
        vm->farm->notices[vm->farm->notices_count++] = strndup(payload, size);
        pthread_mutex_unlock(&vm->farm->mutex);
    }
    vm->is_lost |= strcmp(name, "lost") == 0;
    if (out == NULL) {
        return 0;
    }
    call = calloc(1, sizeof(*call));
    snprintf(call->kind, sizeof(call->kind), "%s", name);
    call->due_ms = now_ms() + (strcmp(name, "slow") == 0    ? SLOW_MS
                               : strcmp(name, "never") == 0 ? 1000000000
                                                            : 0);
    call->payload = malloc(size + 1);
    memcpy(call->payload, payload, size);
    call->size = size;
    *out = call;
    return 0;
}

int trk_vm_request(struct trk_vm *vm, enum trk_op op, uint64_t object, const char *name,
                   const void *payload, size_t size, struct trk_call **out)
{
    return call_new(vm, name, payload, size, out);
}

int trk_inject(struct trk_vmlist *list, struct trk_vm *vm, const char *name, const void *payload,
               size_t size, struct trk_call ***calls, size_t *count)
{
    int rc = 0;

    *count = vm != NULL ? 1 : FAKE_VMS;
    *calls = calloc(*count, sizeof(**calls));
    for (size_t i = 0; i < *count && rc == 0; i++) {
        rc = call_new(vm != NULL ? vm : list->farm->vms[i], name, payload, size, &(*calls)[i]);
    }
    return rc;
}

bool trk_call_is_done(const struct trk_call *call)
{
    return now_ms() >= call->due_ms;
}

int trk_call_wait(struct trk_call *call, int timeout_ms, struct trk_reply *reply)
{
    struct trk_call *calls[1] = {call};
    size_t which;
    int rc = trk_call_wait_any(calls, 1, timeout_ms, &which);

    if (rc == 0 && strcmp(call->kind, "lost") == 0) {
        return fail(TRK_EVMLOST, "VM 0 is lost: killed by SIGKILL");
    }
    reply->status = strcmp(call->kind, "raise") == 0   ? TRK_STATUS_EXCEPTION
                    : strcmp(call->kind, "error") == 0 ? TRK_STATUS_ERROR
                                                       : TRK_STATUS_OK;
    reply->payload = call->size > 0 ? call->payload : NULL;
    reply->size = call->size;
    return rc;
}

int trk_call_wait_any(struct trk_call *const *calls, size_t n, int timeout_ms, size_t *which)
{
    int64_t until = now_ms() + timeout_ms;

    do {
        int64_t first = INT64_MAX;
        for (size_t i = 0; i < n; i++) {
            if (calls[i]->due_ms < first) {
                first = calls[i]->due_ms;
                *which = i;
            }
        }
        if (first <= now_ms()) {
            return 0;
        }
        if (timeout_ms != 0 && poll(NULL, 0, 1) < 0) {
            return TRK_AGAIN;
        }
    } while (now_ms() < until);
    return TRK_AGAIN;
}

void trk_call_free(struct trk_call *call)
{
    if (call != NULL) {
        free(call->payload);
        free(call);
    }
}

/* --- work -------------------------------------------------------------------------------- */

int trk_work_new(struct trk_farm *farm, const struct trk_work_options *opt, struct trk_work **out)
{
    struct trk_work *work;

    if (opt->list == NULL && opt->vms_count == 0) {
        return fail(TRK_EINVAL, "no VMs to work on");
    }
    work = calloc(1, sizeof(*work));
    snprintf(work->kind, sizeof(work->kind), "%.*s", (int)opt->function_size,
             (const char *)opt->function);
    work->opt = *opt;
    work->ahead = opt->ahead_elements != 0 ? opt->ahead_elements : AHEAD_DEFAULT;
    *out = work;
    return 0;
}

int trk_work_add(struct trk_work *work, const void *element, size_t size)
{
    struct entry *entry;

    if (work->is_closed || work->is_cancelled) {
        return fail(work->is_cancelled ? TRK_ECANCELLED : TRK_ECLOSED, "no more elements");
    }
    if (work->added - work->taken >= work->ahead) {
        return TRK_FULL;
    }
    if (work->added == work->cap) {
        work->cap = work->cap != 0 ? work->cap * 2 : 1024;
        work->entries = realloc(work->entries, work->cap * sizeof(*work->entries));
    }
    entry = &work->entries[work->added++];
    entry->bytes = malloc(size);
    entry->size = size;
    memcpy(entry->bytes, element, size);
    return 0;
}

enum trk_turn trk_work_turn(struct trk_work *work)
{
    return TRK_TURN_ANY;
}

int trk_work_flush(struct trk_work *work)
{
    return 0;
}

int trk_work_close(struct trk_work *work)
{
    work->is_closed = true;
    return 0;
}

int trk_work_leave_open(struct trk_work *work)
{
    work->is_left_open = true;
    return trk_work_close(work);
}

/* The index of the next result, or SIZE_MAX: not yet. */
static size_t next_index(const struct trk_work *work)
{
    size_t i = work->taken;

    if (strcmp(work->kind, "pairs") == 0) {
        i = i % 2 != 0 ? i - 1 : i + 1 < work->added ? i + 1 : work->is_closed ? i : SIZE_MAX;
    }
    return strcmp(work->kind, "stuck") != 0 && i < work->added ? i : SIZE_MAX;
}

int trk_work_next(struct trk_work *work, int timeout_ms, struct trk_result *out)
{
    size_t i = next_index(work);

    if (work->is_cancelled || (work->is_closed && work->taken == work->added)) {
        return TRK_END;
    }
    if (i == SIZE_MAX || (strcmp(work->kind, "late") == 0 && timeout_ms == 0)) {
        return timeout_ms != 0 ? sleep_ms(timeout_ms) : TRK_AGAIN;
    }
    work->taken++;
    out->index = i;
    out->status = strcmp(work->kind, "odd") == 0 && i % 2 != 0 ? TRK_STATUS_EXCEPTION
                                                              : TRK_STATUS_OK;
    out->payload = work->entries[i].bytes;
    out->size = work->entries[i].size;
    out->attempts = 1;
    return 0;
}

void trk_work_progress(struct trk_work *work, struct trk_progress *out)
{
    *out = (struct trk_progress){.added = work->added, .done = work->taken, .vms = FAKE_VMS,
                                 .restored = work->is_left_open,
                                 .is_closed = work->is_closed};
}

int trk_work_attempts(struct trk_work *work, uint64_t index, struct trk_attempt **out,
                      size_t *count)
{
    *count = (size_t)index;
    *out = calloc(*count + 1, sizeof(**out));
    for (size_t i = 0; i < *count; i++) {
        (*out)[i] = (struct trk_attempt){
            .attempt = (uint32_t)i + 1, .outcome = (uint32_t)i, .vm_pid = work->opt.retries,
            .vm_index = work->opt.speculate + 2u * work->opt.keep_elements, .vm_host = "here",
            .started_ms = 5, .duration_ns = 6,
            .signal = 11, .exit_status = (int32_t)work->opt.retry_after_ms,
            .rss_max_bytes = work->opt.timeout_ms};
        if (i > 0) {
            (*out)[i].output = strdup("a\xff");
            (*out)[i].output_size = 2;
        }
    }
    return 0;
}

void trk_attempts_free(struct trk_attempt *attempts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(attempts[i].output);
    }
    free(attempts);
}

void trk_work_cancel(struct trk_work *work, bool interrupt)
{
    work->is_cancelled = true;
}

void trk_work_free(struct trk_work *work)
{
    for (size_t i = 0; i < work->added; i++) {
        free(work->entries[i].bytes);
    }
    free(work->entries);
    free(work);
}

/* --- the VM side ------------------------------------------------------------------------- */

struct trk_rai_reply {
    char *bytes;
    size_t size;
};

struct server {
    const struct trk_rai_module *module;
    void *state;
    struct trk_rai_reply reply;
    FILE *in, *out; /* not those of user code, which may close descriptors 0 to 2 */
};

int trk_rai_reply_write(struct trk_rai_reply *reply, const void *bytes, size_t size)
{
    if (reply->size + size > 1000000) {
        return fail(TRK_ETOOBIG, "larger than the limit");
    }
    reply->bytes = realloc(reply->bytes, reply->size + size + 1);
    memcpy(reply->bytes + reply->size, bytes, size);
    reply->size += size;
    return 0;
}

static char *unhex(const char *text, size_t *size)
{
    char *out = malloc(strlen(text) / 2 + 1);
    unsigned byte;

    for (*size = 0; sscanf(text + 2 * *size, "%2x", &byte) == 1; ++*size) {
        out[*size] = (char)byte;
    }
    return out;
}

static void print_answer(struct server *s, int status)
{
    fprintf(s->out, "%d ", status);
    for (size_t i = 0; i < s->reply.size; i++) {
        fprintf(s->out, "%02x", (unsigned char)s->reply.bytes[i]);
    }
    fprintf(s->out, "\n");
    fflush(s->out);
    s->reply.size = 0;
}

struct interruption {
    struct server *server;
    int after_ms, times;
};

static void *interrupt_thread(void *arg)
{
    struct interruption *i = arg;

    for (; i->times > 0; i->times--) {
        poll(NULL, 0, i->after_ms);
        i->server->module->interrupt(i->server->state);
    }
    free(i);
    return NULL;
}

static void start_interrupts(struct server *s, int after_ms, int times)
{
    struct interruption *i = malloc(sizeof(*i));
    pthread_t thread;

    *i = (struct interruption){s, after_ms, times};
    pthread_create(&thread, NULL, interrupt_thread, i);
    pthread_detach(thread);
}

/* What the host does with an element that has used up its time. */
static void *dump_thread(void *arg)
{
    struct interruption *i = arg;

    poll(NULL, 0, i->after_ms);
    i->server->module->dump(i->server->state);
    _exit(72);
}

static void start_dump(struct server *s, int after_ms)
{
    struct interruption *i = malloc(sizeof(*i));
    pthread_t thread;

    *i = (struct interruption){s, after_ms, 1};
    pthread_create(&thread, NULL, dump_thread, i);
    pthread_detach(thread);
}

/* Nanoseconds per element of running the same one n times. */
static void measure(struct server *s, const struct trk_rai_element *element, long n)
{
    struct timespec from, to;

    clock_gettime(CLOCK_MONOTONIC, &from);
    for (long i = 0; i < n; i++) {
        s->reply.size = 0;
        if (s->module->run(s->state, element, &s->reply) != TRK_STATUS_OK) {
            break;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    s->reply.size = 0;
    fprintf(s->out, "%.1f\n", ((double)(to.tv_sec - from.tv_sec) * 1e9 +
                             (double)(to.tv_nsec - from.tv_nsec)) / (double)n);
    fflush(s->out);
}

/* stage S HEX | close S | run S HEX | bench S N HEX | request OP NAME HEX | interrupt MS TIMES |
 * dump MS */
static void serve_line(struct server *s, const char *line)
{
    char word[16] = "", name[64] = "", hex[65536] = "";
    size_t size = 0;
    long a = 0, b = 0;
    char *payload;

    sscanf(line, "%15s %ld", word, &a);
    if (strcmp(word, "request") == 0) {
        sscanf(line, "%*s %*d %63s %65535s", name, hex);
    } else if (strcmp(word, "bench") == 0 || strcmp(word, "interrupt") == 0) {
        sscanf(line, "%*s %*d %ld %65535s", &b, hex);
    } else {
        sscanf(line, "%*s %*d %65535s", hex);
    }
    payload = unhex(hex, &size);
    struct trk_rai_request request = {(enum trk_op)a, 0, name, payload, size};
    struct trk_rai_element element = {(uint32_t)a, 1, 0, payload, size};
    if (strcmp(word, "request") == 0) {
        print_answer(s, s->module->request(s->state, &request, &s->reply));
    } else if (strcmp(word, "stage") == 0) {
        print_answer(s, s->module->stage_open(s->state, (uint32_t)a, payload, size, &s->reply));
    } else if (strcmp(word, "close") == 0) {
        s->module->stage_close(s->state, (uint32_t)a);
        print_answer(s, 0);
    } else if (strcmp(word, "run") == 0) {
        print_answer(s, s->module->run(s->state, &element, &s->reply));
    } else if (strcmp(word, "bench") == 0) {
        measure(s, &element, b);
    } else if (strcmp(word, "interrupt") == 0) {
        start_interrupts(s, (int)a, (int)b);
    } else if (strcmp(word, "dump") == 0) {
        start_dump(s, (int)a);
    }
    free(payload);
}

int trk_vm_checkpoint(const void *bytes, size_t size)
{
    return TRK_END;
}

int trk_vm_checkpoint_wait(void)
{
    return TRK_END;
}

int trk_vm_restore(const void **bytes, size_t *size)
{
    return TRK_END;
}

int trk_vm_serve(const struct trk_rai_module *module, void *state)
{
    static struct server s; /* interrupts may come until the process ends */
    char *line = NULL;
    size_t room = 0;
    ssize_t got;

    if (module->abi != TRK_RAI_ABI || module->size != sizeof(*module)) {
        return fail(TRK_EVERSION, "another version of the module interface");
    }
    s = (struct server){.module = module, .state = state, .in = fdopen(dup(0), "r"),
                        .out = fdopen(dup(1), "w")};
    for (;;) {
        module->wait_begin(state);
        while ((got = getline(&line, &room, s.in)) < 0 && ferror(s.in) && errno == EINTR) {
            clearerr(s.in);
        }
        module->wait_end(state);
        if (got <= 0) {
            break;
        }
        serve_line(&s, line);
    }
    fclose(s.in);
    fclose(s.out);
    free(line);
    free(s.reply.bytes);
    return 0;
}
