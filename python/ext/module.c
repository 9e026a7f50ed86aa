/* SPDX-License-Identifier: MIT */
/* module.c - the module _trickle: its state, its functions, its start.
 *
 * All is per module object and found through it: no static Python objects. The contract is
 * python/trickle/_trickle.pyi. */
#include "ext.h"

#include <malloc.h>
#include <stdlib.h>

/* Known to CPython from 3.12 on; older ones refuse a slot they do not know. */
#define SLOT_MULTIPLE_INTERPRETERS 3
#define MULTIPLE_INTERPRETERS_NOT_SUPPORTED ((void *)0)

static struct ext_state *state_of(PyObject *module)
{
    return PyModule_GetState(module);
}

PyDoc_STRVAR(set_exceptions_doc,
             "set_exceptions(table)\n--\n\n"
             "Which class to raise for which TRK_E* ('EVMLOST': VMLost, ...); '': for all others.");

static PyObject *set_exceptions(PyObject *module, PyObject *table)
{
    PyObject *key, *value, *copy, *old = state_of(module)->exceptions;
    Py_ssize_t pos = 0;

    if (!PyDict_Check(table)) {
        PyErr_Format(PyExc_TypeError, "set_exceptions() needs a dict, not %R", Py_TYPE(table));
        return NULL;
    }
    while (PyDict_Next(table, &pos, &key, &value)) {
        if (!PyUnicode_Check(key) || !PyExceptionClass_Check(value)) {
            PyErr_Format(PyExc_TypeError, "%R: %R is not a name and an exception class", key,
                         value);
            return NULL;
        }
    }
    copy = PyDict_Copy(table);
    if (copy == NULL) {
        return NULL;
    }
    state_of(module)->exceptions = copy;
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_forked_doc, "is_forked()\n--\n\n"
                            "True in a child that was forked from a VM or an initiator.");

static PyObject *is_forked(PyObject *module, PyObject *unused)
{
    return PyBool_FromLong(trk_is_forked());
}

static PyMethodDef module_methods[] = {
    {"set_exceptions", set_exceptions, METH_O, set_exceptions_doc},
    {"encode", (PyCFunction)(void (*)(void))codec_encode, METH_FASTCALL | METH_KEYWORDS,
     codec_encode_doc},
    {"decode", (PyCFunction)(void (*)(void))codec_decode, METH_FASTCALL | METH_KEYWORDS,
     codec_decode_doc},
    {"wait_any", (PyCFunction)(void (*)(void))call_wait_any, METH_FASTCALL | METH_KEYWORDS,
     call_wait_any_doc},
    {"serve", serve, METH_O, serve_doc},
    {"element", element, METH_NOARGS, element_doc},
    {"at_element_end", at_element_end, METH_O, at_element_end_doc},
    {"checkpoint", checkpoint, METH_O, checkpoint_doc},
    {"restore", restore, METH_NOARGS, restore_doc},
    {"job_home", view_home, METH_NOARGS, view_home_doc},
    {"job_names", view_names, METH_NOARGS, view_names_doc},
    {"job_remove", view_remove, METH_VARARGS, view_remove_doc},
    {"job_check", view_check, METH_VARARGS, view_check_doc},
    {"key_path", keys_path, METH_NOARGS, keys_path_doc},
    {"key_do", keys_do, METH_VARARGS, keys_do_doc},
    {"key_import", keys_import, METH_VARARGS, keys_import_doc},
    {"exec_spec", exec_spec, METH_O, exec_spec_doc},
    {"exec_element", exec_element, METH_O, exec_element_doc},
    {"exec_fields", exec_fields, METH_VARARGS, exec_fields_doc},
    {"exec_argv", exec_argv, METH_VARARGS, exec_argv_doc},
    {"exec_result", exec_result, METH_VARARGS, exec_result_doc},
    {"is_forked", is_forked, METH_NOARGS, is_forked_doc},
    {NULL, NULL, 0, NULL},
};

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type != NULL ? PyModule_AddType(module, *type) : -1;
}

static int add_constants(PyObject *module)
{
    static const struct {
        const char *name;
        long value;
    } constants[] = {
        {"OP_INJECT", TRK_OP_INJECT},         {"OP_CALL", TRK_OP_CALL},
        {"OP_GETATTR", TRK_OP_GETATTR},       {"OP_SETATTR", TRK_OP_SETATTR},
        {"OP_DELETE", TRK_OP_DELETE},         {"OP_FETCH", TRK_OP_FETCH},
        {"STATUS_OK", TRK_STATUS_OK},         {"STATUS_EXCEPTION", TRK_STATUS_EXCEPTION},
        {"STATUS_ERROR", TRK_STATUS_ERROR},   {"NOTE_JOB", TRK_NOTE_JOB},
        {"NOTE_ONCE", TRK_NOTE_ONCE},         {"NOTE_TELEMETRY", TRK_NOTE_TELEMETRY},
    };

    for (size_t i = 0; i < sizeof(constants) / sizeof(constants[0]); i++) {
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0) {
            return -1;
        }
    }
    return PyModule_AddStringConstant(module, "VERSION", TRK_VERSION);
}

/* By default glibc takes ever larger blocks, up to 32 MiB, from the heap once one of them has been
 * freed, and what then lies between them keeps it from shrinking: programs with results of all
 * sizes grew for hours. So large ones are always a mapping of their own, which goes with them. */
static void give_large_blocks_back(void)
{
#ifdef M_MMAP_THRESHOLD
    if (getenv("MALLOC_MMAP_THRESHOLD_") == NULL && getenv("GLIBC_TUNABLES") == NULL) {
        (void)mallopt(M_MMAP_THRESHOLD, 1 << 20); /* it stays as it is, if it cannot be set */
        (void)mallopt(M_TRIM_THRESHOLD, 2 << 20);
    }
#endif
}

static int module_exec(PyObject *module)
{
    struct ext_state *state = state_of(module);

    give_large_blocks_back();
    state->exceptions = PyDict_New();
    state->trickle_error = PyErr_NewExceptionWithDoc(
        "trickle._trickle.TrickleError", "What is raised before set_exceptions() was called.",
        PyExc_RuntimeError, NULL);
    if (state->exceptions == NULL || state->trickle_error == NULL ||
        PyModule_AddObjectRef(module, "TrickleError", state->trickle_error) < 0 ||
        add_type(module, &farm_spec, &state->farm_type) < 0 ||
        add_type(module, &vmlist_spec, &state->vmlist_type) < 0 ||
        add_type(module, &vm_spec, &state->vm_type) < 0 ||
        add_type(module, &call_spec, &state->call_type) < 0 ||
        add_type(module, &work_spec, &state->work_type) < 0 ||
        add_type(module, &job_spec, &state->job_type) < 0 ||
        add_type(module, &elements_spec, &state->elements_type) < 0 ||
        add_type(module, &view_spec, &state->view_type) < 0) {
        return -1;
    }
    return add_constants(module);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct ext_state *state = state_of(module);

    Py_VISIT(state->exceptions);
    Py_VISIT(state->trickle_error);
    Py_VISIT((PyObject *)state->farm_type);
    Py_VISIT((PyObject *)state->vmlist_type);
    Py_VISIT((PyObject *)state->vm_type);
    Py_VISIT((PyObject *)state->call_type);
    Py_VISIT((PyObject *)state->work_type);
    Py_VISIT((PyObject *)state->job_type);
    Py_VISIT((PyObject *)state->elements_type);
    Py_VISIT((PyObject *)state->view_type);
    return 0;
}

static int module_clear(PyObject *module)
{
    struct ext_state *state = state_of(module);

    Py_CLEAR(state->exceptions);
    Py_CLEAR(state->trickle_error);
    Py_CLEAR(state->farm_type);
    Py_CLEAR(state->vmlist_type);
    Py_CLEAR(state->vm_type);
    Py_CLEAR(state->call_type);
    Py_CLEAR(state->work_type);
    Py_CLEAR(state->job_type);
    Py_CLEAR(state->elements_type);
    Py_CLEAR(state->view_type);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot slots_of_3_11[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static PyModuleDef_Slot slots_of_3_12[] = {
    {Py_mod_exec, module_exec},
    {SLOT_MULTIPLE_INTERPRETERS, MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_trickle",
    .m_doc = "The C extension under the trickle package.",
    .m_size = sizeof(struct ext_state),
    .m_methods = module_methods,
    .m_slots = slots_of_3_11,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__trickle(void);

PyMODINIT_FUNC PyInit__trickle(void)
{
    if (Py_Version >= 0x030c0000) {
        module_def.m_slots = slots_of_3_12;
    }
    return PyModuleDef_Init(&module_def);
}
