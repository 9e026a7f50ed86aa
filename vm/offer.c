/* SPDX-License-Identifier: MIT */
/* offer.c - what this machine holds for a job, handed to the initiator that has come with it.
 *
 *   HELD_ASK(stage)  -> its records in all files of the job become DUE
 *   pump             -> DUE records go out as HELD, some at a time        FLYING
 *                       none is DUE any more: HELD_END for each HELD_ASK
 *   HELD_DONE        -> delete: GONE; a file all of whose records are gone is deleted
 *                       keep: KEPT until the stage is asked for again
 *
 * All of this belongs to one watch session; the files are the truth, and when it ends nothing is
 * lost but what it knew. Another supervisor of this machine may hand over the same records, and
 * delete the files: to hear twice of a result is nothing new for an initiator. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "vm/spool.h"
#include "vm/supervisor.h"

#define FLYING_MAX 4096u               /* messages without an answer */
#define FLYING_BYTES ((size_t)8 << 20) /* their payloads; one always goes */

enum record_state { KEPT, DUE, FLYING, GONE };

/* One file. */
struct offered {
    struct list link; /* in offer.files */
    struct spool_file *file;
    uint32_t number;  /* in tokens */
    uint32_t next;    /* records before it are not DUE */
    uint32_t gone;    /* records that are */
    uint8_t states[]; /* enum record_state of each record */
};

struct offer {
    const char *home; /* borrowed */
    uint8_t job[16];
    struct net_session *session; /* borrowed */
    struct list files;
    uint32_t numbers; /* given to files */
    uint32_t *asked;  /* stages, ascending */
    size_t asked_count, asked_cap;
    uint32_t *ending; /* stages whose HELD_END is to come, oldest first */
    size_t ending_count, ending_cap;
    size_t flying, flying_bytes;
};

struct offer *offer_new(const char *home, const uint8_t job[16], struct net_session *session)
{
    struct offer *o = mem_zalloc(1, sizeof(*o));
    if (o != NULL) {
        o->home = home;
        o->session = session;
        memcpy(o->job, job, 16);
        list_init(&o->files);
    }
    return o;
}

static void offered_free(struct offered *f)
{
    list_remove(&f->link);
    spool_close(f->file);
    mem_free(f);
}

void offer_free(struct offer *o)
{
    struct list *pos, *tmp;
    if (o != NULL) {
        list_for_each_safe(pos, tmp, &o->files) {
            offered_free(container_of(pos, struct offered, link));
        }
        mem_free(o->asked);
        mem_free(o->ending);
        mem_free(o);
    }
}

/* --- stages that were asked for ----------------------------------------------------------- */

/* Where it is, or belongs. */
static size_t asked_place(const struct offer *o, uint32_t stage)
{
    size_t low = 0, high = o->asked_count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (o->asked[mid] < stage) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static bool is_asked(const struct offer *o, uint32_t stage)
{
    size_t at = asked_place(o, stage);
    return at < o->asked_count && o->asked[at] == stage;
}

static int make_room(uint32_t **stages, size_t count, size_t *cap)
{
    if (count == *cap) {
        size_t more = *cap == 0 ? 16 : 2 * *cap;
        uint32_t *larger = mem_realloc(*stages, more * sizeof(*larger));
        if (larger == NULL) {
            return TRK_ENOMEM;
        }
        *stages = larger;
        *cap = more;
    }
    return 0;
}

static int add_asked(struct offer *o, uint32_t stage)
{
    size_t at = asked_place(o, stage);
    if (make_room(&o->asked, o->asked_count, &o->asked_cap) < 0 ||
        make_room(&o->ending, o->ending_count, &o->ending_cap) < 0) {
        return TRK_ENOMEM;
    }
    o->ending[o->ending_count++] = stage;
    if (at < o->asked_count && o->asked[at] == stage) {
        return 0;
    }
    memmove(o->asked + at + 1, o->asked + at, (o->asked_count - at) * sizeof(*o->asked));
    o->asked[at] = stage;
    o->asked_count++;
    return 0;
}

/* --- files -------------------------------------------------------------------------------- */

static bool is_known(const struct offer *o, const char *name)
{
    struct list *pos;
    list_for_each(pos, &o->files) {
        const struct offered *f = container_of(pos, struct offered, link);
        if (strcmp(spool_name(f->file), name) == 0) {
            return true;
        }
    }
    return false;
}

/* All of it is done with, or damaged. */
static bool end_file(struct offered *f)
{
    if (f->gone < spool_count(f->file)) {
        return false;
    }
    spool_delete(f->file);
    offered_free(f);
    return true;
}

static void on_file(void *ctx, const char *name)
{
    struct offer *o = ctx;
    struct spool_file *file;
    if (is_known(o, name)) {
        return;
    }
    int rc = spool_open(&file, o->home, o->job, name);
    if (rc != 0) {
        log_write(rc == TRK_END ? LOG_DEBUG : LOG_WARN, "vm", "held results: %s", fail_text());
        if (rc == TRK_ECORRUPT) {
            spool_remove(o->home, o->job, name); /* there is nothing to be found in it */
        }
        return;
    }
    uint32_t count = spool_count(file);
    struct offered *f = mem_zalloc(1, sizeof(*f) + count);
    if (f == NULL) {
        spool_close(file);
        return; /* the next look finds it again */
    }
    f->file = file;
    f->number = ++o->numbers;
    for (uint32_t i = 0; i < count; i++) {
        f->states[i] = is_asked(o, spool_stage(file, i)) ? DUE : KEPT;
    }
    list_push_back(&o->files, &f->link);
    end_file(f); /* none of its records can be read */
}

/* --- sending ------------------------------------------------------------------------------ */

static bool has_room(const struct offer *o)
{
    return o->flying == 0 || (o->flying < FLYING_MAX && o->flying_bytes < FLYING_BYTES);
}

static struct blob *make_held(struct offered *f, uint32_t i, int *rc)
{
    struct spool_entry e;
    struct blob *payload, *body;
    *rc = spool_read(f->file, i, &e, &payload);
    if (*rc != 0) {
        return NULL;
    }
    struct wire_held m = {.token = (uint64_t)f->number << 32 | i, .stage = e.stage,
                          .attempt = e.attempt, .index = e.index, .epoch = spool_epoch(f->file),
                          .kind = e.kind, .status = e.status, .payload = e.payload,
                          .size = e.size};
    memcpy(m.element, e.element, 16);
    memcpy(m.fingerprint, e.fingerprint, 16);
    body = wire_held_encode(&m);
    blob_unref(payload);
    *rc = body != NULL ? 0 : TRK_ENOMEM;
    return body;
}

static void set_gone(struct offered *f, uint32_t i)
{
    f->gone += f->states[i] != GONE;
    f->states[i] = GONE;
}

static void send_record(struct offer *o, struct offered *f, uint32_t i)
{
    int rc;
    struct blob *body = make_held(f, i, &rc);
    if (rc == TRK_ECORRUPT || rc == TRK_END) {
        if (rc == TRK_ECORRUPT) {
            log_warn("vm", "a held result is damaged on the disk; its element runs again");
        }
        set_gone(f, i);
    } else if (rc < 0) {
        log_warn("vm", "a held result cannot be read now: %s", trk_strerror(rc));
        f->states[i] = KEPT;
    } else if (net_session_send(o->session, WIRE_HELD, 0, body) == 0) {
        f->states[i] = FLYING;
        o->flying++;
        o->flying_bytes += spool_size(f->file, i);
    } /* else the session is closing */
}

/* All that was asked for is on its way. */
static void send_ends(struct offer *o)
{
    for (size_t i = 0; i < o->ending_count; i++) {
        struct blob *body = wire_note_encode(&(struct wire_note){.stage = o->ending[i]});
        if (body == NULL || net_session_send(o->session, WIRE_HELD_END, 0, body) < 0) {
            break; /* who waits for it does not wait for ever */
        }
    }
    o->ending_count = 0;
}

static void pump(struct offer *o)
{
    struct list *pos, *tmp;
    list_for_each_safe(pos, tmp, &o->files) {
        struct offered *f = container_of(pos, struct offered, link);
        uint32_t count = spool_count(f->file);
        for (; f->next < count && has_room(o); f->next++) {
            if (f->states[f->next] == DUE) {
                send_record(o, f, f->next);
            }
        }
        if (f->next < count) {
            return;
        }
        end_file(f);
    }
    send_ends(o);
}

void offer_look(struct offer *o)
{
    if (o->asked_count > 0) {
        spool_list(o->home, o->job, on_file, o);
        pump(o);
    }
}

int offer_ask(struct offer *o, uint32_t stage)
{
    struct list *pos;
    int rc = add_asked(o, stage);
    if (rc < 0) {
        return rc;
    }
    list_for_each(pos, &o->files) {
        struct offered *f = container_of(pos, struct offered, link);
        for (uint32_t i = 0; i < spool_count(f->file); i++) {
            if (f->states[i] == KEPT && spool_stage(f->file, i) == stage) {
                f->states[i] = DUE;
                f->next = i < f->next ? i : f->next;
            }
        }
    }
    offer_look(o);
    return 0;
}

void offer_done(struct offer *o, uint64_t token, bool is_to_delete)
{
    struct list *pos, *tmp;
    uint32_t i = (uint32_t)token;
    list_for_each_safe(pos, tmp, &o->files) {
        struct offered *f = container_of(pos, struct offered, link);
        if (f->number != token >> 32 || i >= spool_count(f->file) || f->states[i] != FLYING) {
            continue;
        }
        o->flying--;
        o->flying_bytes -= spool_size(f->file, i);
        f->states[i] = KEPT;
        if (is_to_delete) {
            set_gone(f, i);
            end_file(f);
        }
        break;
    }
    pump(o);
}
