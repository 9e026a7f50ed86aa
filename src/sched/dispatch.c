/* SPDX-License-Identifier: MIT */
/* dispatch.c - after each event: what goes to which VM, and what is asked back.
 *
 * Stages take turns, a batch each, while there is a VM with room for them. When a stage has
 * nothing pending and a VM that serves it is idle, batches that another VM has probably not
 * started are recalled, half at a time: the one rule against stragglers, at the end of a stage
 * and whenever work is scarce. A VM owes at most one answer to a recall, and no more recalls are
 * out than VMs are idle.
 *
 * An element that VMs died of should not meet the last of these again while another one serves
 * its stage, even if that has no room now: a VM that kills everything is idle most of the time,
 * would get each of its victims again at once, and have it quarantined. So the element is held
 * back from that VM, for about as long as another one should need until it has room, and the VM
 * gets what comes next in the queue. That cannot stall the job, since it ends by the clock. Past
 * HELD_LOOKS such elements the VM gets nothing: its victims go first, and then it may be blocked.
 *
 * Whether a recall is worth it depends on the time that the VM still needs for what comes before:
 * its expected time less what has passed since its last report, or, when that has been exceeded,
 * as long again as it has been silent. When only time can make it worth it, SCHED_WAKE_AT. */
#include <assert.h>

#include "base/mark.h"
#include "sched/core.h"
#include "sched/place.h"

#define RECALL_LOOKS 4               /* candidates looked at per step; the others come next */
#define HELD_LOOKS 4                 /* elements that a VM may not have are passed over so often */
#define HOLD_NS UINT64_C(1000000000) /* held back for two elements' time and this */
#define HOLD_UNKNOWN_NS (60 * HOLD_NS) /* or for this while it is not known how long they take */
#define NS_PER_MS UINT64_C(1000000)
#define ESTIMATE_MAX (UINT64_C(1) << 42) /* so that sums over a VM's batches do not overflow */

static struct place place_of(const struct sched *s, const struct stage *st, uint64_t first)
{
    return (struct place){
        .batch_ns = s->opt.batch_ns,
        .batch_max = s->opt.batch_max,
        .batch_bytes = s->opt.batch_bytes,
        .in_flight = s->opt.in_flight,
        .element_ns = st->element_ns,
        .batch_now = st->batch_now,
        .mean_bytes = sched_segments_mean_bytes(&st->elements, first),
        .pending = sched_stage_pending(st),
        .vms = sched_stage_vms(st),
        .is_closed = st->is_closed,
    };
}

/* The slot of the VM that a blamed element killed last, or SCHED_NONE. */
static size_t slot_to_avoid(const struct sched *s, const struct stage *st,
                            const struct element_range *next)
{
    const struct blame *blame;
    const struct vm *vm;
    if (!next->is_blamed) {
        return SCHED_NONE;
    }
    blame = sched_blames_find(&s->blames, st->number, next->first);
    assert(blame != NULL);
    vm = sched_vms_find(&s->vms, blame->vm);
    return vm != NULL ? vm->slot : SCHED_NONE;
}

uint64_t sched_held_until(const struct sched *s, const struct stage *st,
                          const struct element_range *next, size_t vm_slot)
{
    const struct blame *blame;
    uint64_t hold_ns = HOLD_UNKNOWN_NS;
    if (!next->is_blamed || vm_slot == SCHED_NONE || sched_stage_vms(st) < 2 ||
        slot_to_avoid(s, st, next) != vm_slot) {
        return 0;
    }
    blame = sched_blames_find(&s->blames, st->number, next->first);
    if (st->element_ns > 0) {
        uint64_t each = st->element_ns < ESTIMATE_MAX ? st->element_ns : ESTIMATE_MAX;
        hold_ns = HOLD_NS + 2 * each;
    }
    return blame->own_deaths > 0 && blame->since_ns + hold_ns > s->now_ns
               ? blame->since_ns + hold_ns
               : 0;
}

static void assign(struct sched *s, struct stage *st, struct vm *vm,
                   const struct element_range *range, bool is_long)
{
    struct batch *b;
    struct sched_action *a;
    if (vm->load == 0) {
        vm->report_ns = s->now_ns;
    }
    b = sched_batch_begin(vm, st, range);
    sched_segments_assign(&st->elements, range, vm->slot, sched_batch_index(b));
    b->attempt = sched_segments_get(&st->elements, range->first)->attempt;
    b->is_long = is_long;
    b->may_double = st->is_speculating && !range->is_blamed;
    sched_vm_refresh(&s->vms, vm);
    if (b->attempt > 1) {
        st->reissued += range->count;
    }
    a = sched_action_add(s, SCHED_ASSIGN);
    a->stage = st->number;
    a->vm = vm->number;
    a->attempt = b->attempt;
    a->first = range->first;
    a->count = range->count;
}

/* Assigns one batch of the stage if there is a VM for it. *wake_ns: when an element that was held
 * back need not be any more, if that is earlier. */
static bool assign_one(struct sched *s, struct stage *st, uint64_t *wake_ns)
{
    struct element_range range = {0};
    for (int looks = 0; looks < HELD_LOOKS; looks++) {
        uint64_t held_ns;
        struct place p;
        size_t avoid, slot;
        if (!sched_segments_peek(&st->elements, looks > 0 ? range.first + 1 : 0, 1, &range)) {
            return false;
        }
        p = place_of(s, st, range.first);
        avoid = slot_to_avoid(s, st, &range);
        held_ns = sched_held_until(s, st, &range, avoid);
        slot = sched_place_vm(s->vms.room, sched_place_load_max(&p), &st->serves, avoid,
                              held_ns > 0);
        if (slot != SCHED_NONE) {
            bool is_there =
                sched_segments_peek(&st->elements, range.first, sched_place_size(&p), &range);
            assert(is_there);
            assign(s, st, s->vms.slots[slot], &range, range.is_blamed || sched_place_is_long(&p));
            return is_there;
        }
        if (held_ns == 0) {
            return false;
        }
        MARK("an element is held back from the VM it died on");
        *wake_ns = held_ns < *wake_ns ? held_ns : *wake_ns;
    }
    return false;
}

static bool has_room(const struct sched *s)
{
    for (uint32_t load = 0; load < s->opt.in_flight; load++) {
        if (sched_bits_next(&s->vms.room[load], 0) != SCHED_NONE) {
            return true;
        }
    }
    return false;
}

/* A stage that was served goes to the end of the queue and is looked at again; one that found no
 * VM keeps its place. Assigning only takes room away, so one pass is enough. Returns when to look
 * again, UINT64_MAX: when something comes. */
static uint64_t assign_all(struct sched *s)
{
    uint64_t wake_ns = UINT64_MAX;
    struct list *pos = s->hungry.next;
    while (pos != &s->hungry && has_room(s)) {
        struct stage *st = container_of(pos, struct stage, in_hungry);
        struct list *next = pos->next;
        if (assign_one(s, st, &wake_ns)) {
            sched_stage_settle(s, st);
            if (!list_is_empty(&st->in_hungry)) {
                list_remove(&st->in_hungry);
                list_push_back(&s->hungry, &st->in_hungry);
                next = next == &s->hungry ? pos : next;
            }
        }
        pos = next;
    }
    return wake_ns;
}

/* How many of a batch to ask back: half of what has not started, rounded up. */
static uint32_t recall_size(const struct batch *b)
{
    uint32_t unstarted = sched_batch_unstarted(b);
    assert(unstarted > 0);
    return unstarted / 2 + unstarted % 2;
}

/* When it is worth asking for the end of this batch. */
static uint64_t recall_due_ns(const struct sched *s, const struct batch *b)
{
    uint64_t worth = s->opt.batch_ns / 2;
    uint64_t before = 0; /* expected time for what the VM does before the part to recall */
    uint64_t passed = s->now_ns - b->vm->report_ns;
    struct list *pos;
    list_for_each(pos, &b->vm->queue) {
        const struct batch *ahead = container_of(pos, struct batch, in_vm);
        uint64_t each = ahead->stage->element_ns;
        each = each < ESTIMATE_MAX ? each : ESTIMATE_MAX;
        before += each * (ahead == b ? b->left - recall_size(b) : ahead->left);
        if (ahead == b) {
            break;
        }
    }
    if (before > passed + worth || (passed > before && passed > worth)) {
        return s->now_ns;
    }
    return b->vm->report_ns + (before > worth ? before : worth) + 1;
}

/* Asks for the end of a batch, up to its very end: also for what has been returned from elsewhere
 * meanwhile, which need not run. */
static void recall_part(struct sched *s, struct batch *b)
{
    struct vm *vm = b->vm;
    uint32_t wanted = recall_size(b);
    uint64_t end = b->first + b->count;
    uint64_t first = end;
    while (wanted > 0) {
        first--;
        assert(first >= b->first);
        wanted -= sched_batch_element(b, first) != NULL;
    }
    vm->recall = b->stage;
    vm->recall_first = first;
    vm->recall_count = end - first;
    s->vms.recalls++;
    sched_action_range(s, SCHED_RECALL, b->stage, first, end - first);
    s->actions[s->action_count - 1].vm = vm->number;
    sched_vm_refresh(&s->vms, vm);
}

/* When an idle VM could take over from this batch, and has nothing else to do: 0 for at once,
 * UINT64_MAX for never as things are. Not the VM that it is held back from: what came back would
 * go to the same VM again, and so on. */
static uint64_t missed_ns(const struct sched *s, const struct batch *b)
{
    const struct element *e = sched_batch_element(b, b->first); /* a blamed one is alone */
    struct element_range next = {.first = b->first, .count = 1,
                                 .is_blamed = e != NULL && sched_element_is_blamed(e)};
    size_t slot = sched_bits_next_both(&s->vms.room[0], &b->stage->serves, 0);
    uint64_t held_ns;
    if (slot == SCHED_NONE || sched_stage_pending(b->stage) >= HELD_LOOKS) {
        return UINT64_MAX; /* what is pending although a VM is idle is held back from it */
    }
    held_ns = sched_held_until(s, b->stage, &next, slot);
    return sched_bits_next_both(&s->vms.room[0], &b->stage->serves, slot + 1) == SCHED_NONE
               ? held_ns
               : 0;
}

/* When it is worth asking for the end of this batch for an idle VM; UINT64_MAX: there is none. */
static uint64_t recall_ns(const struct sched *s, const struct batch *b)
{
    uint64_t at_ns = missed_ns(s, b);
    uint64_t due_ns = at_ns != UINT64_MAX ? recall_due_ns(s, b) : UINT64_MAX;
    at_ns = at_ns > b->vm->ask_ns ? at_ns : b->vm->ask_ns;
    return at_ns > due_ns ? at_ns : due_ns;
}

/* Of this VM's batches that are worth recalling, of which b is one, the last: it waits longest. */
static struct batch *last_worth(const struct sched *s, struct batch *b)
{
    struct list *pos = b->vm->queue.prev;
    for (; pos != &b->in_vm; pos = pos->prev) {
        struct batch *later = container_of(pos, struct batch, in_vm);
        if (!list_is_empty(&later->in_recallable) && recall_ns(s, later) <= s->now_ns) {
            return later;
        }
    }
    return b;
}

/* Recalls what idle VMs could do. Returns when to look again, UINT64_MAX: when something comes. */
static uint64_t recall_some(struct sched *s)
{
    uint64_t wake_ns = UINT64_MAX;
    struct list *seen = NULL; /* the first one that was passed over */
    for (int looks = 0; looks < RECALL_LOOKS && s->vms.recalls < s->vms.idle; looks++) {
        struct list *pos = s->vms.recallable.next;
        struct batch *b = container_of(pos, struct batch, in_recallable);
        uint64_t due_ns;
        if (list_is_empty(&s->vms.recallable) || pos == seen) {
            return wake_ns;
        }
        due_ns = recall_ns(s, b);
        if (due_ns <= s->now_ns) {
            MARK("part of a batch is recalled for an idle VM");
            recall_part(s, last_worth(s, b));
            continue;
        }
        wake_ns = due_ns < wake_ns ? due_ns : wake_ns;
        list_remove(pos);
        list_push_back(&s->vms.recallable, pos);
        seen = seen != NULL ? seen : pos;
    }
    if (s->vms.recalls < s->vms.idle && !list_is_empty(&s->vms.recallable)) {
        uint64_t soon = s->now_ns + s->opt.batch_ns; /* the others in turn */
        wake_ns = soon < wake_ns ? soon : wake_ns;
    }
    return wake_ns;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Elements whose back-off has passed are pending again. Returns when the next ones will be. */
static uint64_t release_due(struct sched *s)
{
    uint64_t wake_ns = UINT64_MAX;
    struct list *pos, *tmp;
    list_for_each_safe(pos, tmp, &s->delayed) {
        struct stage *st = container_of(pos, struct stage, in_delayed);
        sched_segments_release(&st->elements, s->now_ns / NS_PER_MS);
        sched_stage_settle(s, st);
        if (!list_is_empty(&st->in_delayed)) {
            wake_ns = earlier(wake_ns, st->elements.due_ms * NS_PER_MS);
        }
    }
    return wake_ns;
}

void sched_dispatch(struct sched *s)
{
    uint64_t wake_ns = release_due(s);
    wake_ns = earlier(wake_ns, assign_all(s));
    if (s->vms.idle > 0) {
        wake_ns = earlier(wake_ns, recall_some(s));
        if (!list_is_empty(&s->speculating)) {
            wake_ns = earlier(wake_ns, sched_double_some(s));
        }
    }
    if (wake_ns != UINT64_MAX && (wake_ns < s->wake_ns || s->wake_ns <= s->now_ns)) {
        sched_action_add(s, SCHED_WAKE_AT)->at_ns = wake_ns;
        s->wake_ns = wake_ns;
    }
}
