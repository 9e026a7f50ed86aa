/* SPDX-License-Identifier: MIT */
/* notice.c - a bounded queue of what a person should see: printed text, VMs that come and go.
 * When nobody takes notices, output over the bound is dropped and the loss is said. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/farm_impl.h"

#define NOTICES_BYTES_MAX ((size_t)16 << 20)

static struct notice *notice_new(enum trk_notice_kind kind, const struct trk_vm *vm,
                                 const void *text, size_t size)
{
    struct notice *notice = mem_zalloc(1, sizeof(*notice));

    if (notice == NULL) {
        return NULL;
    }
    notice->n.text = mem_alloc(size + 1);
    if (notice->n.text == NULL) {
        mem_free(notice);
        return NULL;
    }
    memcpy(notice->n.text, text, size);
    notice->n.text[size] = '\0';
    notice->n.size = size;
    notice->n.kind = kind;
    if (vm != NULL) {
        notice->n.vm_pid = vm->info.pid;
        notice->n.vm_index = vm->info.index;
        snprintf(notice->n.vm_host, sizeof(notice->n.vm_host), "%.63s", vm->info.host);
    }
    return notice;
}

void notice_put(struct trk_farm *farm, enum trk_notice_kind kind, const struct trk_vm *vm,
                const void *text, size_t size)
{
    struct notice *notice = NULL;

    pthread_mutex_lock(&farm->mutex);
    if (farm->notices_bytes + size <= NOTICES_BYTES_MAX || kind != TRK_NOTICE_OUTPUT) {
        notice = notice_new(kind, vm, text, size);
    }
    if (notice != NULL) {
        list_push_back(&farm->notices, &notice->node);
        farm->notices_bytes += size;
        if (farm->notice_waiter != NULL) {
            waiter_post(farm->notice_waiter);
        }
    } else {
        farm->notices_lost += size;
    }
    pthread_mutex_unlock(&farm->mutex);
}

void notice_message(struct trk_farm *farm, enum trk_notice_kind kind, const struct trk_vm *vm,
                    const char *format, ...)
{
    char text[512];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (n > 0) {
        notice_put(farm, kind, vm, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
    }
}

/* Under the mutex. */
static bool notice_pop(struct trk_farm *farm, struct trk_notice *out)
{
    struct list *node = list_pop_front(&farm->notices);
    struct notice *notice;

    if (node == NULL && farm->notices_lost > 0) {
        char text[96];
        int n = snprintf(text, sizeof(text), "%llu bytes of output were dropped: they came faster "
                         "than they were read\n", (unsigned long long)farm->notices_lost);
        notice = notice_new(TRK_NOTICE_MESSAGE, NULL, text, (size_t)n);
        farm->notices_lost = 0;
        if (notice == NULL) {
            return false;
        }
    } else if (node == NULL) {
        return false;
    } else {
        notice = container_of(node, struct notice, node);
        farm->notices_bytes -= notice->n.size;
    }
    *out = notice->n;
    mem_free(notice);
    return true;
}

int trk_farm_notice(struct trk_farm *farm, int timeout_ms, struct trk_notice *out)
{
    struct waiter waiter;
    int rc = TRK_AGAIN;

    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "Trickle was used after fork");
    }
    if (waiter_init(&waiter) < 0) {
        return fail(TRK_EIO, "cannot make a semaphore");
    }
    pthread_mutex_lock(&farm->mutex);
    if (notice_pop(farm, out)) {
        rc = 0;
    } else if (farm->is_stopped) {
        rc = TRK_ECLOSED;
    } else if (timeout_ms != 0) {
        struct waiter *before = farm->notice_waiter; /* one taker at a time is served */
        farm->notice_waiter = &waiter;
        pthread_mutex_unlock(&farm->mutex);
        waiter_wait(&waiter, timeout_ms);
        pthread_mutex_lock(&farm->mutex);
        farm->notice_waiter = before;
        rc = notice_pop(farm, out) ? 0 : farm->is_stopped ? TRK_ECLOSED : TRK_AGAIN;
    }
    pthread_mutex_unlock(&farm->mutex);
    waiter_fini(&waiter);
    return rc;
}

void trk_notice_free(struct trk_notice *notice)
{
    if (notice != NULL) {
        mem_free(notice->text);
        notice->text = NULL;
    }
}

void notice_free_all(struct trk_farm *farm)
{
    struct trk_notice n;

    while (notice_pop(farm, &n)) {
        trk_notice_free(&n);
    }
}
