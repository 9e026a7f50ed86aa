/* SPDX-License-Identifier: MIT */
/* held.c - results that VMs made for a farm that had gone: what supervisors keep of them, and how
 * a later run of the job takes them.
 *
 *   VM, lease lost --spool--> supervisor's disk --HELD--> farm: the same element? --> sched, store
 *                                  ^      |                  |
 *                                  |   deleted <--HELD_DONE--+ when it is durable, or never will be
 *                                  +-----kept <--HELD_DONE---- when its stage is not open
 *
 * A result is taken when stage, index, the digest of the element's bytes and the code are the
 * same; it counts as one of SCHED_NO_VM. One whose element has not been added yet waits. */
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/mutate.h"
#include "sim.h"

/* --- the supervisor ------------------------------------------------------------------------ */

static void item_send(struct sim *s, const struct machine *m, struct held_item *item,
                      uint64_t token)
{
    struct wire_held held = {.token = token, .stage = item->stage, .attempt = item->attempt,
                             .index = item->index, .epoch = item->epoch,
                             .kind = WIRE_HELD_RESULT, .status = item->status,
                             .payload = item->payload, .size = item->size};
    memcpy(held.element, item->element.bytes, 16);
    memcpy(held.fingerprint, item->fingerprint, 16);
    item->is_sent = true;
    if (MUTATE(HELD_DELETED, true, false)) {
        spool_delete(s, item);
    }
    net_send(s, net_conn(s, m->watch), TO_FARM, WIRE_HELD, 0, wire_held_encode(&held));
}

void spool_push(struct sim *s, uint32_t machine)
{
    struct machine *m = &s->vms.machines[machine];
    for (uint32_t i = 0; i < m->held_count && !m->is_down && m->watch != CONN_NONE; i++) {
        struct held_item *item = &m->held[i];
        if (!item->is_ready || item->is_gone || item->is_sent ||
            (m->asked >> item->stage & 1) == 0) {
            continue;
        }
        item_send(s, m, item, i + 1);
        if (fault_strikes(s, FAULT_DUPLICATE)) {
            s->tally.faults[FAULT_DUPLICATE]++;
            item_send(s, m, item, i + 1);
        }
    }
}

void spool_on_ready(struct sim *s, uint32_t machine, uint64_t which)
{
    struct machine *m = &s->vms.machines[machine];
    for (uint64_t i = which & UINT32_MAX; i < m->held_count && i < which >> 32; i++) {
        m->held[i].is_ready = true;
    }
    spool_push(s, machine);
}

void spool_delete(struct sim *s, struct held_item *item)
{
    if (!item->is_gone && !item->is_foreign) {
        judge_let_go(s, item->stage - 1, item->index, item->status, item->epoch, item->vm);
    }
    item->is_gone = true;
}

void spool_on_message(struct sim *s, struct conn *c, struct wire_message *msg)
{
    struct machine *m = &s->vms.machines[c->vm];
    struct wire_note note;
    if (m->watch != c->id) {
        return; /* a session that has ended */
    }
    if (wire_note_decode(&note, msg->body) < 0) {
        sim_broken(s, "supervisor %u got a %s that cannot be read", c->vm,
                   wire_type_name(msg->type));
    }
    if (msg->type == WIRE_HELD_ASK) {
        m->asked |= 1u << note.stage;
        for (uint32_t i = 0; i < m->held_count; i++) {
            m->held[i].is_sent = m->held[i].is_sent && m->held[i].stage != note.stage;
        }
        spool_push(s, c->vm);
    } else if (msg->type == WIRE_HELD_DONE && note.flag != 0 && note.seq > 0 &&
               note.seq <= m->held_count && !m->is_down) {
        spool_delete(s, &m->held[note.seq - 1]);
    }
}

/* One that must not be taken: of an edited list, other code, or a copy of the job that is ahead. */
static void add_foreign(struct sim *s, struct held_item *to, const struct held_item *from)
{
    *to = *from;
    to->is_foreign = true;
    to->body = blob_new(from->size + 1);
    if (to->body == NULL) {
        sim_broken(s, "out of memory");
    }
    memcpy(to->body->data, from->payload, from->size);
    to->body->data[0] ^= 1;
    to->payload = to->body->data;
    switch (dice_below(&s->dice, 3)) {
    case 0:
        to->element.bytes[dice_below(&s->dice, 16)] ^= 1;
        break;
    case 1:
        to->fingerprint[dice_below(&s->dice, 16)] ^= 1;
        break;
    default:
        to->epoch += 1000;
        break;
    }
    s->tally.faults[FAULT_FOREIGN]++;
}

static struct held_item *item_new(struct machine *m)
{
    if (m->held_count == m->held_cap) {
        m->held_cap = m->held_cap > 0 ? 2 * m->held_cap : 8;
        m->held = sim_grow(m->held, m->held_cap, sizeof(*m->held));
    }
    return &m->held[m->held_count++];
}

uint32_t spool_add(struct sim *s, const struct vm *vm, const struct agent_kept *kept)
{
    struct machine *m = &s->vms.machines[vm_machine(s, vm->number)];
    struct wire_result r;
    const uint8_t *at;
    if (wire_result_decode(&r, kept->body) < 0) {
        sim_broken(s, "VM %u holds what is no result", vm->number);
    }
    at = r.payloads;
    for (uint32_t i = 0; i < r.count; i++) {
        struct held_item item = {.vm = vm->number, .stage = r.stage, .attempt = r.attempt,
                                 .index = r.first + i, .status = r.statuses[i],
                                 .epoch = agent_holder(vm->agent)->epoch,
                                 .element = kept->digests[i], .payload = at,
                                 .size = le_load_u32(r.sizes + 4 * (size_t)i)};
        memcpy(item.fingerprint, kept->fingerprint, 16);
        if (fault_strikes(s, FAULT_FOREIGN) && item.size > 0) {
            add_foreign(s, item_new(m), &item);
        }
        item.body = blob_ref((struct blob *)(uintptr_t)kept->body);
        *item_new(m) = item;
        at += item.size;
    }
    return r.count;
}

void spool_fini(struct machine *m)
{
    for (uint32_t i = 0; i < m->held_count; i++) {
        blob_unref(m->held[i].body);
    }
    mem_free(m->held);
}

/* --- the farm ------------------------------------------------------------------------------ */

void held_ask(struct sim *s, uint32_t stage)
{
    for (uint32_t i = 0; i < s->vms.machine_count; i++) {
        net_send(s, net_conn(s, s->vms.machines[i].watch), TO_VM, WIRE_HELD_ASK, 0,
                 wire_note_encode(&(struct wire_note){.stage = stage + 1}));
    }
}

void held_done(struct sim *s, uint32_t conn, uint64_t token, bool is_delete)
{
    net_send(s, net_conn(s, conn), TO_VM, WIRE_HELD_DONE, 0,
             wire_note_encode(&(struct wire_note){.seq = token, .flag = is_delete}));
}

static bool is_the_element(struct sim *s, const struct wire_held *h)
{
    uint8_t fingerprint[16];
    struct digest digest = element_digest(s, h->stage - 1, h->index);
    stage_fingerprint(s, h->stage - 1, fingerprint);
    return memcmp(digest.bytes, h->element, 16) == 0 &&
           memcmp(fingerprint, h->fingerprint, 16) == 0 && h->epoch <= s->farm.epoch;
}

static void early_add(struct sim *s, uint32_t conn, const struct blob *body)
{
    struct farm *f = &s->farm;
    f->early = sim_grow(f->early, f->early_count + 1, sizeof(*f->early));
    f->early[f->early_count++] = (struct early){conn, blob_ref((struct blob *)(uintptr_t)body)};
}

static void take(struct sim *s, uint32_t conn, const struct blob *body)
{
    struct wire_held h;
    if (wire_held_decode(&h, body) < 0) {
        sim_broken(s, "a supervisor sent a HELD that cannot be read");
    }
    if (!farm_has_open(s, h.stage)) {
        held_done(s, conn, h.token, false);
    } else if (h.index >= farm_added(s, h.stage)) {
        if (farm_has_closed(s, h.stage)) {
            held_done(s, conn, h.token, true);
        } else {
            early_add(s, conn, body);
        }
    } else if (MUTATE(HELD_UNCHECKED, false, !is_the_element(s, &h))) {
        tell(s, "farm", 0, "refuses a held result %llu of stage %u: it is of something else",
             (unsigned long long)h.index, h.stage);
        held_done(s, conn, h.token, h.epoch <= s->farm.epoch);
    } else {
        tell(s, "farm", 0, "is handed result %llu of stage %u (run %llu of the job, attempt %u)",
             (unsigned long long)h.index, h.stage, (unsigned long long)h.epoch, h.attempt);
        s->tally.handed++;
        farm_hand_over(s, &h);
        store_receipt(s, &(struct receipt){.vm = conn, .is_held = true, .seq = h.token});
    }
    farm_touch(s);
}

void held_on_message(struct sim *s, struct conn *c, const struct blob *body)
{
    take(s, c->id, body);
}

void held_early(struct sim *s)
{
    struct farm *f = &s->farm;
    struct early *early = f->early;
    uint32_t count = f->early_count;
    f->early = NULL;
    f->early_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        take(s, early[i].conn, early[i].body);
        blob_unref(early[i].body);
    }
    mem_free(early);
}

void held_drop(struct sim *s)
{
    for (uint32_t i = 0; i < s->farm.early_count; i++) {
        blob_unref(s->farm.early[i].body);
    }
    mem_free(s->farm.early);
}
