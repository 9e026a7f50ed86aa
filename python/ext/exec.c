/* SPDX-License-Identifier: MIT */
/* exec.c - specs, elements and results of commands (trickle/exec.h) for Python.
 *
 * A spec is a dict whose parts become the structs of C. What these point to is held by one Python
 * list: bytes objects with the texts, and bytes objects that serve as arrays. */
#include <stdio.h>
#include <string.h>

#include "ext.h"

struct maker {
    PyObject *held; /* list: what the structs point into */
};

/* --- texts, pieces, words -------------------------------------------------------------------- */

/* Takes obj, for as long as the maker is there. 0, or -1. */
static int hold(struct maker *m, PyObject *obj)
{
    int rc = obj != NULL ? PyList_Append(m->held, obj) : -1;

    Py_XDECREF(obj);
    return rc;
}

/* A zeroed array, or NULL with the exception. */
static void *make_array(struct maker *m, Py_ssize_t count, size_t entry_size)
{
    Py_ssize_t size = (count > 0 ? count : 1) * (Py_ssize_t)entry_size;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    void *at = bytes != NULL ? memset(PyBytes_AsString(bytes), 0, (size_t)size) : NULL;

    return hold(m, bytes) == 0 ? at : NULL;
}

static bool is_text(PyObject *obj)
{
    return PyBytes_Check(obj) || PyUnicode_Check(obj);
}

static int make_text(struct maker *m, PyObject *obj, struct trk_exec_bytes *out)
{
    PyObject *bytes;

    if (!is_text(obj)) {
        PyErr_Format(PyExc_TypeError, "a text is bytes or str, not %R", Py_TYPE(obj));
        return -1;
    }
    bytes = PyUnicode_Check(obj) ? PyUnicode_EncodeFSDefault(obj) : Py_NewRef(obj);
    if (hold(m, bytes) < 0) {
        return -1;
    }
    out->bytes = PyBytes_AsString(bytes);
    out->size = (size_t)PyBytes_Size(bytes);
    return 0;
}

static int index_in(const char *const *names, const char *name)
{
    for (int i = 0; names[i] != NULL; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

static int make_piece(struct maker *m, PyObject *obj, struct trk_exec_piece *out)
{
    static const char *const kinds[] = {"", "field", "number", "output", "file", NULL};
    static const char *const transforms[] = {"", ".", "/", "//", "/.", NULL};
    const char *kind, *transform = "";
    unsigned int index = 0;
    int is_quoted = 0, k, t;

    if (!PyTuple_Check(obj)) {
        out->kind = TRK_EXEC_LITERAL;
        return make_text(m, obj, &out->text);
    }
    if (!PyArg_ParseTuple(obj, "s|Isp:piece", &kind, &index, &transform, &is_quoted)) {
        return -1;
    }
    k = index_in(kinds, kind);
    t = index_in(transforms, transform);
    if (k <= 0 || t < 0) {
        PyErr_Format(PyExc_ValueError, "%R is no piece of a word", obj);
        return -1;
    }
    out->kind = (enum trk_exec_kind)k;
    out->transform = (enum trk_exec_transform)t;
    out->is_quoted = is_quoted != 0;
    out->index = index;
    return 0;
}

static int make_word(struct maker *m, PyObject *obj, struct trk_exec_word *out)
{
    bool is_list = PyList_Check(obj);
    Py_ssize_t count = is_list ? PyList_Size(obj) : 1;
    struct trk_exec_piece *pieces = make_array(m, count, sizeof(*pieces));

    if (pieces == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (make_piece(m, is_list ? PyList_GetItem(obj, i) : obj, &pieces[i]) < 0) {
            return -1;
        }
    }
    out->pieces = pieces;
    out->count = (size_t)count;
    return 0;
}

/* --- the parts of a spec --------------------------------------------------------------------- */

/* A part of the dict, borrowed; NULL with or without an exception. */
static PyObject *part(PyObject *dict, const char *key)
{
    PyObject *name = PyUnicode_FromString(key);
    PyObject *value = name != NULL ? PyDict_GetItemWithError(dict, name) : NULL;

    Py_XDECREF(name);
    return value == Py_None ? NULL : value;
}

static PyObject *list_part(PyObject *dict, const char *key)
{
    PyObject *value = part(dict, key);

    if (value != NULL && !PyList_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s is a list, not %R", key, Py_TYPE(value));
        return NULL;
    }
    return value;
}

static int get_words(struct maker *m, PyObject *dict, const char *key,
                     const struct trk_exec_word **words, size_t *count)
{
    PyObject *list = list_part(dict, key);
    Py_ssize_t n = list != NULL ? PyList_Size(list) : 0;
    struct trk_exec_word *made = list != NULL ? make_array(m, n, sizeof(*made)) : NULL;

    if (PyErr_Occurred()) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (make_word(m, PyList_GetItem(list, i), &made[i]) < 0) {
            return -1;
        }
    }
    *words = made;
    *count = (size_t)n;
    return 0;
}

/* 1: it is there; 0: it is not; -1. */
static int get_word(struct maker *m, PyObject *dict, const char *key, struct trk_exec_word *out)
{
    PyObject *value = part(dict, key);

    if (value == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    return make_word(m, value, out) < 0 ? -1 : 1;
}

static int get_unset(struct maker *m, PyObject *dict, struct trk_exec_spec *spec)
{
    PyObject *list = list_part(dict, "unset");
    Py_ssize_t n = list != NULL ? PyList_Size(list) : 0;
    struct trk_exec_bytes *names = list != NULL ? make_array(m, n, sizeof(*names)) : NULL;

    if (PyErr_Occurred()) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (make_text(m, PyList_GetItem(list, i), &names[i]) < 0) {
            return -1;
        }
    }
    spec->unset = names;
    spec->unset_count = (size_t)n;
    return 0;
}

/* NAME=value */
static int make_variable(struct maker *m, PyObject *key, PyObject *value,
                         struct trk_exec_bytes *out)
{
    struct trk_exec_bytes name, text;
    char *at;

    if (make_text(m, key, &name) < 0 || make_text(m, value, &text) < 0) {
        return -1;
    }
    if (name.size > 0 && memchr(name.bytes, '=', name.size) != NULL) {
        PyErr_Format(PyExc_ValueError, "%R cannot be the name of a variable", key);
        return -1;
    }
    at = make_array(m, (Py_ssize_t)(name.size + 1 + text.size), 1);
    if (at == NULL) {
        return -1;
    }
    memcpy(at, name.bytes, name.size);
    at[name.size] = '=';
    memcpy(at + name.size + 1, text.bytes, text.size);
    *out = (struct trk_exec_bytes){at, name.size + 1 + text.size};
    return 0;
}

static int get_env(struct maker *m, PyObject *dict, struct trk_exec_spec *spec)
{
    PyObject *env = part(dict, "env"), *key, *value;
    struct trk_exec_bytes *list;
    Py_ssize_t pos = 0;

    if (env == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (!PyDict_Check(env)) {
        PyErr_Format(PyExc_TypeError, "env is a dict, not %R", Py_TYPE(env));
        return -1;
    }
    list = make_array(m, PyDict_Size(env), sizeof(*list));
    if (list == NULL) {
        return -1;
    }
    spec->env = list;
    while (PyDict_Next(env, &pos, &key, &value)) {
        if (make_variable(m, key, value, &list[spec->env_count]) < 0) {
            return -1;
        }
        spec->env_count++;
    }
    return 0;
}

static int get_bool(PyObject *dict, const char *key, bool *out)
{
    PyObject *value = part(dict, key);
    int is_true = value != NULL ? PyObject_IsTrue(value) : 0;

    if (is_true < 0 || PyErr_Occurred()) {
        return -1;
    }
    *out = is_true != 0;
    return 0;
}

static int get_number(PyObject *dict, const char *key, uint32_t *out)
{
    PyObject *value = part(dict, key);
    unsigned long number = value != NULL ? PyLong_AsUnsignedLong(value) : 0;

    if (PyErr_Occurred()) {
        return -1;
    }
    if (number > UINT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: %R is too large", key, value);
        return -1;
    }
    *out = (uint32_t)number;
    return 0;
}

/* In a dict 0 is none, and none is the default. */
static int get_keep(PyObject *dict, const char *key, uint32_t *out)
{
    if (get_number(dict, key, out) < 0) {
        return -1;
    }
    if (*out == 0 && part(dict, key) != NULL) {
        *out = TRK_EXEC_KEEP_NONE;
    }
    return 0;
}

static int check_keys(PyObject *dict)
{
    static const char *const names[] = {"argv", "shell", "cwd", "stdin", "env", "unset", "outputs",
                                        "check", "check_shell", "timeout_ms", "kill_after_ms",
                                        "stdout_keep", "stderr_keep", NULL};
    PyObject *key, *value;
    Py_ssize_t pos = 0;

    if (!PyDict_Check(dict)) {
        PyErr_Format(PyExc_TypeError, "exec_spec() needs a dict, not %R", Py_TYPE(dict));
        return -1;
    }
    while (PyDict_Next(dict, &pos, &key, &value)) {
        const char *const *name = names;
        while (*name != NULL &&
               !(PyUnicode_Check(key) && PyUnicode_CompareWithASCIIString(key, *name) == 0)) {
            name++;
        }
        if (*name == NULL) {
            PyErr_Format(PyExc_ValueError, "a spec has no part %R", key);
            return -1;
        }
    }
    return 0;
}

static int get_spec(struct maker *m, PyObject *dict, struct trk_exec_spec *spec)
{
    int has_cwd, has_input;

    if (check_keys(dict) < 0 ||
        get_words(m, dict, "argv", &spec->argv, &spec->argc) < 0 ||
        get_words(m, dict, "outputs", &spec->outputs, &spec->outputs_count) < 0 ||
        get_words(m, dict, "check", &spec->check, &spec->check_count) < 0 ||
        get_env(m, dict, spec) < 0 || get_unset(m, dict, spec) < 0 ||
        get_bool(dict, "shell", &spec->is_shell) < 0 ||
        get_bool(dict, "check_shell", &spec->is_check_shell) < 0 ||
        get_number(dict, "timeout_ms", &spec->timeout_ms) < 0 ||
        get_number(dict, "kill_after_ms", &spec->kill_after_ms) < 0 ||
        get_keep(dict, "stdout_keep", &spec->stdout_keep) < 0 ||
        get_keep(dict, "stderr_keep", &spec->stderr_keep) < 0) {
        return -1;
    }
    has_cwd = get_word(m, dict, "cwd", &spec->cwd);
    has_input = has_cwd < 0 ? -1 : get_word(m, dict, "stdin", &spec->input);
    spec->has_input = has_input == 1;
    return has_input < 0 ? -1 : 0;
}

/* What can only be wrong in what was given is a ValueError. */
static PyObject *raise_wrong(PyObject *module, int rc)
{
    if (rc == TRK_EINVAL || rc == TRK_ECORRUPT || rc == TRK_EVERSION) {
        PyErr_SetString(PyExc_ValueError, trk_last_error());
        return NULL;
    }
    return ext_raise(PyModule_GetState(module), rc);
}

static PyObject *taken(PyObject *module, int rc, void *bytes, size_t size)
{
    PyObject *value;

    if (rc < 0) {
        return raise_wrong(module, rc);
    }
    value = PyBytes_FromStringAndSize(bytes, (Py_ssize_t)size);
    trk_free(bytes);
    return value;
}

const char exec_spec_doc[] = "exec_spec(spec)\n--\n\n"
                             "A dict that says how a command is made of an element, as bytes.";

PyObject *exec_spec(PyObject *module, PyObject *dict)
{
    struct trk_exec_spec spec = {.size = sizeof(spec)};
    struct maker m = {.held = PyList_New(0)};
    PyObject *value = NULL;
    void *bytes = NULL;
    size_t size = 0;

    if (m.held != NULL && get_spec(&m, dict, &spec) == 0) {
        int rc = trk_exec_spec_encode(&spec, &bytes, &size);
        value = taken(module, rc, bytes, size);
    }
    Py_XDECREF(m.held);
    return value;
}

/* --- elements -------------------------------------------------------------------------------- */

const char exec_element_doc[] = "exec_element(fields)\n--\n\nAn element of a list of texts.";

PyObject *exec_element(PyObject *module, PyObject *fields)
{
    struct maker m = {.held = NULL};
    struct trk_exec_bytes *list;
    PyObject *value = NULL;
    void *bytes = NULL;
    size_t size = 0;
    Py_ssize_t i = 0, n;

    if (!PyList_Check(fields)) {
        return PyErr_Format(PyExc_TypeError, "fields are a list, not %R", Py_TYPE(fields));
    }
    n = PyList_Size(fields);
    m.held = PyList_New(0);
    list = m.held != NULL ? make_array(&m, n, sizeof(*list)) : NULL;
    while (list != NULL && i < n && make_text(&m, PyList_GetItem(fields, i), &list[i]) == 0) {
        i++;
    }
    if (list != NULL && i == n) {
        int rc = trk_exec_element_encode(list, (size_t)n, &bytes, &size);
        value = taken(module, rc, bytes, size);
    }
    Py_XDECREF(m.held);
    return value;
}

static PyObject *bytes_of(struct trk_exec_bytes b)
{
    return PyBytes_FromStringAndSize(b.bytes, (Py_ssize_t)b.size);
}

static PyObject *list_of(const struct trk_exec_bytes *items, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);

    for (size_t i = 0; i < count && list != NULL; i++) {
        PyObject *item = bytes_of(items[i]);
        if (item == NULL || PyList_SetItem(list, (Py_ssize_t)i, item) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

const char exec_fields_doc[] = "exec_fields(element)\n--\n\nThe fields of an element.";

PyObject *exec_fields(PyObject *module, PyObject *args)
{
    struct trk_exec_bytes *fields = NULL;
    Py_buffer bytes;
    PyObject *list;
    size_t count;
    int rc;

    if (!PyArg_ParseTuple(args, "y*:exec_fields", &bytes)) {
        return NULL;
    }
    rc = trk_exec_element_decode(bytes.buf, (size_t)bytes.len, &fields, &count);
    list = rc < 0 ? raise_wrong(module, rc) : list_of(fields, count);
    trk_free(fields);
    PyBuffer_Release(&bytes);
    return list;
}

const char exec_argv_doc[] = "exec_argv(spec, element, index)\n--\n\n"
                             "The command that is run, with the outputs' own names.";

PyObject *exec_argv(PyObject *module, PyObject *args)
{
    struct trk_exec_bytes *fields = NULL, *words = NULL;
    struct trk_exec_spec *spec = NULL;
    Py_buffer spec_bytes, bytes;
    unsigned long long index;
    size_t count, words_count;
    PyObject *list;
    int rc;

    if (!PyArg_ParseTuple(args, "y*y*K:exec_argv", &spec_bytes, &bytes, &index)) {
        return NULL;
    }
    rc = trk_exec_spec_decode(spec_bytes.buf, (size_t)spec_bytes.len, &spec);
    if (rc == 0) {
        rc = trk_exec_element_decode(bytes.buf, (size_t)bytes.len, &fields, &count);
    }
    if (rc == 0) {
        rc = trk_exec_argv(spec, fields, count, index, &words, &words_count);
    }
    list = rc < 0 ? raise_wrong(module, rc) : list_of(words, words_count);
    trk_free(words);
    trk_free(fields);
    trk_free(spec);
    PyBuffer_Release(&bytes);
    PyBuffer_Release(&spec_bytes);
    return list;
}

/* --- results --------------------------------------------------------------------------------- */

static const char *outcome_name(enum trk_exec_outcome outcome)
{
    static const char *const names[] = {
        [TRK_EXEC_OK] = "ok",
        [TRK_EXEC_EXIT] = "exit",
        [TRK_EXEC_SIGNAL] = "signal",
        [TRK_EXEC_TIMEOUT] = "timeout",
        [TRK_EXEC_NOT_STARTED] = "not started",
        [TRK_EXEC_BAD_OUTPUT] = "bad output",
        [TRK_EXEC_INTERRUPTED] = "interrupted",
        [TRK_EXEC_UNKNOWN] = "unknown",
    };

    return (size_t)outcome < sizeof(names) / sizeof(names[0]) ? names[outcome] : "unknown";
}

static PyObject *number_or_none(int32_t number, int32_t none)
{
    return number != none ? PyLong_FromLong(number) : Py_NewRef(Py_None);
}

static int put_kept(PyObject *dict, const struct trk_exec_kept *kept, const char *name)
{
    char key[32];

    snprintf(key, sizeof(key), "%s_total", name);
    if (ext_put(dict, key, PyLong_FromUnsignedLongLong(kept->total)) < 0) {
        return -1;
    }
    snprintf(key, sizeof(key), "%s_head", name);
    if (ext_put(dict, key, PyLong_FromSize_t(kept->head)) < 0) {
        return -1;
    }
    return ext_put(dict, name, PyBytes_FromStringAndSize(kept->bytes, (Py_ssize_t)kept->size));
}

static int put_result(PyObject *d, const struct trk_exec_result *r)
{
    if (ext_put(d, "outcome", PyUnicode_FromString(outcome_name(r->outcome))) < 0 ||
        ext_put(d, "exit_status", number_or_none(r->exit_status, -1)) < 0 ||
        ext_put(d, "signal", number_or_none(r->signal, 0)) < 0 ||
        ext_put(d, "left", PyLong_FromUnsignedLong(r->left)) < 0 ||
        ext_put(d, "started", PyFloat_FromDouble((double)r->started_ms / 1e3)) < 0 ||
        ext_put(d, "duration", PyFloat_FromDouble((double)r->duration_ns / 1e9)) < 0 ||
        ext_put(d, "cpu", PyFloat_FromDouble((double)r->cpu_ns / 1e9)) < 0 ||
        ext_put(d, "rss_max_bytes", PyLong_FromUnsignedLongLong(r->rss_max_bytes)) < 0 ||
        ext_put(d, "why", PyUnicode_DecodeUTF8(r->why.bytes, (Py_ssize_t)r->why.size,
                                               "surrogateescape")) < 0) {
        return -1;
    }
    return put_kept(d, &r->out, "stdout") < 0 ? -1 : put_kept(d, &r->err, "stderr");
}

const char exec_result_doc[] = "exec_result(payload)\n--\n\nHow a command ended, as a dict.";

PyObject *exec_result(PyObject *module, PyObject *args)
{
    struct trk_exec_result result;
    Py_buffer bytes;
    PyObject *dict;
    int rc;

    if (!PyArg_ParseTuple(args, "y*:exec_result", &bytes)) {
        return NULL;
    }
    rc = trk_exec_result_decode(bytes.buf, (size_t)bytes.len, &result);
    dict = rc < 0 ? raise_wrong(module, rc) : PyDict_New();
    if (dict != NULL && put_result(dict, &result) < 0) {
        Py_CLEAR(dict);
    }
    PyBuffer_Release(&bytes);
    return dict;
}
