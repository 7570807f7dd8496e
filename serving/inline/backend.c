/* Triton's Python backend without its stub: model.py runs inside Triton's own process.
 *
 * Triton loads the shared object made from this file and those beside it in place of libtriton_python.so. It starts
 * Python once, from the shared library named in BANTAM_LIBPYTHON, and imports host.py, which lies beside it. For models
 * with one input of BYTES and one output of FP32: texts in, scores out.
 *
 * Requests do not wait in Triton, which bounds them by their number at best, but in a queue of ours (queue.c). The thread of
 * a model's one instance in Triton takes in what arrives, or refuses it, without Python and its lock. A thread of ours
 * computes it, batch after batch. Not the thread that has brought a request, with a second instance to take in others
 * meanwhile: the two would then take turns, each with cold caches, and one client wait 0.05 ms longer.
 *
 * In C rather than through ctypes, because the path of a request runs with cold caches, after and before a model that
 * fills them: a dozen calls by way of ctypes take as long there as the stub process that this file does without.
 *
 * No header of Triton or Python is needed (triton.h, python.h), so that one build does for all versions of both.
 */
#include "batch.h"
#include "changes.h"
#include "counts.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* What Triton looks for in the shared object; all else is ours. */
#define ENTRY __attribute__((visibility("default")))

/* Of bantam_refused_total, in the order of queue.h's reasons, and of bantam_waiting_texts. */
static const char *const NAMES[REASONS + 1] = {"refused_full",     "refused_foreseen",  "refused_late",
                                               "refused_deadline", "refused_cancelled", "waiting_texts"};

static Object *host_initialize;

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
ENTRY Error *TRITONBACKEND_Initialize(Backend *backend) {
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
    watch_token = getenv("BANTAM_WATCH");
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

ENTRY Error *TRITONBACKEND_Finalize(Backend *backend) {
    (void)backend;
    end_watch();
    return NULL;
}

/* Loads model.py: what host.initialize returns of it, and two numbers of its config. */
static Error *load(Served *served, uint64_t *most_rows, const char *folder, uint64_t version, const char *config,
                   size_t size) {
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
        served->limit_ms = (uint64_t)py.Long_AsLongLong(py.Tuple_GetItem(result, 2));
        *most_rows = (uint64_t)py.Long_AsLongLong(py.Tuple_GetItem(result, 3));
    }
    if (json)
        py.DecRef(json);
    if (!error)
        served->loaded = result;
    else if (result)
        py.DecRef(result);
    py.GILState_Release(gil);
    return error;
}

static void unload(Served *served) {
    if (served->worker) {
        queue_end(served->queue);
        pthread_join(served->worker, NULL);
    }
    if (served->loaded) {
        int gil = py.GILState_Ensure();
        py.DecRef(served->loaded);
        py.GILState_Release(gil);
    }
    if (served->queue)
        queue_free(served->queue);
    counts_free(served->counts);
    free(served);
}

static void *work(void *state) {
    Served *served = state;
    while (queue_wait(served->queue)) {
        Refused refused = {0};
        uint64_t at = queue_lock(served->queue);
        Waiting *batch = queue_take(served->queue, at, &refused);
        queue_unlock(served->queue);
        refuse_all(served, refused.first);
        if (batch)
            compute(served, batch);
    }
    return NULL;
}

/* Loads a version; with an error, what there is of it is in `served` all the same. */
static Error *make(Model *model, Served *served) {
    Message *message;
    int kind;
    const char *folder, *name, *config;
    uint64_t version, most_rows = 1;
    size_t size;
    Error *error;
    if ((error = TRITONBACKEND_ModelRepository(model, &kind, &folder)) || (error = TRITONBACKEND_ModelName(model, &name)) ||
        (error = TRITONBACKEND_ModelVersion(model, &version)) || (error = TRITONBACKEND_ModelConfig(model, 1, &message)))
        return error;
    error = TRITONSERVER_MessageSerializeToJson(message, &config, &size);
    if (!error)
        error = load(served, &most_rows, folder, version, config, size);
    TRITONSERVER_MessageDelete(message);
    if (error)
        return error;
    served->counts = counts_new(name, version, NAMES, REASONS + 1);
    if (served->counts)
        served->queue = queue_new(served->limit_ms * 1000000u, most_rows, served->counts);
    if (!served->queue || pthread_create(&served->worker, NULL, work, served) != 0) {
        served->worker = 0;
        return TRITONSERVER_ErrorNew(INTERNAL, "no memory for the queue");
    }
    return TRITONBACKEND_ModelSetState(model, served);
}

ENTRY Error *TRITONBACKEND_ModelInitialize(Model *model) {
    Served *served = calloc(1, sizeof *served);
    Error *error = served ? make(model, served) : TRITONSERVER_ErrorNew(INTERNAL, "no memory for the model");
    if (!error)
        watch_repository_of(model);
    else if (served)
        unload(served);
    return error;
}

/* All requests were given back, and so nothing waits. Also called for one that could not be loaded. */
ENTRY Error *TRITONBACKEND_ModelFinalize(Model *model) {
    void *served = NULL;
    Error *error = TRITONBACKEND_ModelState(model, &served);
    if (!error && served)
        unload(served);
    return error;
}

ENTRY Error *TRITONBACKEND_ModelInstanceExecute(Instance *instance, Request **requests, uint32_t count) {
    Model *model;
    void *state;
    Refused refused = {0};
    Waiting *first = NULL;
    Error *error = TRITONBACKEND_ModelInstanceModel(instance, &model);
    if (error || (error = TRITONBACKEND_ModelState(model, &state)))
        return error; /* Triton answers the requests */
    Served *served = state;
    for (uint32_t i = count; i > 0; i--) {
        Waiting *request = taken(instance, requests[i - 1]);
        if (request) {
            request->next = first;
            first = request;
        }
    }
    uint64_t at = queue_lock(served->queue);
    for (Waiting *request = first, *following; request; request = following) {
        following = request->next;
        queue_put(served->queue, request, at, &refused);
    }
    queue_unlock(served->queue);
    refuse_all(served, refused.first);
    return NULL;
}
