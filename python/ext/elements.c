/* SPDX-License-Identifier: MIT */
/* elements.c - Elements: the iterator that Job.elements() gives, a skin over struct trk_elements.
 *
 * The next element may have to come from the disk, so it is fetched without the GIL; meanwhile
 * other threads' calls on the same iterator are refused. */
#include "ext.h"

struct elements_object {
    PyObject_HEAD
    struct trk_elements *walk;
    bool is_lent; /* a call is under way */
};

static struct elements_object *as_elements(PyObject *self)
{
    return (struct elements_object *)self;
}

PyObject *elements_wrap(struct ext_state *state, struct trk_elements *walk)
{
    struct elements_object *self = ext_new(state->elements_type);

    if (self == NULL) {
        trk_elements_free(walk);
        return NULL;
    }
    self->walk = walk;
    return (PyObject *)self;
}

static int elements_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void elements_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    trk_elements_free(as_elements(self)->walk);
    ext_free(self);
}

static PyObject *elements_next(PyObject *self)
{
    struct elements_object *e = as_elements(self);
    PyObject *bytes = NULL;
    const void *element;
    size_t size;
    int rc;

    if (!ext_usable(self)) {
        return NULL;
    }
    if (e->is_lent) {
        PyErr_SetString(PyExc_RuntimeError, "another thread uses this iterator");
        return NULL;
    }
    e->is_lent = true;
    Py_BEGIN_ALLOW_THREADS
    rc = trk_elements_next(e->walk, &element, &size);
    Py_END_ALLOW_THREADS
    if (rc == 0) { /* while it is still ours: the bytes are its */
        bytes = PyBytes_FromStringAndSize(element, (Py_ssize_t)size);
    } else if (rc < 0) {
        ext_raise(ext_state_of(self), rc);
    }
    e->is_lent = false;
    return bytes;
}

static PyType_Slot elements_slots[] = {
    {Py_tp_doc, "The kept elements of a stage, bytes, in their order."},
    {Py_tp_traverse, elements_traverse},
    {Py_tp_dealloc, elements_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, elements_next},
    {0, NULL},
};

PyType_Spec elements_spec = {
    .name = "trickle._trickle.Elements",
    .basicsize = sizeof(struct elements_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = elements_slots,
};
