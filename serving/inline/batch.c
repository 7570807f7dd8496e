#include "batch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

Object *host_execute;
const char *watch_token;

/* One request. */
typedef struct {
    Waiting waiting;
    Instance *instance; /* that brought it */
    Request *request;
    Input *input;
    uint32_t buffers; /* of the input */
    Object *raw;      /* its texts as they travelled: before each its length, little-endian uint32 */
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
        TRITONSERVER_LogMessage(LOG_ERROR, "batch.c", 0, TRITONSERVER_ErrorMessage(error));
        TRITONSERVER_ErrorDelete(error);
    }
}


/* Whether it says that it is the watch's own. */
static bool of_watch(Request *request) {
    uint32_t count = 0;
    const char *key;
    const void *value;
    int type;
    if (!watch_token)
        return false;
    log_and_delete(TRITONBACKEND_RequestParameterCount(request, &count));
    for (uint32_t i = 0; i < count; i++) {
        Error *error = TRITONBACKEND_RequestParameter(request, i, &key, &type, &value);
        if (!error && type == STRING && strcmp(key, "bantam_watch") == 0)
            return strcmp(value, watch_token) == 0;
        log_and_delete(error);
    }
    return false;
}

/* A longer time-out is none; in nanoseconds it would not fit its 64 bits at some point. */
enum { LONGEST_US = 1000000000 };

/* All of a request that needs no Python. */
static Error *look_at(Item *item) {
    const int64_t *shape;
    uint32_t dimensions;
    uint64_t timeout_us;
    Waiting *waiting = &item->waiting;
    Error *error;
    if ((error = TRITONBACKEND_RequestInputByIndex(item->request, 0, &item->input)) ||
        (error = TRITONBACKEND_InputProperties(item->input, NULL, NULL, &shape, &dimensions, &waiting->bytes,
                                               &item->buffers)) ||
        (error = TRITONBACKEND_InferenceRequestTimeoutMicroseconds(item->request, &timeout_us)))
        return error;
    waiting->rows = dimensions ? (uint64_t)shape[0] : 1;
    item->columns = 1;
    for (uint32_t i = 1; i < dimensions; i++)
        item->columns *= shape[i];
    waiting->timeout = timeout_us < LONGEST_US ? timeout_us * 1000 : NO_DEADLINE;
    waiting->watch = waiting->rows == 1 && of_watch(item->request);
    return NULL;
}

/* The request's input as bytes; the caller has the GIL. */
static Error *take(Item *item) {
    const void *buffer;
    uint64_t bytes = item->waiting.bytes, size;
    char *to;
    intptr_t length;
    Error *error;
    item->raw = py.Bytes_FromStringAndSize(NULL, (intptr_t)bytes);
    if (!item->raw || py.Bytes_AsStringAndSize(item->raw, &to, &length) != 0)
        return raised("no memory for the input");
    for (uint32_t i = 0; i < item->buffers; i++) {
        int memory = CPU;
        int64_t device = 0;
        if ((error = TRITONBACKEND_InputBuffer(item->input, i, &buffer, &size, &memory, &device)))
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

static Item *next(const Item *item) { return (Item *)item->waiting.next; }

/* Has host.execute answer the items that have no error yet. Returns the answers, to be kept as long as the items. */
static Object *ask(Object *model, Item *batch) {
    intptr_t good = 0, at = 0;
    for (Item *item = batch; item; item = next(item))
        good += !item->error;
    Object *list = py.List_New(good), *answers = NULL;
    for (Item *item = batch; list && item; item = next(item))
        if (!item->error)
            py.List_SetItem(list, at++,
                            py.BuildValue("(OLL)", item->raw, (long long)item->waiting.rows, (long long)item->columns));
    if (list && good)
        answers = py.Object_CallFunctionObjArgs(host_execute, model, list, NULL);
    at = 0;
    for (Item *item = batch; item; item = next(item))
        if (!item->error)
            item->error = answers ? understand(py.List_GetItem(answers, at++), item) : raised("host.execute failed");
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
static void respond(Item *item) {
    Response *response;
    Error *error = TRITONBACKEND_ResponseNew(&response, item->request);
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

/* Nothing of the model may be touched after its last request was given back: Triton may unload it then. */
static void give_back(Item *item, uint64_t begin, uint64_t compute_begin, uint64_t compute_end) {
    log_and_delete(TRITONBACKEND_ModelInstanceReportStatistics(item->instance, item->request, item->success, begin,
                                                               compute_begin, compute_end, now()));
    log_and_delete(TRITONBACKEND_RequestRelease(item->request, RELEASE_ALL));
}

static void answer_without_scores(Item *item) {
    uint64_t at = now();
    respond(item);
    give_back(item, at, at, at);
}

Waiting *taken(Instance *instance, Request *request) {
    Item *item = calloc(1, sizeof *item), spare = {.instance = instance, .request = request};
    if (!item) {
        spare.error = TRITONSERVER_ErrorNew(INTERNAL, "no memory for the request");
        answer_without_scores(&spare);
        return NULL;
    }
    item->instance = instance;
    item->request = request;
    if ((item->error = look_at(item))) {
        answer_without_scores(item);
        free(item);
        return NULL;
    }
    return &item->waiting;
}

static Error *why(const Item *item, uint64_t limit_ms) {
    char message[200];
    unsigned long long limit = limit_ms, wait = item->waiting.foreseen / 1000000u;
    switch (item->waiting.reason) {
    case FULL:
        snprintf(message, sizeof message, "Overloaded: as many requests wait as may, whatever the model's limit");
        break;
    case FORESEEN:
        snprintf(message, sizeof message,
                 "Overloaded: this request would wait %llu ms until it is begun, expected at most half of the model's "
                 "limit_ms, which is %llu, or twice what it takes itself",
                 wait, limit);
        break;
    case LATE:
        snprintf(message, sizeof message, "Overloaded: this request has waited for the model's limit_ms, which is %llu",
                 limit);
        break;
    default:
        snprintf(message, sizeof message, "Overloaded: this request cannot be answered within the time-out that it has");
    }
    return TRITONSERVER_ErrorNew(UNAVAILABLE, message);
}

void refuse_all(Served *served, Waiting *refused) {
    for (Item *item = (Item *)refused, *following; item; item = following) {
        following = next(item);
        item->error = why(item, served->limit_ms);
        answer_without_scores(item);
        free(item);
    }
}

/* Answers those whose clients have gone; returns the others. */
static Item *without_gone(Served *served, Item *batch) {
    Waiting *kept = NULL, **end = &kept;
    for (Item *item = batch, *following; item; item = following) {
        bool gone = false;
        following = next(item);
        log_and_delete(TRITONBACKEND_RequestIsCancelled(item->request, &gone));
        if (gone) {
            queue_count(served->queue, GONE);
            item->error = TRITONSERVER_ErrorNew(CANCELLED, "the client has gone");
            answer_without_scores(item);
            free(item);
        } else {
            *end = &item->waiting;
            end = &item->waiting.next;
        }
    }
    *end = NULL;
    return (Item *)kept;
}

void compute(Served *served, Waiting *waiting) {
    uint64_t begin = now(), rows = 0;
    bool success = false;
    Item *batch = without_gone(served, (Item *)waiting);
    int gil = enter();
    for (Item *item = batch; item; item = next(item))
        item->error = take(item);
    uint64_t compute_begin = now();
    Object *answers = batch ? ask(py.Tuple_GetItem(served->loaded, 0), batch) : NULL;
    uint64_t compute_end = now();
    py.GILState_Release(gil);
    for (Item *item = batch; item; item = next(item)) {
        respond(item);
        rows += item->waiting.rows;
        success = success || item->success;
    }
    uint64_t end = now();
    if (batch)
        log_and_delete(
            TRITONBACKEND_ModelInstanceReportBatchStatistics(batch->instance, rows, begin, compute_begin, compute_end, end));
    queue_lock(served->queue);
    queue_done(served->queue, success ? rows : 0, end - begin);
    queue_unlock(served->queue);
    for (Item *item = batch; item; item = next(item))
        give_back(item, begin, compute_begin, compute_end);
    gil = enter();
    for (Item *item = batch, *following; item; item = following) {
        following = next(item);
        if (item->raw)
            py.DecRef(item->raw);
        free(item);
    }
    if (answers)
        py.DecRef(answers);
    py.GILState_Release(gil);
}
