/* SPDX-License-Identifier: MIT */
/* call.c - Call: one request to a VM; its buffer is the payload of the reply. */
#include "ext.h"

struct call_object {
    PyObject_HEAD
    struct trk_call *call;
    struct farm_object *farm; /* strong */
    struct trk_reply reply;   /* borrowed from call, once has_reply */
    bool has_reply;
};

static struct call_object *as_call(PyObject *self)
{
    return (struct call_object *)self;
}

PyObject *call_wrap(struct ext_state *state, struct farm_object *farm, struct trk_call *call)
{
    struct call_object *self = ext_new(state->call_type);

    if (self == NULL) {
        trk_call_free(call);
        return NULL;
    }
    self->call = call;
    self->farm = (struct farm_object *)Py_NewRef((PyObject *)farm);
    return (PyObject *)self;
}

static int call_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)as_call(self)->farm);
    return 0;
}

static void call_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    trk_call_free(as_call(self)->call);
    Py_DECREF((PyObject *)as_call(self)->farm);
    ext_free(self);
}

static int call_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    struct call_object *call = as_call(self);
    static char nothing[1];
    void *payload = nothing;

    if (!call->has_reply) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, "this call was not waited for yet: it has no payload");
        return -1;
    }
    if (call->reply.size > 0) {
        payload = (void *)call->reply.payload;
    }
    return PyBuffer_FillInfo(view, self, payload, (Py_ssize_t)call->reply.size, 1, flags);
}

static PyObject *call_is_done(PyObject *self, void *closure)
{
    if (!ext_usable(self)) {
        return NULL;
    }
    return PyBool_FromLong(as_call(self)->has_reply || trk_call_is_done(as_call(self)->call));
}

/* One wait of one thread: the reply is copied into the object under the GIL. */
struct waiting {
    struct trk_call *call;
    struct trk_reply reply;
};

static int wait_reply(void *ctx, int timeout_ms)
{
    struct waiting *w = ctx;
    return trk_call_wait(w->call, timeout_ms, &w->reply);
}

PyDoc_STRVAR(wait_doc, "wait(timeout=None)\n--\n\n"
                       "The status (STATUS_*) of the reply, or None when timeout passed.");

static PyObject *call_wait(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    static const char *const names[] = {"timeout", NULL};
    struct call_object *call = as_call(self);
    struct waiting w = {.call = call->call};
    struct ext_waiter waiter = {.wait = wait_reply, .ctx = &w};
    PyObject *arg[1];
    int64_t timeout;
    int rc;

    if (ext_args("wait", args, nargs, kwnames, names, 0, arg) < 0 ||
        ext_timeout(arg[0], EXT_ENDLESS, &timeout) < 0 || !ext_usable(self)) {
        return NULL;
    }
    if (!call->has_reply) {
        rc = ext_wait(&waiter, timeout);
        if (rc == TRK_AGAIN) {
            Py_RETURN_NONE;
        }
        if (rc < 0) {
            return ext_raise(ext_state_of(self), rc);
        }
        call->reply = w.reply;
        call->has_reply = true;
    }
    return PyLong_FromLong((long)call->reply.status);
}

static PyMethodDef call_methods[] = {
    {"wait", (PyCFunction)(void (*)(void))call_wait, METH_FASTCALL | METH_KEYWORDS, wait_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef call_getset[] = {
    {"is_done", call_is_done, NULL, "it was answered, or has failed", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot call_slots[] = {
    {Py_tp_doc, "One request to a VM. memoryview(call) is the payload of the reply once the call\n"
                "was waited for."},
    {Py_tp_traverse, call_traverse},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_methods, call_methods},
    {Py_tp_getset, call_getset},
    {Py_bf_getbuffer, call_getbuffer},
    {0, NULL},
};

PyType_Spec call_spec = {
    .name = "trickle._trickle.Call",
    .basicsize = sizeof(struct call_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
};

/* --- wait_any ---------------------------------------------------------------------------- */

struct waiting_any {
    struct trk_call **calls;
    size_t count;
    size_t which; /* the answer */
};

static int wait_first(void *ctx, int timeout_ms)
{
    struct waiting_any *w = ctx;
    return trk_call_wait_any(w->calls, w->count, timeout_ms, &w->which);
}

static int collect_calls(struct ext_state *state, PyObject *tuple, struct waiting_any *w)
{
    w->count = (size_t)PyTuple_Size(tuple);
    if (w->count == 0) {
        PyErr_SetString(PyExc_ValueError, "wait_any() needs at least one call");
        return -1;
    }
    w->calls = PyMem_Malloc(w->count * sizeof(*w->calls));
    if (w->calls == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < w->count; i++) {
        PyObject *call = PyTuple_GetItem(tuple, (Py_ssize_t)i);
        if (!Py_IS_TYPE(call, state->call_type)) {
            PyErr_Format(PyExc_TypeError, "wait_any() takes Call objects, not %R", Py_TYPE(call));
            return -1;
        }
        if (as_call(call)->farm != as_call(PyTuple_GetItem(tuple, 0))->farm) {
            PyErr_SetString(PyExc_ValueError, "wait_any() takes calls of one farm");
            return -1;
        }
        w->calls[i] = as_call(call)->call;
    }
    return 0;
}

const char call_wait_any_doc[] = "wait_any(calls, timeout=None)\n--\n\n"
                                 "The index of the call that finished first, or None when timeout\n"
                                 "passed.";

PyObject *call_wait_any(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames)
{
    static const char *const names[] = {"calls", "timeout", NULL};
    struct waiting_any w = {.calls = NULL};
    struct ext_waiter waiter = {.wait = wait_first, .ctx = &w};
    PyObject *arg[2], *tuple, *answer = NULL;
    int64_t timeout;
    int rc;

    if (ext_args("wait_any", args, nargs, kwnames, names, 1, arg) < 0 ||
        ext_timeout(arg[1], EXT_ENDLESS, &timeout) < 0) {
        return NULL;
    }
    tuple = PySequence_Tuple(arg[0]); /* keeps the calls alive, whatever becomes of the list */
    if (tuple == NULL) {
        return NULL;
    }
    if (collect_calls(PyModule_GetState(module), tuple, &w) == 0) {
        rc = ext_wait(&waiter, timeout);
        if (rc == TRK_AGAIN) {
            answer = Py_NewRef(Py_None);
        } else if (rc < 0) {
            ext_raise(PyModule_GetState(module), rc);
        } else {
            answer = PyLong_FromSize_t(w.which);
        }
    }
    PyMem_Free(w.calls);
    Py_DECREF(tuple);
    return answer;
}
