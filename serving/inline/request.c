#include "item.h"
#include "rate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *watch_token;

void log_and_delete(Error *error) {
    if (error) {
        TRITONSERVER_LogMessage(LOG_ERROR, "request.c", 0, TRITONSERVER_ErrorMessage(error));
        TRITONSERVER_ErrorDelete(error);
    }
}

/* What its parameters say: that it is the watch's own; and how much memory they hold besides its texts. */
static void look_at_parameters(Item *item) {
    uint32_t count = 0;
    const char *key;
    const void *value;
    int type;
    log_and_delete(TRITONBACKEND_RequestParameterCount(item->request, &count));
    for (uint32_t i = 0; i < count; i++) {
        Error *error = TRITONBACKEND_RequestParameter(item->request, i, &key, &type, &value);
        if (!error && type == STRING) {
            item->waiting.bytes += strlen(value);
            if (watch_token && *watch_token && item->waiting.rows == 1 && strcmp(key, "bantam_watch") == 0)
                item->waiting.watch = strcmp(value, watch_token) == 0;
        }
        log_and_delete(error);
    }
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
        (error = TRITONBACKEND_InputProperties(item->input, NULL, NULL, &shape, &dimensions, &item->bytes,
                                               &item->buffers)) ||
        (error = TRITONBACKEND_InferenceRequestTimeoutMicroseconds(item->request, &timeout_us)))
        return error;
    waiting->rows = dimensions ? (uint64_t)shape[0] : 1;
    item->columns = 1;
    for (uint32_t i = 1; i < dimensions; i++)
        item->columns *= shape[i];
    waiting->timeout = timeout_us < LONGEST_US ? timeout_us * 1000 : NO_DEADLINE;
    waiting->bytes = item->bytes;
    waiting->cost = cost_of(waiting->rows, item->bytes);
    look_at_parameters(item);
    return NULL;
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

void respond(Item *item) {
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

/* Triton may unload the model when its last request was given back; what the worker reads of it then is there until
 * ModelFinalize, which waits for the worker. */
void give_back(Item *item, uint64_t begin, uint64_t compute_begin, uint64_t compute_end) {
    log_and_delete(TRITONBACKEND_ModelInstanceReportStatistics(item->instance, item->request, item->success, begin,
                                                               compute_begin, compute_end, now()));
    log_and_delete(TRITONBACKEND_RequestRelease(item->request, RELEASE_ALL));
}

void answer_without_scores(Item *item) {
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
    char message[240];
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
        snprintf(message, sizeof message,
                 "Overloaded: this request has waited for %llu ms, which is as long as it may; the model's limit_ms is %llu",
                 (unsigned long long)(item->waiting.limit / 1000000u), limit);
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
