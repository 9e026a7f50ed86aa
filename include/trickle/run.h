/* SPDX-License-Identifier: MIT */
/* run.h - a whole work in one call: a source that makes elements, a sink that takes results.
 *
 *     struct trk_array tiles = {tile, sizeof(tile[0]), 100000};
 *     struct trk_run run = {.size = sizeof(run), .source = trk_array_source,
 *                           .source_ctx = &tiles, .sink = draw, .sink_ctx = &picture};
 *     while ((rc = trk_work_run(work, &run, 1000)) == TRK_AGAIN) {
 *         show_progress(work);
 *     }
 *
 * And what a program needs to be stopped cleanly: trk_work_stop from another thread,
 * trk_signals_catch for Ctrl-C, kill and trickle cancel.
 *
 * Threads: trk_work_run is for the one thread that uses the work, and calls source and sink on it.
 * trk_work_stop: any thread, and signal handlers. trk_signals_caught: the same.
 * trk_signals_catch: any thread, best main() before there are others. */
#ifndef TRICKLE_RUN_H
#define TRICKLE_RUN_H

#include "trickle/work.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Makes element index. Elements are asked for in order, each once, but after an answer other than 0
 * the same again.
 *   0          *element, *size: what it is; they must stay until source is called again, or the
 *              work is freed
 *   TRK_END    there is none: index is how many there are
 *   TRK_AGAIN  none before another result has been taken (when elements depend on results)
 *   any other  ends trk_work_run, which returns it: TRK_E*, or numbers of your own from 100 on
 * In a resumed job it must make the same elements again: from index, and from the results that the
 * sink has been given so far, which are the same then. */
typedef int trk_source(void *ctx, uint64_t index, const void **element, size_t *size);

/* Takes a result, which is borrowed for the call; look at result->status. 0, or what trk_work_run
 * is to return: the result then counts as taken all the same. */
typedef int trk_sink(void *ctx, const struct trk_result *result);

struct trk_run {
    size_t size;        /* sizeof(struct trk_run): versions this struct */
    trk_source *source;
    void *source_ctx;   /* handed to source */
    trk_sink *sink;
    void *sink_ctx;     /* handed to sink */
};

/* Gives the work its elements, and the sink their results: in order or as they come, as
 * trk_work_options says. Elements are made while there is room for them (trk_work_options.ahead_*),
 * so their number has no limit; in a resumed job results that are recorded come without running
 * anything.
 *   0              all is done: the source has ended, the sink has had every result
 *   TRK_AGAIN      timeout_ms are over (< 0: never), or a signal came, or the source has said
 *                  TRK_AGAIN and no result is due: look at what you like, and call again with
 *                  the same source
 *   TRK_ECANCELLED trk_work_stop, trk_work_cancel, or a signal that trk_signals_catch has caught
 *   TRK_ECHANGED   the source does not make what is recorded
 * or what source or sink said. After any of them it may be called again, unless the work was
 * stopped or cancelled; or trk_work_free ends the work. The source and the sink may call functions
 * on this work that any thread may call, and trk_work_progress and trk_work_cancel. */
TRK_API TRK_MUST_USE int trk_work_run(struct trk_work *work, const struct trk_run *run,
                                      int timeout_ms);

/* An array as a source: source = trk_array_source, source_ctx = &array. It must stay. */
struct trk_array {
    const void *elements; /* count of them, one after the other */
    size_t element_size;  /* bytes of each */
    uint64_t count;
};
TRK_API int trk_array_source(void *array, uint64_t index, const void **element, size_t *size);

/* From now on trk_work_next and trk_work_run on this work return TRK_ECANCELLED; the thread that
 * uses it is woken when it waits. What was recorded stays, what runs goes on until the work is
 * cancelled or freed, so that the job can go on where it was. Any thread and signal handlers; the
 * work must not be freed meanwhile. */
TRK_API void trk_work_stop(struct trk_work *work);

/* Catches SIGINT, SIGTERM and SIGHUP, which trickle cancel and terminals send, where the program
 * neither ignores nor handles them: each trk_work_run of this process then returns TRK_ECANCELLED
 * within 100 ms. The second such signal ends the process. This is the one thing here that is the
 * process's and not a farm's, as signals are. TRK_EIO: the system refuses. */
TRK_API TRK_MUST_USE int trk_signals_catch(void);
/* The signal that was caught, 0: none yet. */
TRK_API int trk_signals_caught(void);

#ifdef __cplusplus
}
#endif
#endif
