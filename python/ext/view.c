/* SPDX-License-Identifier: MIT */
/* view.c - View: a skin over struct trk_view, and the functions that need no open view.
 *
 * Looking may run a checker, read gigabytes or wait for another process, so each call is made
 * without the GIL; a view that is in a call refuses others meanwhile. */
#include <string.h>

#include "ext.h"

struct view_object {
    PyObject_HEAD
    struct trk_view *view; /* NULL: closed */
    bool is_lent;          /* a call is under way */
};

static struct view_object *as_view(PyObject *self)
{
    return (struct view_object *)self;
}

static struct trk_view *enter(PyObject *self)
{
    if (as_view(self)->view == NULL || as_view(self)->is_lent) {
        ext_raise_text(ext_state_of(self), TRK_ECLOSED,
                       as_view(self)->view == NULL ? "the view is closed"
                                                   : "another thread uses this view");
        return NULL;
    }
    as_view(self)->is_lent = true;
    return as_view(self)->view;
}

/* Makes a call on the view without the GIL. */
#define VIEW_CALL(self, rc, call)      \
    do {                               \
        Py_BEGIN_ALLOW_THREADS         \
        (rc) = (call);                 \
        Py_END_ALLOW_THREADS           \
        as_view(self)->is_lent = false; \
    } while (0)

/* --- life -------------------------------------------------------------------------------- */

static int view_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "home", NULL};
    const char *name, *home = NULL;
    struct trk_view *view = NULL;
    int rc;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s|$z:View", names, &name, &home)) {
        return -1;
    }
    if (as_view(self)->view != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this view was opened already");
        return -1;
    }
    rc = trk_view_open(&view, home, name);
    if (rc == TRK_END) {
        PyErr_Format(PyExc_LookupError, "there is no job %s", name);
        return -1;
    }
    if (rc < 0) {
        ext_raise(ext_state_of(self), rc);
        return -1;
    }
    as_view(self)->view = view;
    return 0;
}

static int view_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void view_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    trk_view_close(as_view(self)->view);
    ext_free(self);
}

PyDoc_STRVAR(close_doc, "close()\n--\n\nA second close does nothing.");

static PyObject *view_close(PyObject *self, PyObject *unused)
{
    struct trk_view *view;

    if (as_view(self)->view != NULL) {
        if ((view = enter(self)) == NULL) {
            return NULL;
        }
        as_view(self)->view = NULL;
        as_view(self)->is_lent = false;
        trk_view_close(view);
    }
    Py_RETURN_NONE;
}

/* --- looking ----------------------------------------------------------------------------- */

static PyObject *info_dict(const struct trk_view_info *i)
{
    PyObject *dict = PyDict_New();

    if (dict != NULL &&
        (ext_put(dict, "dir", PyUnicode_DecodeFSDefault(i->dir)) < 0 ||
         ext_put(dict, "has_store", PyBool_FromLong(i->has_store)) < 0 ||
         ext_put(dict, "is_damaged", PyBool_FromLong(i->is_damaged)) < 0 ||
         ext_put(dict, "text", ext_text(i->text)) < 0 ||
         ext_put(dict, "uuid", PyBytes_FromStringAndSize((const char *)i->uuid, 16)) < 0 ||
         ext_put(dict, "epoch", PyLong_FromUnsignedLong(i->epoch)) < 0 ||
         ext_put(dict, "version", PyLong_FromUnsignedLongLong(i->version)) < 0 ||
         ext_put(dict, "records", PyLong_FromUnsignedLongLong(i->records)) < 0 ||
         ext_put(dict, "bytes", PyLong_FromUnsignedLongLong(i->bytes)) < 0 ||
         ext_put(dict, "is_running", PyBool_FromLong(i->is_running)) < 0 ||
         ext_put(dict, "pid", PyLong_FromLongLong(i->pid)) < 0 ||
         ext_put(dict, "host", ext_text(i->host)) < 0 ||
         ext_put(dict, "since", ext_text(i->since)) < 0)) {
        Py_CLEAR(dict);
    }
    return dict;
}

PyDoc_STRVAR(info_doc, "info()\n--\n\nWhat is known of the job as a whole, a dict.");

static PyObject *view_info(PyObject *self, PyObject *unused)
{
    struct trk_view_info *info = PyMem_Calloc(1, sizeof(*info)); /* large, for a stack */
    struct trk_view *view = info != NULL ? enter(self) : NULL;
    PyObject *dict = NULL;
    int rc;

    if (info == NULL) {
        return PyErr_NoMemory();
    }
    if (view != NULL) {
        VIEW_CALL(self, rc, trk_view_get_info(view, info));
        dict = rc < 0 ? ext_raise(ext_state_of(self), rc) : info_dict(info);
    }
    PyMem_Free(info);
    return dict;
}

PyDoc_STRVAR(note_doc, "note(kind, name)\n--\n\nA named value as bytes, or None.");

static PyObject *view_note(PyObject *self, PyObject *args)
{
    struct trk_view *view;
    const char *name;
    void *bytes = NULL;
    size_t size = 0;
    int kind, rc;

    if (!PyArg_ParseTuple(args, "is:note", &kind, &name) || (view = enter(self)) == NULL) {
        return NULL;
    }
    VIEW_CALL(self, rc, trk_view_note(view, (enum trk_note)kind, name, &bytes, &size));
    return ext_taken(self, rc, bytes, size);
}

static PyObject *stage_dict(const struct trk_view_stage *s)
{
    PyObject *dict = PyDict_New();

    if (dict != NULL &&
        (ext_put(dict, "number", PyLong_FromUnsignedLong(s->number)) < 0 ||
         ext_put(dict, "key", ext_text(s->key)) < 0 ||
         ext_put(dict, "name", ext_text(s->name)) < 0 ||
         ext_put(dict, "added", PyLong_FromUnsignedLongLong(s->added)) < 0 ||
         ext_put(dict, "is_closed", PyBool_FromLong(s->is_closed)) < 0 ||
         ext_put(dict, "recorded", PyLong_FromUnsignedLongLong(s->recorded)) < 0 ||
         ext_put(dict, "failed", PyLong_FromUnsignedLongLong(s->failed)) < 0 ||
         ext_put(dict, "bytes", PyLong_FromUnsignedLongLong(s->bytes)) < 0 ||
         ext_put(dict, "replaced_by", PyLong_FromUnsignedLong(s->replaced_by)) < 0 ||
         ext_put(dict, "previous", PyLong_FromUnsignedLong(s->previous)) < 0)) {
        Py_CLEAR(dict);
    }
    return dict;
}

PyDoc_STRVAR(stages_doc, "stages()\n--\n\nAll stages, dicts, by number.");

static PyObject *view_stages(PyObject *self, PyObject *unused)
{
    struct trk_view *view = enter(self);
    struct trk_view_stage *stages;
    size_t count = 0;
    PyObject *list;
    int rc;

    if (view == NULL) {
        return NULL;
    }
    VIEW_CALL(self, rc, trk_view_stages(view, &stages, &count));
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; i < count && list != NULL; i++) {
        PyObject *dict = stage_dict(&stages[i]);
        if (dict == NULL || PyList_SetItem(list, (Py_ssize_t)i, dict) < 0) {
            Py_CLEAR(list);
        }
    }
    trk_view_stages_free(stages);
    return list;
}

/* (index, status, attempt, payload); the payload is copied. */
static PyObject *result_tuple(const struct trk_view_result *r)
{
    return Py_BuildValue("(KIIy#)", (unsigned long long)r->index, (unsigned)r->status,
                         (unsigned)r->attempt, r->payload, (Py_ssize_t)r->size);
}

PyDoc_STRVAR(result_doc, "result(stage, index)\n--\n\n"
                         "(index, status, attempt, payload), or None: it has no result.");

static PyObject *view_result(PyObject *self, PyObject *args)
{
    struct trk_view_result result;
    unsigned long long index;
    struct trk_view *view;
    PyObject *tuple;
    unsigned stage;
    int rc;

    if (!PyArg_ParseTuple(args, "IK:result", &stage, &index) || (view = enter(self)) == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = trk_view_result(view, stage, index, &result);
    Py_END_ALLOW_THREADS
    if (rc == 0) {
        tuple = result_tuple(&result); /* while the view is still ours: the payload is its */
    } else {
        tuple = rc < 0 ? ext_raise(ext_state_of(self), rc) : Py_NewRef(Py_None);
    }
    as_view(self)->is_lent = false;
    return tuple;
}

PyDoc_STRVAR(view_element_doc, "element(stage, index)\n--\n\n"
                               "The element, bytes, or None: it is not known, or was not kept.");

static PyObject *view_element(PyObject *self, PyObject *args)
{
    const void *element = NULL;
    unsigned long long index;
    struct trk_view *view;
    size_t size = 0;
    PyObject *bytes;
    unsigned stage;
    int rc;

    if (!PyArg_ParseTuple(args, "IK:element", &stage, &index) || (view = enter(self)) == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = trk_view_element(view, stage, index, &element, &size);
    Py_END_ALLOW_THREADS
    if (rc == 0) {
        bytes = PyBytes_FromStringAndSize(element, (Py_ssize_t)size); /* while it is ours */
    } else {
        bytes = rc < 0 ? ext_raise(ext_state_of(self), rc) : Py_NewRef(Py_None);
    }
    as_view(self)->is_lent = false;
    return bytes;
}

/* Appends up to limit results, with at most about bytes_max bytes, to list. */
static int collect(struct trk_view *view, struct trk_view_walk *walk, Py_ssize_t limit,
                   PyObject *list)
{
    size_t left = (size_t)1 << 20;
    int rc = 0;

    for (Py_ssize_t i = 0; rc == 0 && i < limit && left > 0; i++) {
        struct trk_view_result result;
        PyObject *tuple;
        Py_BEGIN_ALLOW_THREADS
        rc = trk_view_next(view, walk, &result);
        Py_END_ALLOW_THREADS
        if (rc != 0) {
            break;
        }
        left -= result.size < left ? result.size : left;
        tuple = result_tuple(&result);
        if (tuple == NULL || PyList_Append(list, tuple) < 0) {
            rc = EXT_RAISED;
        }
        Py_XDECREF(tuple);
    }
    return rc;
}

PyDoc_STRVAR(results_doc,
             "results(stage, position=(0, 0), recorded_order=False, limit=1000)\n--\n\n"
             "([(index, status, attempt, payload), ...], position): the next ones, by index or as\n"
             "they were recorded; an empty list: there are no more yet.");

static PyObject *view_results(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"stage", "position", "recorded_order", "limit", NULL};
    unsigned long long next = 0, seq = 0;
    struct trk_view_walk walk = {.stage = 0};
    Py_ssize_t limit = 1000;
    struct trk_view *view;
    int in_order = 0, rc;
    PyObject *list;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|(KK)pn:results", names, &walk.stage, &next,
                                     &seq, &in_order, &limit) ||
        (view = enter(self)) == NULL) {
        return NULL;
    }
    walk.next = next;
    walk.seq = seq;
    walk.in_recorded_order = in_order != 0;
    list = PyList_New(0);
    rc = list != NULL ? collect(view, &walk, limit, list) : EXT_RAISED;
    as_view(self)->is_lent = false;
    if (rc < 0) {
        Py_XDECREF(list);
        return ext_raise(ext_state_of(self), rc);
    }
    return Py_BuildValue("(N(KK))", list, (unsigned long long)walk.next,
                         (unsigned long long)walk.seq);
}

PyDoc_STRVAR(attempts_doc, "attempts(stage, index)\n--\n\n"
                           "The recorded runs of an element, dicts as Work.attempts, and epoch.");

static PyObject *view_attempts(PyObject *self, PyObject *args)
{
    struct trk_view_attempt *found = NULL;
    unsigned long long index;
    struct trk_view *view;
    size_t count = 0;
    unsigned stage;
    PyObject *list;
    int rc;

    if (!PyArg_ParseTuple(args, "IK:attempts", &stage, &index) || (view = enter(self)) == NULL) {
        return NULL;
    }
    VIEW_CALL(self, rc, trk_view_attempts(view, stage, index, &found, &count));
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; i < count && list != NULL; i++) {
        PyObject *dict = attempt_dict(&found[i].a);
        if (dict == NULL || ext_put(dict, "epoch", PyLong_FromUnsignedLong(found[i].epoch)) < 0 ||
            PyList_SetItem(list, (Py_ssize_t)i, dict) < 0) {
            Py_CLEAR(list);
        }
    }
    trk_view_attempts_free(found, count);
    return list;
}

PyDoc_STRVAR(ask_doc, "ask(verb, argument=\"\", timeout=2.0)\n--\n\n"
                      "Asks the program that runs the job: its answer as bytes, or None when\n"
                      "nobody runs it.");

static PyObject *view_ask(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    static const char *const names[] = {"verb", "argument", "timeout", NULL};
    const char *verb, *argument = "";
    PyObject *arg[3];
    struct trk_view *view;
    char *answer = NULL;
    int64_t timeout;
    size_t size = 0;
    int rc, ms;

    if (ext_args("ask", args, nargs, kwnames, names, 1, arg) < 0 ||
        (verb = PyUnicode_AsUTF8AndSize(arg[0], NULL)) == NULL ||
        (arg[1] != NULL && (argument = PyUnicode_AsUTF8AndSize(arg[1], NULL)) == NULL) ||
        ext_timeout(arg[2], 2000000000, &timeout) < 0 || (view = enter(self)) == NULL) {
        return NULL;
    }
    ms = ext_milliseconds(timeout);
    VIEW_CALL(self, rc, trk_view_ask(view, verb, argument, ms >= 0 ? ms : 1000000000, &answer,
                                     &size));
    return ext_taken(self, rc, answer, size);
}

static PyMethodDef view_methods[] = {
    {"info", view_info, METH_NOARGS, info_doc},
    {"note", view_note, METH_VARARGS, note_doc},
    {"stages", view_stages, METH_NOARGS, stages_doc},
    {"result", view_result, METH_VARARGS, result_doc},
    {"element", view_element, METH_VARARGS, view_element_doc},
    {"results", (PyCFunction)(void (*)(void))view_results, METH_VARARGS | METH_KEYWORDS,
     results_doc},
    {"attempts", view_attempts, METH_VARARGS, attempts_doc},
    {"ask", (PyCFunction)(void (*)(void))view_ask, METH_FASTCALL | METH_KEYWORDS, ask_doc},
    {"close", view_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot view_slots[] = {
    {Py_tp_doc, "View(name, *, home=None)\n--\n\n"
                "A look at a job from outside. LookupError: there is none of that name."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, view_init},
    {Py_tp_traverse, view_traverse},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_methods, view_methods},
    {0, NULL},
};

PyType_Spec view_spec = {
    .name = "trickle._trickle.View",
    .basicsize = sizeof(struct view_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = view_slots,
};

/* --- functions of the module ------------------------------------------------------------- */

const char view_home_doc[] = "job_home()\n--\n\n"
                             "(directory that jobs are kept in, a sentence about it or \"\").";

PyObject *view_home(PyObject *module, PyObject *unused)
{
    char path[4096], notice[1024];
    int rc = trk_job_home(path, sizeof(path), notice, sizeof(notice));

    if (rc < 0) {
        return ext_raise(PyModule_GetState(module), rc);
    }
    return Py_BuildValue("(NN)", PyUnicode_DecodeFSDefault(path), ext_text(notice));
}

const char view_names_doc[] = "job_names()\n--\n\nThe names of all jobs, sorted.";

PyObject *view_names(PyObject *module, PyObject *unused)
{
    char *names = NULL;
    const char *name;
    size_t count = 0;
    PyObject *list;
    int rc = trk_job_names(NULL, &names, &count);

    if (rc < 0) {
        return ext_raise(PyModule_GetState(module), rc);
    }
    list = PyList_New((Py_ssize_t)count);
    name = names;
    for (size_t i = 0; i < count && list != NULL; i++) {
        PyObject *text = PyUnicode_DecodeFSDefault(name);
        if (text == NULL || PyList_SetItem(list, (Py_ssize_t)i, text) < 0) {
            Py_CLEAR(list);
        }
        name += strlen(name) + 1;
    }
    trk_free(names);
    return list;
}

const char view_remove_doc[] = "job_remove(name)\n--\n\n"
                               "Removes a job and all it recorded. False: there was none.";

PyObject *view_remove(PyObject *module, PyObject *args)
{
    const char *name;
    int rc;

    if (!PyArg_ParseTuple(args, "s:job_remove", &name)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = trk_job_remove(NULL, name);
    Py_END_ALLOW_THREADS
    return rc < 0 ? ext_raise(PyModule_GetState(module), rc) : PyBool_FromLong(rc == 0);
}

const char view_check_doc[] = "job_check(name)\n--\n\n"
                              "Walks a store that nobody runs: (is_whole, sentence), or None:\n"
                              "there is none.";

PyObject *view_check(PyObject *module, PyObject *args)
{
    char text[512] = "";
    const char *name;
    int rc;

    if (!PyArg_ParseTuple(args, "s:job_check", &name)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = trk_job_check(NULL, name, text, sizeof(text));
    Py_END_ALLOW_THREADS
    if (rc == TRK_END) {
        Py_RETURN_NONE;
    }
    if (rc < 0 && text[0] == '\0') {
        return ext_raise(PyModule_GetState(module), rc);
    }
    return Py_BuildValue("(NN)", PyBool_FromLong(rc == 0), ext_text(text));
}
