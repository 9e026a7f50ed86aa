/* SPDX-License-Identifier: MIT */
/* keys.c - the key file: trickle key, trickle vm --ssh. Secrets become Python objects only where
 * that was asked for. */
#include <string.h>

#include "ext.h"

const char keys_path_doc[] = "key_path()\n--\n\nThe name of the key file, which may be missing.";

PyObject *keys_path(PyObject *module, PyObject *unused)
{
    char path[4096];
    int rc = trk_key_path(path, sizeof(path));

    return rc < 0 ? ext_raise(PyModule_GetState(module), rc) : PyUnicode_DecodeFSDefault(path);
}

static PyObject *ids_of(const struct trk_keys *keys)
{
    PyObject *list = PyList_New((Py_ssize_t)keys->count);

    for (size_t i = 0; i < keys->count && list != NULL; i++) {
        PyObject *id = PyUnicode_FromString(keys->id[i]);
        if (id == NULL || PyList_SetItem(list, (Py_ssize_t)i, id) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

const char keys_do_doc[] = "key_do(what, secret=False)\n--\n\n"
                           "what: 'load', 'new', 'rotate' or 'finish'. (IDs, text or ''); None:\n"
                           "there is no key file.";

PyObject *keys_do(PyObject *module, PyObject *args)
{
    static const struct {
        const char *name;
        int (*fn)(struct trk_keys *out);
    } verbs[] = {{"load", trk_key_load},
                 {"new", trk_key_new},
                 {"rotate", trk_key_rotate},
                 {"finish", trk_key_finish}};
    struct trk_keys keys;
    const char *what;
    int secret = 0, rc;
    size_t i = 0;
    PyObject *ids, *answer = NULL;

    if (!PyArg_ParseTuple(args, "s|p:key_do", &what, &secret)) {
        return NULL;
    }
    while (i < sizeof(verbs) / sizeof(verbs[0]) && strcmp(verbs[i].name, what) != 0) {
        i++;
    }
    if (i == sizeof(verbs) / sizeof(verbs[0])) {
        return PyErr_Format(PyExc_ValueError, "key_do() does not know %s", what);
    }
    rc = verbs[i].fn(&keys);
    if (rc < 0) {
        return ext_raise(PyModule_GetState(module), rc);
    }
    if (rc == TRK_END) {
        Py_RETURN_NONE;
    }
    ids = ids_of(&keys);
    if (ids != NULL) {
        answer = Py_BuildValue("(Ns)", ids, secret ? keys.text : "");
    }
    trk_keys_clear(&keys);
    return answer;
}

const char keys_import_doc[] = "key_import(text, name, may_replace)\n--\n\n"
                               "Puts the text of a key file in place. The IDs in it.";

PyObject *keys_import(PyObject *module, PyObject *args)
{
    struct trk_keys keys;
    const char *text, *name;
    Py_ssize_t size;
    int may_replace, rc;
    PyObject *ids;

    if (!PyArg_ParseTuple(args, "y#sp:key_import", &text, &size, &name, &may_replace)) {
        return NULL;
    }
    rc = trk_key_import(text, (size_t)size, name, may_replace != 0, &keys);
    if (rc < 0) {
        return ext_raise(PyModule_GetState(module), rc);
    }
    ids = ids_of(&keys);
    trk_keys_clear(&keys);
    return ids;
}
