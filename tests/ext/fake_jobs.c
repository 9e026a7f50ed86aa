/* SPDX-License-Identifier: MIT */
/* fake_jobs.c - the part of the public C API about jobs, without a disk.
 *
 * A job keeps its notes in memory; the name says what shall go wrong:
 *
 *   held     opening is refused           none     there is no such job to look at
 *   full     nothing becomes durable      broken   closing loses something; reading fails
 *
 * A view has one stage of 5,000 elements, whose results are their numbers as text. "slow" as a
 * question is answered after 200 ms. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trickle/trickle.h"

#define NOTES_MAX 16
#define ELEMENTS 5000u

struct note {
    int kind;
    char name[64];
    void *bytes;
    size_t size;
};

struct trk_job {
    struct note notes[NOTES_MAX];
    size_t count;
    bool is_full, is_broken;
};

struct trk_view {
    bool is_broken;
    char payload[32];
};

int trk_job_open(struct trk_job **out, const struct trk_job_options *opt,
                 struct trk_job_opened *opened)
{
    if (strcmp(opt->name, "held") == 0) {
        return TRK_EDENIED;
    }
    *out = calloc(1, sizeof(**out));
    (*out)->is_full = strcmp(opt->name, "full") == 0;
    (*out)->is_broken = strcmp(opt->name, "broken") == 0;
    opened->is_new = !opt->must_exist;
    opened->epoch = 1 + (uint32_t)opt->on_change + 10 * opt->retry_failed;
    memset(opened->uuid, 7, sizeof(opened->uuid));
    snprintf(opened->dir, sizeof(opened->dir), "/jobs/%s", opt->name);
    snprintf(opened->text, sizeof(opened->text), "%s", opt->home != NULL ? opt->home : "");
    return 0;
}

int trk_job_close(struct trk_job *job)
{
    int rc = job->is_broken ? TRK_EIO : 0;

    for (size_t i = 0; i < job->count; i++) {
        free(job->notes[i].bytes);
    }
    free(job);
    return rc;
}

static struct note *find(struct trk_job *job, int kind, const char *name)
{
    for (size_t i = 0; i < job->count; i++) {
        if (job->notes[i].kind == kind && strcmp(job->notes[i].name, name) == 0) {
            return &job->notes[i];
        }
    }
    return NULL;
}

int trk_job_put(struct trk_job *job, enum trk_note kind, const char *name, const void *bytes,
                size_t size, bool wait, int timeout_ms)
{
    struct note *note = find(job, kind, name);

    if (job->is_full) {
        if (wait) {
            usleep((unsigned)timeout_ms * 1000u);
        }
        return wait ? TRK_AGAIN : 0;
    }
    if (note == NULL) {
        if (job->count == NOTES_MAX) {
            return TRK_EFULL;
        }
        note = &job->notes[job->count++];
        note->kind = kind;
        snprintf(note->name, sizeof(note->name), "%s", name);
    }
    free(note->bytes);
    note->bytes = malloc(size + 1);
    memcpy(note->bytes, bytes, size);
    note->size = size;
    return 0;
}

int trk_job_get(struct trk_job *job, enum trk_note kind, const char *name, void **bytes,
                size_t *size)
{
    struct note *note = find(job, kind, name);

    if (note == NULL) {
        return TRK_END;
    }
    *bytes = malloc(note->size + 1);
    memcpy(*bytes, note->bytes, note->size);
    *size = note->size;
    return 0;
}

void trk_free(void *bytes)
{
    free(bytes);
}

/* Any key but "none": 10 elements, of a list that has ended. "holes" lacks the last one. */
int trk_job_get_stage(struct trk_job *job, const char *key, struct trk_job_stage *out)
{
    *out = (struct trk_job_stage){.elements = 10, .is_closed = true};
    return job->is_broken ? TRK_ECORRUPT : strcmp(key, "none") == 0 ? TRK_END : 0;
}

struct trk_elements {
    uint64_t next, there;
    char text[32];
};

int trk_job_elements(struct trk_job *job, const char *key, uint64_t from,
                     struct trk_elements **out)
{
    struct trk_job_stage stage;
    int rc = trk_job_get_stage(job, key, &stage);

    if (rc == 0) {
        *out = calloc(1, sizeof(**out));
        (*out)->next = from;
        (*out)->there = strcmp(key, "holes") == 0 ? 9 : 10;
    }
    return rc;
}

int trk_elements_next(struct trk_elements *walk, const void **element, size_t *size)
{
    if (walk->next >= walk->there) {
        return walk->next >= 10 ? TRK_END : TRK_ENOTKEPT;
    }
    *size = (size_t)snprintf(walk->text, sizeof(walk->text), "%llu",
                             (unsigned long long)walk->next++);
    *element = walk->text;
    return 0;
}

void trk_elements_free(struct trk_elements *walk)
{
    free(walk);
}

void trk_job_get_state(struct trk_job *job, struct trk_job_state *out)
{
    *out = (struct trk_job_state){.syncs = 3, .sync_ns = 4, .is_paused = job->is_full};
    snprintf(out->text, sizeof(out->text), "%s", job->is_full ? "no room" : "");
}

/* --- from outside ---------------- */

int trk_job_home(char *path, size_t size, char *notice, size_t notice_size)
{
    snprintf(path, size, "/jobs");
    snprintf(notice, notice_size, "far away");
    return 0;
}

int trk_job_names(const char *home, char **names, size_t *count)
{
    *names = malloc(8);
    memcpy(*names, "a\0bc\0", 6);
    *count = 2;
    return 0;
}

int trk_job_remove(const char *home, const char *name)
{
    return strcmp(name, "held") == 0 ? TRK_EDENIED : strcmp(name, "none") == 0 ? TRK_END : 0;
}

int trk_job_check(const char *home, const char *name, char *text, size_t size)
{
    if (strcmp(name, "held") == 0) {
        return TRK_EDENIED;
    }
    snprintf(text, size, "looked at");
    return strcmp(name, "none") == 0 ? TRK_END : strcmp(name, "broken") == 0 ? TRK_ECORRUPT : 0;
}

int trk_view_open(struct trk_view **out, const char *home, const char *name)
{
    if (strcmp(name, "held") == 0 || strcmp(name, "none") == 0) {
        return strcmp(name, "held") == 0 ? TRK_EDENIED : TRK_END;
    }
    *out = calloc(1, sizeof(**out));
    (*out)->is_broken = strcmp(name, "broken") == 0;
    return 0;
}

void trk_view_close(struct trk_view *view)
{
    free(view);
}

int trk_view_get_info(struct trk_view *view, struct trk_view_info *out)
{
    *out = (struct trk_view_info){.has_store = true, .is_damaged = view->is_broken, .epoch = 2,
                                  .is_running = true, .pid = 77};
    snprintf(out->host, sizeof(out->host), "here");
    return 0;
}

int trk_view_note(struct trk_view *view, enum trk_note kind, const char *name, void **bytes,
                  size_t *size)
{
    if (view->is_broken || strcmp(name, "none") == 0) {
        return view->is_broken ? TRK_ECORRUPT : TRK_END;
    }
    *bytes = strdup(name);
    *size = strlen(name);
    return 0;
}

int trk_view_stages(struct trk_view *view, struct trk_view_stage **out, size_t *count)
{
    if (view->is_broken) {
        return TRK_ECORRUPT;
    }
    *out = calloc(1, sizeof(**out));
    **out = (struct trk_view_stage){.number = 1, .key = "f#1", .name = "f", .added = ELEMENTS,
                                    .recorded = ELEMENTS, .is_closed = true};
    *count = 1;
    return 0;
}

void trk_view_stages_free(struct trk_view_stage *stages)
{
    free(stages);
}

int trk_view_result(struct trk_view *view, uint32_t stage, uint64_t index,
                    struct trk_view_result *out)
{
    if (view->is_broken || stage != 1 || index >= ELEMENTS) {
        return view->is_broken ? TRK_ECORRUPT : TRK_END;
    }
    *out = (struct trk_view_result){.index = index, .attempt = 1, .payload = view->payload};
    out->size = (size_t)snprintf(view->payload, sizeof(view->payload), "%u", (unsigned)index);
    return 0;
}

int trk_view_element(struct trk_view *view, uint32_t stage, uint64_t index, const void **element,
                     size_t *size)
{
    if (view->is_broken || stage != 1 || index >= ELEMENTS) {
        return view->is_broken ? TRK_ECORRUPT : TRK_END;
    }
    *size = (size_t)snprintf(view->payload, sizeof(view->payload), "e%u", (unsigned)index);
    *element = view->payload;
    return 0;
}

int trk_view_next(struct trk_view *view, struct trk_view_walk *walk, struct trk_view_result *out)
{
    uint64_t index = walk->in_recorded_order ? ELEMENTS - 1 - walk->next : walk->next;
    int rc = walk->next >= ELEMENTS ? TRK_END : trk_view_result(view, walk->stage, index, out);

    walk->next += rc == 0;
    return rc;
}

int trk_view_attempts(struct trk_view *view, uint32_t stage, uint64_t index,
                      struct trk_view_attempt **out, size_t *count)
{
    *out = calloc(1, sizeof(**out));
    *count = index == 3;
    (*out)->epoch = 2;
    (*out)->a = (struct trk_attempt){.attempt = 1, .outcome = TRK_OUTCOME_LOST};
    return 0;
}

void trk_view_attempts_free(struct trk_view_attempt *attempts, size_t count)
{
    free(attempts);
}

int trk_view_ask(struct trk_view *view, const char *verb, const char *argument, int timeout_ms,
                 char **answer, size_t *size)
{
    if (strcmp(verb, "nobody") == 0) {
        return TRK_END;
    }
    if (strcmp(verb, "slow") == 0) {
        usleep(200000);
    }
    *size = strlen(verb) + strlen(argument) + 1;
    *answer = malloc(*size + 1);
    snprintf(*answer, *size + 1, "%s %s", verb, argument);
    return 0;
}

/* --- the key file ---- */

int trk_key_path(char *path, size_t size)
{
    snprintf(path, size, "/config/key");
    return 0;
}

static int one_key(struct trk_keys *out, const char *id)
{
    memset(out, 0, sizeof(*out));
    out->count = 1;
    snprintf(out->id[0], sizeof(out->id[0]), "%s", id);
    snprintf(out->text, sizeof(out->text), "secret of %s", id);
    return 0;
}

int trk_key_load(struct trk_keys *out)
{
    memset(out, 0, sizeof(*out));
    return TRK_END;
}

int trk_key_new(struct trk_keys *out) { return one_key(out, "new"); }

int trk_key_rotate(struct trk_keys *out)
{
    one_key(out, "newer");
    out->count = 2;
    snprintf(out->id[1], sizeof(out->id[1]), "new");
    return 0;
}

int trk_key_finish(struct trk_keys *out)
{
    memset(out, 0, sizeof(*out));
    return TRK_EDENIED;
}

int trk_key_import(const char *text, size_t size, const char *name, bool may_replace,
                   struct trk_keys *out)
{
    return one_key(out, may_replace ? "replaced" : size == 2 && text[0] == 'k' ? name : "?");
}

void trk_keys_clear(struct trk_keys *keys) { memset(keys, 0, sizeof(*keys)); }
