/* A request of Triton's while it is here. */
#pragma once

#include "batch.h"

#include <time.h>

/* One request. */
typedef struct {
    Waiting waiting;
    /* That brought it. Kept beyond its Execute, which Triton does not promise to allow: it may replace the instances
     * of a version that goes on when nothing but their group has changed in the config. That of `bantam serve` is
     * always the same (serving/triton_config.py). */
    Instance *instance;
    Request *request;
    Input *input;
    uint64_t bytes;   /* of the input */
    uint32_t buffers; /* of it */
    Object *raw;      /* its texts as they travelled: before each its length, little-endian uint32 */
    int64_t columns;  /* how many texts belong to one answer: 2 if they are pairs */
    Error *error;     /* why it cannot be answered */
    const char *name; /* of the output; this and the following belong to the answer that Python gave */
    const char *data; /* float32 [rows, columns] */
    int64_t shape[2];
    bool success; /* it got scores */
} Item;

static inline Item *next(const Item *item) { return (Item *)item->waiting.next; }

static inline uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time); /* Triton's clock for statistics */
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void log_and_delete(Error *);

/* Answers a request with its scores or its error; if Triton has no response for it, only the log can tell. */
void respond(Item *);

/* Gives it back to Triton, with the times of what was done for it, which are those of now(). */
void give_back(Item *, uint64_t begin, uint64_t compute_begin, uint64_t compute_end);

/* Both, for one whose error is known. */
void answer_without_scores(Item *);
