/* SPDX-License-Identifier: MIT */
/* farm.c - Farm: a skin over struct trk_farm.
 *
 * trk_farm_close ends the farm while another thread may still take notices, among them the last
 * output of VMs; the object therefore holds a second reference to the farm until it goes itself.
 * All else needs self->farm, which close() takes away under the GIL before it begins. */
#include <stdlib.h>
#include <string.h>

#include "ext.h"

#define DEALLOC_CLOSE_MS 200 /* nobody waits for the goodbyes of a farm that was just dropped */

static const char *const state_names[] = {
    [TRK_VM_STARTING] = "starting", [TRK_VM_IDLE] = "idle",         [TRK_VM_LEASED] = "leased",
    [TRK_VM_FAILING] = "failing",   [TRK_VM_STOPPING] = "stopping", [TRK_VM_LOST] = "lost",
    [TRK_VM_FINISHING] = "finishing",
};

static struct farm_object *as_farm(PyObject *self)
{
    return (struct farm_object *)self;
}

/* The open farm, or NULL with the exception. */
static struct trk_farm *farm_of(PyObject *self)
{
    struct trk_farm *farm = as_farm(self)->farm;

    if (farm == NULL) {
        ext_raise_text(ext_state_of(self), TRK_ECLOSED, "the farm is closed");
    }
    return farm;
}

/* An int within 0..UINT32_MAX; a missing one is 0. */
static int get_u32(PyObject *obj, const char *name, uint32_t *out)
{
    unsigned long long value = 0;

    if (obj != NULL) {
        value = PyLong_AsUnsignedLongLong(obj);
        if (value == (unsigned long long)-1 && PyErr_Occurred()) {
            return -1;
        }
    }
    if (value > UINT32_MAX) {
        PyErr_Format(PyExc_OverflowError, "%s is too large", name);
        return -1;
    }
    *out = (uint32_t)value;
    return 0;
}

static int get_u64(PyObject *obj, uint64_t *out)
{
    *out = obj != NULL ? PyLong_AsUnsignedLongLong(obj) : 0;
    return *out == (uint64_t)-1 && PyErr_Occurred() ? -1 : 0;
}

static int get_bool(PyObject *obj, bool *out)
{
    int value = obj != NULL ? PyObject_IsTrue(obj) : 0;

    *out = value > 0;
    return value < 0 ? -1 : 0;
}

/* Terminated UTF-8 without NUL inside, borrowed from obj; or NULL with an exception. */
static const char *get_text(PyObject *obj)
{
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(obj, &size);

    if (text != NULL && strlen(text) != (size_t)size) {
        PyErr_SetString(PyExc_ValueError, "embedded null character");
        return NULL;
    }
    return text;
}

/* --- life -------------------------------------------------------------------------------- */

static int get_job(PyObject *self, PyObject *job, struct trk_job **out)
{
    if (!Py_IS_TYPE(job, ext_state_of(self)->job_type)) {
        PyErr_Format(PyExc_TypeError, "job must be a Job, not %R", Py_TYPE(job));
        return -1;
    }
    *out = job_of(job);
    return *out != NULL ? 0 : -1;
}

static int farm_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"program",   "runtime_dir",   "lan",              "insecure", "hosts",
                            "multicast", "dead_after_ms", "suspect_after_ms", "job",
                            "listen",    NULL};
    struct trk_farm_options opt = {.size = sizeof(opt)};
    int lan = 0, insecure = 0, rc;
    PyObject *dead_after = NULL, *suspect_after = NULL, *job = Py_None;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$zzppzzOOOz:Farm", names, &opt.program,
                                     &opt.runtime_dir, &lan, &insecure, &opt.hosts,
                                     &opt.multicast, &dead_after, &suspect_after, &job,
                                     &opt.listen) ||
        (job != Py_None && get_job(self, job, &opt.job) < 0) ||
        get_u32(dead_after, "dead_after_ms", &opt.dead_after_ms) < 0 ||
        get_u32(suspect_after, "suspect_after_ms", &opt.suspect_after_ms) < 0) {
        return -1;
    }
    if (as_farm(self)->notices != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this farm was opened already");
        return -1;
    }
    opt.lan = lan != 0;
    opt.insecure = insecure != 0;
    rc = trk_farm_new(&as_farm(self)->farm, &opt);
    if (rc < 0) {
        as_farm(self)->farm = NULL;
        ext_raise(ext_state_of(self), rc);
        return -1;
    }
    as_farm(self)->notices = trk_farm_ref(as_farm(self)->farm);
    as_farm(self)->job = job != Py_None ? Py_NewRef(job) : NULL;
    return 0;
}

static void close_farm(struct farm_object *self, uint32_t timeout_ms)
{
    struct trk_farm *farm = self->farm;

    if (farm != NULL) {
        self->farm = NULL;
        Py_BEGIN_ALLOW_THREADS
        trk_farm_close(farm, timeout_ms);
        Py_END_ALLOW_THREADS
    }
}

static int farm_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(as_farm(self)->job);
    return 0;
}

/* All objects of a farm hold it, so none is left, and no Python thread is in a method. */
static void farm_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    close_farm(as_farm(self), DEALLOC_CLOSE_MS);
    if (as_farm(self)->notices != NULL) {
        trk_farm_unref(as_farm(self)->notices);
    }
    Py_CLEAR(as_farm(self)->job); /* after the farm that records in it */
    ext_free(self);
}

PyDoc_STRVAR(close_doc, "close(timeout=1.0)\n--\n\n"
                        "Ends all leases and stops the farm; a second close does nothing.");

static PyObject *farm_close(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    static const char *const names[] = {"timeout", NULL};
    PyObject *arg[1];
    int64_t timeout;
    int ms;

    if (ext_args("close", args, nargs, kwnames, names, 0, arg) < 0 ||
        ext_timeout(arg[0], 1000000000, &timeout) < 0) {
        return NULL;
    }
    ms = ext_milliseconds(timeout);
    close_farm(as_farm(self), ms >= 0 ? (uint32_t)ms : UINT32_MAX);
    Py_RETURN_NONE;
}

/* --- connecting -------------------------------------------------------------------------- */

static int wait_connect(void *list, int timeout_ms)
{
    return trk_connect_wait(list, timeout_ms);
}

PyDoc_STRVAR(connect_doc,
             "connect(max=0, need_all=False, wait_ms=0, timeout=None)\n--\n\n"
             "Finds and leases VMs, at most max of them (0: all there are).");

static PyObject *farm_connect(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    static const char *const names[] = {"max", "need_all", "wait_ms", "timeout", NULL};
    struct trk_farm *farm = farm_of(self);
    struct ext_waiter waiter = {.wait = wait_connect};
    struct trk_vmlist *list = NULL;
    PyObject *arg[4], *object;
    uint32_t max, wait_ms;
    int64_t timeout;
    bool need_all;
    int rc;

    if (farm == NULL || ext_args("connect", args, nargs, kwnames, names, 0, arg) < 0 ||
        get_u32(arg[0], "max", &max) < 0 || get_bool(arg[1], &need_all) < 0 ||
        get_u32(arg[2], "wait_ms", &wait_ms) < 0 ||
        ext_timeout(arg[3], EXT_ENDLESS, &timeout) < 0 ||
        (farm = farm_of(self)) == NULL) { /* again: truth values may run any code */
        return NULL;
    }
    rc = trk_connect_start(farm, max, need_all, wait_ms, &list);
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    object = vmlist_wrap(ext_state_of(self), as_farm(self), list);
    if (object == NULL) {
        return NULL;
    }
    waiter.ctx = list;
    rc = ext_wait(&waiter, timeout);
    if (rc == 0) {
        return object;
    }
    if (rc == TRK_AGAIN) {
        ext_raise_text(ext_state_of(self), TRK_ETIMEDOUT, "the VMs did not answer in time");
    } else {
        ext_raise(ext_state_of(self), rc); /* before the list goes, and the text with it */
    }
    Py_DECREF(object);
    return NULL;
}

/* --- listing ----------------------------------------------------------------------------- */

#define PUT_TEXT(dict, info, field) \
    ext_put(dict, #field, ext_text_in((info)->field, sizeof((info)->field)))
#define PUT_INT(dict, info, field) ext_put(dict, #field, PyLong_FromUnsignedLongLong((info)->field))
#define PUT_BYTES(dict, info, field)                                             \
    ext_put(dict, #field, PyBytes_FromStringAndSize((const char *)(info)->field, \
                                                    (Py_ssize_t)sizeof((info)->field)))

PyObject *vm_info_dict(const struct trk_vm_info *info)
{
    size_t known = sizeof(state_names) / sizeof(state_names[0]);
    const char *state = info->state < known ? state_names[info->state] : "unknown";
    PyObject *dict = PyDict_New();

    if (dict == NULL) {
        return NULL;
    }
    if (PUT_BYTES(dict, info, incarnation) < 0 || PUT_BYTES(dict, info, supervisor) < 0 ||
        PUT_INT(dict, info, index) < 0 || ext_put(dict, "state", PyUnicode_FromString(state)) < 0 ||
        PUT_INT(dict, info, pid) < 0 || PUT_INT(dict, info, cores) < 0 ||
        PUT_INT(dict, info, memory_bytes) < 0 || PUT_INT(dict, info, dropped) < 0 ||
        PUT_TEXT(dict, info, host) < 0 || PUT_TEXT(dict, info, module) < 0 ||
        PUT_TEXT(dict, info, version) < 0 || PUT_TEXT(dict, info, owner) < 0 ||
        PUT_TEXT(dict, info, note) < 0 || PUT_TEXT(dict, info, address) < 0) {
        Py_CLEAR(dict);
    }
    return dict;
}

static PyObject *info_list(const struct trk_vm_info *infos, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);

    for (size_t i = 0; i < count && list != NULL; i++) {
        PyObject *dict = vm_info_dict(&infos[i]);
        if (dict == NULL || PyList_SetItem(list, (Py_ssize_t)i, dict) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

struct listing {
    struct trk_farm *farm;
    struct trk_vm_info *infos; /* the answer */
    size_t count;
    int64_t timeout;
};

/* Not in slices: each call asks anew, and a distant VM may need longer than a slice. A signal
 * ends the call early all the same. */
static int wait_listing(void *ctx, int timeout_ms)
{
    struct listing *l = ctx;

    if (timeout_ms == 0) {
        return TRK_AGAIN; /* the first look: nothing was asked yet */
    }
    return trk_vms_list(l->farm, ext_milliseconds(l->timeout), &l->infos, &l->count);
}

PyDoc_STRVAR(vms_doc, "vms(timeout=2.0)\n--\n\n"
                      "Lists the VMs that answer, leased or not, as dicts.");

static PyObject *farm_vms(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    static const char *const names[] = {"timeout", NULL};
    struct listing l = {.timeout = 0};
    struct ext_waiter waiter = {.wait = wait_listing, .ctx = &l};
    PyObject *arg[1], *list;
    int rc;

    if (ext_args("vms", args, nargs, kwnames, names, 0, arg) < 0 ||
        ext_timeout(arg[0], 2000000000, &l.timeout) < 0 || (l.farm = farm_of(self)) == NULL) {
        return NULL;
    }
    l.timeout = l.timeout == 0 ? 1 : l.timeout; /* 0 would not even ask */
    rc = ext_wait(&waiter, l.timeout);
    if (rc == TRK_AGAIN) {
        return PyList_New(0);
    }
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    list = info_list(l.infos, l.count);
    trk_vms_list_free(l.infos);
    return list;
}

/* --- orders ------------------------------------------------------------------------------- */

struct ordering {
    struct trk_farm *farm;
    const char *verb, *host; /* host NULL: any */
    uint32_t pid;
    int64_t timeout;
    char answer[256];
};

/* Not in slices, as with listing: each call gives the order anew. */
static int wait_order(void *ctx, int timeout_ms)
{
    struct ordering *o = ctx;

    if (timeout_ms == 0) {
        return TRK_AGAIN;
    }
    return trk_vms_order(o->farm, o->verb, o->host, o->pid, ext_milliseconds(o->timeout),
                         o->answer, sizeof(o->answer));
}

PyDoc_STRVAR(order_doc,
             "order(verb, pid, host=None, timeout=5.0)\n--\n\n"
             "Tells a VM's supervisor to \"drain\" or \"stop\" it; the sentence it answers.\n"
             "Call vms() first: that finds the supervisors.");

static PyObject *farm_order(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    static const char *const names[] = {"verb", "pid", "host", "timeout", NULL};
    struct ordering o = {.timeout = 0};
    struct ext_waiter waiter = {.wait = wait_order, .ctx = &o};
    PyObject *arg[4];
    int rc;

    if (ext_args("order", args, nargs, kwnames, names, 2, arg) < 0 ||
        (o.verb = get_text(arg[0])) == NULL || get_u32(arg[1], "pid", &o.pid) < 0 ||
        (arg[2] != NULL && arg[2] != Py_None && (o.host = get_text(arg[2])) == NULL) ||
        ext_timeout(arg[3], 5000000000, &o.timeout) < 0 || (o.farm = farm_of(self)) == NULL) {
        return NULL;
    }
    o.timeout = o.timeout == 0 ? 1 : o.timeout;
    rc = ext_wait(&waiter, o.timeout);
    if (rc == TRK_AGAIN) {
        return ext_raise_text(ext_state_of(self), TRK_ETIMEDOUT, "the supervisor did not answer");
    }
    return rc < 0 ? ext_raise(ext_state_of(self), rc) : ext_text_in(o.answer, sizeof(o.answer));
}

/* --- notices ----------------------------------------------------------------------------- */

struct taking {
    struct trk_farm *farm;
    struct trk_notice notice; /* the answer */
};

static int wait_notice(void *ctx, int timeout_ms)
{
    struct taking *t = ctx;
    return trk_farm_notice(t->farm, timeout_ms, &t->notice);
}

static const char *notice_kind(enum trk_notice_kind kind)
{
    switch (kind) {
    case TRK_NOTICE_OUTPUT:
        return "output";
    case TRK_NOTICE_VM_LOST:
        return "vm_lost";
    case TRK_NOTICE_VM_JOINED:
        return "vm_joined";
    case TRK_NOTICE_VM_LEAVING:
        return "vm_leaving";
    case TRK_NOTICE_MESSAGE:
        break;
    }
    return "message";
}

PyDoc_STRVAR(notice_doc,
             "notice(timeout=0.0)\n--\n\n"
             "(kind, host, pid, index, text), or None when there is none within timeout.\n"
             "EOFError: the farm is closed and none is left.");

static PyObject *farm_notice(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    static const char *const names[] = {"timeout", NULL};
    struct taking t = {.farm = as_farm(self)->notices};
    struct ext_waiter waiter = {.wait = wait_notice, .ctx = &t};
    PyObject *arg[1], *tuple;
    int64_t timeout;
    int rc;

    if (ext_args("notice", args, nargs, kwnames, names, 0, arg) < 0 ||
        ext_timeout(arg[0], 0, &timeout) < 0) {
        return NULL;
    }
    rc = t.farm != NULL ? ext_wait(&waiter, timeout) : TRK_ECLOSED;
    if (rc == TRK_AGAIN) {
        Py_RETURN_NONE;
    }
    if (rc == TRK_ECLOSED) {
        PyErr_SetString(PyExc_EOFError, "the farm is closed");
        return NULL;
    }
    if (rc < 0) {
        return ext_raise(ext_state_of(self), rc);
    }
    tuple = Py_BuildValue("(sNIIy#)", notice_kind(t.notice.kind),
                          ext_text_in(t.notice.vm_host, sizeof(t.notice.vm_host)),
                          (unsigned)t.notice.vm_pid, (unsigned)t.notice.vm_index, t.notice.text,
                          (Py_ssize_t)t.notice.size);
    trk_notice_free(&t.notice);
    return tuple;
}

/* --- work -------------------------------------------------------------------------------- */

/* Fills the targets of opt from a VMList or a list of VMs. *keep: a new reference to what must
 * live as long as the work; *array: for PyMem_Free. */
static int get_targets(PyObject *self, PyObject *list, PyObject *vms, struct trk_work_options *opt,
                       PyObject **keep, struct trk_vm ***array)
{
    struct ext_state *state = ext_state_of(self);
    Py_ssize_t n;

    list = list == Py_None ? NULL : list;
    vms = vms == Py_None ? NULL : vms;
    if ((list == NULL) == (vms == NULL) ||
        (list != NULL && !Py_IS_TYPE(list, state->vmlist_type))) {
        PyErr_SetString(PyExc_TypeError, "work() needs either list, a VMList, or vms, VM objects");
        return -1;
    }
    if (list != NULL) {
        opt->list = ((struct vmlist_object *)list)->list;
        *keep = Py_NewRef(list);
        return 0;
    }
    if ((*keep = PySequence_Tuple(vms)) == NULL) {
        return -1;
    }
    n = PyTuple_Size(*keep);
    *array = PyMem_Malloc((n > 0 ? (size_t)n : 1) * sizeof(**array));
    if (*array == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *vm = PyTuple_GetItem(*keep, i);
        if (!Py_IS_TYPE(vm, state->vm_type)) {
            PyErr_Format(PyExc_TypeError, "vms must hold VM objects, not %R", Py_TYPE(vm));
            return -1;
        }
        (*array)[i] = ((struct vm_object *)vm)->vm;
    }
    opt->vms = *array;
    opt->vms_count = (size_t)n;
    return 0;
}

enum {
    ARG_NAME, ARG_FUNCTION, ARG_LIST, ARG_VMS, ARG_ORDERED, ARG_AHEAD_ELEMENTS, ARG_AHEAD_BYTES,
    ARG_RETRIES, ARG_RETRY_AFTER, ARG_TIMEOUT, ARG_SPECULATE, ARG_LAZY, ARG_KEY, ARG_FINGERPRINT,
    ARG_KEEP_ELEMENTS, ARG_COUNT
};

/* Of durable works. */
static int get_identity(PyObject *const *arg, struct trk_work_options *opt)
{
    Py_buffer fingerprint;
    bool is_right;

    if (arg[ARG_KEY] == NULL || arg[ARG_KEY] == Py_None) {
        return 0;
    }
    opt->key = get_text(arg[ARG_KEY]);
    if (opt->key == NULL) {
        return -1;
    }
    if (arg[ARG_FINGERPRINT] == NULL) {
        PyErr_SetString(PyExc_TypeError, "work() with a key needs a fingerprint");
        return -1;
    }
    if (PyObject_GetBuffer(arg[ARG_FINGERPRINT], &fingerprint, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    is_right = fingerprint.len == (Py_ssize_t)sizeof(opt->fingerprint);
    if (is_right) {
        memcpy(opt->fingerprint, fingerprint.buf, sizeof(opt->fingerprint));
    } else {
        PyErr_SetString(PyExc_ValueError, "fingerprint has 16 bytes");
    }
    PyBuffer_Release(&fingerprint);
    return is_right ? 0 : -1;
}

/* All of opt but the function and the VMs. */
static int get_work_options(PyObject *const *arg, struct trk_work_options *opt)
{
    opt->name = get_text(arg[ARG_NAME]);
    if (opt->name == NULL || get_bool(arg[ARG_ORDERED], &opt->ordered) < 0 ||
        get_u64(arg[ARG_AHEAD_ELEMENTS], &opt->ahead_elements) < 0 ||
        get_u64(arg[ARG_AHEAD_BYTES], &opt->ahead_bytes) < 0 ||
        get_u32(arg[ARG_RETRIES], "retries", &opt->retries) < 0 ||
        get_u32(arg[ARG_RETRY_AFTER], "retry_after_ms", &opt->retry_after_ms) < 0 ||
        get_u32(arg[ARG_TIMEOUT], "timeout_ms", &opt->timeout_ms) < 0 ||
        get_bool(arg[ARG_SPECULATE], &opt->speculate) < 0) {
        return -1;
    }
    if (get_bool(arg[ARG_LAZY], &opt->lazy) < 0 ||
        get_bool(arg[ARG_KEEP_ELEMENTS], &opt->keep_elements) < 0) {
        return -1;
    }
    return get_identity(arg, opt);
}

PyDoc_STRVAR(work_doc, "work(name, function, *, list=None, vms=None, ordered=False, "
                       "ahead_elements=0, ahead_bytes=0, retries=0, retry_after_ms=0, "
                       "timeout_ms=0, speculate=False, lazy=False, key=None, "
                       "fingerprint=None, keep_elements=False)\n--\n\n"
                       "Declares work: a function for elements to come. With a key its results\n"
                       "are recorded in the farm's job; fingerprint: 16 bytes that stand for the\n"
                       "code; keep_elements: the elements are, too.");

static PyObject *farm_work(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    static const char *const names[] = {
        "name",        "function", "list",           "vms",        "ordered",   "ahead_elements",
        "ahead_bytes", "retries",  "retry_after_ms", "timeout_ms", "speculate", "lazy",
        "key",         "fingerprint", "keep_elements", NULL};
    struct trk_work_options opt = {.size = sizeof(opt)};
    struct trk_vm **array = NULL;
    struct trk_work *work = NULL;
    PyObject *arg[ARG_COUNT], *keep = NULL, *object = NULL;
    struct trk_farm *farm;
    Py_buffer function;
    int rc;

    if (ext_args("work", args, nargs, kwnames, names, 2, arg) < 0 ||
        get_work_options(arg, &opt) < 0 ||
        PyObject_GetBuffer(arg[ARG_FUNCTION], &function, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    opt.function = function.buf;
    opt.function_size = (size_t)function.len;
    if (get_targets(self, arg[ARG_LIST], arg[ARG_VMS], &opt, &keep, &array) == 0 &&
        (farm = farm_of(self)) != NULL) {
        rc = trk_work_new(farm, &opt, &work);
        object = rc < 0 ? ext_raise(ext_state_of(self), rc)
                        : work_wrap(ext_state_of(self), as_farm(self), work, keep);
    }
    PyBuffer_Release(&function);
    PyMem_Free(array);
    Py_XDECREF(keep);
    return object;
}

/* --- injecting --------------------------------------------------------------------------- */

/* A list of Call objects. Takes the calls and their array. */
static PyObject *wrap_calls(PyObject *self, struct trk_call **calls, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);

    for (size_t i = 0; i < count; i++) {
        PyObject *call;
        if (list == NULL) {
            trk_call_free(calls[i]);
            continue;
        }
        call = call_wrap(ext_state_of(self), as_farm(self), calls[i]);
        if (call == NULL || PyList_SetItem(list, (Py_ssize_t)i, call) < 0) {
            Py_CLEAR(list);
        }
    }
    free(calls);
    return list;
}

PyDoc_STRVAR(inject_doc, "inject(target, name, payload)\n--\n\n"
                         "Injects into every VM of a VMList, or into one VM; one Call per VM.");

static PyObject *farm_inject(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    static const char *const names[] = {"target", "name", "payload", NULL};
    struct ext_state *state = ext_state_of(self);
    struct trk_vmlist *list = NULL;
    struct trk_call **calls = NULL;
    struct trk_vm *vm = NULL;
    PyObject *arg[3];
    const char *name;
    size_t count = 0;
    Py_buffer payload;
    int rc;

    if (ext_args("inject", args, nargs, kwnames, names, 3, arg) < 0 ||
        (name = get_text(arg[1])) == NULL) {
        return NULL;
    }
    if (Py_IS_TYPE(arg[0], state->vmlist_type)) {
        list = ((struct vmlist_object *)arg[0])->list;
    } else if (Py_IS_TYPE(arg[0], state->vm_type)) {
        vm = ((struct vm_object *)arg[0])->vm;
    } else {
        PyErr_Format(PyExc_TypeError, "target must be a VMList or a VM, not %R", Py_TYPE(arg[0]));
        return NULL;
    }
    if (PyObject_GetBuffer(arg[2], &payload, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = trk_inject(list, vm, name, payload.buf, (size_t)payload.len, &calls, &count);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&payload);
    return rc < 0 ? ext_raise(state, rc) : wrap_calls(self, calls, count);
}

#define METHOD(name, flags) {#name, (PyCFunction)(void (*)(void))farm_##name, flags, name##_doc}

static PyMethodDef farm_methods[] = {
    METHOD(connect, METH_FASTCALL | METH_KEYWORDS),
    METHOD(vms, METH_FASTCALL | METH_KEYWORDS),
    METHOD(order, METH_FASTCALL | METH_KEYWORDS),
    METHOD(notice, METH_FASTCALL | METH_KEYWORDS),
    METHOD(work, METH_FASTCALL | METH_KEYWORDS),
    METHOD(inject, METH_FASTCALL | METH_KEYWORDS),
    METHOD(close, METH_FASTCALL | METH_KEYWORDS),
    {NULL, NULL, 0, NULL},
};

static PyObject *farm_listening(PyObject *self, void *closure)
{
    /* notices is a reference of its own, which outlives the closing. */
    const char *where = as_farm(self)->notices != NULL
                            ? trk_farm_listening(as_farm(self)->notices) : NULL;

    if (where == NULL) {
        Py_RETURN_NONE;
    }
    return PyUnicode_FromString(where);
}

static PyGetSetDef farm_getset[] = {
    {"listening", farm_listening, NULL, "ADDR:PORT where VMs join, or None", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot farm_slots[] = {
    {Py_tp_doc, "Farm(*, program=None, runtime_dir=None, lan=False, insecure=False, hosts=None, "
                "multicast=None, dead_after_ms=0, suspect_after_ms=0, job=None, "
                "listen=None)\n--\n\n"
                "A farm thread and all it holds."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, farm_init},
    {Py_tp_traverse, farm_traverse},
    {Py_tp_dealloc, farm_dealloc},
    {Py_tp_methods, farm_methods},
    {Py_tp_getset, farm_getset},
    {0, NULL},
};

PyType_Spec farm_spec = {
    .name = "trickle._trickle.Farm",
    .basicsize = sizeof(struct farm_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = farm_slots,
};
