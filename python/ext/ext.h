/* SPDX-License-Identifier: MIT */
/* ext.h - what the files of the extension _trickle share.
 *
 *   module.c  the module: its state, its functions, its start
 *   support.c arguments, errors, waiting with the GIL released
 *   codec.c   plain values <-> pickles without the pickle module
 *   farm.c    Farm            call.c  Call, wait_any
 *   vm.c      VMList, VM      work.c  Work: the hot loops
 *   job.c     Job             view.c  View: jobs from outside
 *   elements.c  what Job.elements() gives
 *   keys.c    the key file
 *   serve.c   the VM side: the python RAI module
 *
 * Only the limited API of CPython 3.11 and the public headers of Trickle are used, so that one
 * file serves every CPython from 3.11 on.
 *
 * Rules of the GIL: C calls that are short are made with the GIL held, so that they are atomic
 * for Python threads. Whatever may wait, and copies of more than EXT_COPY_MAX bytes, are made
 * without it; then the object itself is kept alive by the caller's reference, and the C object
 * by the Python object. Types are not subclassed: Py_TYPE(self) leads to the module's state. */
#ifndef TRICKLE_PYTHON_EXT_H
#define TRICKLE_PYTHON_EXT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trickle/trickle.h"

#define EXT_COPY_MAX 65536      /* bytes that are copied without releasing the GIL */
#define EXT_RAISED (-1000)      /* beside TRK_E*: a Python exception is set */
#define EXT_ENDLESS INT64_MIN   /* a timeout: no limit */
#define EXT_SIGNALS_EVERY 1024u /* elements between two looks at signals */

struct ext_state {
    PyObject *exceptions;    /* dict: name of TRK_E* (without TRK_), or "": class to raise */
    PyObject *trickle_error; /* the class to raise when there is no other */
    PyTypeObject *farm_type;
    PyTypeObject *vmlist_type;
    PyTypeObject *vm_type;
    PyTypeObject *call_type;
    PyTypeObject *work_type;
    PyTypeObject *job_type;
    PyTypeObject *elements_type;
    PyTypeObject *view_type;
};

struct farm_object {
    PyObject_HEAD
    struct trk_farm *farm;    /* NULL: not opened, or closed */
    struct trk_farm *notices; /* a second reference, so that notices can be taken after close */
    struct vm_object *vms;    /* borrowed: the live VM objects, linked by vm_object.next */
    PyObject *job;            /* strong: the Job it records in, or NULL */
};

struct job_object {
    PyObject_HEAD
    struct trk_job *job; /* NULL: not opened, or closed */
    PyObject *opened;    /* dict: what opening found; NULL: not opened */
    unsigned waiting;    /* threads that wait for its disk without the GIL */
};

struct vmlist_object {
    PyObject_HEAD
    struct trk_vmlist *list;
    struct farm_object *farm; /* strong */
};

struct vm_object {
    PyObject_HEAD
    struct trk_vm *vm;             /* one reference; NULL only while under construction */
    struct farm_object *farm;      /* strong */
    struct vm_object *next, *prev; /* farm->vms */
    PyObject *weakrefs;
};

/* support.c */

/* Arguments of a METH_FASTCALL|METH_KEYWORDS function: names ends with NULL, out has room for
 * each and gets borrowed references, or NULL for what was not given. The first required ones
 * must be given. 0, or -1 with TypeError. */
int ext_args(const char *function, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
             const char *const *names, Py_ssize_t required, PyObject **out);
/* Seconds (NULL and None: missing) into nanoseconds. 0, or -1 with an exception. */
int ext_timeout(PyObject *seconds, int64_t missing, int64_t *ns);
int ext_milliseconds(int64_t ns); /* rounded up, cut to int; -1 for EXT_ENDLESS */
/* Raises what a negative answer of the C API stands for. Always NULL. EXT_RAISED: nothing. */
PyObject *ext_raise(struct ext_state *state, int error);
PyObject *ext_raise_text(struct ext_state *state, int error, const char *text);
struct ext_state *ext_state_of(PyObject *self); /* of the module that made the type of self */
/* False in a child that was forked, with the exception: for calls that have no error to return. */
bool ext_usable(PyObject *self);
void *ext_new(PyTypeObject *type); /* a zeroed object, or NULL with MemoryError */
void ext_free(PyObject *self);     /* the end of a tp_dealloc: memory and the type's reference */
/* True: the exception that is set is no Exception (KeyboardInterrupt, SystemExit). */
bool ext_is_stop(void);
/* What others wrote, as str: bytes that are no UTF-8 are replaced. Up to its 0, or room. */
PyObject *ext_text(const char *text);
PyObject *ext_text_in(const char *text, size_t room);
/* dict[key] = value, which is taken. 0, or -1 with the exception; a NULL passes as that. */
int ext_put(PyObject *dict, const char *key, PyObject *value);
/* What a call gave: its bytes, which are freed; TRK_END: None; negative: raises. */
PyObject *ext_taken(PyObject *self, int rc, void *bytes, size_t size);
PyObject *ext_view(const void *bytes, size_t size); /* a read-only memoryview of borrowed bytes */
/* Ends a view whose bytes are about to go, and drops it. 0, or -1: someone holds on to the bytes.
 * An exception that is set stays; otherwise -1 comes with BufferError. */
int ext_view_end(PyObject *view);

/* Waits with the GIL released, in slices, and looks at signals between them. */
struct ext_waiter {
    int (*wait)(void *ctx, int timeout_ms); /* a trk_ function that answers TRK_AGAIN */
    void (*awake)(void *ctx);               /* after each slice, with the GIL; or NULL */
    void *ctx;
};
/* The answer of wait; TRK_AGAIN: timeout_ns passed; EXT_RAISED. The first look is made with the
 * GIL held: often the answer is there. */
int ext_wait(const struct ext_waiter *waiter, int64_t timeout_ns);

/* codec.c */

#define CODEC_BYTES_MAX 4096 /* no fast pickle is longer */

/* Writes obj as a pickle. Its size, or 0: obj is nothing for the fast path. Raises nothing. */
size_t codec_write(PyObject *obj, uint8_t out[CODEC_BYTES_MAX]);
/* 1: *out is the new object; 0: nothing for the fast path; -1: an exception is set. */
int codec_read(const void *bytes, size_t size, PyObject **out);
/* The object in a pickle: codec_read, else loads(memoryview). bytes may go after the call. */
PyObject *codec_load(const void *bytes, size_t size, PyObject *loads);
PyObject *codec_dump(PyObject *obj, PyObject *dumps); /* dumps(obj), checked to be bytes */

extern const char codec_encode_doc[], codec_decode_doc[];
PyObject *codec_encode(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames);
PyObject *codec_decode(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames);

/* farm.c, vm.c, call.c, work.c, job.c, elements.c, view.c, serve.c */

extern PyType_Spec farm_spec, vmlist_spec, vm_spec, call_spec, work_spec, job_spec, view_spec;
extern PyType_Spec elements_spec;

/* Takes walk, also on failure. */
PyObject *elements_wrap(struct ext_state *state, struct trk_elements *walk);
/* The open job of a Job object, or NULL with the exception. */
struct trk_job *job_of(PyObject *job);
PyObject *attempt_dict(const struct trk_attempt *a);
extern const char view_home_doc[], view_names_doc[], view_remove_doc[], view_check_doc[];
PyObject *view_home(PyObject *module, PyObject *unused);
PyObject *view_names(PyObject *module, PyObject *unused);
PyObject *view_remove(PyObject *module, PyObject *args);
PyObject *view_check(PyObject *module, PyObject *args);

/* keys.c */

extern const char keys_path_doc[], keys_do_doc[], keys_import_doc[];
PyObject *keys_path(PyObject *module, PyObject *unused);
PyObject *keys_do(PyObject *module, PyObject *args);
PyObject *keys_import(PyObject *module, PyObject *args);

/* Takes list, also on failure. */
PyObject *vmlist_wrap(struct ext_state *state, struct farm_object *farm, struct trk_vmlist *list);
PyObject *vm_info_dict(const struct trk_vm_info *info);
/* Takes call, also on failure. */
PyObject *call_wrap(struct ext_state *state, struct farm_object *farm, struct trk_call *call);
extern const char call_wait_any_doc[];
PyObject *call_wait_any(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames);
/* Takes work, also on failure. targets: what the work runs on, kept alive with it. */
PyObject *work_wrap(struct ext_state *state, struct farm_object *farm, struct trk_work *work,
                    PyObject *targets);
extern const char serve_doc[];
PyObject *serve(PyObject *module, PyObject *server);
extern const char element_doc[], at_element_end_doc[], checkpoint_doc[], restore_doc[];
PyObject *element(PyObject *module, PyObject *unused);
PyObject *at_element_end(PyObject *module, PyObject *function);
PyObject *checkpoint(PyObject *module, PyObject *state);
PyObject *restore(PyObject *module, PyObject *unused);

#endif
