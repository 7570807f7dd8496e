/* Triton's Python backend without its stub: model.py runs inside Triton's own process.
 *
 * Triton loads the shared object made from this file in place of libtriton_python.so. It starts Python once, from the
 * shared library named in BANTAM_LIBPYTHON, and imports host.py, which lies beside it. For models with one input of
 * BYTES and one output of FP32: texts in, scores out. What is here takes the texts of a batch out of Triton's requests,
 * calls host.execute with them, and puts what it returns into Triton's responses.
 *
 * In C rather than through ctypes, because the path of a request runs with cold caches, after and before a model that
 * fills them: a dozen calls by way of ctypes take as long there as the stub process that this file does without.
 *
 * No header of Triton or Python is needed: Triton's functions have a stable C ABI and are found in the process itself
 * (tritonbackend.h, tritonserver.h of triton-inference-server/core), Python's are looked up in the libpython (all are of
 * its stable ABI), so that one build does for all versions of both.
 */
#include "changes.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct TRITONSERVER_Message Message;
typedef struct TRITONBACKEND_Backend Backend;
typedef struct TRITONBACKEND_Input Input;
typedef struct TRITONBACKEND_ModelInstance Instance;
typedef struct TRITONBACKEND_Output Output;
typedef struct TRITONBACKEND_Request Request;
typedef struct TRITONBACKEND_Response Response;

/* Of the Triton that this is tested with. Another major version may change a function, a lower minor one may lack one. */
enum { API_MAJOR = 1, API_MINOR = 19 };
enum { INTERNAL = 1 };    /* TRITONSERVER_Error_Code */
enum { FP32 = 11 };       /* TRITONSERVER_DataType */
enum { CPU = 0 };         /* TRITONSERVER_MemoryType */
enum { LOG_ERROR = 2 };   /* TRITONSERVER_LogLevel */
enum { FINAL = 1 };       /* TRITONSERVER_ResponseCompleteFlag */
enum { RELEASE_ALL = 1 }; /* TRITONSERVER_RequestReleaseFlag */

Error *TRITONSERVER_ErrorNew(int code, const char *message);
const char *TRITONSERVER_ErrorMessage(Error *);
void TRITONSERVER_ErrorDelete(Error *);
Error *TRITONSERVER_LogMessage(int level, const char *file, int line, const char *text);
Error *TRITONSERVER_MessageSerializeToJson(Message *, const char **text, size_t *size);
Error *TRITONSERVER_MessageDelete(Message *);
Error *TRITONBACKEND_ApiVersion(uint32_t *major, uint32_t *minor);
Error *TRITONBACKEND_BackendArtifacts(Backend *, int *kind, const char **folder);
Error *TRITONBACKEND_ModelInstanceModel(Instance *, Model **);
Error *TRITONBACKEND_ModelInstanceState(Instance *, void **);
Error *TRITONBACKEND_ModelInstanceSetState(Instance *, void *);
Error *TRITONBACKEND_ModelVersion(Model *, uint64_t *);
Error *TRITONBACKEND_ModelRepository(Model *, int *kind, const char **folder);
Error *TRITONBACKEND_ModelConfig(Model *, uint32_t version, Message **);
Error *TRITONBACKEND_RequestInputByIndex(Request *, uint32_t index, Input **);
Error *TRITONBACKEND_RequestRelease(Request *, uint32_t flags);
Error *TRITONBACKEND_InputProperties(Input *, const char **name, int *type, const int64_t **shape, uint32_t *dimensions,
                                     uint64_t *bytes, uint32_t *buffers);
Error *TRITONBACKEND_InputBuffer(Input *, uint32_t index, const void **, uint64_t *bytes, int *memory, int64_t *device);
Error *TRITONBACKEND_ResponseNew(Response **, Request *);
Error *TRITONBACKEND_ResponseOutput(Response *, Output **, const char *name, int type, const int64_t *shape,
                                    uint32_t dimensions);
Error *TRITONBACKEND_OutputBuffer(Output *, void **, uint64_t bytes, int *memory, int64_t *device);
Error *TRITONBACKEND_ResponseSend(Response *, uint32_t flags, Error *);
Error *TRITONBACKEND_ModelInstanceReportStatistics(Instance *, Request *, bool success, uint64_t begin,
                                                   uint64_t compute_begin, uint64_t compute_end, uint64_t end);
Error *TRITONBACKEND_ModelInstanceReportBatchStatistics(Instance *, uint64_t texts, uint64_t begin,
                                                        uint64_t compute_begin, uint64_t compute_end, uint64_t end);

typedef struct Object Object; /* PyObject */

/* Python's C API by the names of https://docs.python.org/3/c-api/, without the leading Py. */
static struct {
    int (*IsInitialized)(void);
    void (*InitializeEx)(int install_signal_handlers);
    int (*Run_SimpleString)(const char *);
    void *(*Eval_SaveThread)(void);
    int (*GILState_Ensure)(void);
    void (*GILState_Release)(int);
    Object *(*Import_ImportModule)(const char *);
    Object *(*Object_GetAttrString)(Object *, const char *);
    Object *(*Object_CallFunction)(Object *, const char *format, ...);
    Object *(*Object_CallFunctionObjArgs)(Object *, ...);
    Object *(*List_New)(intptr_t);
    int (*List_SetItem)(Object *, intptr_t, Object *);
    Object *(*List_GetItem)(Object *, intptr_t);
    Object *(*Tuple_GetItem)(Object *, intptr_t);
    Object *(*BuildValue)(const char *format, ...);
    Object *(*Bytes_FromStringAndSize)(const char *, intptr_t);
    int (*Bytes_AsStringAndSize)(Object *, char **, intptr_t *);
    long long (*Long_AsLongLong)(Object *);
    void (*Err_Print)(void);
    void (*DecRef)(Object *);
} py;

static Object *host_initialize, *host_execute;

static bool find_python(void *library) {
    const struct {
        void *place;
        const char *name;
    } functions[] = {
        {&py.IsInitialized, "Py_IsInitialized"},
        {&py.InitializeEx, "Py_InitializeEx"},
        {&py.Run_SimpleString, "PyRun_SimpleString"},
        {&py.Eval_SaveThread, "PyEval_SaveThread"},
        {&py.GILState_Ensure, "PyGILState_Ensure"},
        {&py.GILState_Release, "PyGILState_Release"},
        {&py.Import_ImportModule, "PyImport_ImportModule"},
        {&py.Object_GetAttrString, "PyObject_GetAttrString"},
        {&py.Object_CallFunction, "PyObject_CallFunction"},
        {&py.Object_CallFunctionObjArgs, "PyObject_CallFunctionObjArgs"},
        {&py.List_New, "PyList_New"},
        {&py.List_SetItem, "PyList_SetItem"},
        {&py.List_GetItem, "PyList_GetItem"},
        {&py.Tuple_GetItem, "PyTuple_GetItem"},
        {&py.BuildValue, "Py_BuildValue"},
        {&py.Bytes_FromStringAndSize, "PyBytes_FromStringAndSize"},
        {&py.Bytes_AsStringAndSize, "PyBytes_AsStringAndSize"},
        {&py.Long_AsLongLong, "PyLong_AsLongLong"},
        {&py.Err_Print, "PyErr_Print"},
        {&py.DecRef, "Py_DecRef"},
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *found = dlsym(library, functions[i].name);
        if (!found)
            return false;
        memcpy(functions[i].place, &found, sizeof found);
    }
    return true;
}

/* For what Python raised. Its traceback follows the message in the log, where those who look for errors find both. */
static Error *raised(const char *message) {
    TRITONSERVER_LogMessage(LOG_ERROR, "backend.c", 0, message);
    py.Err_Print();
    return TRITONSERVER_ErrorNew(INTERNAL, message);
}

/* Nothing that is declared above may be called before this has returned NULL. */
static Error *check_api(void) {
    uint32_t major = 0, minor = 0;
    char message[160];
    Error *error = TRITONBACKEND_ApiVersion(&major, &minor);
    if (error || (major == API_MAJOR && minor >= API_MINOR))
        return error;
    snprintf(message, sizeof message,
             "Triton's backend API is %u.%u, expected %d.%d or a later %d.x. Serve with isolated models: "
             "bantam serve --isolated",
             major, minor, API_MAJOR, API_MINOR, API_MAJOR);
    return TRITONSERVER_ErrorNew(INTERNAL, message);
}

/* Before the first model is loaded; again before the next one if it failed. */
Error *TRITONBACKEND_Initialize(Backend *backend) {
    int kind;
    const char *folder, *name = getenv("BANTAM_LIBPYTHON");
    Error *error = check_api();
    if (!error)
        error = TRITONBACKEND_BackendArtifacts(backend, &kind, &folder);
    if (error)
        return error;
    if (!name)
        return TRITONSERVER_ErrorNew(INTERNAL, "BANTAM_LIBPYTHON is not set, expected the name of a libpython");
    /* RTLD_GLOBAL: Python's extension modules expect to find Python's functions in the process. */
    void *library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    if (!library || !find_python(library))
        return TRITONSERVER_ErrorNew(INTERNAL, dlerror());
    setenv("BANTAM_BACKEND", folder, 1);
    bool started = py.IsInitialized();
    int gil = 0;
    if (started)
        gil = py.GILState_Ensure();
    else
        py.InitializeEx(0); /* signals are Triton's business */
    Object *host = NULL;
    if (py.Run_SimpleString("import os, sys; sys.path.insert(0, os.environ['BANTAM_BACKEND'])") == 0)
        host = py.Import_ImportModule("host");
    if (host) {
        host_initialize = py.Object_GetAttrString(host, "initialize");
        host_execute = py.Object_GetAttrString(host, "execute");
    }
    if (!host_initialize || !host_execute)
        error = raised("host.py could not be imported");
    if (started)
        py.GILState_Release(gil);
    else
        py.Eval_SaveThread(); /* lets other threads use Python */
    return error;
}

Error *TRITONBACKEND_Finalize(Backend *backend) {
    (void)backend;
    end_watch();
    return NULL;
}

/* Takes the GIL for the calling thread, and makes the thread known to Python for good. Otherwise each call would make and
 * destroy a thread state, and with it whatever the model keeps in a threading.local; and where that takes the GIL as it
 * ends, as OpenVINO's requests do, Python 3.11 frees the thread state twice
 * (https://github.com/python/cpython/issues/119585). Few threads come here: a fixed pool loads models, and each instance
 * of a model has one. Each unloading has a thread of its own, which does not come here.
 */
static int enter(void) {
    static __thread bool known;
    if (!known) {
        py.GILState_Ensure();
        py.Eval_SaveThread();
        known = true;
    }
    return py.GILState_Ensure();
}

/* Loads model.py; the state of an instance is its TritonPythonModel. */
static Error *load(Instance *instance, const char *folder, uint64_t version, const char *config, size_t size) {
    Error *error = NULL;
    int gil = enter();
    Object *json = py.Bytes_FromStringAndSize(config, (intptr_t)size);
    Object *result = json ? py.Object_CallFunction(host_initialize, "sKO", folder, (unsigned long long)version, json) : NULL;
    Object *model = result ? py.Tuple_GetItem(result, 0) : NULL; /* or None, and then a message */
    char *message = NULL;
    intptr_t length;
    if (!model || py.Bytes_AsStringAndSize(py.Tuple_GetItem(result, 1), &message, &length) != 0) {
        error = raised("host.initialize failed");
    } else if (*message) {
        error = TRITONSERVER_ErrorNew(INTERNAL, message);
    } else {
        error = TRITONBACKEND_ModelInstanceSetState(instance, result); /* keeps the model alive */
    }
    if (json)
        py.DecRef(json);
    if (error && result)
        py.DecRef(result);
    py.GILState_Release(gil);
    return error;
}

Error *TRITONBACKEND_ModelInstanceInitialize(Instance *instance) {
    Model *model;
    Message *message;
    int kind;
    const char *folder, *config;
    uint64_t version;
    size_t size;
    Error *error;
    if ((error = TRITONBACKEND_ModelInstanceModel(instance, &model)) ||
        (error = TRITONBACKEND_ModelRepository(model, &kind, &folder)) ||
        (error = TRITONBACKEND_ModelVersion(model, &version)) || (error = TRITONBACKEND_ModelConfig(model, 1, &message)))
        return error;
    error = TRITONSERVER_MessageSerializeToJson(message, &config, &size);
    if (!error)
        error = load(instance, folder, version, config, size);
    TRITONSERVER_MessageDelete(message);
    if (!error)
        watch_repository_of(model);
    return error;
}

Error *TRITONBACKEND_ModelInstanceFinalize(Instance *instance) {
    void *state = NULL;
    Error *error = TRITONBACKEND_ModelInstanceState(instance, &state);
    if (!error && state) {
        int gil = py.GILState_Ensure();
        py.DecRef(state);
        py.GILState_Release(gil);
    }
    return error;
}

/* One request of a batch. */
typedef struct {
    Object *raw;      /* its texts as they travelled: before each its length, little-endian uint32 */
    int64_t rows;     /* how many answers are expected */
    int64_t columns;  /* how many texts belong to one answer: 2 if they are pairs */
    Error *error;     /* why it cannot be answered */
    const char *name; /* of the output; this and the following belong to the answer that Python gave */
    const char *data; /* float32 [rows, columns] */
    int64_t shape[2];
    bool success; /* it got scores */
} Item;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time); /* Triton's clock for statistics */
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void log_and_delete(Error *error) {
    if (error) {
        TRITONSERVER_LogMessage(LOG_ERROR, "backend.c", 0, TRITONSERVER_ErrorMessage(error));
        TRITONSERVER_ErrorDelete(error);
    }
}

/* The request's input as bytes; the caller has the GIL. */
static Error *take(Request *request, Item *item) {
    Input *input;
    const int64_t *shape;
    uint32_t dimensions, buffers;
    uint64_t bytes, size;
    const void *buffer;
    char *to;
    intptr_t length;
    Error *error;
    if ((error = TRITONBACKEND_RequestInputByIndex(request, 0, &input)) ||
        (error = TRITONBACKEND_InputProperties(input, NULL, NULL, &shape, &dimensions, &bytes, &buffers)))
        return error;
    item->rows = dimensions ? shape[0] : 1;
    item->columns = 1;
    for (uint32_t i = 1; i < dimensions; i++)
        item->columns *= shape[i];
    item->raw = py.Bytes_FromStringAndSize(NULL, (intptr_t)bytes);
    if (!item->raw || py.Bytes_AsStringAndSize(item->raw, &to, &length) != 0)
        return raised("no memory for the input");
    for (uint32_t i = 0; i < buffers; i++) {
        int memory = CPU;
        int64_t device = 0;
        if ((error = TRITONBACKEND_InputBuffer(input, i, &buffer, &size, &memory, &device)))
            return error;
        if (memory > CPU + 1) /* pinned memory is the CPU's too */
            return TRITONSERVER_ErrorNew(INTERNAL, "the input is not in the CPU's memory");
        if (size > bytes)
            return TRITONSERVER_ErrorNew(INTERNAL, "the input is longer than it says");
        memcpy(to, buffer, size);
        to += size;
        bytes -= size;
    }
    return bytes ? TRITONSERVER_ErrorNew(INTERNAL, "the input is shorter than it says") : NULL;
}

/* What host.execute answered to one request; the pointers in `item` live as long as the answer. */
static Error *understand(Object *answer, Item *item) {
    char *text, *data;
    intptr_t length, size;
    long long code = py.Long_AsLongLong(py.Tuple_GetItem(answer, 0)); /* -1 if all is well */
    if (py.Bytes_AsStringAndSize(py.Tuple_GetItem(answer, 1), &text, &length) != 0 ||
        py.Bytes_AsStringAndSize(py.Tuple_GetItem(answer, 2), &data, &size) != 0)
        return raised("host.execute gave no answer");
    if (code >= 0)
        return TRITONSERVER_ErrorNew((int)code, text);
    item->name = text;
    item->data = data;
    item->shape[0] = py.Long_AsLongLong(py.Tuple_GetItem(answer, 3));
    item->shape[1] = py.Long_AsLongLong(py.Tuple_GetItem(answer, 4));
    if (size != 4 * item->shape[0] * item->shape[1])
        return TRITONSERVER_ErrorNew(INTERNAL, "the model's output is not float32 of two dimensions");
    return NULL;
}

/* Has host.execute answer the items that have no error yet. Returns the answers, to be kept as long as the items. */
static Object *ask(Object *model, Item *items, uint32_t count) {
    uint32_t good = 0;
    for (uint32_t i = 0; i < count; i++)
        good += !items[i].error;
    Object *list = py.List_New(good), *answers = NULL;
    for (uint32_t i = 0, at = 0; list && i < count; i++)
        if (!items[i].error)
            py.List_SetItem(list, at++,
                            py.BuildValue("(OLL)", items[i].raw, (long long)items[i].rows, (long long)items[i].columns));
    if (list && good)
        answers = py.Object_CallFunctionObjArgs(host_execute, model, list, NULL);
    for (uint32_t i = 0, at = 0; i < count; i++)
        if (!items[i].error)
            items[i].error =
                answers ? understand(py.List_GetItem(answers, at++), &items[i]) : raised("host.execute failed");
    if (list)
        py.DecRef(list);
    return answers;
}

static Error *write(Response *response, const Item *item) {
    Output *output;
    void *buffer;
    uint64_t bytes = 4u * (uint64_t)item->shape[0] * (uint64_t)item->shape[1];
    int memory = CPU;
    int64_t device = 0;
    Error *error;
    if ((error = TRITONBACKEND_ResponseOutput(response, &output, item->name, FP32, item->shape, 2)) ||
        (error = TRITONBACKEND_OutputBuffer(output, &buffer, bytes, &memory, &device)))
        return error;
    if (memory > CPU + 1)
        return TRITONSERVER_ErrorNew(INTERNAL, "the output's buffer is not in the CPU's memory");
    memcpy(buffer, item->data, bytes);
    return NULL;
}

/* Answers a request with its scores or its error; if Triton has no response for it, only the log can tell. */
static void respond(Request *request, Item *item) {
    Response *response;
    Error *error = TRITONBACKEND_ResponseNew(&response, request);
    if (!error) {
        if (!item->error)
            item->error = write(response, item);
        error = TRITONBACKEND_ResponseSend(response, FINAL, item->error);
    }
    item->success = !error && !item->error;
    log_and_delete(error);
    if (item->error)
        TRITONSERVER_ErrorDelete(item->error);
}

Error *TRITONBACKEND_ModelInstanceExecute(Instance *instance, Request **requests, uint32_t count) {
    uint64_t begin = now(), rows = 0;
    void *state;
    Item *items = calloc(count, sizeof *items);
    Error *error = TRITONBACKEND_ModelInstanceState(instance, &state);
    if (error || !items) {
        free(items);
        return error ? error : TRITONSERVER_ErrorNew(INTERNAL, "out of memory"); /* Triton answers the requests */
    }
    int gil = enter();
    for (uint32_t i = 0; i < count; i++)
        items[i].error = take(requests[i], &items[i]);
    uint64_t compute_begin = now();
    Object *answers = ask(py.Tuple_GetItem(state, 0), items, count);
    uint64_t compute_end = now();
    py.GILState_Release(gil);
    for (uint32_t i = 0; i < count; i++)
        respond(requests[i], &items[i]);
    uint64_t end = now();
    for (uint32_t i = 0; i < count; i++) {
        rows += (uint64_t)items[i].rows;
        log_and_delete(TRITONBACKEND_ModelInstanceReportStatistics(instance, requests[i], items[i].success, begin,
                                                                   compute_begin, compute_end, end));
        log_and_delete(TRITONBACKEND_RequestRelease(requests[i], RELEASE_ALL));
    }
    log_and_delete(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, rows, begin, compute_begin, compute_end, end));
    gil = enter();
    for (uint32_t i = 0; i < count; i++)
        if (items[i].raw)
            py.DecRef(items[i].raw);
    if (answers)
        py.DecRef(answers);
    py.GILState_Release(gil);
    free(items);
    return NULL;
}
