/* SPDX-License-Identifier: MIT */
/* run.c - a whole work in one call.
 *
 * A pass offers some elements and takes some results, for a few milliseconds each, so that neither
 * a slow source nor a slow sink keeps the other, or the VMs, waiting for long. It waits only when
 * nothing can be offered: the source has ended, there is no room, or a result is due first (in a
 * resumed job, see trk_work_turn; or because the source said so). What a callback answers is told
 * from what the work answers by is_theirs. */
#include "trickle/run.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "base/fail.h"
#include "base/sys.h"
#include "farm/farm_impl.h"

#define GO_NS (5u * 1000000u) /* of offering, and of taking */
#define GO_FIRST 64u
#define GO_MAX 16384u
#define SLICE_MS 100u /* of a wait: a signal may come to another thread, or just before it */

struct pass {
    struct trk_work *work;
    const struct trk_run *run;
    bool is_theirs;      /* the answer is a callback's */
    bool is_full;        /* no room for the element that is offered */
    bool is_source_idle; /* it has none before a result is taken */
    bool has_more;       /* elements: they can be offered at once */
};

/* --- signals ---------------- */

static atomic_int caught;

static void on_signal(int number)
{
    if (atomic_load(&caught) != 0) {
        signal(number, SIG_DFL);
        raise(number); /* carried out when this returns */
        return;
    }
    atomic_store(&caught, number);
}

int trk_signals_catch(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal}, old;

    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (sigaction(numbers[i], NULL, &old) < 0 ||
            ((old.sa_flags & SA_SIGINFO) == 0 && old.sa_handler == SIG_DFL &&
             sigaction(numbers[i], &action, NULL) < 0)) {
            return fail(TRK_EIO, "signal %d cannot be caught: %s", numbers[i], strerror(errno));
        }
    }
    return 0;
}

int trk_signals_caught(void)
{
    return atomic_load(&caught);
}

/* --- elements ---------------- */

int trk_array_source(void *ctx, uint64_t index, const void **element, size_t *size)
{
    const struct trk_array *array = ctx;

    if (index >= array->count) {
        return TRK_END;
    }
    *element = (const char *)array->elements + index * array->element_size;
    *size = array->element_size;
    return 0;
}

static int ask_source(struct pass *pass)
{
    struct trk_work *work = pass->work;
    struct run_state *state = &work->run;
    int rc = pass->run->source(pass->run->source_ctx, work->added, &state->element,
                               &state->element_size);

    if (rc == TRK_END) {
        rc = trk_work_close(work);
        state->is_ended = rc == 0;
    } else if (rc == TRK_AGAIN) {
        pass->is_source_idle = true;
        rc = 0;
    } else if (rc == 0) {
        state->has_element = true;
    } else {
        pass->is_theirs = true;
    }
    return rc;
}

static int offer(struct pass *pass)
{
    struct run_state *state = &pass->work->run;
    int rc = state->has_element ? 0 : ask_source(pass);

    if (rc != 0 || !state->has_element) {
        return rc;
    }
    rc = trk_work_add(pass->work, state->element, state->element_size);
    if (rc == TRK_FULL) {
        pass->is_full = true;
        return 0;
    }
    state->has_element = rc != 0;
    return rc;
}

/* The next go gets as many as take about GO_NS. */
static void adapt(uint32_t *max, uint32_t done, uint64_t since_ns)
{
    uint64_t took = sys_now_ns() - since_ns;

    if (took > GO_NS) {
        *max = *max > 1 ? *max / 2 : 1;
    } else if (done == *max && took < GO_NS / 2 && *max < GO_MAX) {
        *max *= 2;
    }
}

static int offer_some(struct pass *pass)
{
    struct run_state *state = &pass->work->run;
    uint64_t since_ns = sys_now_ns();
    bool is_due = false; /* a result, first */
    uint32_t done = 0;
    int rc = 0;

    pass->is_full = pass->is_source_idle = false;
    while (rc == 0 && !state->is_ended && !pass->is_full && !pass->is_source_idle &&
           done < state->feed_max) {
        is_due = !state->has_element && trk_work_turn(pass->work) == TRK_TURN_TAKE;
        if (is_due) {
            break;
        }
        rc = offer(pass);
        done++;
    }
    pass->has_more = !state->is_ended && !pass->is_full && !pass->is_source_idle && !is_due;
    adapt(&state->feed_max, done, since_ns);
    if (rc == 0 && sys_now_ns() - since_ns > GO_NS) {
        rc = trk_work_flush(pass->work); /* of a slow source each element goes at once */
    }
    return rc;
}

/* --- results ---------------- */

/* 0; TRK_AGAIN: none has come; TRK_END; what the sink says. */
static int take_some(struct pass *pass, int timeout_ms)
{
    struct run_state *state = &pass->work->run;
    uint64_t since_ns = 0;
    struct trk_result result;
    uint32_t done = 0;
    int rc = 0;

    pass->work->is_interrupted = false;
    while (rc == 0 && done < state->take_max) {
        rc = trk_work_next(pass->work, done == 0 ? timeout_ms : 0, &result);
        if (rc != 0) {
            break;
        }
        if (done++ == 0) {
            since_ns = sys_now_ns();
        }
        rc = pass->run->sink(pass->run->sink_ctx, &result);
        pass->is_theirs = rc != 0;
        if (rc == 0 && trk_work_turn(pass->work) == TRK_TURN_ADD) {
            break; /* the next element is made from just these results */
        }
    }
    if (done > 0) {
        adapt(&state->take_max, done, since_ns);
    }
    return rc == TRK_AGAIN && done > 0 && !pass->is_theirs ? 0 : rc;
}

/* --- both ---------------- */

static int cancelled(void)
{
    return fail(TRK_ECANCELLED, "the work was cancelled");
}

static int check_stop(struct trk_work *work)
{
    int number = trk_signals_caught();

    if (number != 0) {
        return fail(TRK_ECANCELLED, "stopped by SIG%s", sigabbrev_np(number));
    }
    return work->is_cancelled ? cancelled() : 0;
}

static bool is_nothing_due(const struct pass *pass)
{
    return pass->is_source_idle && pass->work->taken == pass->work->added;
}

/* How long to wait for results. */
static int wait_of(const struct pass *pass, uint64_t until_ns)
{
    uint64_t now = sys_now_ns();
    uint64_t left_ms = until_ns > now ? (until_ns - now + 999999) / 1000000 : 0;

    if (pass->has_more || is_nothing_due(pass)) {
        return 0;
    }
    return (int)(left_ms < SLICE_MS ? left_ms : SLICE_MS);
}

static int check_run(struct trk_run *copy, const struct trk_run *run)
{
    int rc = options_copy(copy, sizeof(*copy), run);

    if (rc == 0 && (copy->source == NULL || copy->sink == NULL)) {
        return fail(TRK_EINVAL, "trk_work_run needs a source and a sink");
    }
    return rc;
}

int trk_work_run(struct trk_work *work, const struct trk_run *options, int timeout_ms)
{
    uint64_t until_ns = timeout_ms < 0 ? UINT64_MAX
                                       : sys_now_ns() + (uint64_t)timeout_ms * 1000000u;
    struct trk_run run;
    struct pass pass = {.work = work, .run = &run};
    int rc = check_run(&run, options);

    if (work->run.feed_max == 0) {
        work->run.feed_max = work->run.take_max = GO_FIRST;
    }
    while (rc == 0) {
        if ((rc = check_stop(work)) < 0 || (rc = offer_some(&pass)) != 0) {
            break;
        }
        if (pass.is_source_idle && trk_work_turn(work) == TRK_TURN_ADD && work->replay != NULL) {
            return fail(TRK_ECHANGED, "element %llu was made from the results that had come, and "
                        "the source does not make it now", (unsigned long long)work->added);
        }
        rc = take_some(&pass, wait_of(&pass, until_ns));
        if (pass.is_theirs || rc < 0) {
            break;
        }
        if (rc == TRK_END) {
            return work->is_cancelled ? cancelled() : 0;
        }
        if (sys_now_ns() >= until_ns ||
            (rc == TRK_AGAIN && (work->is_interrupted || is_nothing_due(&pass)))) {
            if ((rc = check_stop(work)) == 0 && (rc = trk_work_flush(work)) == 0) {
                rc = TRK_AGAIN;
            }
            break;
        }
        rc = 0;
    }
    return rc;
}
