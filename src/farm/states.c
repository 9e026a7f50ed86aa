/* SPDX-License-Identifier: MIT */
/* states.c - checkpoints inside elements. Farm thread.
 *
 *   STATE from a VM, or held from an earlier run -> CKPT_STATE in the store, in place of an older
 *   one; durable -> STATE_DONE, the user code goes on
 *   RUN of an element that has a state: the state goes before it, so that it goes on from there
 *   the element's result is recorded: its state is deleted
 *
 * Which elements have one is kept in a table, ascending by index; the bytes are in the store, and
 * in memory only as long as they are not durable there. A state of another element's bytes (the
 * list has been edited) is not used. */
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "farm/drive_impl.h"

struct state {
    uint64_t index;
    uint32_t stage;        /* of the store, that it is kept under */
    uint64_t ticket;       /* durable up to it, it is in the store */
    uint32_t epoch, attempt; /* of the run that made it */
    struct digest element; /* of its bytes */
    struct blob *value;    /* not durable yet: struct value_state; or NULL */
};

struct states {
    struct state *table;
    size_t count, cap;
};

/* The first one of index or behind it. */
static size_t place_of(const struct states *s, uint64_t index)
{
    size_t low = 0, high = s->count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (s->table[mid].index < index) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static int insert(struct states *s, size_t at, const struct state *state)
{
    if (s->count == s->cap) {
        size_t cap = s->cap == 0 ? 16 : 2 * s->cap;
        struct state *table = mem_realloc(s->table, cap * sizeof(*table));
        if (table == NULL) {
            return TRK_ENOMEM;
        }
        s->table = table;
        s->cap = cap;
    }
    memmove(s->table + at + 1, s->table + at, (s->count - at) * sizeof(*s->table));
    s->table[at] = *state;
    s->count++;
    return 0;
}

static void cut(struct states *s, size_t at)
{
    blob_unref(s->table[at].value);
    s->count--;
    memmove(s->table + at, s->table + at + 1, (s->count - at) * sizeof(*s->table));
}

static struct states *table_of(struct trk_work *work)
{
    if (work->states == NULL) {
        work->states = mem_zalloc(1, sizeof(*work->states));
    }
    return work->states;
}

void states_free(struct trk_work *work)
{
    struct states *s = work->states;

    work->states = NULL;
    while (s != NULL && s->count > 0) {
        cut(s, s->count - 1);
    }
    if (s != NULL) {
        mem_free(s->table);
        mem_free(s);
    }
}

/* --- from and to the store ---------------- */

static int load_one(struct trk_work *work, uint32_t stage, uint64_t index,
                    const struct blob *value)
{
    struct states *s = table_of(work);
    struct value_state v;
    size_t at;

    if (s == NULL) {
        return TRK_ENOMEM;
    }
    at = place_of(s, index);
    if (at < s->count && s->table[at].index == index) {
        return 0; /* a newer stage has one */
    }
    if (value_state_decode(&v, value->data, value->size) < 0) {
        log_warn("farm", "the state of element %llu of %s is of another version: it begins anew",
                 (unsigned long long)index, work->name);
        return 0;
    }
    return insert(s, at, &(struct state){.index = index, .stage = stage, .epoch = v.epoch,
                                         .attempt = v.attempt, .element = v.element});
}

static int load(struct trk_work *work, uint32_t stage)
{
    struct ckpt_read_key key = {.size = KEY_STAGE};
    struct blob *value;
    int rc = 0;

    key_put_u32(key.bytes, stage);
    while (rc == 0 && (rc = job_read_next(work->farm->job, CKPT_STATE, &key, &value)) == 0) {
        bool is_ours = key.size == KEY_STAGE_NUMBER && key_get_u32(key.bytes) == stage;
        rc = is_ours ? load_one(work, stage, key_get_u64(key.bytes + KEY_STAGE), value) : TRK_END;
        blob_unref(value);
    }
    return rc == TRK_END ? 0 : rc;
}

/* Also those of the stages it has replaced: what is equal in a changed list goes on. */
int states_open(struct trk_work *work)
{
    int rc = 0;

    for (uint32_t stage = work->store_stage; rc == 0 && stage != 0;
         stage = job_stage_previous(work->farm->job, stage)) {
        rc = load(work, stage);
    }
    return rc;
}

int states_put(struct trk_work *work, const struct value_state *v, uint64_t index,
               uint64_t *ticket)
{
    struct states *s = table_of(work);
    struct state state = {.index = index, .stage = work->store_stage, .epoch = v->epoch,
                          .attempt = v->attempt, .element = v->element};
    struct ckpt_value value = {.count = 1};
    uint8_t key[KEY_STAGE_NUMBER];
    size_t at;
    int rc = s == NULL ? TRK_ENOMEM : 0;

    if (rc < 0) {
        return rc;
    }
    at = place_of(s, index);
    if (at < s->count && s->table[at].index == index) {
        const struct state *old = &s->table[at];
        if (old->epoch > v->epoch || (old->epoch == v->epoch && old->attempt > v->attempt)) {
            *ticket = old->ticket; /* of a run that was given up meanwhile */
            return 0;
        }
    } else if (insert(s, at, &(struct state){.index = index}) < 0) {
        return TRK_ENOMEM;
    }
    state.value = value_state_encode(v);
    if (state.value == NULL) {
        return TRK_ENOMEM; /* one without any digest is never used */
    }
    ckpt_key(key, work->store_stage, index);
    value.blob = state.value;
    value.slices[0] = (struct ckpt_slice){state.value->data, state.value->size};
    rc = ckpt_store_put_record(work->farm->job->store, CKPT_STATE, key, sizeof(key), &value,
                               &state.ticket);
    if (rc < 0) {
        blob_unref(state.value);
        return rc;
    }
    blob_unref(s->table[at].value);
    s->table[at] = state;
    *ticket = work->last_ticket = work->farm->last_ticket = state.ticket;
    return 0;
}

void states_durable(struct trk_work *work, uint64_t durable)
{
    struct states *s = work->states;

    for (size_t i = 0; s != NULL && i < s->count; i++) {
        if (s->table[i].value != NULL && s->table[i].ticket <= durable) {
            blob_unref(s->table[i].value);
            s->table[i].value = NULL;
        }
    }
}

void states_recorded(struct trk_work *work, uint64_t first, uint64_t count)
{
    struct states *s = work->states;
    uint8_t key[KEY_STAGE_NUMBER];
    uint64_t ticket;
    size_t at;

    if (s == NULL) {
        return;
    }
    at = place_of(s, first);
    while (at < s->count && s->table[at].index - first < count) {
        ckpt_key(key, s->table[at].stage, s->table[at].index);
        if (ckpt_store_delete(work->farm->job->store, CKPT_STATE, key, sizeof(key), &ticket) < 0) {
            log_debug("farm", "a state stays in the store"); /* unused, until the job goes */
        } else {
            work->last_ticket = work->farm->last_ticket = ticket;
        }
        cut(s, at);
    }
}

/* --- to VMs ---------------- */

static int send_one(struct trk_work *work, struct slot *slot, const struct state *state)
{
    struct wire_state m = {.stage = work->stage, .index = state->index};
    struct blob *value = state->value != NULL ? blob_ref(state->value) : NULL, *body = NULL;
    struct value_state v;
    uint8_t key[KEY_STAGE_NUMBER];
    int rc = 0;

    if (value == NULL) {
        ckpt_key(key, state->stage, state->index);
        rc = job_read_get(work->farm->job, CKPT_STATE, key, sizeof(key), &value);
    }
    if (rc == 0 && value_state_decode(&v, value->data, value->size) == 0) {
        m.attempt = v.attempt;
        m.bytes = v.bytes;
        m.size = v.size;
        body = wire_state_encode(&m);
        rc = body == NULL ? TRK_ENOMEM
                          : net_session_send(slot->vm->session, WIRE_STATE, 0, body);
    }
    blob_unref(value);
    if (rc == TRK_ENOMEM || rc == TRK_ECLOSED) {
        return rc;
    }
    if (rc != 0) {
        log_warn("farm", "the state of element %llu of %s cannot be read: it begins anew",
                 (unsigned long long)state->index, work->name);
    }
    return 0;
}

int states_send(struct trk_work *work, struct slot *slot, uint64_t first, uint64_t count)
{
    struct states *s = work->states;
    int rc = 0;

    if (s == NULL) {
        return 0;
    }
    for (size_t at = place_of(s, first);
         rc == 0 && at < s->count && s->table[at].index - first < count; at++) {
        const struct digest *element = held_element(work, s->table[at].index);
        if (element != NULL && memcmp(element, &s->table[at].element, sizeof(*element)) == 0) {
            rc = send_one(work, slot, &s->table[at]);
        }
    }
    return rc;
}

/* --- from VMs ---------------- */

int states_on_message(struct slot *slot, const struct blob *body)
{
    struct trk_farm *farm = slot->vm->farm;
    struct wire_state m;
    int rc = wire_state_decode(&m, body);
    struct trk_work *work = rc == 0 ? drive_work_of(farm, m.stage) : NULL;
    const struct digest *element;
    uint64_t ticket = 0;

    if (rc < 0) {
        return rc;
    }
    /* Of a work that was cancelled, or an element that has its result: of no use any more. */
    element = work != NULL && work->store_stage != 0 ? held_element(work, m.index) : NULL;
    if (element != NULL && memcmp(element, m.element, sizeof(*element)) == 0) {
        struct value_state v = {.epoch = (uint32_t)farm->hello.epoch, .attempt = m.attempt,
                                .element = *element, .bytes = m.bytes, .size = m.size};
        rc = states_put(work, &v, m.index, &ticket);
    }
    if (rc < 0) {
        return rc;
    }
    return held_answer(farm, slot->vm->session, WIRE_STATE_DONE,
                       &(struct wire_note){.stage = m.stage, .first = m.index, .seq = m.seq},
                       ticket);
}
