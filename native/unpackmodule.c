/*
 * unpackmodule.c: orlop.kernel._unpack, the Python face of unpack.c. Owns argument checks, the GIL and the exception; decides nothing.
 * Test: tests/kernel/layers/test_unpack.py.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <sched.h>
#include <sys/stat.h>

#include "unpack.h"

static PyObject *unpack_error_type;
static __thread int thread_umask_zero;

typedef struct {
    PyObject_HEAD
    struct unpack *core;
    int busy; /* a thread is inside the core without the GIL */
    int finished;
} Unpacker;

static PyObject *raise_error(const Unpacker *self) {
    static const char *const kinds[] = {"ok", "malformed", "refused", "limit", "system"};
    const struct unpack_error *error = unpack_last_error(self->core);
    PyObject *entry = PyUnicode_DecodeUTF8(error->entry, (Py_ssize_t)strlen(error->entry), "backslashreplace");
    PyObject *reason = PyUnicode_DecodeUTF8(error->reason, (Py_ssize_t)strlen(error->reason), "backslashreplace");
    if (entry && reason) {
        PyObject *arguments = Py_BuildValue("(siOO)", kinds[error->kind], error->errno_value, entry, reason);
        if (arguments) {
            PyErr_SetObject(unpack_error_type, arguments);
            Py_DECREF(arguments);
        }
    }
    Py_XDECREF(entry);
    Py_XDECREF(reason);
    return NULL;
}

static int enter(Unpacker *self) {
    if (!self->core || self->finished || self->busy) {
        PyErr_SetString(PyExc_ValueError,
                        !self->core        ? "unpacker is closed"
                        : self->finished ? "unpacker has finished"
                                         : "unpacker is fed by another thread");
        return -1;
    }
    self->busy = 1;
    unpack_set_umask_zero(self->core, thread_umask_zero);
    return 0;
}

static PyObject *unpacker_new(PyTypeObject *type, PyObject *positional, PyObject *keywords) {
    static char *names[] = {"root_fd", "stream_bytes", "entries", "path_bytes", "pax_bytes", "xattr_bytes", NULL};
    int root_fd;
    unsigned long long stream_bytes, entries;
    unsigned int path_bytes, pax_bytes, xattr_bytes;
    if (!PyArg_ParseTupleAndKeywords(positional, keywords, "i$KKIII:Unpacker", names, &root_fd, &stream_bytes, &entries,
                                     &path_bytes, &pax_bytes, &xattr_bytes))
        return NULL;
    Unpacker *self = (Unpacker *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    struct unpack_limits limits = {stream_bytes, entries, path_bytes, pax_bytes, xattr_bytes};
    self->core = unpack_new(root_fd, &limits);
    if (!self->core) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void unpacker_dealloc(Unpacker *self) {
    PyTypeObject *type = Py_TYPE(self);
    unpack_free(self->core);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *unpacker_feed(Unpacker *self, PyObject *argument) {
    Py_buffer view;
    int result;
    if (PyObject_GetBuffer(argument, &view, PyBUF_SIMPLE) != 0)
        return NULL;
    if (enter(self) != 0) {
        PyBuffer_Release(&view);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    result = unpack_feed(self->core, view.buf, (size_t)view.len);
    Py_END_ALLOW_THREADS
    self->busy = 0;
    PyBuffer_Release(&view);
    if (result != 0)
        return raise_error(self);
    Py_RETURN_NONE;
}

static PyObject *unpacker_finish(Unpacker *self, PyObject *unused) {
    (void)unused;
    int result;
    if (enter(self) != 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = unpack_finish(self->core);
    Py_END_ALLOW_THREADS
    self->busy = 0;
    if (result != 0)
        return raise_error(self);
    self->finished = 1;
    PyObject *paths = PyList_New(0);
    size_t cursor = 0;
    const char *path;
    while (paths && (path = unpack_implicit(self->core, &cursor))) {
        PyObject *item = PyUnicode_DecodeFSDefault(path);
        if (!item || PyList_Append(paths, item) != 0)
            Py_CLEAR(paths);
        Py_XDECREF(item);
    }
    return paths;
}

static PyObject *unpacker_close(Unpacker *self, PyObject *unused) {
    (void)unused;
    if (self->busy) {
        PyErr_SetString(PyExc_ValueError, "unpacker is fed by another thread");
        return NULL;
    }
    unpack_free(self->core);
    self->core = NULL;
    Py_RETURN_NONE;
}

static PyObject *unpacker_total(Unpacker *self, void *which) {
    if (!self->core) {
        PyErr_SetString(PyExc_ValueError, "unpacker is closed");
        return NULL;
    }
    const struct unpack_totals *totals = unpack_get_totals(self->core);
    return PyLong_FromUnsignedLongLong(*(const uint64_t *)((const char *)totals + (size_t)which));
}

static PyMethodDef unpacker_methods[] = {
    {"feed", (PyCFunction)unpacker_feed, METH_O, "Apply the next bytes of the tar; the GIL is released meanwhile."},
    {"finish", (PyCFunction)unpacker_finish, METH_NOARGS,
     "Check that the archive is whole, set directory times, return the directories that no entry described."},
    {"close", (PyCFunction)unpacker_close, METH_NOARGS, "Free memory and fds; what was written stays."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef unpacker_getters[] = {
    {"stream_bytes", (getter)unpacker_total, NULL, "Bytes of tar so far.", (void *)offsetof(struct unpack_totals, stream_bytes)},
    {"file_bytes", (getter)unpacker_total, NULL, "Bytes of regular files.", (void *)offsetof(struct unpack_totals, file_bytes)},
    {"entries", (getter)unpacker_total, NULL, "Entries so far.", (void *)offsetof(struct unpack_totals, entries)},
    {"whiteouts", (getter)unpacker_total, NULL, "Whiteouts so far.", (void *)offsetof(struct unpack_totals, whiteouts)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot unpacker_slots[] = {
    {Py_tp_new, unpacker_new},         {Py_tp_dealloc, unpacker_dealloc}, {Py_tp_methods, unpacker_methods},
    {Py_tp_getset, unpacker_getters},  {Py_tp_doc, "Turns a tar stream into the directory of one layer; see native/unpack.h."},
    {0, NULL},
};

static PyType_Spec unpacker_spec = {
    .name = "orlop.kernel._unpack.Unpacker",
    .basicsize = sizeof(Unpacker),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = unpacker_slots,
};

/*
 * umask belongs to the process unless a thread takes its own copy of root, cwd and umask. A worker thread that only unpacks does
 * that, so that a mode given to open(2) is the mode that the file has, and no chmod is needed.
 */
static PyObject *own_umask(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    if (unshare(CLONE_FS) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    umask(0);
    thread_umask_zero = 1;
    Py_RETURN_NONE;
}

static PyObject *remove_tree(PyObject *module, PyObject *arguments) {
    (void)module;
    int parent_fd, result;
    PyObject *name;
    if (!PyArg_ParseTuple(arguments, "iO&:remove_tree", &parent_fd, PyUnicode_FSConverter, &name))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = unpack_remove_tree(parent_fd, PyBytes_AS_STRING(name));
    Py_END_ALLOW_THREADS
    if (result != 0) {
        errno = -result;
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, PyBytes_AS_STRING(name));
        Py_DECREF(name);
        return NULL;
    }
    Py_DECREF(name);
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"remove_tree", remove_tree, METH_VARARGS, "Remove a directory below an fd with all that is in it, without the GIL."},
    {"own_umask", own_umask, METH_NOARGS, "Give the calling thread its own root, cwd and umask, and make the umask 0."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, .m_name = "orlop.kernel._unpack", .m_size = -1, .m_methods = module_methods,
};

PyMODINIT_FUNC PyInit__unpack(void) {
    PyObject *module = PyModule_Create(&module_definition);
    PyObject *type = PyType_FromSpec(&unpacker_spec);
    unpack_error_type = PyErr_NewExceptionWithDoc("orlop.kernel._unpack.UnpackError",
                                                  "An archive could not be applied: (kind, errno, entry, reason).", NULL, NULL);
    if (!module || !type || !unpack_error_type || PyModule_AddObjectRef(module, "Unpacker", type) != 0 ||
        PyModule_AddObjectRef(module, "UnpackError", unpack_error_type) != 0)
        Py_CLEAR(module);
    Py_XDECREF(type);
    return module;
}
