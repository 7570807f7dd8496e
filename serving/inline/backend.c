/* Triton's Python backend without its stub: model.py runs inside Triton's own process.
 *
 * Triton loads the shared object made from this file in place of libtriton_python.so. It starts Python once, from the
 * shared library named in BANTAM_LIBPYTHON, and hands over to host.py, which lies beside it and fills in the three
 * functions of `handlers`. What is left here is what Python cannot do: to be loaded by Triton, and to give each of its
 * threads a place in Python.
 *
 * No header of Triton or Python is needed: Triton's functions have a stable C ABI and are found in the process itself,
 * Python's are looked up in the libpython, so that one build does for all versions of both.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct TRITONSERVER_Error Error;
typedef struct TRITONBACKEND_Backend Backend;
typedef struct TRITONBACKEND_ModelInstance Instance;
typedef struct TRITONBACKEND_Request Request;

enum { INTERNAL = 1 }; /* TRITONSERVER_ERROR_INTERNAL */

extern Error *TRITONSERVER_ErrorNew(int code, const char *message);
extern Error *TRITONBACKEND_BackendArtifacts(Backend *backend, int *type, const char **location);

/* Set by host.py, which knows this layout. */
static struct {
    Error *(*initialize)(Instance *);
    Error *(*finalize)(Instance *);
    Error *(*execute)(Instance *, Request **, uint32_t);
} handlers;

/* From Python's C API, documented at https://docs.python.org/3/c-api/init.html */
static struct {
    void (*InitializeEx)(int install_signal_handlers);
    int (*RunSimpleString)(const char *code);
    void *(*SaveThread)(void);
    int (*Ensure)(void);
} python;

static int find_python(void *library) {
    *(void **)&python.InitializeEx = dlsym(library, "Py_InitializeEx");
    *(void **)&python.RunSimpleString = dlsym(library, "PyRun_SimpleString");
    *(void **)&python.SaveThread = dlsym(library, "PyEval_SaveThread");
    *(void **)&python.Ensure = dlsym(library, "PyGILState_Ensure");
    return python.InitializeEx && python.RunSimpleString && python.SaveThread && python.Ensure;
}

/* Once, before any model is loaded. */
Error *TRITONBACKEND_Initialize(Backend *backend) {
    int type;
    const char *folder, *name = getenv("BANTAM_LIBPYTHON");
    char code[200];
    Error *error = TRITONBACKEND_BackendArtifacts(backend, &type, &folder);
    if (error)
        return error;
    if (!name)
        return TRITONSERVER_ErrorNew(INTERNAL, "BANTAM_LIBPYTHON is not set, expected the name of a libpython");
    /* RTLD_GLOBAL: Python's extension modules expect to find Python's functions in the process. */
    void *library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    if (!library || !find_python(library))
        return TRITONSERVER_ErrorNew(INTERNAL, dlerror());
    setenv("BANTAM_BACKEND", folder, 1);
    snprintf(code, sizeof code,
             "import os, sys\nsys.path.insert(0, os.environ['BANTAM_BACKEND'])\nimport host\nhost.install(%ju)\n",
             (uintmax_t)(uintptr_t)&handlers);
    python.InitializeEx(0); /* signals are Triton's business */
    int failed = python.RunSimpleString(code);
    python.SaveThread(); /* lets other threads use Python */
    return failed ? TRITONSERVER_ErrorNew(INTERNAL, "host.py could not be run; the log says why") : NULL;
}

/* Makes the calling thread known to Python for good. Otherwise each call would make and destroy a thread state, and with
 * it whatever the model keeps in a threading.local; and where that takes the GIL as it ends, as OpenVINO's requests do,
 * Python before 3.12.5 frees the thread state twice (https://github.com/python/cpython/issues/119585). Few threads come
 * here: a fixed pool loads models, and each instance of a model has one.
 */
static void enter(void) {
    static __thread int known;
    if (!known) {
        python.Ensure();
        python.SaveThread();
        known = 1;
    }
}

Error *TRITONBACKEND_ModelInstanceInitialize(Instance *instance) {
    enter();
    return handlers.initialize(instance);
}

Error *TRITONBACKEND_ModelInstanceFinalize(Instance *instance) {
    enter();
    return handlers.finalize(instance);
}

Error *TRITONBACKEND_ModelInstanceExecute(Instance *instance, Request **requests, uint32_t count) {
    enter();
    return handlers.execute(instance, requests, count);
}
