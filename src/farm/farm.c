/* SPDX-License-Identifier: MIT */
/* farm.c - life of a farm: its thread, its turns, its end.
 *
 * Everything the farm decides happens on its one thread. A turn of its loop handles what came
 * from sockets and from programs; the prepare handle then runs once before the loop sleeps: it
 * lets lists take VMs, commits what was recorded in this turn as one group, acknowledges and
 * delivers it, and sets the one timer to the next thing due. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "discovery/discovery_impl.h"
#include "farm/farm_impl.h"
#include "rai/modules.h"
#include "trickle/trickle.h"

#define OPTIONS_MAX 4096 /* a larger struct of options is one whose size was never set */

int waiter_init(struct waiter *w)
{
    return sem_init(&w->sem, 0, 0) == 0 ? 0 : TRK_EIO;
}

void waiter_fini(struct waiter *w)
{
    sem_destroy(&w->sem);
}

void waiter_post(struct waiter *w)
{
    sem_post(&w->sem);
}

void waiter_drain(struct waiter *w)
{
    while (sem_trywait(&w->sem) == 0) {
    }
}

int waiter_wait(struct waiter *w, int timeout_ms)
{
    int rc;

    if (timeout_ms < 0) {
        rc = sem_wait(&w->sem);
    } else {
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_sec += timeout_ms / 1000;
        at.tv_nsec += (long)(timeout_ms % 1000) * 1000000L;
        if (at.tv_nsec >= 1000000000L) {
            at.tv_sec++;
            at.tv_nsec -= 1000000000L;
        }
        rc = sem_clockwait(&w->sem, CLOCK_MONOTONIC, &at);
    }
    return rc == 0 ? 0 : TRK_AGAIN;
}

const char *trk_last_error(void)
{
    return fail_text();
}

struct trk_farm *farm_ref(struct trk_farm *farm)
{
    atomic_fetch_add_explicit(&farm->refs, 1, memory_order_relaxed);
    return farm;
}

static void farm_free(struct trk_farm *farm)
{
    struct list *node;

    if (farm->loop != NULL) {
        net_loop_free(farm->loop);
    }
    notice_free_all(farm);
    blobs_free(farm);
    find_free(farm);
    while ((node = list_pop_front(&farm->slots)) != NULL) {
        struct slot *slot = container_of(node, struct slot, node);
        mem_free(slot->unsafe);
        mem_free(slot);
    }
    join_free(farm);
    job_unref(farm->job);
    pthread_mutex_destroy(&farm->mutex);
    mem_free(farm->slot_by_number);
    auth_watch_clear(&farm->keys);
    mem_free(farm->hosts);
    mem_free(farm->multicast);
    mem_free(farm);
}

void farm_unref(struct trk_farm *farm)
{
    if (atomic_fetch_sub_explicit(&farm->refs, 1, memory_order_acq_rel) == 1) {
        farm_free(farm);
    }
}

const char *trk_farm_listening(const struct trk_farm *farm)
{
    return farm->listening[0] != '\0' ? farm->listening : NULL;
}

struct trk_farm *trk_farm_ref(struct trk_farm *farm)
{
    return farm_ref(farm);
}

void trk_farm_unref(struct trk_farm *farm)
{
    if (farm != NULL && !sys_is_forked()) {
        farm_unref(farm);
    }
}

int options_copy(void *out, size_t known, const void *in)
{
    const uint8_t *bytes = in;
    size_t size;

    memcpy(&size, in, sizeof(size));
    if (size < sizeof(size) || size > OPTIONS_MAX) {
        return fail(TRK_EINVAL, "the options do not say their size: set .size to the sizeof of "
                    "their struct");
    }
    for (size_t i = known; i < size; i++) {
        if (bytes[i] != 0) {
            return fail(TRK_EVERSION, "the program was built for a newer Trickle than this one, "
                        TRK_VERSION ", and uses what only that has");
        }
    }
    memset(out, 0, known);
    memcpy(out, in, size < known ? size : known);
    memcpy(out, &known, sizeof(known));
    return 0;
}

int farm_usable(struct trk_farm *farm)
{
    bool is_closed;

    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "Trickle was used after fork: only the process that opened the "
                                 "farm may use it; connect() again is not possible in the child");
    }
    pthread_mutex_lock(&farm->mutex);
    is_closed = farm->is_closed;
    pthread_mutex_unlock(&farm->mutex);
    return is_closed ? fail(TRK_ECLOSED, "the farm is closed") : 0;
}

const char *farm_rai_option(const char *module, char text[FARM_RAI_MAX])
{
    bool is_usual = module[0] == '\0' || strcmp(module, "python") == 0;
    const char *name = rai_built_in_find(module) != NULL ? module : "PATH.so"; /* who knows where */

    snprintf(text, FARM_RAI_MAX, "%s%s", is_usual ? "" : " --rai ", is_usual ? "" : name);
    return text;
}

/* --- turns ---------------- */

static void on_tick(uv_timer_t *timer)
{
    farm_touch(timer->data);
}

void farm_touch(struct trk_farm *farm)
{
    farm->is_dirty = true;
}

void farm_wake_in(struct trk_farm *farm, uint64_t ms)
{
    if (!uv_is_active((uv_handle_t *)&farm->tick) || uv_timer_get_due_in(&farm->tick) > ms) {
        uv_timer_start(&farm->tick, on_tick, ms, 0);
        farm->tick.data = farm;
    }
}

static void on_pulse(uv_timer_t *timer)
{
    lease_pulse(timer->data);
    join_pulse(timer->data);
    find_pulse(timer->data);
}

static void close_check(struct trk_farm *farm);

static void on_prepare(uv_prepare_t *prepare)
{
    struct trk_farm *farm = prepare->data;

    if (farm->is_dirty) {
        farm->is_dirty = false;
        lease_check_down(farm);
        if (farm->is_closing) {
            close_check(farm);
        } else {
            lease_fill(farm);
            vmlist_check(farm);
            listing_check(farm);
            lease_release_unused(farm);
        }
    }
    drive_turn_end(farm);
}

/* --- opening ---------------- */

static bool env_is_set(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' && strcmp(value, "0") != 0;
}

static char *option_or_env(const char *option, const char *name)
{
    const char *value = option != NULL ? option : getenv(name);
    return value != NULL && value[0] != '\0' ? mem_strdup(value) : NULL;
}

/* From the option in ms, else the variable in seconds, else the default. */
static uint32_t ms_option(uint32_t option, const char *name, uint32_t otherwise)
{
    const char *text = getenv(name);
    double seconds = text != NULL ? strtod(text, NULL) : 0;

    if (option != 0) {
        return option;
    }
    return seconds >= 0.01 && seconds <= 86400 ? (uint32_t)(seconds * 1000) : otherwise;
}

static int make_hello(struct trk_farm *farm, const struct trk_farm_options *opt)
{
    struct wire_hello *hello = &farm->hello;
    const char *program = opt->program != NULL ? opt->program : program_invocation_short_name;

    if (sys_random(hello->job, 16) < 0 || sys_random(hello->incarnation, 16) < 0) {
        return fail(TRK_EIO, "no random bytes from the operating system");
    }
    hello->epoch = 0; /* nothing outlives it */
    if (farm->job != NULL) {
        memcpy(hello->job, farm->job->uuid, sizeof(hello->job));
        hello->epoch = farm->job->epoch;
    }
    hello->pid = (uint32_t)getpid();
    sys_host_name(hello->host, sizeof(hello->host));
    strncpy(hello->program, program, sizeof(hello->program) - 1);
    return 0;
}

static void open_on_loop(void *arg)
{
    struct trk_farm *farm = arg;
    uint64_t pulse_ms = farm->suspect_after_ms / 8 + 1;

    uv_timer_init(net_loop_uv(farm->loop), &farm->tick);
    uv_prepare_init(net_loop_uv(farm->loop), &farm->prepare);
    farm->tick.data = farm;
    farm->prepare.data = farm;
    uv_prepare_start(&farm->prepare, on_prepare);
    uv_timer_init(net_loop_uv(farm->loop), &farm->pulse);
    farm->pulse.data = farm;
    farm->pulsed_ms = farm->listening_ms = net_loop_now_ms(farm->loop);
    uv_timer_start(&farm->pulse, on_pulse, pulse_ms, pulse_ms);
    find_open(farm);
    join_open(farm);
    control_open(farm);
}

static void farm_init(struct trk_farm *farm, const struct trk_farm_options *opt)
{
    atomic_init(&farm->refs, 1);
    pthread_mutex_init(&farm->mutex, NULL);
    list_init(&farm->supervisors);
    list_init(&farm->callers);
    farm->listen_fd = -1;
    list_init(&farm->slots);
    list_init(&farm->vmlists);
    list_init(&farm->listings);
    list_init(&farm->orders);
    list_init(&farm->injections);
    list_init(&farm->blobs);
    list_init(&farm->puts);
    list_init(&farm->syncing);
    list_init(&farm->answers);
    list_init(&farm->works);
    list_init(&farm->acks);
    list_init(&farm->notices);
    farm->job = opt->job != NULL ? job_ref(opt->job) : NULL;
    farm->lan = opt->lan || env_is_set("TRICKLE_LAN");
    farm->insecure = opt->insecure || env_is_set("TRICKLE_INSECURE");
    farm->dead_after_ms = ms_option(opt->dead_after_ms, "TRICKLE_DEAD_AFTER", 10000);
    farm->suspect_after_ms = ms_option(opt->suspect_after_ms, "TRICKLE_SUSPECT_AFTER", 2000);
    if (farm->suspect_after_ms > farm->dead_after_ms) {
        farm->suspect_after_ms = farm->dead_after_ms;
    }
    farm->hosts = option_or_env(opt->hosts, "TRICKLE_HOSTS");
    farm->multicast = option_or_env(opt->multicast, "TRICKLE_MULTICAST");
    snprintf(farm->module, sizeof(farm->module), "%s", opt->module != NULL ? opt->module : "");
}

/* The discovery module of others, if one is wanted. */
static int load_discovery(struct trk_farm *farm, const char *path)
{
    path = path != NULL ? path : getenv("TRICKLE_DISCOVERY");
    farm->has_discovery = path != NULL && path[0] != '\0';
    return farm->has_discovery ? discovery_load(&farm->discovery, path) : 0;
}

/* The keys, where something of this farm goes by TCP or multicast. */
static int load_keys(struct trk_farm *farm, const char *key_file, const char *listen)
{
    int rc;

    bool is_local = !farm->lan && farm->hosts == NULL && !farm->has_discovery && listen == NULL;

    if (farm->insecure || is_local) {
        return 0;
    }
    rc = auth_watch_open(&farm->keys, key_file);
    if (rc == AUTH_NO_KEY && listen != NULL) {
        return fail(TRK_EDENIED, "there is no key here, and without one no VM is let in at %s; "
                    "type: trickle key new (or on a machine that has one: trickle key show "
                    "--secret | ssh THIS-HOST trickle key import)", listen);
    }
    if (rc == AUTH_NO_KEY && farm->lan) {
        return fail(TRK_EDENIED, "there is no key here, without which VMs of other machines do not "
                    "answer; type on a machine that has it: trickle key show --secret | ssh "
                    "THIS-HOST trickle key import (and where none has: trickle key new)");
    }
    return rc < 0 ? rc : 0; /* hosts: what is missing is told when one answers */
}

int trk_farm_new(struct trk_farm **out, const struct trk_farm_options *opt)
{
    static const struct trk_farm_options defaults = {.size = sizeof(defaults)};
    struct trk_farm_options o = defaults;
    struct trk_farm *farm;
    const char *listen;
    char why[256];
    int rc;

    if (opt != NULL && (rc = options_copy(&o, sizeof(o), opt)) < 0) {
        return rc;
    }
    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "Trickle was used after fork: start a new process instead");
    }
    farm = mem_zalloc(1, sizeof(*farm));
    if (farm == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    listen = o.listen != NULL ? o.listen : getenv("TRICKLE_LISTEN");
    listen = listen != NULL && listen[0] != '\0' ? listen : NULL;
    farm_init(farm, &o);
    rc = sys_runtime_dir(o.runtime_dir, farm->runtime_dir, sizeof(farm->runtime_dir), why,
                         sizeof(why));
    if (rc < 0) {
        fail(rc, "%s", why);
        goto fail;
    }
    if ((rc = load_discovery(farm, o.discovery)) < 0 ||
        (rc = load_keys(farm, o.key_file, listen)) < 0 || (rc = make_hello(farm, &o)) < 0 ||
        (listen != NULL && (rc = join_listen(farm, listen)) < 0) ||
        (rc = net_loop_new(&farm->loop)) < 0 ||
        (rc = drive_open(farm)) < 0 || (rc = net_loop_post(farm->loop, open_on_loop, farm)) < 0 ||
        (rc = net_loop_start_thread(farm->loop, "trickle-farm")) < 0) {
        goto fail;
    }
    if (farm->job != NULL) {
        job_tell(farm->job, farm);
    }
    *out = farm;
    return 0;
fail:
    drive_close(farm);
    farm_unref(farm);
    return rc;
}

/* --- closing ---------------- */

static bool has_open_vms(struct trk_farm *farm)
{
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        if (container_of(pos, struct slot, node)->vm != NULL) {
            return true;
        }
    }
    return false;
}

static void close_check(struct trk_farm *farm)
{
    if (has_open_vms(farm)) {
        return;
    }
    pthread_mutex_lock(&farm->mutex);
    if (farm->close_waiter != NULL) {
        waiter_post(farm->close_waiter);
        farm->close_waiter = NULL;
    }
    pthread_mutex_unlock(&farm->mutex);
}

static void close_begin(void *arg)
{
    struct trk_farm *farm = arg;
    struct list *pos;

    farm->is_closing = true;
    vmlist_close_all(farm);
    list_for_each(pos, &farm->slots) {
        lease_end(container_of(pos, struct slot, node));
    }
    farm_touch(farm);
}

static void close_end(void *arg)
{
    struct trk_farm *farm = arg;
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->vm != NULL) {
            net_session_close(slot->vm->session, false);
            vm_set_lost(slot->vm, "the program closed its farm");
            call_fail_all(slot->vm, TRK_ECLOSED);
            trk_vm_unref(slot->vm);
            slot->vm = NULL;
        }
    }
    control_close(farm);
    if (farm->job != NULL) {
        job_tell(farm->job, NULL);
    }
    join_close(farm);
    find_close(farm);
    inject_free_all(farm);
    order_fail_all(farm);
    drive_close(farm);
    uv_close((uv_handle_t *)&farm->tick, NULL);
    uv_close((uv_handle_t *)&farm->prepare, NULL);
    uv_close((uv_handle_t *)&farm->pulse, NULL);
    pthread_mutex_lock(&farm->mutex);
    if (farm->notice_waiter != NULL) {
        waiter_post(farm->notice_waiter);
    }
    pthread_mutex_unlock(&farm->mutex);
    net_loop_stop(farm->loop);
}

void trk_farm_close(struct trk_farm *farm, uint32_t timeout_ms)
{
    struct waiter waiter;
    uint64_t until;
    int rc = TRK_AGAIN;

    if (farm == NULL || sys_is_forked()) {
        return; /* after fork nothing is joined or freed */
    }
    until = sys_now_ns() + (uint64_t)timeout_ms * 1000000u;
    if (waiter_init(&waiter) < 0) {
        return;
    }
    pthread_mutex_lock(&farm->mutex);
    farm->is_closed = true;
    farm->close_waiter = &waiter;
    pthread_mutex_unlock(&farm->mutex);
    if (net_loop_post(farm->loop, close_begin, farm) == 0) {
        while (rc == TRK_AGAIN && sys_now_ns() < until) {
            rc = waiter_wait(&waiter, (int)((until - sys_now_ns()) / 1000000u) + 1);
        }
    }
    pthread_mutex_lock(&farm->mutex);
    farm->close_waiter = NULL;
    pthread_mutex_unlock(&farm->mutex);
    waiter_fini(&waiter);
    if (net_loop_post(farm->loop, close_end, farm) < 0) {
        log_warn("farm", "the loop had stopped before the farm was closed");
    }
    net_loop_join(farm->loop); /* its memory stays until the last object of the farm is freed */
    pthread_mutex_lock(&farm->mutex);
    farm->is_stopped = true;
    pthread_mutex_unlock(&farm->mutex);
    farm_unref(farm);
}
