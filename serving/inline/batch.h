/* Requests of Triton's, and what becomes of them. */
#pragma once

#include "python.h"
#include "queue.h"

#include <pthread.h>

/* A version of a model that is loaded. */
typedef struct {
    Object *loaded; /* of host.initialize: its TritonPythonModel first */
    Queue *queue;
    uint64_t limit_ms;
    int64_t *counts;
    pthread_t worker; /* computes what waits */
} Served;

/* What host.execute is in Python; and what only bantam serve knows, or NULL. */
extern Object *host_execute;
extern const char *watch_token;

/* A request for the queue. NULL if it cannot be read: it is answered then. */
Waiting *taken(Instance *, Request *);

/* Has Python score a batch, and answers it. */
void compute(Served *, Waiting *batch);

/* Answers those that are not computed; needs no Python. */
void refuse_all(Served *, Waiting *refused);
