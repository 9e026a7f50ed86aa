/* SPDX-License-Identifier: MIT */
/* inject.c - injections are remembered by content, so that a VM that starts again, or joins
 * later, has them before anything else is asked of it.
 *
 * The order is that of the program: the farm thread sends each injection and appends it to the
 * log in one go, so a VM that joins meanwhile gets it exactly once, from the one or the other. */
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "farm/farm_impl.h"

/* A request of the program under way to the farm thread. */
struct inject_job {
    struct waiter waiter;
    struct trk_vmlist *list; /* or NULL */
    struct trk_vm *vm;       /* or NULL */
    struct injection *entry; /* taken by the log */
    struct trk_call **calls;
    size_t count;
    int error;
};

static void injection_free(struct injection *i)
{
    list_remove(&i->node);
    blob_unref(i->body);
    mem_free(i->name);
    mem_free(i);
}

static void log_put(struct trk_farm *farm, struct injection *entry)
{
    struct list *pos, *tmp;

    list_for_each_safe(pos, tmp, &farm->injections) {
        struct injection *old = container_of(pos, struct injection, node);
        if (old->list == entry->list && old->slot == entry->slot &&
            strcmp(old->name, entry->name) == 0) {
            injection_free(old);
        }
    }
    list_push_back(&farm->injections, &entry->node);
}

static bool applies(const struct injection *i, const struct slot *slot,
                    const struct trk_vmlist *only)
{
    if (only != NULL) {
        return i->list == only;
    }
    return i->slot == slot || (i->list != NULL && vmlist_has(i->list, slot));
}

static void replay(struct trk_farm *farm, struct slot *slot, const struct trk_vmlist *only)
{
    struct list *pos;

    list_for_each(pos, &farm->injections) {
        struct injection *i = container_of(pos, struct injection, node);
        if (applies(i, slot, only) && call_send(slot->vm, blob_ref(i->body), NULL) < 0) {
            notice_message(farm, TRK_NOTICE_MESSAGE, slot->vm, "cannot inject %s again: %s",
                           i->name, fail_text());
        }
    }
}

void inject_replay(struct trk_farm *farm, struct slot *slot)
{
    replay(farm, slot, NULL);
}

void inject_replay_list(struct trk_farm *farm, struct slot *slot, struct trk_vmlist *list)
{
    replay(farm, slot, list);
}

void inject_forget_list(struct trk_farm *farm, struct trk_vmlist *list)
{
    struct list *pos, *tmp;

    list_for_each_safe(pos, tmp, &farm->injections) {
        struct injection *i = container_of(pos, struct injection, node);
        if (i->list == list) {
            injection_free(i);
        }
    }
}

void inject_forget_slot(struct trk_farm *farm, const struct slot *slot)
{
    struct list *pos, *tmp;

    list_for_each_safe(pos, tmp, &farm->injections) {
        struct injection *i = container_of(pos, struct injection, node);
        if (i->slot == slot) {
            injection_free(i);
        }
    }
}

void inject_free_all(struct trk_farm *farm)
{
    while (!list_is_empty(&farm->injections)) {
        injection_free(container_of(farm->injections.next, struct injection, node));
    }
}

static void send_one(struct inject_job *job, struct trk_vm *vm)
{
    int rc = call_send(vm, blob_ref(job->entry->body), &job->calls[job->count]);

    if (rc == 0) {
        job->count++;
    } else if (rc != TRK_EVMLOST) {
        job->error = rc;
    }
}

static void inject_on_loop(void *arg)
{
    struct inject_job *job = arg;
    struct trk_farm *farm = job->list != NULL ? job->list->farm : job->vm->farm;
    size_t n = job->list != NULL ? job->list->slots_count : 1;

    job->calls = calloc(n > 0 ? n : 1, sizeof(struct trk_call *)); /* for the caller's free() */
    if (farm->is_closing || job->calls == NULL) {
        job->error = job->calls == NULL ? TRK_ENOMEM : TRK_ECLOSED;
    } else if (job->vm != NULL) {
        send_one(job, job->vm);
        job->error = job->count == 0 && job->error == 0 ? TRK_EVMLOST : job->error;
    } else {
        for (size_t i = 0; i < n; i++) {
            struct slot *slot = job->list->slots[i];
            if (slot->lease == LEASE_HELD) {
                send_one(job, slot->vm);
            }
        }
    }
    if (job->error == 0) {
        job->entry->list = job->list;
        job->entry->slot = job->vm != NULL ? job->vm->slot : NULL;
        log_put(farm, job->entry);
        job->entry = NULL;
    }
    waiter_post(&job->waiter);
}

static struct injection *injection_new(const char *name, const void *payload, size_t size)
{
    struct wire_request request = {.op = TRK_OP_INJECT, .name = name, .name_size = strlen(name),
                                   .payload = payload, .size = size};
    struct injection *i = mem_zalloc(1, sizeof(*i));

    if (i == NULL) {
        return NULL;
    }
    list_init(&i->node);
    i->name = mem_strdup(name);
    i->body = wire_request_encode(&request);
    if (i->name == NULL || i->body == NULL) {
        injection_free(i);
        return NULL;
    }
    return i;
}

int trk_inject(struct trk_vmlist *list, struct trk_vm *vm, const char *name, const void *payload,
               size_t size, struct trk_call ***calls, size_t *count)
{
    struct inject_job job = {.list = list, .vm = vm};
    struct trk_farm *farm;
    int rc;

    if ((list == NULL) == (vm == NULL) || strlen(name) > 4096) {
        return fail(TRK_EINVAL, "inject needs either a list or a VM, and a name of sane length");
    }
    farm = list != NULL ? list->farm : vm->farm;
    if ((rc = farm_usable(farm)) < 0) {
        return rc;
    }
    if (size > TRK_ELEMENT_BYTES_MAX) {
        return fail(TRK_ETOOBIG, "%s has %zu bytes: %s", name, size, trk_strerror(TRK_ETOOBIG));
    }
    job.entry = injection_new(name, payload, size);
    if (job.entry == NULL || waiter_init(&job.waiter) < 0) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    rc = net_loop_post(farm->loop, inject_on_loop, &job);
    if (rc == 0) {
        /* The job is on our stack: only the end of the farm thread frees us from waiting. */
        while (waiter_wait(&job.waiter, 100) == TRK_AGAIN && job.error == 0) {
            pthread_mutex_lock(&farm->mutex);
            job.error = farm->is_stopped ? TRK_ECLOSED : 0;
            pthread_mutex_unlock(&farm->mutex);
        }
        rc = job.error;
    }
    waiter_fini(&job.waiter);
    if (job.entry != NULL) {
        injection_free(job.entry);
    }
    if (rc < 0) {
        for (size_t i = 0; i < job.count; i++) {
            trk_call_free(job.calls[i]);
        }
        free(job.calls);
        return rc == TRK_EVMLOST ? fail(rc, "the VM is lost") : fail(rc, "%s", trk_strerror(rc));
    }
    *calls = job.calls;
    *count = job.count;
    return 0;
}
