/* SPDX-License-Identifier: MIT */
/* list.c - connect, the lists it returns, and listing VMs without leasing them.
 *
 * A list has two faces: slots, which the farm thread fills as VMs come and go, and entries, the
 * handles as the program saw them at its last refresh. So the program's indices never shift under
 * its feet, and the scheduler still uses a new VM at once. */
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/farm_impl.h"

struct trk_vmlist *vmlist_ref(struct trk_vmlist *list)
{
    atomic_fetch_add_explicit(&list->refs, 1, memory_order_relaxed);
    return list;
}

void vmlist_unref(struct trk_vmlist *list)
{
    if (list == NULL || atomic_fetch_sub_explicit(&list->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    for (size_t i = 0; i < list->entries_count; i++) {
        trk_vm_unref(list->entries[i].vm);
    }
    mem_free(list->entries);
    mem_free(list->slots);
    farm_unref(list->farm);
    mem_free(list);
}

bool vmlist_has(const struct trk_vmlist *list, const struct slot *slot)
{
    for (size_t i = 0; i < list->slots_count; i++) {
        if (list->slots[i] == slot) {
            return true;
        }
    }
    return false;
}

int vmlist_add(struct trk_vmlist *list, struct slot *slot)
{
    int rc = 0;

    pthread_mutex_lock(&list->farm->mutex);
    if (list->slots_count == list->slots_cap) {
        size_t cap = list->slots_cap ? list->slots_cap * 2 : 16;
        struct slot **slots = mem_realloc(list->slots, cap * sizeof(struct slot *));
        if (slots == NULL) {
            rc = TRK_ENOMEM;
        } else {
            list->slots = slots;
            list->slots_cap = cap;
        }
    }
    if (rc == 0) {
        /* By number, not by who answered first: VM 0 is the same one in every run. */
        size_t at = list->slots_count++;
        for (; at > 0 && list->slots[at - 1]->number > slot->number; at--) {
            list->slots[at] = list->slots[at - 1];
        }
        list->slots[at] = slot;
    }
    pthread_mutex_unlock(&list->farm->mutex);
    return rc;
}

/* --- connecting, farm thread ---------------- */

static void set_state(struct trk_vmlist *list, enum vmlist_state state)
{
    pthread_mutex_lock(&list->farm->mutex);
    list->state = state;
    if (list->waiter != NULL) {
        waiter_post(list->waiter);
    }
    pthread_mutex_unlock(&list->farm->mutex);
}

/* Takes the list out of the farm. Its VMs that no other list wants are given back. */
static void forget(struct trk_vmlist *list, enum vmlist_state state)
{
    if (list->state == VMLIST_CLOSED || list->state == VMLIST_FAILED) {
        return;
    }
    inject_forget_list(list->farm, list);
    set_state(list, state);
    pthread_mutex_lock(&list->farm->mutex);
    list_remove(&list->node);
    pthread_mutex_unlock(&list->farm->mutex);
    farm_touch(list->farm);
    vmlist_unref(list);
}

static uint32_t count_live(const struct trk_vmlist *list)
{
    uint32_t live = 0;

    for (size_t i = 0; i < list->slots_count; i++) {
        live += slot_is_live(list->slots[i]);
    }
    return live;
}

static void describe_shortage(struct trk_vmlist *list, uint32_t live)
{
    struct trk_farm *farm = list->farm;
    uint32_t leased = 0, failing = 0;
    bool is_listening = farm->listening[0] != '\0';
    char owner[TRK_VM_TEXT_MAX] = "", note[TRK_VM_TEXT_MAX] = "", more[400] = "";
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->lease == LEASE_FREE && slot->sup != NULL) {
            if (slot->info.state == TRK_VM_LEASED || slot->info.state == TRK_VM_FINISHING) {
                leased++;
                snprintf(owner, sizeof(owner), "%s", slot->info.owner);
            } else if (slot->info.state == TRK_VM_FAILING) {
                failing++;
                snprintf(note, sizeof(note), "%s", slot->info.note);
            }
        }
    }
    if (leased > 0) {
        snprintf(more, sizeof(more), "; %u more serve others (%s)", leased, owner);
    }
    if (failing > 0) {
        size_t n = strlen(more);
        snprintf(more + n, sizeof(more) - n, "; %u fail to start (%s)", failing, note);
    }
    pthread_mutex_lock(&farm->mutex);
    if (live == 0 && leased == 0 && failing == 0) {
        snprintf(list->text, sizeof(list->text), "no Trickle VMs answered; start some with: "
                 "trickle vm%s%s", is_listening ? " --join " : "", farm->listening);
    } else if (list->max == 0) {
        snprintf(list->text, sizeof(list->text), "no Trickle VM is free%s; start more with: "
                 "trickle vm", more);
    } else {
        snprintf(list->text, sizeof(list->text), "asked for %u VMs, found %u free%s; start more "
                 "with: trickle vm -n %u", list->max, live, more, list->max - live);
    }
    pthread_mutex_unlock(&farm->mutex);
}

/* Some VM that could be leased at once is not being tried, because it waits for its next try, or
 * is just being given back. */
static bool has_candidates(struct trk_farm *farm)
{
    struct list *pos;

    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        bool is_coming_back = slot->lease == LEASE_HELD && slot->vm->is_given_back;
        if (is_coming_back || slot_is_promising(slot)) {
            return true;
        }
    }
    return false;
}

/* A resumed job waits for VMs that finish what they run for a program that has gone: that was
 * probably its own last run, and who resumes at once should not be told to start more VMs. */
static bool has_finishing(struct trk_vmlist *list)
{
    struct trk_farm *farm = list->farm;
    const struct slot *finishing = NULL;
    uint32_t count = 0;
    struct list *pos;

    if (farm->job == NULL || farm->job->epoch < 2 || list->wait_ms > 0) {
        return false;
    }
    list_for_each(pos, &farm->slots) {
        const struct slot *slot = container_of(pos, struct slot, node);
        if (slot->lease == LEASE_FREE && slot->sup != NULL &&
            slot->info.state == TRK_VM_FINISHING) {
            finishing = slot;
            count++;
        }
    }
    if (count > 0 && !list->has_said) {
        list->has_said = true;
        notice_message(farm, TRK_NOTICE_MESSAGE, NULL, "waiting for %u VM%s that finish%s what %s "
                       "for %s", count, count == 1 ? "" : "s", count == 1 ? "es" : "",
                       count == 1 ? "it runs" : "they run", finishing->info.owner);
    }
    return count > 0;
}

static void check_one(struct trk_vmlist *list)
{
    struct trk_farm *farm = list->farm;
    uint32_t live = count_live(list);
    uint64_t now = net_loop_now_ms(farm->loop);

    if (list->max > 0 && live >= list->max) {
        set_state(list, VMLIST_READY);
        return;
    }
    if (!find_is_complete(farm) || has_candidates(farm)) {
        return;
    }
    if (now < list->deadline_ms && (live == 0 || list->need_all)) {
        farm_wake_in(farm, list->deadline_ms - now);
        return;
    }
    if (live == 0 || (list->need_all && live < list->max)) {
        if (has_finishing(list)) {
            return;
        }
        describe_shortage(list, live);
        forget(list, VMLIST_FAILED);
        return;
    }
    set_state(list, VMLIST_READY);
}

void vmlist_check(struct trk_farm *farm)
{
    struct list *pos, *tmp;

    list_for_each_safe(pos, tmp, &farm->vmlists) {
        struct trk_vmlist *list = container_of(pos, struct trk_vmlist, node);
        if (list->state == VMLIST_FINDING) {
            check_one(list);
        }
    }
}

void vmlist_close_all(struct trk_farm *farm)
{
    while (!list_is_empty(&farm->vmlists)) {
        forget(container_of(farm->vmlists.next, struct trk_vmlist, node), VMLIST_CLOSED);
    }
}

static void start_on_loop(void *arg)
{
    struct trk_vmlist *list = arg;
    struct trk_farm *farm = list->farm;

    if (farm->is_closing) {
        set_state(list, VMLIST_CLOSED);
        vmlist_unref(list);
        return;
    }
    list->deadline_ms = net_loop_now_ms(farm->loop) + list->wait_ms;
    if (list->deadline_ms < farm->listen_until_ms) {
        list->deadline_ms = farm->listen_until_ms;
    }
    pthread_mutex_lock(&farm->mutex);
    list_push_back(&farm->vmlists, &list->node);
    pthread_mutex_unlock(&farm->mutex);
    find_ask(farm);
}

static void close_on_loop(void *arg)
{
    struct trk_vmlist *list = arg;

    forget(list, VMLIST_CLOSED);
    drive_list_closed(list->farm);
    /* At once: a connect that follows in the same turn gets fresh VMs, not what was used here. */
    lease_release_unused(list->farm);
    vmlist_unref(list);
}

/* --- connecting, program threads ---------------- */

int trk_connect_start(struct trk_farm *farm, uint32_t max, bool need_all, uint32_t wait_ms,
                      struct trk_vmlist **out)
{
    struct trk_vmlist *list;
    int rc = farm_usable(farm);

    if (rc < 0) {
        return rc;
    }
    list = mem_zalloc(1, sizeof(*list));
    if (list == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    atomic_init(&list->refs, 2);
    list->farm = farm_ref(farm);
    list->max = max;
    list->need_all = need_all;
    list->wait_ms = wait_ms;
    list_init(&list->node);
    rc = net_loop_post(farm->loop, start_on_loop, list);
    if (rc < 0) {
        vmlist_unref(list);
        vmlist_unref(list);
        return fail(rc, "the farm is closed");
    }
    *out = list;
    return 0;
}

int trk_connect_wait(struct trk_vmlist *list, int timeout_ms)
{
    struct trk_farm *farm = list->farm;
    struct waiter waiter;
    enum vmlist_state state;

    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "Trickle was used after fork");
    }
    if (waiter_init(&waiter) < 0) {
        return fail(TRK_EIO, "cannot make a semaphore");
    }
    pthread_mutex_lock(&farm->mutex);
    if (list->state == VMLIST_FINDING && timeout_ms != 0) {
        list->waiter = &waiter;
        pthread_mutex_unlock(&farm->mutex);
        waiter_wait(&waiter, timeout_ms);
        pthread_mutex_lock(&farm->mutex);
        list->waiter = NULL;
    }
    state = list->state;
    pthread_mutex_unlock(&farm->mutex);
    waiter_fini(&waiter);
    switch (state) {
    case VMLIST_FINDING:
        return TRK_AGAIN;
    case VMLIST_READY:
        trk_vmlist_refresh(list);
        return 0;
    case VMLIST_FAILED:
        return fail(TRK_ENOVMS, "%s", list->text);
    case VMLIST_CLOSED:
        break;
    }
    return fail(TRK_ECLOSED, "the list of VMs is closed");
}

/* Under the mutex: the live handle of a slot, or NULL. */
static struct trk_vm *live_vm(const struct slot *slot)
{
    struct trk_vm *vm = slot->vm;
    return vm != NULL && atomic_load(&vm->is_welcome) && !atomic_load(&vm->is_lost) ? vm : NULL;
}

static struct vmlist_entry *entry_of(struct trk_vmlist *list, const struct slot *slot)
{
    for (size_t i = 0; i < list->entries_count; i++) {
        if (list->entries[i].slot == slot) {
            return &list->entries[i];
        }
    }
    return NULL;
}

/* Under the mutex. */
static void entry_set(struct trk_vmlist *list, struct slot *slot, struct trk_vm *vm)
{
    struct vmlist_entry *entry = entry_of(list, slot);

    if (entry == NULL) {
        if (list->entries_count == list->entries_cap) {
            size_t cap = list->entries_cap ? list->entries_cap * 2 : 16;
            struct vmlist_entry *entries = mem_realloc(list->entries, cap * sizeof(*entries));
            if (entries == NULL) {
                return; /* the program sees it at a later refresh */
            }
            list->entries = entries;
            list->entries_cap = cap;
        }
        entry = &list->entries[list->entries_count++];
        *entry = (struct vmlist_entry){.slot = slot};
    }
    if (entry->vm != vm) {
        struct trk_vm *old = entry->vm;
        entry->vm = trk_vm_ref(vm);
        trk_vm_unref(old);
    }
}

size_t trk_vmlist_refresh(struct trk_vmlist *list)
{
    size_t n;

    if (sys_is_forked()) {
        return list->entries_count;
    }
    pthread_mutex_lock(&list->farm->mutex);
    for (size_t i = 0; i < list->slots_count && list->state == VMLIST_READY; i++) {
        struct trk_vm *vm = live_vm(list->slots[i]);
        if (vm != NULL) {
            entry_set(list, list->slots[i], vm);
        }
    }
    n = list->entries_count;
    pthread_mutex_unlock(&list->farm->mutex);
    return n;
}

size_t trk_vmlist_length(const struct trk_vmlist *list)
{
    size_t n;

    pthread_mutex_lock(&list->farm->mutex);
    n = list->entries_count;
    pthread_mutex_unlock(&list->farm->mutex);
    return n;
}

struct trk_vm *trk_vmlist_get(struct trk_vmlist *list, size_t i)
{
    struct trk_vm *vm = NULL;

    pthread_mutex_lock(&list->farm->mutex);
    if (i < list->entries_count) {
        vm = trk_vm_ref(list->entries[i].vm);
    }
    pthread_mutex_unlock(&list->farm->mutex);
    return vm;
}

void trk_vmlist_close(struct trk_vmlist *list)
{
    if (sys_is_forked()) {
        return;
    }
    vmlist_ref(list);
    if (net_loop_post(list->farm->loop, close_on_loop, list) < 0) {
        vmlist_unref(list); /* the farm has ended, and with it all leases */
    }
}

void trk_vmlist_free(struct trk_vmlist *list)
{
    if (list != NULL && !sys_is_forked()) {
        trk_vmlist_close(list);
        vmlist_unref(list);
    }
}

/* --- listing ---------------- */

struct listing {
    struct list node; /* farm->listings */
    struct trk_farm *farm;
    struct waiter waiter;
    struct trk_vm_info *infos;
    size_t count;
    int error;
    bool is_done; /* [m] */
    bool is_abandoned; /* [m] the program no longer waits: the farm thread frees it */
};

static void listing_free(struct listing *l)
{
    waiter_fini(&l->waiter);
    mem_free(l->infos);
    mem_free(l);
}

static void listing_fill(struct listing *l)
{
    struct trk_farm *farm = l->farm;
    struct list *pos;

    l->infos = mem_zalloc(farm->slots_count > 0 ? farm->slots_count : 1, sizeof(*l->infos));
    if (l->infos == NULL) {
        l->error = TRK_ENOMEM;
        return;
    }
    list_for_each(pos, &farm->slots) {
        struct slot *slot = container_of(pos, struct slot, node);
        if (slot->sup != NULL) {
            l->infos[l->count++] = slot->info;
        }
    }
}

static void listing_finish(struct listing *l)
{
    bool is_abandoned;

    list_remove(&l->node);
    pthread_mutex_lock(&l->farm->mutex);
    l->is_done = true;
    is_abandoned = l->is_abandoned;
    if (!is_abandoned) {
        waiter_post(&l->waiter);
    }
    pthread_mutex_unlock(&l->farm->mutex);
    if (is_abandoned) {
        listing_free(l);
    }
}

void listing_check(struct trk_farm *farm)
{
    if (list_is_empty(&farm->listings) || !find_is_complete(farm)) {
        return;
    }
    while (!list_is_empty(&farm->listings)) {
        struct listing *l = container_of(farm->listings.next, struct listing, node);
        listing_fill(l);
        listing_finish(l);
    }
}

static void listing_on_loop(void *arg)
{
    struct listing *l = arg;

    list_push_back(&l->farm->listings, &l->node);
    if (l->farm->is_closing) {
        l->error = TRK_ECLOSED;
        listing_finish(l);
        return;
    }
    find_ask(l->farm);
}

int trk_vms_list(struct trk_farm *farm, int timeout_ms, struct trk_vm_info **out, size_t *count)
{
    struct listing *l;
    uint64_t until = sys_now_ns() + (uint64_t)(timeout_ms < 0 ? 5000 : timeout_ms) * 1000000u;
    int rc = farm_usable(farm);

    if (rc < 0) {
        return rc;
    }
    l = mem_zalloc(1, sizeof(*l));
    if (l == NULL || waiter_init(&l->waiter) < 0) {
        mem_free(l);
        return fail(TRK_ENOMEM, "out of memory");
    }
    list_init(&l->node);
    l->farm = farm;
    rc = net_loop_post(farm->loop, listing_on_loop, l);
    if (rc < 0) {
        listing_free(l);
        return fail(rc, "the farm is closed");
    }
    while (waiter_wait(&l->waiter, 50) == TRK_AGAIN && sys_now_ns() < until) {
    }
    pthread_mutex_lock(&farm->mutex);
    l->is_abandoned = !l->is_done;
    rc = l->is_done ? l->error : TRK_ETIMEDOUT;
    pthread_mutex_unlock(&farm->mutex);
    if (rc == TRK_ETIMEDOUT && l->is_abandoned) {
        return fail(rc, "not all supervisors of VMs answered in time");
    }
    if (rc == 0) {
        *out = l->infos;
        *count = l->count;
        l->infos = NULL;
    }
    listing_free(l);
    return rc < 0 ? fail(rc, "%s", trk_strerror(rc)) : 0;
}

void trk_vms_list_free(struct trk_vm_info *infos)
{
    mem_free(infos);
}
