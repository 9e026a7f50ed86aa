/* SPDX-License-Identifier: MIT */
/* work.c - Work: a skin over struct trk_work, with the loops that touch every element.
 *
 * Elements: pulled (item, or chunk while it fills) -> encoded -> added. What was pulled is never
 * lost: an element that does not fit into the window stays in `offered`, in its encoding, until
 * the next feed. Results: taken -> decoded -> handed out; when Ctrl-C strikes in the middle of
 * decoding, the result stays in `held` until the next call.
 *
 * One thread at a time may use a trk_work. The GIL sees to that, but for the stretches in which
 * this object has released it, or has lent a borrowed payload to Python code (`is_lent`): then
 * progress() answers with the last known numbers and cancel() is carried out at the end of the
 * stretch. All other methods refuse while one of them is under way (`is_busy`): they come from
 * another thread, or from the iterator that is being pulled. */
#include <string.h>

#include "ext.h"

enum feed_answer { FEED_ADDED = 0, FEED_END = TRK_END, FEED_FULL = TRK_FULL };

struct work_object {
    PyObject_HEAD
    struct trk_work *work;
    struct farm_object *farm; /* strong */
    PyObject *targets;        /* strong: VMList, or tuple of VMs */
    PyObject *chunk;          /* list of the elements of a chunk that is not full yet, or NULL */
    PyObject *item;           /* pulled, not encoded yet, or NULL */
    PyObject *offered;        /* bytes: encoded, not added yet, or NULL */
    PyObject *held;           /* bytes: payload of a result that was taken, not handed out */
    struct trk_result held_result;
    struct trk_progress progress; /* last known numbers */
    bool is_drained;          /* the iterator has ended */
    bool is_closed;           /* trk_work_close succeeded */
    bool is_busy;             /* a method is under way */
    bool is_lent;             /* hands off the trk_work */
    bool cancel_wanted, interrupt_wanted; /* cancel() came while is_lent */
};

static struct work_object *as_work(PyObject *self)
{
    return (struct work_object *)self;
}

/* --- sharing ----------------------------------------------------------------------------- */

static bool enter(struct work_object *self)
{
    if (!ext_usable((PyObject *)self)) {
        return false;
    }
    if (self->is_busy) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this work is in use already, by another thread or by its own iterator");
        return false;
    }
    self->is_busy = true;
    return true;
}

static void leave(struct work_object *self)
{
    self->is_busy = false;
}

static void cancel_if_wanted(struct work_object *self)
{
    if (self->cancel_wanted) {
        self->cancel_wanted = false;
        trk_work_cancel(self->work, self->interrupt_wanted);
    }
}

static void lend(struct work_object *self)
{
    trk_work_progress(self->work, &self->progress);
    self->is_lent = true;
}

static void unlend(struct work_object *self)
{
    self->is_lent = false;
    cancel_if_wanted(self);
}

/* --- life -------------------------------------------------------------------------------- */

PyObject *work_wrap(struct ext_state *state, struct farm_object *farm, struct trk_work *work,
                    PyObject *targets)
{
    struct work_object *self = ext_new(state->work_type);

    if (self == NULL) {
        trk_work_free(work);
        return NULL;
    }
    self->work = work;
    self->farm = (struct farm_object *)Py_NewRef((PyObject *)farm);
    self->targets = Py_NewRef(targets);
    return (PyObject *)self;
}

static int work_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)as_work(self)->farm);
    Py_VISIT(as_work(self)->targets);
    Py_VISIT(as_work(self)->chunk);
    Py_VISIT(as_work(self)->item);
    return 0;
}

/* Only elements can lead back here. */
static int work_clear(PyObject *self)
{
    Py_CLEAR(as_work(self)->chunk);
    Py_CLEAR(as_work(self)->item);
    return 0;
}

static void work_dealloc(PyObject *self)
{
    struct work_object *w = as_work(self);

    PyObject_GC_UnTrack(self);
    trk_work_free(w->work);
    work_clear(self);
    Py_XDECREF(w->offered);
    Py_XDECREF(w->held);
    Py_DECREF(w->targets);
    Py_DECREF((PyObject *)w->farm);
    ext_free(self);
}

/* --- feeding ----------------------------------------------------------------------------- */

/* Puts the next element, or the next chunk, into self->item. FEED_ADDED, FEED_END, EXT_RAISED. */
static int pull(struct work_object *self, PyObject *iterator, Py_ssize_t chunksize)
{
    Py_ssize_t n;

    if (self->chunk == NULL && chunksize > 0 && (self->chunk = PyList_New(0)) == NULL) {
        return EXT_RAISED;
    }
    n = self->chunk != NULL ? PyList_Size(self->chunk) : 0;
    for (; chunksize == 0 || n < chunksize; n++) {
        PyObject *element = self->is_drained ? NULL : PyIter_Next(iterator);
        int rc;
        if (element == NULL && PyErr_Occurred()) {
            return EXT_RAISED;
        }
        if (element == NULL) {
            self->is_drained = true;
            break;
        }
        if (chunksize == 0) {
            self->item = element;
            return FEED_ADDED;
        }
        rc = PyList_Append(self->chunk, element);
        Py_DECREF(element);
        if (rc < 0 || (n % EXT_SIGNALS_EVERY == 0 && PyErr_CheckSignals() < 0)) {
            return EXT_RAISED;
        }
    }
    if (n > 0) {
        self->item = self->chunk;
        self->chunk = NULL;
    }
    return self->item != NULL ? FEED_ADDED : FEED_END;
}

/* Adds self->offered. It stays when the window is full. */
static int add_offered(struct work_object *self)
{
    const char *bytes = PyBytes_AsString(self->offered);
    size_t size = (size_t)PyBytes_Size(self->offered);
    int rc;

    if (size <= EXT_COPY_MAX) {
        rc = trk_work_add(self->work, bytes, size);
    } else {
        lend(self);
        Py_BEGIN_ALLOW_THREADS
        rc = trk_work_add(self->work, bytes, size);
        Py_END_ALLOW_THREADS
        if (rc < 0) {
            ext_raise(ext_state_of((PyObject *)self), rc); /* before the text is gone */
            rc = EXT_RAISED;
        }
        unlend(self);
    }
    if (rc != TRK_FULL) {
        Py_CLEAR(self->offered); /* also when it was refused: it will never be taken */
    }
    return rc;
}

/* FEED_ADDED: one element more was added; FEED_FULL, FEED_END, or an error. */
static int feed_one(struct work_object *self, PyObject *iterator, Py_ssize_t chunksize,
                    PyObject *dumps)
{
    uint8_t bytes[CODEC_BYTES_MAX];
    size_t size;
    int rc;

    if (self->offered != NULL) {
        return add_offered(self);
    }
    if (self->item == NULL && trk_work_turn(self->work) == TRK_TURN_TAKE) {
        return FEED_FULL;
    }
    if (self->item == NULL && (rc = pull(self, iterator, chunksize)) != FEED_ADDED) {
        return rc;
    }
    size = codec_write(self->item, bytes);
    if (size > 0) {
        rc = trk_work_add(self->work, bytes, size);
        if (rc != TRK_FULL) {
            Py_CLEAR(self->item);
            return rc;
        }
        self->offered = PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
    } else {
        self->offered = codec_dump(self->item, dumps);
        if (self->offered == NULL && !ext_is_stop()) {
            Py_CLEAR(self->item); /* it cannot be pickled, now or later */
        }
    }
    if (self->offered == NULL) {
        return EXT_RAISED;
    }
    Py_CLEAR(self->item);
    return size > 0 ? FEED_FULL : add_offered(self);
}

static int end_adding(struct work_object *self, bool leave_open)
{
    int rc = leave_open ? trk_work_leave_open(self->work) : trk_work_close(self->work);

    self->is_closed = rc == 0;
    return rc;
}

static PyObject *feed(struct work_object *self, PyObject *iterator, Py_ssize_t chunksize,
                      PyObject *dumps, Py_ssize_t limit, bool leave_open)
{
    int rc = self->is_closed ? FEED_END : FEED_ADDED;

    for (Py_ssize_t n = 0; n < limit && rc == FEED_ADDED; n++) {
        rc = feed_one(self, iterator, chunksize, dumps);
        if (n % EXT_SIGNALS_EVERY == EXT_SIGNALS_EVERY - 1 && rc >= 0 && PyErr_CheckSignals() < 0) {
            rc = EXT_RAISED;
        }
    }
    if (rc == FEED_END && !self->is_closed) {
        rc = end_adding(self, leave_open);
        rc = rc == 0 ? FEED_END : rc;
    }
    if (rc < 0) {
        return ext_raise(ext_state_of((PyObject *)self), rc);
    }
    return PyBool_FromLong(rc == FEED_END);
}

PyDoc_STRVAR(feed_doc,
             "feed(iterator, chunksize, dumps, limit=sys.maxsize, leave_open=False)\n--\n\n"
             "Pulls elements (chunksize None) or lists of up to chunksize elements, encodes and\n"
             "adds them until the window is full or limit were added. True: the iterator is\n"
             "exhausted, and the work is closed, with leave_open as close() does.");

static PyObject *work_feed(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    static const char *const names[] = {"iterator", "chunksize", "dumps", "limit", "leave_open",
                                        NULL};
    Py_ssize_t chunksize = 0, limit = PY_SSIZE_T_MAX;
    PyObject *arg[5], *answer;
    int leave_open = 0;

    if (ext_args("feed", args, nargs, kwnames, names, 3, arg) < 0) {
        return NULL;
    }
    if (!PyIter_Check(arg[0])) {
        PyErr_Format(PyExc_TypeError, "feed() needs an iterator, not %R", Py_TYPE(arg[0]));
        return NULL;
    }
    if (arg[1] != Py_None) {
        chunksize = PyNumber_AsSsize_t(arg[1], PyExc_OverflowError);
        if (chunksize < 1) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "chunksize must be None or at least 1");
            }
            return NULL;
        }
    }
    if (arg[3] != NULL) {
        limit = PyNumber_AsSsize_t(arg[3], NULL);
        if (limit == -1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    if (arg[4] != NULL && (leave_open = PyObject_IsTrue(arg[4])) < 0) {
        return NULL;
    }
    if (!enter(as_work(self))) {
        return NULL;
    }
    answer = feed(as_work(self), arg[0], chunksize, arg[2], limit, leave_open != 0);
    leave(as_work(self));
    return answer;
}

/* --- taking results ---------------------------------------------------------------------- */

struct taking {
    struct work_object *self;
    struct trk_result *out;
    int rc; /* the last answer */
};

static int wait_result(void *ctx, int timeout_ms)
{
    struct taking *t = ctx;

    t->rc = trk_work_next(t->self->work, timeout_ms, t->out);
    return t->rc;
}

/* Between two slices nothing is borrowed, so the work may be touched. */
static void between_slices(void *ctx)
{
    struct taking *t = ctx;

    if (t->rc == TRK_AGAIN) {
        cancel_if_wanted(t->self);
        trk_work_progress(t->self->work, &t->self->progress);
    }
}

/* The next result, borrowed until the next call on the work. 0, TRK_AGAIN, TRK_END, error. */
static int take(struct work_object *self, int64_t timeout, struct trk_result *out)
{
    struct taking t = {.self = self, .out = out};
    struct ext_waiter waiter = {.wait = wait_result, .awake = between_slices, .ctx = &t};
    int rc;

    if (self->held != NULL) {
        *out = self->held_result;
        out->payload = PyBytes_AsString(self->held);
        return 0;
    }
    rc = trk_work_next(self->work, 0, out);
    if (rc != TRK_AGAIN || timeout == 0) {
        return rc;
    }
    lend(self);
    rc = ext_wait(&waiter, timeout);
    self->is_lent = false; /* a cancel that came meanwhile waits until the result is decoded */
    return rc;
}

/* Keeps what was taken but could not be handed out; an exception is set and stays. */
static void hold(struct work_object *self, const struct trk_result *r)
{
    PyObject *type, *error, *trace;

    PyErr_Fetch(&type, &error, &trace);
    if (self->held == NULL) {
        self->held = PyBytes_FromStringAndSize(r->payload, (Py_ssize_t)r->size);
        self->held_result = *r;
    }
    PyErr_Restore(type, error, trace);
}

/* What a result stands for: the decoded value, or its bytes where it is not STATUS_OK. */
static PyObject *value_of(struct work_object *self, const struct trk_result *r, PyObject *loads)
{
    PyObject *value;

    self->is_lent = true; /* loads may run any code while payload is borrowed */
    if (r->status == TRK_STATUS_OK) {
        value = codec_load(r->payload, r->size, loads);
    } else {
        value = PyBytes_FromStringAndSize(r->payload, (Py_ssize_t)r->size);
    }
    if (value == NULL && ext_is_stop()) {
        hold(self, r);
    } else {
        Py_CLEAR(self->held);
    }
    unlend(self);
    return value;
}

/* (index, status, value, attempts). */
static PyObject *result_tuple(struct work_object *self, const struct trk_result *r, PyObject *loads)
{
    PyObject *value = value_of(self, r, loads), *index, *status, *attempts, *tuple = NULL;

    if (value == NULL) {
        return NULL;
    }
    index = PyLong_FromUnsignedLongLong(r->index);
    status = PyLong_FromLong((long)r->status);
    attempts = PyLong_FromUnsignedLong(r->attempts);
    if (index != NULL && status != NULL && attempts != NULL) {
        tuple = PyTuple_Pack(4, index, status, value, attempts);
    }
    Py_XDECREF(index);
    Py_XDECREF(status);
    Py_XDECREF(attempts);
    Py_DECREF(value);
    return tuple;
}

PyDoc_STRVAR(next_doc,
             "next(timeout, loads)\n--\n\n"
             "(index, status, value, attempts); value is decoded when status is STATUS_OK, else\n"
             "bytes. None: timeout passed. StopIteration: the end.");

static PyObject *work_next(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    static const char *const names[] = {"timeout", "loads", NULL};
    PyObject *arg[2], *answer = NULL;
    struct trk_result r;
    int64_t timeout;
    int rc;

    if (ext_args("next", args, nargs, kwnames, names, 2, arg) < 0 ||
        ext_timeout(arg[0], EXT_ENDLESS, &timeout) < 0 || !enter(as_work(self))) {
        return NULL;
    }
    rc = take(as_work(self), timeout, &r);
    if (rc == 0) {
        answer = result_tuple(as_work(self), &r, arg[1]);
    } else if (rc == TRK_AGAIN) {
        answer = Py_NewRef(Py_None);
    } else if (rc == TRK_END) {
        PyErr_SetNone(PyExc_StopIteration);
    } else {
        ext_raise(ext_state_of(self), rc);
    }
    cancel_if_wanted(as_work(self));
    leave(as_work(self));
    return answer;
}

/* results[index] = value, which is taken. */
static int store(PyObject *results, uint64_t index, PyObject *value)
{
    Py_ssize_t size = PyList_Size(results);
    int rc = 0;

    if (index < (uint64_t)size) {
        return PyList_SetItem(results, (Py_ssize_t)index, value);
    }
    while (rc == 0 && (uint64_t)size < index) {
        rc = PyList_Append(results, Py_None);
        size++;
    }
    rc = rc == 0 ? PyList_Append(results, value) : rc;
    Py_DECREF(value);
    return rc;
}

static PyObject *collect(struct work_object *self, PyObject *results, PyObject *loads,
                         int64_t timeout)
{
    struct trk_result r;

    for (unsigned n = 0;; n++) {
        PyObject *value;
        int rc;
        if (n % EXT_SIGNALS_EVERY == 0) { /* for other threads that look while loads runs */
            trk_work_progress(self->work, &self->progress);
        }
        rc = take(self, n == 0 ? timeout : 0, &r);
        if (rc == TRK_AGAIN) {
            Py_RETURN_NONE;
        }
        if (rc == TRK_END) {
            Py_RETURN_TRUE;
        }
        if (rc < 0) {
            return ext_raise(ext_state_of((PyObject *)self), rc);
        }
        if (r.status != TRK_STATUS_OK) {
            return result_tuple(self, &r, loads);
        }
        value = value_of(self, &r, loads);
        if (value == NULL || store(results, r.index, value) < 0 ||
            (n % EXT_SIGNALS_EVERY == EXT_SIGNALS_EVERY - 1 && PyErr_CheckSignals() < 0)) {
            return NULL;
        }
    }
}

PyDoc_STRVAR(collect_doc,
             "collect(results, loads, timeout)\n--\n\n"
             "Takes all results that are ready (waits for one at most timeout):\n"
             "results[index] = value, growing the list. True: the end; None: more to come; a\n"
             "tuple (index, status, payload, attempts): this result is not STATUS_OK.");

static PyObject *work_collect(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    static const char *const names[] = {"results", "loads", "timeout", NULL};
    PyObject *arg[3], *answer;
    int64_t timeout;

    if (ext_args("collect", args, nargs, kwnames, names, 3, arg) < 0 ||
        ext_timeout(arg[2], EXT_ENDLESS, &timeout) < 0) {
        return NULL;
    }
    if (!PyList_Check(arg[0])) {
        PyErr_Format(PyExc_TypeError, "results must be a list, not %R", Py_TYPE(arg[0]));
        return NULL;
    }
    if (!enter(as_work(self))) {
        return NULL;
    }
    answer = collect(as_work(self), arg[0], arg[1], timeout);
    cancel_if_wanted(as_work(self));
    leave(as_work(self));
    return answer;
}

/* --- the rest ---------------------------------------------------------------------------- */

PyDoc_STRVAR(flush_doc, "flush()\n--\n\nSends what was added but not handed on yet.");

static PyObject *work_flush(PyObject *self, PyObject *unused)
{
    int rc;

    if (!enter(as_work(self))) {
        return NULL;
    }
    rc = trk_work_flush(as_work(self)->work);
    leave(as_work(self));
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(turn_doc, "turn()\n--\n\n"
                       "What a resumed job wants next: 0 anything, 1 another element, 2 that a\n"
                       "result is taken.");

static PyObject *work_turn(PyObject *self, PyObject *unused)
{
    enum trk_turn turn;

    if (!enter(as_work(self))) {
        return NULL;
    }
    turn = trk_work_turn(as_work(self)->work);
    leave(as_work(self));
    return PyLong_FromLong((long)turn);
}

PyDoc_STRVAR(close_doc, "close(leave_open=False)\n--\n\n"
                        "There will be no more elements; with leave_open in this run of the\n"
                        "program: another one goes on with the list.");

static PyObject *work_close(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    static const char *const names[] = {"leave_open", NULL};
    PyObject *arg[1];
    int leave_open = 0, rc = 0;

    if (ext_args("close", args, nargs, kwnames, names, 0, arg) < 0 ||
        (arg[0] != NULL && (leave_open = PyObject_IsTrue(arg[0])) < 0) ||
        !enter(as_work(self))) {
        return NULL;
    }
    if (!as_work(self)->is_closed) {
        rc = end_adding(as_work(self), leave_open != 0);
    }
    leave(as_work(self));
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(progress_doc, "progress()\n--\n\n"
                           "A dict: added, done, failed, restored, reissued, vms, is_closed.");

static PyObject *work_progress(PyObject *self, PyObject *unused)
{
    struct work_object *w = as_work(self);
    const struct trk_progress *p = &w->progress;

    if (!ext_usable(self)) {
        return NULL;
    }
    if (!w->is_lent) {
        trk_work_progress(w->work, &w->progress);
    }
    return Py_BuildValue("{sKsKsKsKsKsIsN}", "added", (unsigned long long)p->added, "done",
                         (unsigned long long)p->done, "failed", (unsigned long long)p->failed,
                         "restored", (unsigned long long)p->restored,
                         "reissued", (unsigned long long)p->reissued, "vms", (unsigned)p->vms,
                         "is_closed", PyBool_FromLong(p->is_closed));
}

static const char *const outcomes[] = {
    [TRK_OUTCOME_DONE] = "done",       [TRK_OUTCOME_EXCEPTION] = "exception",
    [TRK_OUTCOME_DIED] = "died",       [TRK_OUTCOME_TIMEOUT] = "timeout",
    [TRK_OUTCOME_MEMORY] = "memory",   [TRK_OUTCOME_OOM] = "oom",
    [TRK_OUTCOME_LOST] = "lost",
};

PyObject *attempt_dict(const struct trk_attempt *a)
{
    size_t known = sizeof(outcomes) / sizeof(outcomes[0]);
    PyObject *host = ext_text_in(a->vm_host, sizeof(a->vm_host));

    if (host == NULL) {
        return NULL;
    }
    return Py_BuildValue(
        "{sIsssNsIsIsKsKsisisKsy#}", "attempt", (unsigned)a->attempt, "outcome",
        a->outcome < known ? outcomes[a->outcome] : "unknown", "host", host, "index",
        (unsigned)a->vm_index, "pid", (unsigned)a->vm_pid, "started_ms",
        (unsigned long long)a->started_ms, "duration_ns", (unsigned long long)a->duration_ns,
        "signal", (int)a->signal, "exit_status", (int)a->exit_status, "rss_max_bytes",
        (unsigned long long)a->rss_max_bytes, "output", a->output != NULL ? a->output : "",
        (Py_ssize_t)a->output_size);
}

PyDoc_STRVAR(attempts_doc, "attempts(index)\n--\n\n"
                           "All ended runs of an element that are still known, as dicts, the\n"
                           "first first. Any thread, at any time.");

static PyObject *work_attempts(PyObject *self, PyObject *index)
{
    unsigned long long at = PyLong_AsUnsignedLongLong(index);
    struct trk_attempt *found = NULL;
    size_t count = 0;
    PyObject *list;
    int rc;

    if (at == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    rc = trk_work_attempts(as_work(self)->work, at, &found, &count);
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; i < count && list != NULL; i++) {
        PyObject *dict = attempt_dict(&found[i]);
        if (dict == NULL || PyList_SetItem(list, (Py_ssize_t)i, dict) < 0) {
            Py_CLEAR(list);
        }
    }
    trk_attempts_free(found, count);
    return list;
}

PyDoc_STRVAR(cancel_doc, "cancel(interrupt=False)\n--\n\n"
                         "Stops the work; with interrupt also the code that is running.");

static PyObject *work_cancel(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    static const char *const names[] = {"interrupt", NULL};
    PyObject *arg[1];
    int interrupt;

    if (ext_args("cancel", args, nargs, kwnames, names, 0, arg) < 0) {
        return NULL;
    }
    interrupt = arg[0] != NULL ? PyObject_IsTrue(arg[0]) : 0;
    if (interrupt < 0 || !ext_usable(self)) {
        return NULL;
    }
    as_work(self)->cancel_wanted = true;
    as_work(self)->interrupt_wanted |= interrupt > 0;
    if (!as_work(self)->is_lent) {
        cancel_if_wanted(as_work(self));
    }
    Py_RETURN_NONE;
}

#define METHOD(name) \
    {#name, (PyCFunction)(void (*)(void))work_##name, METH_FASTCALL | METH_KEYWORDS, name##_doc}

static PyMethodDef work_methods[] = {
    METHOD(feed),
    METHOD(next),
    METHOD(collect),
    METHOD(cancel),
    {"flush", work_flush, METH_NOARGS, flush_doc},
    {"turn", work_turn, METH_NOARGS, turn_doc},
    METHOD(close),
    {"progress", work_progress, METH_NOARGS, progress_doc},
    {"attempts", work_attempts, METH_O, attempts_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot work_slots[] = {
    {Py_tp_doc, "One stream of elements in, one result per element out."},
    {Py_tp_traverse, work_traverse},
    {Py_tp_clear, work_clear},
    {Py_tp_dealloc, work_dealloc},
    {Py_tp_methods, work_methods},
    {0, NULL},
};

PyType_Spec work_spec = {
    .name = "trickle._trickle.Work",
    .basicsize = sizeof(struct work_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = work_slots,
};
