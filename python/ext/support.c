/* SPDX-License-Identifier: MIT */
/* support.c - arguments, errors and waiting, for all types of the extension. */
#include <limits.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "ext.h"

#define SLICE_NS 100000000LL /* no wait without a look at signals is longer */

/* --- arguments --------------------------------------------------------------------------- */

static Py_ssize_t name_index(PyObject *key, const char *const *names)
{
    for (Py_ssize_t i = 0; names[i] != NULL; i++) {
        if (PyUnicode_CompareWithASCIIString(key, names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static int take_keywords(const char *function, PyObject *const *values, PyObject *kwnames,
                         const char *const *names, PyObject **out)
{
    Py_ssize_t n = PyTuple_Size(kwnames);

    for (Py_ssize_t k = 0; k < n; k++) {
        PyObject *key = PyTuple_GetItem(kwnames, k);
        Py_ssize_t i = name_index(key, names);
        if (i < 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function,
                         key);
            return -1;
        }
        if (out[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", function,
                         key);
            return -1;
        }
        out[i] = values[k];
    }
    return 0;
}

int ext_args(const char *function, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
             const char *const *names, Py_ssize_t required, PyObject **out)
{
    Py_ssize_t count = 0;

    for (; names[count] != NULL; count++) {
        out[count] = count < nargs ? args[count] : NULL;
    }
    if (nargs > count) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments (%zd given)", function,
                     count, nargs);
        return -1;
    }
    if (kwnames != NULL && take_keywords(function, args + nargs, kwnames, names, out) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s'", function,
                         names[i]);
            return -1;
        }
    }
    return 0;
}

int ext_timeout(PyObject *seconds, int64_t missing, int64_t *ns)
{
    double value;

    if (seconds == NULL || seconds == Py_None) {
        *ns = seconds == NULL ? missing : EXT_ENDLESS;
        return 0;
    }
    value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (isnan(value)) {
        PyErr_SetString(PyExc_ValueError, "a timeout cannot be nan");
        return -1;
    }
    if (value > 1e9) {
        *ns = EXT_ENDLESS; /* 30 years: nobody will see the difference */
    } else {
        *ns = value > 0 ? (int64_t)(value * 1e9) : 0;
    }
    return 0;
}

int ext_milliseconds(int64_t ns)
{
    int64_t ms = ns / 1000000 + (ns % 1000000 != 0);

    if (ns == EXT_ENDLESS) {
        return -1;
    }
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

/* --- errors ------------------------------------------------------------------------------ */

static const char *error_name(int error)
{
    switch (error) {
#define ERROR_CASE(name, number, text) \
    case number:                       \
        return #name;
        TRK_ERROR_MAP(ERROR_CASE)
#undef ERROR_CASE
    default:
        return "";
    }
}

/* Borrowed. */
static PyObject *error_class(struct ext_state *state, int error)
{
    PyObject *found;

    if (state->exceptions == NULL) {
        return PyExc_RuntimeError; /* the interpreter is being finalised */
    }
    found = PyDict_GetItemString(state->exceptions, error_name(error));
    if (found == NULL) {
        found = PyDict_GetItemString(state->exceptions, "");
    }
    return found != NULL ? found : state->trickle_error;
}

PyObject *ext_raise_text(struct ext_state *state, int error, const char *text)
{
    PyErr_SetString(error_class(state, error), text);
    return NULL;
}

PyObject *ext_raise(struct ext_state *state, int error)
{
    const char *text;

    if (error == EXT_RAISED) {
        return NULL;
    }
    text = trk_last_error();
    if (text == NULL || text[0] == '\0') {
        text = trk_strerror(error);
    }
    return ext_raise_text(state, error, text);
}

bool ext_is_stop(void)
{
    return PyErr_Occurred() != NULL && !PyErr_ExceptionMatches(PyExc_Exception);
}

/* --- objects ----------------------------------------------------------------------------- */

struct ext_state *ext_state_of(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

bool ext_usable(PyObject *self)
{
    if (trk_is_forked()) {
        ext_raise_text(ext_state_of(self), TRK_EFORKED, trk_strerror(TRK_EFORKED));
        return false;
    }
    return true;
}

void *ext_new(PyTypeObject *type)
{
    if (type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the interpreter is being finalised");
        return NULL;
    }
    return PyType_GenericAlloc(type, 0);
}

void ext_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    release(self);
    Py_DECREF(type);
}

PyObject *ext_text(const char *text)
{
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

PyObject *ext_text_in(const char *text, size_t room)
{
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strnlen(text, room), "replace");
}

int ext_put(PyObject *dict, const char *key, PyObject *value)
{
    int rc = value != NULL ? PyDict_SetItemString(dict, key, value) : -1;

    Py_XDECREF(value);
    return rc;
}

PyObject *ext_taken(PyObject *self, int rc, void *bytes, size_t size)
{
    PyObject *value;

    if (rc == TRK_END) {
        Py_RETURN_NONE;
    }
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    value = PyBytes_FromStringAndSize(bytes, (Py_ssize_t)size);
    trk_free(bytes);
    return value;
}

PyObject *ext_view(const void *bytes, size_t size)
{
    static char nothing[1];

    return PyMemoryView_FromMemory(size > 0 ? (char *)bytes : nothing, (Py_ssize_t)size,
                                   PyBUF_READ);
}

int ext_view_end(PyObject *view)
{
    PyObject *type, *error, *trace, *done;

    PyErr_Fetch(&type, &error, &trace);
    done = PyObject_CallMethod(view, "release", NULL);
    if (type != NULL) {
        PyErr_Restore(type, error, trace); /* in the place of what release raised */
    }
    Py_DECREF(view);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

/* --- waiting ----------------------------------------------------------------------------- */

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int ext_wait(const struct ext_waiter *waiter, int64_t timeout_ns)
{
    int64_t until = 0, slice = SLICE_NS;
    int rc = waiter->wait(waiter->ctx, 0);

    if (rc != TRK_AGAIN || timeout_ns == 0) {
        return rc;
    }
    if (timeout_ns != EXT_ENDLESS) {
        until = now_ns() + timeout_ns;
    }
    for (;;) {
        if (timeout_ns != EXT_ENDLESS) {
            slice = until - now_ns();
            if (slice <= 0) {
                return TRK_AGAIN;
            }
            slice = slice < SLICE_NS ? slice : SLICE_NS;
        }
        Py_BEGIN_ALLOW_THREADS
        rc = waiter->wait(waiter->ctx, ext_milliseconds(slice));
        Py_END_ALLOW_THREADS
        if (waiter->awake != NULL) {
            waiter->awake(waiter->ctx);
        }
        if (rc != TRK_AGAIN) {
            return rc;
        }
        if (PyErr_CheckSignals() < 0) {
            return EXT_RAISED;
        }
    }
}
