/* SPDX-License-Identifier: MIT */
/* vm.c - VMList and VM.
 *
 * One struct trk_vm has at most one VM object: the farm object knows all live ones in a linked
 * list of borrowed pointers. A VM object holds a reference to its struct trk_vm, so a pointer in
 * that list cannot come to mean another VM. */
#include <string.h>

#include "ext.h"
#include <structmember.h> /* needs Python.h before it */

static struct vmlist_object *as_list(PyObject *self)
{
    return (struct vmlist_object *)self;
}

static struct vm_object *as_vm(PyObject *self)
{
    return (struct vm_object *)self;
}

/* --- VM ---------------------------------------------------------------------------------- */

/* The object of vm, made if there is none. Takes the reference to vm, also on failure. */
static PyObject *vm_wrap(struct ext_state *state, struct farm_object *farm, struct trk_vm *vm)
{
    struct vm_object *self;

    for (self = farm->vms; self != NULL; self = self->next) {
        if (self->vm == vm) {
            trk_vm_unref(vm);
            return Py_NewRef((PyObject *)self);
        }
    }
    self = ext_new(state->vm_type);
    if (self == NULL) {
        trk_vm_unref(vm);
        return NULL;
    }
    self->vm = vm;
    self->farm = (struct farm_object *)Py_NewRef((PyObject *)farm);
    self->next = farm->vms;
    if (farm->vms != NULL) {
        farm->vms->prev = self;
    }
    farm->vms = self;
    return (PyObject *)self;
}

static void vm_unlink(struct vm_object *self)
{
    if (self->prev != NULL) {
        self->prev->next = self->next;
    } else {
        self->farm->vms = self->next;
    }
    if (self->next != NULL) {
        self->next->prev = self->prev;
    }
}

static int vm_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)as_vm(self)->farm);
    return 0;
}

static void vm_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    vm_unlink(as_vm(self)); /* first: callbacks of weak references may run VMList.get */
    if (as_vm(self)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    trk_vm_unref(as_vm(self)->vm);
    Py_DECREF((PyObject *)as_vm(self)->farm);
    ext_free(self);
}

static PyObject *vm_is_lost(PyObject *self, void *closure)
{
    return ext_usable(self) ? PyBool_FromLong(trk_vm_is_lost(as_vm(self)->vm)) : NULL;
}

static PyObject *vm_lost_reason(PyObject *self, void *closure)
{
    char text[512] = "";

    if (!ext_usable(self)) {
        return NULL;
    }
    trk_vm_lost_reason(as_vm(self)->vm, text, sizeof(text));
    return ext_text_in(text, sizeof(text));
}

PyDoc_STRVAR(info_doc, "info()\n--\n\nWhat is known of the VM, as a dict.");

static PyObject *vm_info(PyObject *self, PyObject *unused)
{
    struct trk_vm_info info;

    if (!ext_usable(self)) {
        return NULL;
    }
    memset(&info, 0, sizeof(info));
    trk_vm_get_info(as_vm(self)->vm, &info);
    return vm_info_dict(&info);
}

PyDoc_STRVAR(request_doc, "request(op, object, name, payload, reply=True)\n--\n\n"
                          "Sends one request. A Call, or None when no reply is wanted.");

static PyObject *vm_request(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    static const char *const names[] = {"op", "object", "name", "payload", "reply", NULL};
    struct trk_call *call = NULL;
    unsigned long long object;
    PyObject *arg[5];
    int rc, wanted;
    Py_ssize_t name_size;
    Py_buffer payload;
    const char *name;
    long op;

    if (ext_args("request", args, nargs, kwnames, names, 4, arg) < 0) {
        return NULL;
    }
    op = PyLong_AsLong(arg[0]);
    object = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(arg[1]);
    wanted = arg[4] == NULL || PyErr_Occurred() ? 1 : PyObject_IsTrue(arg[4]);
    name = PyErr_Occurred() ? NULL : PyUnicode_AsUTF8AndSize(arg[2], &name_size);
    if (name == NULL) {
        return NULL;
    }
    if (op < TRK_OP_INJECT || op > TRK_OP_FETCH || strlen(name) != (size_t)name_size) {
        PyErr_SetString(PyExc_ValueError, "request() with an unknown op or a NUL in the name");
        return NULL;
    }
    if (PyObject_GetBuffer(arg[3], &payload, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (payload.len <= EXT_COPY_MAX) {
        rc = trk_vm_request(as_vm(self)->vm, (enum trk_op)op, object, name, payload.buf,
                            (size_t)payload.len, wanted ? &call : NULL);
    } else {
        Py_BEGIN_ALLOW_THREADS
        rc = trk_vm_request(as_vm(self)->vm, (enum trk_op)op, object, name, payload.buf,
                            (size_t)payload.len, wanted ? &call : NULL);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&payload);
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    if (!wanted) {
        Py_RETURN_NONE;
    }
    return call_wrap(ext_state_of(self), as_vm(self)->farm, call);
}

static PyMethodDef vm_methods[] = {
    {"info", vm_info, METH_NOARGS, info_doc},
    {"request", (PyCFunction)(void (*)(void))vm_request, METH_FASTCALL | METH_KEYWORDS,
     request_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef vm_getset[] = {
    {"is_lost", vm_is_lost, NULL, "this incarnation of the VM is gone", NULL},
    {"lost_reason", vm_lost_reason, NULL, "why, as a sentence; '' while it is not lost", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef vm_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct vm_object, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot vm_slots[] = {
    {Py_tp_doc, "One incarnation of one VM."},
    {Py_tp_traverse, vm_traverse},
    {Py_tp_dealloc, vm_dealloc},
    {Py_tp_methods, vm_methods},
    {Py_tp_getset, vm_getset},
    {Py_tp_members, vm_members},
    {0, NULL},
};

PyType_Spec vm_spec = {
    .name = "trickle._trickle.VM",
    .basicsize = sizeof(struct vm_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = vm_slots,
};

/* --- VMList ------------------------------------------------------------------------------ */

PyObject *vmlist_wrap(struct ext_state *state, struct farm_object *farm, struct trk_vmlist *list)
{
    struct vmlist_object *self = ext_new(state->vmlist_type);

    if (self == NULL) {
        trk_vmlist_free(list);
        return NULL;
    }
    self->list = list;
    self->farm = (struct farm_object *)Py_NewRef((PyObject *)farm);
    return (PyObject *)self;
}

static int vmlist_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)as_list(self)->farm);
    return 0;
}

static void vmlist_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    trk_vmlist_free(as_list(self)->list);
    Py_DECREF((PyObject *)as_list(self)->farm);
    ext_free(self);
}

PyDoc_STRVAR(refresh_doc,
             "refresh()\n--\n\n"
             "Brings the list up to date: new incarnations in the place of lost ones, VMs that\n"
             "joined at the end. Returns the length.");

static PyObject *vmlist_refresh(PyObject *self, PyObject *unused)
{
    return ext_usable(self) ? PyLong_FromSize_t(trk_vmlist_refresh(as_list(self)->list)) : NULL;
}

static Py_ssize_t vmlist_length(PyObject *self)
{
    return ext_usable(self) ? (Py_ssize_t)trk_vmlist_length(as_list(self)->list) : -1;
}

PyDoc_STRVAR(get_doc, "get(i)\n--\n\n"
                      "The i-th VM. The same incarnation gives the same VM object as long as that\n"
                      "object lives.");

static PyObject *vmlist_get(PyObject *self, PyObject *index)
{
    Py_ssize_t i = PyNumber_AsSsize_t(index, PyExc_IndexError);
    struct trk_vm *vm;

    if ((i == -1 && PyErr_Occurred()) || !ext_usable(self)) {
        return NULL;
    }
    vm = i >= 0 ? trk_vmlist_get(as_list(self)->list, (size_t)i) : NULL;
    if (vm == NULL) {
        PyErr_SetString(PyExc_IndexError, "no such VM in the list");
        return NULL;
    }
    return vm_wrap(ext_state_of(self), as_list(self)->farm, vm);
}

PyDoc_STRVAR(close_doc, "close()\n--\n\nGives the VMs of this list back.");

static PyObject *vmlist_close(PyObject *self, PyObject *unused)
{
    if (!ext_usable(self)) {
        return NULL;
    }
    trk_vmlist_close(as_list(self)->list);
    Py_RETURN_NONE;
}

static PyMethodDef vmlist_methods[] = {
    {"refresh", vmlist_refresh, METH_NOARGS, refresh_doc},
    {"get", vmlist_get, METH_O, get_doc},
    {"close", vmlist_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot vmlist_slots[] = {
    {Py_tp_doc, "What one connect() returned."},
    {Py_tp_traverse, vmlist_traverse},
    {Py_tp_dealloc, vmlist_dealloc},
    {Py_tp_methods, vmlist_methods},
    {Py_sq_length, vmlist_length},
    {0, NULL},
};

PyType_Spec vmlist_spec = {
    .name = "trickle._trickle.VMList",
    .basicsize = sizeof(struct vmlist_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = vmlist_slots,
};
