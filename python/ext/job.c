/* SPDX-License-Identifier: MIT */
/* job.c - Job: a skin over struct trk_job.
 *
 * Short calls are made with the GIL held. Opening may check a whole store, closing and put wait for
 * the disk: those are made without it, and while one of them is under way no other thread's call
 * on the same object passes. */
#include <string.h>
#include <time.h>

#include "ext.h"

#define SLICE_MS 100 /* of a long wait, between two looks at signals */

static struct job_object *as_job(PyObject *self)
{
    return (struct job_object *)self;
}

/* False, with the exception, when it cannot be used. */
static bool enter(PyObject *self)
{
    if (!ext_usable(self)) {
        return false;
    }
    if (as_job(self)->job == NULL) {
        ext_raise_text(ext_state_of(self), TRK_ECLOSED, "the job is closed");
        return false;
    }
    return true;
}

struct trk_job *job_of(PyObject *self)
{
    return enter(self) ? as_job(self)->job : NULL;
}

/* --- life -------------------------------------------------------------------------------- */

static PyObject *opened_dict(const struct trk_job_opened *o)
{
    PyObject *dict = PyDict_New();

    if (dict != NULL &&
        (ext_put(dict, "is_new", PyBool_FromLong(o->is_new)) < 0 ||
         ext_put(dict, "epoch", PyLong_FromUnsignedLong(o->epoch)) < 0 ||
         ext_put(dict, "uuid", PyBytes_FromStringAndSize((const char *)o->uuid, 16)) < 0 ||
         ext_put(dict, "dir", PyUnicode_DecodeFSDefault(o->dir)) < 0 ||
         ext_put(dict, "text", ext_text(o->text)) < 0)) {
        Py_CLEAR(dict);
    }
    return dict;
}

static int on_change_of(const char *name, enum trk_on_change *out)
{
    static const char *const names[] = {"refuse", "keep", "redo"};

    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum trk_on_change)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "on_change is \"refuse\", \"keep\" or \"redo\", not \"%s\"",
                 name);
    return -1;
}

static int job_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name",      "home",      "must_be_new", "must_exist",
                            "on_change", "retry_failed", NULL};
    struct trk_job_options opt = {.size = sizeof(opt)};
    int must_be_new = 0, must_exist = 0, retry_failed = 0, rc;
    const char *on_change = "refuse";
    struct trk_job_opened *opened;
    struct trk_job *job = NULL;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s|$zppsp:Job", names, &opt.name, &opt.home,
                                     &must_be_new, &must_exist, &on_change, &retry_failed) ||
        on_change_of(on_change, &opt.on_change) < 0) {
        return -1;
    }
    if (as_job(self)->opened != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this job was opened already");
        return -1;
    }
    opt.must_be_new = must_be_new != 0;
    opt.must_exist = must_exist != 0;
    opt.retry_failed = retry_failed != 0;
    opened = PyMem_Calloc(1, sizeof(*opened)); /* large, for a stack */
    if (opened == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = trk_job_open(&job, &opt, opened);
    Py_END_ALLOW_THREADS
    if (rc < 0) {
        ext_raise(ext_state_of(self), rc);
    } else {
        as_job(self)->job = job;
        as_job(self)->opened = opened_dict(opened);
    }
    PyMem_Free(opened);
    return as_job(self)->opened != NULL ? 0 : -1;
}

static int close_job(struct job_object *self)
{
    struct trk_job *job = self->job;
    int rc = 0;

    self->job = NULL;
    if (job != NULL && self->waiting == 0) {
        Py_BEGIN_ALLOW_THREADS
        rc = trk_job_close(job);
        Py_END_ALLOW_THREADS
    } else {
        self->job = job; /* another thread waits for its disk */
        rc = job != NULL ? TRK_EINVAL : 0;
    }
    return rc;
}

static int job_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(as_job(self)->opened);
    return 0;
}

static void job_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    (void)close_job(as_job(self));
    Py_CLEAR(as_job(self)->opened);
    ext_free(self);
}

PyDoc_STRVAR(close_doc, "close()\n--\n\n"
                        "Makes all durable and gives the lock back; a second close does nothing.\n"
                        "Close the farm that uses the job first.");

static PyObject *job_close(PyObject *self, PyObject *unused)
{
    int rc = close_job(as_job(self));

    if (rc == TRK_EINVAL) {
        return ext_raise_text(ext_state_of(self), rc, "another thread waits for this job's disk");
    }
    if (rc < 0) {
        return ext_raise_text(ext_state_of(self), rc, "the disk did not take all of it");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(opened_doc, "opened()\n--\n\n"
                         "What opening found: is_new, epoch, uuid (bytes), dir, text (sentences\n"
                         "for a person, or \"\").");

static PyObject *job_opened(PyObject *self, PyObject *unused)
{
    return as_job(self)->opened != NULL ? PyDict_Copy(as_job(self)->opened)
                                        : ext_raise_text(ext_state_of(self), TRK_ECLOSED,
                                                         "the job was not opened");
}

/* --- notes ------------------------------------------------------------------------------- */

/* Whether the note stands there durably as given. */
static int is_durable(struct trk_job *job, int kind, const char *name, const Py_buffer *value)
{
    void *bytes;
    size_t size;
    int rc = trk_job_get(job, (enum trk_note)kind, name, &bytes, &size);

    if (rc != 0) {
        return rc < 0 ? rc : TRK_AGAIN;
    }
    rc = size == (size_t)value->len && memcmp(bytes, value->buf, size) == 0 ? 0 : TRK_AGAIN;
    trk_free(bytes);
    return rc;
}

/* However long the disk is full; signals are looked at. */
static int put_and_wait(struct job_object *self, int kind, const char *name,
                        const Py_buffer *value)
{
    static const struct timespec slice = {0, SLICE_MS * 1000000L};
    struct trk_job *job = self->job;
    int rc;

    self->waiting++;
    Py_BEGIN_ALLOW_THREADS
    rc = trk_job_put(job, (enum trk_note)kind, name, value->buf, (size_t)value->len, true,
                     SLICE_MS);
    Py_END_ALLOW_THREADS
    while (rc == TRK_AGAIN) {
        if (PyErr_CheckSignals() < 0) {
            rc = EXT_RAISED;
            break;
        }
        rc = is_durable(job, kind, name, value);
        if (rc == TRK_AGAIN) {
            Py_BEGIN_ALLOW_THREADS
            nanosleep(&slice, NULL);
            Py_END_ALLOW_THREADS
        }
    }
    self->waiting--;
    return rc;
}

PyDoc_STRVAR(put_doc, "put(kind, name, value, wait=True)\n--\n\n"
                      "Records a named value (bytes); with wait, returns when it is durable.");

static PyObject *job_put(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"kind", "name", "value", "wait", NULL};
    int kind, wait = 1, rc = EXT_RAISED;
    const char *name;
    Py_buffer value;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "isy*|p:put", names, &kind, &name, &value,
                                     &wait)) {
        return NULL;
    }
    if (enter(self)) {
        rc = wait ? put_and_wait(as_job(self), kind, name, &value)
                  : trk_job_put(as_job(self)->job, (enum trk_note)kind, name, value.buf,
                                (size_t)value.len, false, 0);
    }
    PyBuffer_Release(&value);
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_doc, "get(kind, name)\n--\n\n"
                      "The durable value of that name as bytes, or None.");

static PyObject *job_get(PyObject *self, PyObject *args)
{
    const char *name;
    void *bytes = NULL;
    size_t size = 0;
    int kind, rc;

    if (!PyArg_ParseTuple(args, "is:get", &kind, &name) || !enter(self)) {
        return NULL;
    }
    rc = trk_job_get(as_job(self)->job, (enum trk_note)kind, name, &bytes, &size);
    return ext_taken(self, rc, bytes, size);
}

/* --- lists ------------------------------------------------------------------------------- */

PyDoc_STRVAR(stage_info_doc, "stage_info(key)\n--\n\n"
                             "(elements that are known, is the list closed) of the works of that\n"
                             "key, or None: there was none.");

static PyObject *job_stage_info(PyObject *self, PyObject *key)
{
    const char *text = PyUnicode_AsUTF8AndSize(key, NULL);
    struct trk_job_stage stage;
    int rc;

    if (text == NULL || !enter(self)) {
        return NULL;
    }
    rc = trk_job_get_stage(as_job(self)->job, text, &stage);
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    if (rc == TRK_END) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(KN)", (unsigned long long)stage.elements,
                         PyBool_FromLong(stage.is_closed));
}

PyDoc_STRVAR(elements_doc, "elements(key, start=0)\n--\n\n"
                           "An iterator over the elements that a work of that key has kept,\n"
                           "bytes, in order. LookupError: there was no such work. One whose bytes\n"
                           "the store lacks raises.");

static PyObject *job_elements(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"key", "start", NULL};
    PyObject *number = NULL;
    unsigned long long start = 0;
    struct trk_elements *walk;
    const char *key;
    int rc;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s|O!:elements", names, &key, &PyLong_Type,
                                     &number)) {
        return NULL;
    }
    if (number != NULL) {
        start = PyLong_AsUnsignedLongLong(number);
        if (start == (unsigned long long)-1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    if (!enter(self)) {
        return NULL;
    }
    rc = trk_job_elements(as_job(self)->job, key, start, &walk);
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    if (rc == TRK_END) {
        return PyErr_Format(PyExc_LookupError, "the job has no work of the key %s", key);
    }
    return elements_wrap(ext_state_of(self), walk);
}

PyDoc_STRVAR(state_doc, "state()\n--\n\n"
                        "How the disk does: syncs, sync_ns, queued_bytes, is_paused, text.");

static PyObject *job_state(PyObject *self, PyObject *unused)
{
    struct trk_job_state state;
    PyObject *dict;

    if (!enter(self)) {
        return NULL;
    }
    trk_job_get_state(as_job(self)->job, &state);
    dict = PyDict_New();
    if (dict != NULL &&
        (ext_put(dict, "syncs", PyLong_FromUnsignedLongLong(state.syncs)) < 0 ||
         ext_put(dict, "sync_ns", PyLong_FromUnsignedLongLong(state.sync_ns)) < 0 ||
         ext_put(dict, "queued_bytes", PyLong_FromUnsignedLongLong(state.queued_bytes)) < 0 ||
         ext_put(dict, "is_paused", PyBool_FromLong(state.is_paused)) < 0 ||
         ext_put(dict, "text", ext_text(state.text)) < 0)) {
        Py_CLEAR(dict);
    }
    return dict;
}

static PyMethodDef job_methods[] = {
    {"opened", job_opened, METH_NOARGS, opened_doc},
    {"put", (PyCFunction)(void (*)(void))job_put, METH_VARARGS | METH_KEYWORDS, put_doc},
    {"get", job_get, METH_VARARGS, get_doc},
    {"stage_info", job_stage_info, METH_O, stage_info_doc},
    {"elements", (PyCFunction)(void (*)(void))job_elements, METH_VARARGS | METH_KEYWORDS,
     elements_doc},
    {"state", job_state, METH_NOARGS, state_doc},
    {"close", job_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot job_slots[] = {
    {Py_tp_doc, "Job(name, *, home=None, must_be_new=False, must_exist=False, "
                "on_change=\"refuse\", retry_failed=False)\n--\n\n"
                "A durable job, open in this process."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, job_init},
    {Py_tp_traverse, job_traverse},
    {Py_tp_dealloc, job_dealloc},
    {Py_tp_methods, job_methods},
    {0, NULL},
};

PyType_Spec job_spec = {
    .name = "trickle._trickle.Job",
    .basicsize = sizeof(struct job_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = job_slots,
};
