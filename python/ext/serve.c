/* SPDX-License-Identifier: MIT */
/* serve.c - the VM side: the python RAI module.
 *
 * trk_vm_serve calls the functions of the table below on the thread that called serve(), with
 * the GIL held but between wait_begin and wait_end. User code can raise anything, SystemExit and
 * KeyboardInterrupt too: whatever it raises is the answer to its element or request.
 *
 * Interrupts. The net thread asks running code to stop by sending SIGINT to the compute thread:
 * a real signal, so that it also wakes time.sleep() and system calls; Python's own handler makes
 * a KeyboardInterrupt of it. It must strike in user code only:
 *
 *   OUTSIDE --enter_user--> INSIDE --interrupt--> SENDING --> SENT      (net thread)
 *      ^-------leave_user------'---------------------(waits)----'
 *
 * leave_user makes sure that a signal that was sent has arrived, and drops a KeyboardInterrupt
 * that came too late to be raised by the code it was meant for.
 *
 * Dumps. Code that has used up its time may hold the GIL, so its traceback is written by a signal
 * handler on its own thread: that of Python's faulthandler, which needs no GIL. The signal is a
 * real-time one, which hardly anybody uses; the handler is kept from before user code ran, and
 * set again when it is needed.
 *
 * Elements. While one runs user code may ask which one it is, save its state, and have a function
 * called at its end (to give its files their names): after the result has been made, before it is
 * sent. All of this is looked up in `here`, with the GIL held; a process serves once. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ext.h"

#define DUMP_SIGNAL (SIGRTMAX - 3)
#define DUMP_MS 200 /* the host ends the process then in any case */
#define SIGNAL_ROUNDS_MAX 64 /* handlers that raise, one after the other, before we go on */

enum user_state { OUTSIDE, INSIDE, SENDING, SENT };

struct serving {
    struct trk_rai_module rai;
    PyObject *request, *stage_open, *dumps, *loads, *dump_exception; /* of the server */
    PyObject *version;       /* str */
    PyObject *moved;         /* the class that is raised when an element is to go on elsewhere */
    PyObject *stages;        /* dict: stage number -> (callable, what element() says of it) */
    PyObject *last_opened;   /* borrowed from stages: of last_stage, or NULL */
    uint32_t last_stage;
    const struct trk_rai_element *element; /* that user code runs, or NULL */
    PyObject *at_end;        /* to be called at the end of the element, or NULL */
    bool has_moved;          /* the element was told to go on elsewhere */
    PyThreadState *waiting;  /* between wait_begin and wait_end */
    pthread_t thread;        /* the compute thread */
    atomic_int user;         /* enum user_state */
};

static struct serving *here; /* of this process, or NULL: it serves nobody */

/* --- interrupts -------------------------------------------------------------------------- */

/* Runs handlers of signals that have arrived while no user code runs. What they raise has no
 * place to go: a late KeyboardInterrupt is dropped, the rest is printed. */
static void drain_signals(void)
{
    for (int i = 0; i < SIGNAL_ROUNDS_MAX && PyErr_CheckSignals() < 0; i++) {
        if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) {
            PyErr_Clear();
        } else {
            PyErr_WriteUnraisable(NULL);
        }
    }
}

static void enter_user(struct serving *s)
{
    drain_signals();
    atomic_store(&s->user, INSIDE);
}

/* An exception that is set stays. */
static void leave_user(struct serving *s)
{
    int state = INSIDE;
    PyObject *type, *error, *trace;
    sigset_t mask;

    if (atomic_compare_exchange_strong(&s->user, &state, OUTSIDE)) {
        return;
    }
    while (atomic_load(&s->user) == SENDING) {
        sched_yield();
    }
    atomic_store(&s->user, OUTSIDE);
    pthread_sigmask(SIG_BLOCK, NULL, &mask); /* a system call: the signal is delivered by its end */
    PyErr_Fetch(&type, &error, &trace);
    drain_signals();
    PyErr_Restore(type, error, trace);
}

/* Net thread, without the GIL. Code that ignores SIGINT is left to the farm, which ends the VM;
 * without any handler the signal would end it here and now, and nobody would be told why. */
static void on_interrupt(void *state)
{
    struct serving *s = state;
    struct sigaction action;
    int inside = INSIDE, sent = SENT;

    if (!atomic_compare_exchange_strong(&s->user, &inside, SENDING) &&
        !atomic_compare_exchange_strong(&s->user, &sent, SENDING)) {
        return;
    }
    if (sigaction(SIGINT, NULL, &action) == 0 && action.sa_handler != SIG_DFL &&
        action.sa_handler != SIG_IGN) {
        pthread_kill(s->thread, SIGINT);
    }
    atomic_store(&s->user, SENT);
}

/* --- dumps ------------------------------------------------------------------------------- */

/* For the signal handler, which can be given nothing. */
static struct sigaction dump_action; /* faulthandler's */
static atomic_bool dump_is_done;

static void on_dump_signal(int number)
{
    dump_action.sa_handler(number);
    atomic_store(&dump_is_done, true);
}

/* Net thread. */
static void on_dump(void *state)
{
    struct serving *s = state;
    struct sigaction action = dump_action;
    const struct timespec moment = {.tv_nsec = 1000000};

    action.sa_handler = on_dump_signal;
    if (sigaction(DUMP_SIGNAL, &action, NULL) < 0 || pthread_kill(s->thread, DUMP_SIGNAL) != 0) {
        return;
    }
    for (int ms = 0; ms < DUMP_MS && !atomic_load(&dump_is_done); ms++) {
        nanosleep(&moment, NULL);
    }
}

/* False: this Python has no faulthandler; a timeout then leaves no traceback. */
static bool prepare_dump(void)
{
    PyObject *module = PyImport_ImportModule("faulthandler"), *done = NULL;

    if (module != NULL) { /* to stderr, all threads */
        done = PyObject_CallMethod(module, "register", "iiO", DUMP_SIGNAL, 2, Py_True);
    }
    PyErr_Clear();
    Py_XDECREF(module);
    Py_XDECREF(done);
    return done != NULL && sigaction(DUMP_SIGNAL, NULL, &dump_action) == 0;
}

/* --- waiting ----------------------------------------------------------------------------- */

static void on_wait_begin(void *state)
{
    struct serving *s = state;
    s->waiting = PyEval_SaveThread();
}

static void on_wait_end(void *state)
{
    struct serving *s = state;
    PyEval_RestoreThread(s->waiting);
}

/* --- answers ----------------------------------------------------------------------------- */

/* Too big, out of memory: the host answers in its own words, the status says that it failed. */
static int answer(struct trk_rai_reply *reply, const void *bytes, size_t size, int status)
{
    return trk_rai_reply_write(reply, bytes, size) < 0 ? TRK_STATUS_ERROR : status;
}

static int answer_sentence(struct trk_rai_reply *reply, const char *sentence)
{
    return answer(reply, sentence, strlen(sentence), TRK_STATUS_ERROR);
}

static int answer_bytes(struct trk_rai_reply *reply, PyObject *bytes, int status)
{
    return answer(reply, PyBytes_AsString(bytes), (size_t)PyBytes_Size(bytes), status);
}

/* The exception that is set, as an object with its traceback; none is set afterwards. */
static PyObject *take_exception(void)
{
    PyObject *type, *error, *trace;

    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (error != NULL && trace != NULL && PyException_SetTraceback(error, trace) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return error;
}

/* When the exception could not be encoded, and why is the exception that is set. */
static int answer_undumpable(struct trk_rai_reply *reply, PyObject *error)
{
    PyObject *why = take_exception(), *name = NULL, *why_name = NULL, *text = NULL;
    const char *sentence = NULL;
    int status;

    name = PyObject_GetAttrString((PyObject *)Py_TYPE(error), "__name__");
    if (name != NULL && why != NULL) {
        why_name = PyObject_GetAttrString((PyObject *)Py_TYPE(why), "__name__");
    }
    if (why_name != NULL) {
        text = PyUnicode_FromFormat("%S was raised and could not be sent back: %S: %S", name,
                                    why_name, why);
    }
    if (text != NULL) {
        sentence = PyUnicode_AsUTF8AndSize(text, NULL);
    }
    PyErr_Clear(); /* even str() of the reason may fail */
    status = answer_sentence(reply, sentence != NULL ? sentence
                                                     : "an exception could not be sent back");
    Py_XDECREF(text);
    Py_XDECREF(why_name);
    Py_XDECREF(name);
    Py_XDECREF(why);
    return status;
}

/* Answers with the exception that is set. Outside of user code, so no interrupt comes between;
 * a signal that some thread of the program sent may, hence a second try. */
static int answer_exception(struct serving *s, struct trk_rai_reply *reply)
{
    PyObject *error = take_exception(), *bytes = NULL;
    int status;

    if (error == NULL) {
        return answer_sentence(reply, "the VM failed without saying why");
    }
    for (int tries = 0; tries < 2 && bytes == NULL; tries++) {
        PyErr_Clear();
        drain_signals();
        bytes = codec_dump(error, s->dump_exception);
    }
    status = bytes != NULL ? answer_bytes(reply, bytes, TRK_STATUS_EXCEPTION)
                           : answer_undumpable(reply, error);
    Py_XDECREF(bytes);
    Py_DECREF(error);
    return status;
}

/* --- stages ------------------------------------------------------------------------------ */

static void forget_stage(struct serving *s, PyObject *number)
{
    s->last_opened = NULL;
    if (number == NULL || PyDict_DelItem(s->stages, number) < 0) {
        PyErr_Clear(); /* it had failed to open */
    }
}

static void on_stage_close(void *state, uint32_t stage)
{
    struct serving *s = state;
    PyObject *number = PyLong_FromUnsignedLong(stage);

    forget_stage(s, number);
    Py_XDECREF(number);
    drain_signals();
}

static int open_stage(struct serving *s, uint32_t stage, const void *bytes, size_t size)
{
    PyObject *number = PyLong_FromUnsignedLong(stage), *view, *opened;
    int rc = -1;

    if (number == NULL) {
        return -1;
    }
    forget_stage(s, number);
    view = ext_view(bytes, size);
    if (view != NULL) {
        opened = PyObject_CallFunctionObjArgs(s->stage_open, view, NULL);
        if (ext_view_end(view) == 0 && opened != NULL) {
            if (PyTuple_Check(opened) && PyTuple_Size(opened) == 2 &&
                PyCallable_Check(PyTuple_GetItem(opened, 0))) {
                rc = PyDict_SetItem(s->stages, number, opened);
            } else {
                PyErr_Format(PyExc_TypeError, "%R has no function that can be called", opened);
            }
        }
        Py_XDECREF(opened);
    }
    Py_DECREF(number);
    return rc;
}

static int on_stage_open(void *state, uint32_t stage, const void *function, size_t size,
                         struct trk_rai_reply *reply)
{
    struct serving *s = state;
    int rc;

    enter_user(s); /* unpickling a function imports modules */
    rc = open_stage(s, stage, function, size);
    leave_user(s);
    return rc == 0 ? TRK_STATUS_OK : answer_exception(s, reply);
}

/* What stage_open gave, borrowed, or NULL: no such stage. */
static PyObject *stage_opened(struct serving *s, uint32_t stage)
{
    PyObject *number;

    if (s->last_opened == NULL || s->last_stage != stage) {
        number = PyLong_FromUnsignedLong(stage);
        s->last_opened = number != NULL ? PyDict_GetItemWithError(s->stages, number) : NULL;
        s->last_stage = stage;
        Py_XDECREF(number);
        PyErr_Clear();
    }
    return s->last_opened;
}

/* --- elements ---------------------------------------------------------------------------- */

/* The result's encoding: in out (its size returned), or in *dumped (0 returned). On failure 0,
 * and *dumped is NULL. */
static size_t run_user(struct serving *s, PyObject *function, const struct trk_rai_element *element,
                       uint8_t out[CODEC_BYTES_MAX], PyObject **dumped)
{
    PyObject *value, *argument = codec_load(element->payload, element->size, s->loads);
    size_t size = 0;

    *dumped = NULL;
    if (argument == NULL) {
        return 0;
    }
    value = PyObject_CallFunctionObjArgs(function, argument, NULL);
    Py_DECREF(argument);
    if (value != NULL) {
        size = codec_write(value, out);
        if (size == 0) {
            *dumped = codec_dump(value, s->dumps);
        }
        Py_DECREF(value);
    }
    return size;
}

/* Tells what user code asked to be told at the end of its element. False: that has failed. */
static bool end_element(PyObject *at_end, bool is_done)
{
    PyObject *type, *error, *trace, *result;

    PyErr_Fetch(&type, &error, &trace);
    result = PyObject_CallFunctionObjArgs(at_end, is_done ? Py_True : Py_False, NULL);
    if (!is_done) {
        if (result == NULL) {
            PyErr_WriteUnraisable(at_end); /* the element has failed already, and says why */
        }
        PyErr_Restore(type, error, trace);
    }
    Py_DECREF(at_end);
    Py_XDECREF(result);
    return result != NULL;
}

/* As run_user, with what belongs to an element around it. */
static size_t run_element(struct serving *s, PyObject *function,
                          const struct trk_rai_element *element, uint8_t out[CODEC_BYTES_MAX],
                          PyObject **dumped)
{
    PyObject *at_end;
    size_t size;

    s->has_moved = false;
    s->element = element;
    size = run_user(s, function, element, out, dumped);
    s->element = NULL;
    at_end = s->at_end;
    s->at_end = NULL;
    if (at_end != NULL && !end_element(at_end, size > 0 || *dumped != NULL)) {
        Py_CLEAR(*dumped);
        size = 0;
    }
    return size;
}

static int on_run(void *state, const struct trk_rai_element *element, struct trk_rai_reply *reply)
{
    struct serving *s = state;
    PyObject *opened = stage_opened(s, element->stage), *dumped;
    uint8_t bytes[CODEC_BYTES_MAX];
    size_t size;
    int status;

    if (opened == NULL) {
        return answer_sentence(reply, "the function of this element is not on the VM");
    }
    Py_INCREF(opened); /* it may stop being the stage's while it runs */
    enter_user(s);
    size = run_element(s, PyTuple_GetItem(opened, 0), element, bytes, &dumped);
    Py_DECREF(opened);
    leave_user(s);
    if (size > 0) {
        return answer(reply, bytes, size, TRK_STATUS_OK);
    }
    if (dumped == NULL) {
        if (s->has_moved && PyErr_ExceptionMatches(s->moved)) {
            PyErr_Clear();
            return TRK_RAI_MOVED;
        }
        return answer_exception(s, reply);
    }
    status = answer_bytes(reply, dumped, TRK_STATUS_OK);
    Py_DECREF(dumped);
    return status;
}

/* --- what user code asks of its element -------------------------------------------------- */

const char element_doc[] = "element()\n--\n\n"
                           "(what the stage was opened with, index, attempt), or None.";

PyObject *element(PyObject *module, PyObject *unused)
{
    PyObject *opened;

    if (here == NULL || here->element == NULL) {
        Py_RETURN_NONE;
    }
    opened = stage_opened(here, here->element->stage);
    if (opened == NULL) { /* it was closed while its last element ran */
        Py_RETURN_NONE;
    }
    return Py_BuildValue("OKI", PyTuple_GetItem(opened, 1),
                         (unsigned long long)here->element->index, here->element->attempt);
}

const char at_element_end_doc[] =
    "at_element_end(function)\n--\n\n"
    "Calls function(is_done) once, when the element that runs has its result or has failed. What\n"
    "it raises then is the element's failure. False: no element runs.";

PyObject *at_element_end(PyObject *module, PyObject *function)
{
    PyObject *before;

    if (here == NULL || here->element == NULL) {
        Py_RETURN_FALSE;
    }
    before = here->at_end;
    here->at_end = Py_NewRef(function);
    Py_XDECREF(before);
    Py_RETURN_TRUE;
}

const char checkpoint_doc[] = "checkpoint(state)\n--\n\n"
                              "Saves bytes as the state of the element that runs; waits until\n"
                              "that is durable. Raises the server's `moved` when the VM is to\n"
                              "leave.";

PyObject *checkpoint(PyObject *module, PyObject *state)
{
    Py_buffer bytes;
    int rc;

    if (here == NULL) {
        Py_RETURN_NONE;
    }
    if (PyObject_GetBuffer(state, &bytes, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    rc = trk_vm_checkpoint(bytes.buf, (size_t)bytes.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&bytes);
    while (rc == TRK_AGAIN) {
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
        Py_BEGIN_ALLOW_THREADS
        rc = trk_vm_checkpoint_wait();
        Py_END_ALLOW_THREADS
    }
    if (rc == TRK_EMOVED) {
        here->has_moved = true;
        PyErr_SetString(here->moved, "the state is saved, and this VM is about to leave: the "
                                     "element goes on elsewhere");
        return NULL;
    }
    return rc < 0 ? ext_raise(PyModule_GetState(module), rc) : Py_NewRef(Py_None);
}

const char restore_doc[] = "restore()\n--\n\n"
                           "The bytes that the element that runs has saved last, or None.";

PyObject *restore(PyObject *module, PyObject *unused)
{
    const void *bytes;
    size_t size;
    int rc = here != NULL ? trk_vm_restore(&bytes, &size) : TRK_END;

    if (rc == 0) { /* copied: what is made of them may save the next state */
        return PyBytes_FromStringAndSize(bytes, (Py_ssize_t)size);
    }
    return rc < 0 ? ext_raise(PyModule_GetState(module), rc) : Py_NewRef(Py_None);
}

/* --- requests ---------------------------------------------------------------------------- */

/* (status, bytes), or NULL with the exception. */
static PyObject *call_request(struct serving *s, const struct trk_rai_request *req)
{
    PyObject *op = PyLong_FromLong((long)req->op);
    PyObject *object = PyLong_FromUnsignedLongLong(req->object);
    PyObject *name = PyUnicode_FromString(req->name);
    PyObject *view = ext_view(req->payload, req->size);
    PyObject *result = NULL;

    if (op != NULL && object != NULL && name != NULL && view != NULL) {
        result = PyObject_CallFunctionObjArgs(s->request, op, object, name, view, NULL);
    }
    if (view != NULL && ext_view_end(view) < 0) {
        Py_CLEAR(result);
    }
    Py_XDECREF(name);
    Py_XDECREF(object);
    Py_XDECREF(op);
    if (result != NULL && !PyTuple_Check(result)) {
        PyErr_Format(PyExc_TypeError, "request must return a tuple, not %R", Py_TYPE(result));
        Py_CLEAR(result);
    }
    return result;
}

static int on_request(void *state, const struct trk_rai_request *req, struct trk_rai_reply *reply)
{
    struct serving *s = state;
    PyObject *result;
    Py_buffer bytes;
    int status = -1;

    enter_user(s);
    result = call_request(s, req);
    leave_user(s);
    if (result != NULL && PyArg_ParseTuple(result, "iy*:request", &status, &bytes)) {
        status = answer(reply, bytes.buf, (size_t)bytes.len, status);
        PyBuffer_Release(&bytes);
    } else {
        status = answer_exception(s, reply);
    }
    Py_XDECREF(result);
    return status;
}

/* --- serve ------------------------------------------------------------------------------- */

static void serving_fini(struct serving *s)
{
    Py_CLEAR(s->request);
    Py_CLEAR(s->stage_open);
    Py_CLEAR(s->dumps);
    Py_CLEAR(s->loads);
    Py_CLEAR(s->dump_exception);
    Py_CLEAR(s->version);
    Py_CLEAR(s->moved);
    Py_CLEAR(s->stages);
}

static int serving_init(struct serving *s, PyObject *server)
{
    s->rai = (struct trk_rai_module){
        .abi = TRK_RAI_ABI,
        .size = sizeof(s->rai),
        .name = "python",
        .request = on_request,
        .stage_open = on_stage_open,
        .run = on_run,
        .stage_close = on_stage_close,
        .wait_begin = on_wait_begin,
        .wait_end = on_wait_end,
        .interrupt = on_interrupt,
        .dump = prepare_dump() ? on_dump : NULL,
    };
    atomic_init(&s->user, OUTSIDE);
    s->thread = pthread_self();
    if ((s->request = PyObject_GetAttrString(server, "request")) == NULL ||
        (s->stage_open = PyObject_GetAttrString(server, "stage_open")) == NULL ||
        (s->dumps = PyObject_GetAttrString(server, "dumps")) == NULL ||
        (s->loads = PyObject_GetAttrString(server, "loads")) == NULL ||
        (s->dump_exception = PyObject_GetAttrString(server, "dump_exception")) == NULL ||
        (s->version = PyObject_GetAttrString(server, "version")) == NULL ||
        (s->moved = PyObject_GetAttrString(server, "moved")) == NULL ||
        (s->stages = PyDict_New()) == NULL) {
        return -1;
    }
    s->rai.version = PyUnicode_AsUTF8AndSize(s->version, NULL);
    return s->rai.version != NULL ? 0 : -1;
}

const char serve_doc[] = "serve(server)\n--\n\n"
                         "The VM side: serves initiators with the python RAI module, running user\n"
                         "code on the calling (main) thread.";

PyObject *serve(PyObject *module, PyObject *server)
{
    /* Never freed: the net thread may still ask for an interrupt when all is over. A process
     * serves once. */
    struct serving *s = PyMem_Calloc(1, sizeof(*s));
    PyObject *done = NULL;
    int rc;

    if (s == NULL) {
        return PyErr_NoMemory();
    }
    if (serving_init(s, server) == 0) {
        here = s;
        rc = trk_vm_serve(&s->rai, s);
        done = rc < 0 ? ext_raise(PyModule_GetState(module), rc) : Py_NewRef(Py_None);
    }
    here = NULL;
    serving_fini(s);
    return done;
}
