/* SPDX-License-Identifier: MIT */
/* held.c - what machines hold for this job from when no initiator was there. Farm thread.
 *
 *   elements of a stage have been added --HELD_ASK--> all supervisors
 *   HELD, a result --the element is open, of the same bytes, the code the same--> sched: RESULT of
 *                    no VM -> STORE ... durable -> HELD_DONE, delete
 *   HELD, a state  --the same--> states.c ... durable -> HELD_DONE, delete
 *   HELD of a stage that is not open, or of an element that has not been made yet: keep; it is
 *                    asked for again when that has happened
 *   all else: delete, it belongs to nothing that is, or its element has its result
 *
 * In a job that goes on nothing of a stage runs before all supervisors that are there have handed
 * over what they hold of it (HELD_END), or nothing of it has come for as long as makes a VM
 * suspect: what is done already must not begin once more.
 *
 * Nothing is believed to be this job's because somebody says so: stage, index, the digest of the
 * element and the fingerprint of the code must all be those of the work as it is now. */
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "farm/drive_impl.h"

/* A note that goes out when the store is so far. */
struct answer {
    struct list node; /* farm->answers, ascending by ticket */
    uint64_t ticket;
    struct net_session *session; /* one reference */
    uint8_t type;
    struct wire_note note;
};

static int send_note(struct net_session *session, uint8_t type, const struct wire_note *note)
{
    struct blob *body = wire_note_encode(note);

    if (body == NULL) {
        return TRK_ENOMEM;
    }
    if (net_session_send(session, type, 0, body) < 0) {
        log_debug("farm", "nobody is there any more for a %s", wire_type_name(type));
    }
    return 0;
}

int held_answer(struct trk_farm *farm, struct net_session *session, uint8_t type,
                const struct wire_note *note, uint64_t ticket)
{
    struct answer *answer;
    struct list *pos;

    if (ticket == 0 || ticket <= ckpt_store_durable(farm->job->store)) {
        return send_note(session, type, note);
    }
    answer = mem_zalloc(1, sizeof(*answer));
    if (answer == NULL) {
        return TRK_ENOMEM;
    }
    answer->ticket = ticket;
    answer->session = net_session_ref(session);
    answer->type = type;
    answer->note = *note;
    for (pos = farm->answers.prev; pos != &farm->answers; pos = pos->prev) {
        if (container_of(pos, struct answer, node)->ticket <= ticket) {
            break;
        }
    }
    list_push_front(pos, &answer->node); /* behind pos */
    return 0;
}

static void answer_free(struct answer *answer)
{
    list_remove(&answer->node);
    net_session_unref(answer->session);
    mem_free(answer);
}

void held_durable(struct trk_farm *farm, uint64_t durable)
{
    struct list *pos;
    bool is_any = false;

    while (!list_is_empty(&farm->answers)) {
        struct answer *answer = container_of(farm->answers.next, struct answer, node);
        if (answer->ticket > durable) {
            break;
        }
        is_any = true;
        if (send_note(answer->session, answer->type, &answer->note) < 0) {
            net_session_close(answer->session, false); /* it would wait for ever */
        }
        answer_free(answer);
    }
    list_for_each(pos, &farm->works) {
        if (is_any) {
            states_durable(container_of(pos, struct trk_work, node), durable);
        }
    }
}

void held_close(struct trk_farm *farm)
{
    while (!list_is_empty(&farm->answers)) {
        answer_free(container_of(farm->answers.next, struct answer, node));
    }
}

/* --- asking ---------------- */

static void ask_stage(struct supervisor *sup, struct trk_work *work, uint32_t stage)
{
    if (send_note(sup->session, WIRE_HELD_ASK, &(struct wire_note){.stage = stage}) < 0) {
        net_session_close(sup->session, false); /* it is asked when it is back */
    } else {
        work->asks++;
    }
}

/* Also for what the stages that this one has replaced left: a run in which the list changed knew it
 * to VMs by the number it began with. */
static void ask(struct supervisor *sup, struct trk_work *work)
{
    if (sup->state == SUP_GONE || !sup->has_id || sup->session == NULL) {
        return; /* it is asked when it is there */
    }
    ask_stage(sup, work, work->stage);
    for (uint32_t s = job_stage_previous(work->farm->job, work->stage); s != 0;
         s = job_stage_previous(work->farm->job, s)) {
        ask_stage(sup, work, s);
    }
}

static void wait_for_held(struct trk_work *work)
{
    work->ask_until_ms = net_loop_now_ms(work->farm->loop) + work->farm->suspect_after_ms;
}

/* What there was has come, or does not come in time. */
static void go_on(struct trk_work *work)
{
    work->is_asking = false;
    drive_serve_all(work);
}

void held_pulse(struct trk_farm *farm)
{
    uint64_t now = net_loop_now_ms(farm->loop);
    struct list *pos;

    list_for_each(pos, &farm->works) {
        struct trk_work *work = container_of(pos, struct trk_work, node);
        if (!work->is_open || !work->is_asking || work->ask_until_ms == 0) {
            continue;
        }
        if (now >= work->ask_until_ms) {
            go_on(work);
        } else {
            farm_wake_in(farm, work->ask_until_ms - now);
        }
    }
}

void held_ask(struct supervisor *sup)
{
    struct list *pos;

    list_for_each(pos, &sup->farm->works) {
        struct trk_work *work = container_of(pos, struct trk_work, node);
        if (work->is_open && work->store_stage != 0 && work->known > 0) {
            ask(sup, work);
        }
    }
}

void held_added(struct trk_work *work, uint64_t first, uint64_t count)
{
    struct list *pos;

    work->known = first + count;
    if (work->store_stage == 0 || work->asked_from >= work->known) {
        return;
    }
    work->asked_from = UINT64_MAX;
    list_for_each(pos, &work->farm->supervisors) {
        ask(container_of(pos, struct supervisor, node), work);
    }
    if (work->is_asking && work->ask_until_ms == 0) {
        wait_for_held(work);
    }
    if (work->is_asking && work->asks == 0) {
        go_on(work);
    }
}

/* The work that a stage is now. NULL: none that is open. */
static struct trk_work *work_of(struct trk_farm *farm, uint32_t stage)
{
    struct trk_work *work = drive_work_of(farm, stage);

    return work != NULL ? work : drive_work_of(farm, job_stage_now(farm->job, stage));
}

static int on_end(struct trk_farm *farm, const struct blob *body)
{
    struct wire_note note;
    int rc = wire_note_decode(&note, body);
    struct trk_work *work = rc == 0 ? work_of(farm, note.stage) : NULL;

    /* Of elements that the program has not made again yet there may be more: it is asked for them
     * when it has (held_added). */
    if (work != NULL && work->asks > 0 && --work->asks == 0 && work->is_asking &&
        work->asked_from == UINT64_MAX) {
        go_on(work);
    }
    return rc;
}

/* --- what comes ---------------- */

/* Borrowed until something is recorded. NULL: the element has its result, or was never added. */
const struct digest *held_element(const struct trk_work *work, uint64_t index)
{
    const struct block *block = block_find(work, index);

    if (block == NULL || block->left == 0 || block->digests == NULL) {
        return NULL;
    }
    return &block->digests[index - block->first];
}

static int take_result(struct trk_work *work, const struct wire_held *m, uint64_t *ticket)
{
    struct trk_farm *farm = work->farm;
    bool is_failed = work->retries > 0 && m->status == TRK_STATUS_EXCEPTION;
    struct wire_result head = {.stage = work->stage, .attempt = m->attempt, .first = m->index,
                               .count = 1}, result;
    struct sched_event ev = {.type = is_failed ? SCHED_FAILED : SCHED_RESULT, .vm = SCHED_NO_VM,
                             .stage = work->stage, .attempt = m->attempt, .first = m->index,
                             .count = 1, .failed = !is_failed && m->status != TRK_STATUS_OK};
    struct step step = {.farm = farm, .ev = &ev, .result = &result};
    uint32_t size = (uint32_t)m->size;
    int rc;

    step.body = wire_result_encode(&head, &m->status, &size, m->payload, m->size);
    rc = step.body == NULL ? TRK_ENOMEM : wire_result_decode(&result, step.body);
    rc = rc < 0 ? rc : drive_step(&step);
    blob_unref(step.body);
    /* Not wanted: another result has come, which need not be durable yet. */
    *ticket = step.ticket != 0 ? step.ticket : farm->last_ticket;
    return rc == 0 && step.has_lost ? 1 : rc;
}

static int take_state(struct trk_work *work, const struct wire_held *m,
                      const struct digest *element, uint64_t *ticket)
{
    struct value_state v = {.epoch = (uint32_t)m->epoch, .attempt = m->attempt,
                            .element = *element, .bytes = m->payload, .size = m->size};

    return states_put(work, &v, m->index, ticket);
}

static bool is_of(const struct trk_work *work, const struct wire_held *m,
                  const struct digest *element)
{
    return m->epoch <= work->farm->hello.epoch &&
           memcmp(m->fingerprint, work->fingerprint.bytes, sizeof(m->fingerprint)) == 0 &&
           memcmp(m->element, element->bytes, sizeof(m->element)) == 0;
}

/* 1: keep it, 0: delete it when the ticket is durable. */
static int take(struct trk_farm *farm, const struct wire_held *m, uint64_t *ticket)
{
    struct trk_work *work = work_of(farm, m->stage);
    const struct digest *element;
    int rc;

    if (work == NULL || work->store_stage == 0) {
        return 1;
    }
    if (work->is_asking && work->ask_until_ms != 0) {
        wait_for_held(work);
    }
    if (m->index >= work->known) {
        work->asked_from = m->index < work->asked_from ? m->index : work->asked_from;
        return 1;
    }
    element = held_element(work, m->index);
    if (element == NULL || !is_of(work, m, element)) {
        return 0;
    }
    if (m->kind == WIRE_HELD_STATE) {
        return take_state(work, m, element, ticket);
    }
    if (m->status != TRK_STATUS_OK && farm->job->retry_failed && m->epoch < farm->hello.epoch) {
        return 0; /* as if it had been recorded: it runs again */
    }
    rc = take_result(work, m, ticket);
    log_debug("farm", "a result held by a VM has come: element %llu of %s",
              (unsigned long long)m->index, work->name);
    return rc;
}

int held_on_message(struct supervisor *sup, const struct wire_message *msg)
{
    struct wire_held m;
    uint64_t ticket = 0;
    int rc;

    if (sup->farm->job == NULL) {
        return TRK_ECORRUPT; /* nobody has asked */
    }
    if (msg->type == WIRE_HELD_END) {
        return on_end(sup->farm, msg->body);
    }
    rc = wire_held_decode(&m, msg->body);
    if (rc < 0) {
        return rc;
    }
    rc = take(sup->farm, &m, &ticket);
    if (rc < 0) {
        return rc;
    }
    return held_answer(sup->farm, sup->session, WIRE_HELD_DONE,
                       &(struct wire_note){.seq = m.token, .flag = rc == 0},
                       rc == 0 ? ticket : 0);
}
