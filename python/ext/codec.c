/* SPDX-License-Identifier: MIT */
/* codec.c - plain values to pickles and back without the pickle module.
 *
 * Elements and results of a task farm are mostly numbers, short texts and short lists of them,
 * and calling pickle for each costs more than all the rest. Exact None, bool, int of 64 bits,
 * float, str, bytes, and lists and tuples of these, are written here as protocol 5 pickles that
 * any unpickler reads; the largest takes CODEC_BYTES_MAX bytes. Each value has one encoding,
 * without frames and memo entries:
 *
 *   pickle  80 05  value  2e
 *   scalar  N | 88 | 89 | K u8 | M u16 | J i32 | 8a n bytes | G f64 | 8c u8 text | X u32 text |
 *           C u8 bytes | B u32 bytes
 *   list    ] | ] scalar a | ] ( scalar scalar ... e
 *   tuple   ) | scalar 85 | scalar scalar 86 | three scalars 87 | ( scalar ... t
 *
 * The reader takes these, and also what the pickle module writes for the same values (a frame
 * around, memo entries that nothing refers to, several runs of list items). Whatever else it
 * meets it leaves to the unpickler, from the start: a wrong guess costs time, never a value.
 * Identity is kept no less than it matters: all these values are immutable but the outer list. */
#include <string.h>

#include "ext.h"

#define TEXT_BYTES_MAX 1024   /* a longer str or bytes is left to pickle: copying is its cost */
#define READ_BYTES_MAX 65536  /* a longer pickle is left to pickle: it is no slower there */
#define SCALAR_HEAD_MAX 10    /* bytes of the longest scalar, texts apart: 8a n 8 bytes */
#define TAIL_BYTES 2          /* the end of a list or tuple, and STOP */

enum opcode {
    OP_MARK = '(',
    OP_STOP = '.',
    OP_BININT = 'J',
    OP_BININT1 = 'K',
    OP_BININT2 = 'M',
    OP_NONE = 'N',
    OP_BINUNICODE = 'X',
    OP_APPEND = 'a',
    OP_APPENDS = 'e',
    OP_TUPLE = 't',
    OP_BINFLOAT = 'G',
    OP_EMPTY_TUPLE = ')',
    OP_EMPTY_LIST = ']',
    OP_BINBYTES = 'B',
    OP_SHORT_BINBYTES = 'C',
    OP_PROTO = 0x80,
    OP_TUPLE1 = 0x85,
    OP_TUPLE3 = 0x87,
    OP_NEWTRUE = 0x88,
    OP_NEWFALSE = 0x89,
    OP_LONG1 = 0x8a,
    OP_SHORT_BINUNICODE = 0x8c,
    OP_MEMOIZE = 0x94,
    OP_FRAME = 0x95,
};

/* --- writing ----------------------------------------------------------------------------- */

static uint8_t *put_le(uint8_t *p, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        *p++ = (uint8_t)(value >> (8 * i));
    }
    return p;
}

static uint8_t *put_int(uint8_t *p, long long value)
{
    unsigned n = 8;

    if (value >= 0 && value <= 0xff) {
        *p++ = OP_BININT1;
        *p++ = (uint8_t)value;
        return p;
    }
    if (value >= 0 && value <= 0xffff) {
        *p++ = OP_BININT2;
        return put_le(p, (uint64_t)value, 2);
    }
    if (value >= INT32_MIN && value <= INT32_MAX) {
        *p++ = OP_BININT;
        return put_le(p, (uint64_t)value, 4);
    }
    /* The shortest two's complement: no top byte that only repeats the sign. */
    while (value >> (8 * n - 9) == 0 || value >> (8 * n - 9) == -1) {
        n--;
    }
    *p++ = OP_LONG1;
    *p++ = (uint8_t)n;
    return put_le(p, (uint64_t)value, n);
}

static uint8_t *put_float(uint8_t *p, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    *p++ = OP_BINFLOAT;
    for (int shift = 56; shift >= 0; shift -= 8) {
        *p++ = (uint8_t)(bits >> shift);
    }
    return p;
}

static uint8_t *put_text(uint8_t *p, const uint8_t *limit, uint8_t op_short, uint8_t op_long,
                         const char *text, Py_ssize_t size)
{
    if (size > TEXT_BYTES_MAX || size > limit - p - SCALAR_HEAD_MAX) {
        return NULL;
    }
    *p++ = size <= 0xff ? op_short : op_long;
    p = put_le(p, (uint64_t)size, size <= 0xff ? 1 : 4);
    memcpy(p, text, (size_t)size);
    return p + size;
}

/* UTF-8 is kept by the str itself where it is not ASCII, as the pickle module does too. */
static uint8_t *put_str(uint8_t *p, const uint8_t *limit, PyObject *obj)
{
    const char *text;
    Py_ssize_t size;

    if (PyUnicode_GetLength(obj) > TEXT_BYTES_MAX) {
        return NULL;
    }
    text = PyUnicode_AsUTF8AndSize(obj, &size);
    if (text == NULL) {
        PyErr_Clear(); /* lone surrogates: pickle has a way for them */
        return NULL;
    }
    return put_text(p, limit, OP_SHORT_BINUNICODE, OP_BINUNICODE, text, size);
}

/* Returns where the next byte goes, or NULL: obj is no such scalar, or there is no room. */
static uint8_t *put_scalar(uint8_t *p, const uint8_t *limit, PyObject *obj)
{
    if (limit - p < SCALAR_HEAD_MAX) {
        return NULL;
    }
    if (PyLong_CheckExact(obj)) {
        int overflow;
        long long value = PyLong_AsLongLongAndOverflow(obj, &overflow);
        return overflow == 0 ? put_int(p, value) : NULL;
    }
    if (PyFloat_CheckExact(obj)) {
        return put_float(p, PyFloat_AsDouble(obj));
    }
    if (PyUnicode_CheckExact(obj)) {
        return put_str(p, limit, obj);
    }
    if (obj == Py_None || obj == Py_True || obj == Py_False) {
        *p++ = obj == Py_None ? OP_NONE : obj == Py_True ? OP_NEWTRUE : OP_NEWFALSE;
        return p;
    }
    if (PyBytes_CheckExact(obj)) {
        return put_text(p, limit, OP_SHORT_BINBYTES, OP_BINBYTES, PyBytes_AsString(obj),
                        PyBytes_Size(obj));
    }
    return NULL;
}

static uint8_t *put_list(uint8_t *p, const uint8_t *limit, PyObject *list)
{
    Py_ssize_t n = PyList_Size(list);

    *p++ = OP_EMPTY_LIST;
    if (n > 1) {
        *p++ = OP_MARK;
    }
    for (Py_ssize_t i = 0; i < n && p != NULL; i++) {
        p = put_scalar(p, limit, PyList_GetItem(list, i));
    }
    if (p != NULL && n > 0) {
        *p++ = n == 1 ? OP_APPEND : OP_APPENDS;
    }
    return p;
}

static uint8_t *put_tuple(uint8_t *p, const uint8_t *limit, PyObject *tuple)
{
    Py_ssize_t n = PyTuple_Size(tuple);

    if (n > 3) {
        *p++ = OP_MARK;
    }
    for (Py_ssize_t i = 0; i < n && p != NULL; i++) {
        p = put_scalar(p, limit, PyTuple_GetItem(tuple, i));
    }
    if (p != NULL) {
        *p++ = n == 0 ? OP_EMPTY_TUPLE : n > 3 ? OP_TUPLE : (uint8_t)(OP_TUPLE1 + n - 1);
    }
    return p;
}

size_t codec_write(PyObject *obj, uint8_t out[CODEC_BYTES_MAX])
{
    const uint8_t *limit = out + CODEC_BYTES_MAX - TAIL_BYTES;
    uint8_t *p = out;

    *p++ = OP_PROTO;
    *p++ = 5;
    if (PyList_CheckExact(obj)) {
        p = put_list(p, limit, obj);
    } else if (PyTuple_CheckExact(obj)) {
        p = put_tuple(p, limit, obj);
    } else {
        p = put_scalar(p, limit, obj);
    }
    if (p == NULL) {
        return 0;
    }
    *p++ = OP_STOP;
    return (size_t)(p - out);
}

/* --- reading ----------------------------------------------------------------------------- */

/* What is still to be read. The byte at end exists: it is STOP, and no reader passes it. */
struct cursor {
    const uint8_t *p, *end;
};

static bool has(const struct cursor *c, size_t n)
{
    return (size_t)(c->end - c->p) >= n;
}

static uint64_t get_le(struct cursor *c, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes; i++) {
        value |= (uint64_t)*c->p++ << (8 * i);
    }
    return value;
}

static bool skip(struct cursor *c, uint8_t op)
{
    if (*c->p == op) { /* never OP_STOP, so p stays at or before end */
        c->p++;
        return true;
    }
    return false;
}

static int get_int(struct cursor *c, unsigned bytes, bool is_signed, PyObject **out)
{
    uint64_t value;

    if (!has(c, bytes)) {
        return 0;
    }
    value = get_le(c, bytes);
    if (is_signed && bytes > 0 && bytes < 8 && (value >> (8 * bytes - 1)) != 0) {
        value |= ~(uint64_t)0 << (8 * bytes);
    }
    *out = PyLong_FromLongLong((long long)value);
    return *out != NULL ? 1 : -1;
}

static int get_long(struct cursor *c, PyObject **out)
{
    uint8_t n;

    if (!has(c, 1) || (n = *c->p++) > 8) {
        return 0;
    }
    return get_int(c, n, true, out);
}

static int get_float(struct cursor *c, PyObject **out)
{
    uint64_t bits = 0;
    double value;

    if (!has(c, 8)) {
        return 0;
    }
    for (int i = 0; i < 8; i++) {
        bits = bits << 8 | *c->p++;
    }
    memcpy(&value, &bits, sizeof(value));
    *out = PyFloat_FromDouble(value);
    return *out != NULL ? 1 : -1;
}

static int get_text(struct cursor *c, unsigned size_bytes, bool is_str, PyObject **out)
{
    const char *text;
    size_t size;

    if (!has(c, size_bytes)) {
        return 0;
    }
    size = (size_t)get_le(c, size_bytes);
    if (!has(c, size)) {
        return 0;
    }
    text = (const char *)c->p;
    c->p += size;
    if (is_str) {
        *out = PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, "surrogatepass");
        if (*out == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            PyErr_Clear();
            return 0; /* damaged: the unpickler says so */
        }
    } else {
        *out = PyBytes_FromStringAndSize(text, (Py_ssize_t)size);
    }
    return *out != NULL ? 1 : -1;
}

static int get_constant(PyObject *constant, PyObject **out)
{
    *out = Py_NewRef(constant);
    return 1;
}

static int get_scalar(struct cursor *c, PyObject **out)
{
    int rc;

    switch (*c->p++) { /* at the worst the STOP at end: then the default */
    case OP_BININT1:
        return get_int(c, 1, false, out);
    case OP_BININT2:
        return get_int(c, 2, false, out);
    case OP_BININT:
        return get_int(c, 4, true, out);
    case OP_LONG1:
        return get_long(c, out);
    case OP_BINFLOAT:
        return get_float(c, out);
    case OP_NONE:
        return get_constant(Py_None, out);
    case OP_NEWTRUE:
        return get_constant(Py_True, out);
    case OP_NEWFALSE:
        return get_constant(Py_False, out);
    case OP_SHORT_BINUNICODE:
        rc = get_text(c, 1, true, out);
        break;
    case OP_BINUNICODE:
        rc = get_text(c, 4, true, out);
        break;
    case OP_SHORT_BINBYTES:
        rc = get_text(c, 1, false, out);
        break;
    case OP_BINBYTES:
        rc = get_text(c, 4, false, out);
        break;
    default:
        return 0;
    }
    if (rc == 1) {
        skip(c, OP_MEMOIZE); /* whoever refers to it makes this reader give up */
    }
    return rc;
}

/* Appends scalars up to stop, which is left unread. */
static int get_items(struct cursor *c, PyObject *list, uint8_t stop)
{
    while (*c->p != stop) {
        PyObject *item;
        int rc = get_scalar(c, &item);
        if (rc <= 0) {
            return rc;
        }
        rc = PyList_Append(list, item);
        Py_DECREF(item);
        if (rc < 0) {
            return -1;
        }
    }
    return 1;
}

/* After EMPTY_LIST: runs of items. */
static int get_list(struct cursor *c, PyObject *list)
{
    int rc = 1;

    skip(c, OP_MEMOIZE);
    while (rc == 1 && *c->p != OP_STOP) {
        uint8_t stop = skip(c, OP_MARK) ? OP_APPENDS : OP_APPEND;
        Py_ssize_t before = PyList_Size(list);
        rc = get_items(c, list, stop);
        if (rc == 1 && stop == OP_APPEND && PyList_Size(list) != before + 1) {
            return 0; /* APPEND takes one item */
        }
        c->p += rc == 1;
    }
    return rc;
}

/* A scalar, or a tuple of one to three of them: what it is shows behind the scalars. */
static int get_scalars(struct cursor *c, PyObject **out)
{
    PyObject *items[3] = {NULL, NULL, NULL};
    int n = 0, rc;

    do {
        rc = get_scalar(c, &items[n]);
        n += rc == 1;
    } while (rc == 1 && n < 3 && *c->p != OP_STOP && (*c->p < OP_TUPLE1 || *c->p > OP_TUPLE3));
    if (rc == 1 && n == 1 && *c->p == OP_STOP) {
        *out = items[0];
        return 1;
    }
    if (rc == 1 && *c->p == OP_TUPLE1 + n - 1) {
        c->p++;
        skip(c, OP_MEMOIZE);
        *out = n == 1   ? PyTuple_Pack(1, items[0])
               : n == 2 ? PyTuple_Pack(2, items[0], items[1])
                        : PyTuple_Pack(3, items[0], items[1], items[2]);
        rc = *out != NULL ? 1 : -1;
    } else if (rc == 1) {
        rc = 0;
    }
    for (int i = 0; i < n; i++) {
        Py_DECREF(items[i]);
    }
    return rc;
}

static int get_sequence(struct cursor *c, bool is_list, PyObject **out)
{
    PyObject *list = PyList_New(0);
    int rc;

    if (list == NULL) {
        return -1;
    }
    if (is_list) {
        rc = get_list(c, list);
    } else if ((rc = get_items(c, list, OP_TUPLE)) == 1) {
        c->p++;
        skip(c, OP_MEMOIZE);
    }
    if (rc == 1 && is_list) {
        *out = list;
        return 1;
    }
    if (rc == 1) {
        *out = PyList_AsTuple(list);
        rc = *out != NULL ? 1 : -1;
    }
    Py_DECREF(list);
    return rc;
}

int codec_read(const void *bytes, size_t size, PyObject **out)
{
    const uint8_t *start = bytes;
    struct cursor c;
    int rc;

    if (size < 4 || size > READ_BYTES_MAX || start[0] != OP_PROTO || start[1] > 5 ||
        start[size - 1] != OP_STOP) {
        return 0;
    }
    c = (struct cursor){start + 2, start + size - 1};
    if (skip(&c, OP_FRAME) && (!has(&c, 8) || get_le(&c, 8) != (uint64_t)(c.end + 1 - c.p))) {
        return 0;
    }
    if (skip(&c, OP_EMPTY_LIST)) {
        rc = get_sequence(&c, true, out);
    } else if (skip(&c, OP_MARK)) {
        rc = get_sequence(&c, false, out);
    } else if (skip(&c, OP_EMPTY_TUPLE)) {
        *out = PyTuple_New(0);
        rc = *out != NULL ? 1 : -1;
    } else {
        rc = get_scalars(&c, out);
    }
    if (rc == 1 && c.p != c.end) {
        Py_DECREF(*out);
        return 0; /* more behind it than a value */
    }
    return rc;
}

/* --- with the pickle module behind it ---------------------------------------------------- */

PyObject *codec_load(const void *bytes, size_t size, PyObject *loads)
{
    PyObject *value = NULL, *view;
    int rc = codec_read(bytes, size, &value);

    if (rc != 0) {
        return rc > 0 ? value : NULL;
    }
    view = ext_view(bytes, size);
    if (view == NULL) {
        return NULL;
    }
    value = PyObject_CallFunctionObjArgs(loads, view, NULL);
    if (ext_view_end(view) < 0) {
        Py_CLEAR(value); /* loads must not hold on to bytes that go: that is the outcome then */
    }
    return value;
}

PyObject *codec_dump(PyObject *obj, PyObject *dumps)
{
    PyObject *bytes = PyObject_CallFunctionObjArgs(dumps, obj, NULL);

    if (bytes != NULL && !PyBytes_Check(bytes)) {
        PyErr_Format(PyExc_TypeError, "dumps must return bytes, not %R", Py_TYPE(bytes));
        Py_CLEAR(bytes);
    }
    return bytes;
}

const char codec_encode_doc[] =
    "encode(obj, dumps)\n--\n\n"
    "A pickle of obj. Exact None, bool, int, float, str and bytes of moderate size, and lists\n"
    "and tuples of them, are encoded in C; all else by dumps(obj).";

PyObject *codec_encode(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames)
{
    static const char *const names[] = {"obj", "dumps", NULL};
    uint8_t bytes[CODEC_BYTES_MAX];
    PyObject *arg[2];
    size_t size;

    if (ext_args("encode", args, nargs, kwnames, names, 2, arg) < 0) {
        return NULL;
    }
    size = codec_write(arg[0], bytes);
    if (size > 0) {
        return PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
    }
    return codec_dump(arg[0], arg[1]);
}

const char codec_decode_doc[] =
    "decode(data, loads)\n--\n\n"
    "The inverse of encode: what was encoded in C is decoded in C, all else by\n"
    "loads(memoryview).";

PyObject *codec_decode(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames)
{
    static const char *const names[] = {"data", "loads", NULL};
    PyObject *arg[2], *value = NULL, *view;
    Py_buffer buffer;
    int rc;

    if (ext_args("decode", args, nargs, kwnames, names, 2, arg) < 0 ||
        PyObject_GetBuffer(arg[0], &buffer, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    rc = codec_read(buffer.buf, (size_t)buffer.len, &value);
    PyBuffer_Release(&buffer);
    if (rc != 0) {
        return rc > 0 ? value : NULL;
    }
    /* A view that owns its memory: loads may keep it. */
    view = PyMemoryView_FromObject(arg[0]);
    if (view != NULL) {
        value = PyObject_CallFunctionObjArgs(arg[1], view, NULL);
        Py_DECREF(view);
    }
    return value;
}
