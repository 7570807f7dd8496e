/* What waits for a model: who gets in, who is next, and who is told that it takes too long. Neither Triton nor Python.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC, and those given to the functions are what queue_lock returned.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Why a request is not computed: too many wait; it would wait too long; it did; its client's time is over; its client
 * has gone. */
enum { FULL, FORESEEN, LATE, DEADLINE, GONE, REASONS };
enum { NO_DEADLINE = 0 };

/* A request in the queue, the first member of what its owner knows of it. */
typedef struct Waiting {
    struct Waiting *next;
    uint64_t rows;
    uint64_t bytes; /* of memory that it holds */
    uint64_t cost;  /* of cost_of */
    uint64_t arrived;
    uint64_t timeout;  /* ns from its arrival in which it has to be answered, or NO_DEADLINE */
    uint64_t foreseen; /* ns that it would wait, as reckoned when it arrived */
    uint64_t limit;    /* ns that it may wait */
    int reason;        /* why it was refused */
    bool watch;        /* from bantam serve's own watch, which is never refused: it would take that for a dead server */
} Waiting;

/* Those that are to be told so, in the order in which they came. */
typedef struct {
    Waiting *first, *last;
} Refused;

typedef struct Queue Queue;

/* `most_rows`: of a batch. `counts`: of those refused by reason, and then of the rows that wait; others may read them
 * meanwhile, and other queues add to them. NULL if there is no memory. */
Queue *queue_new(uint64_t limit_ns, uint64_t most_rows, int64_t *counts);

/* Nothing may wait in it. */
void queue_free(Queue *);

/* Returns the time. */
uint64_t queue_lock(Queue *);
void queue_unlock(Queue *);

/* Takes a request in, or has it refused, after others that have waited too long. */
void queue_put(Queue *, Waiting *, uint64_t at, Refused *);

/* Blocks, without the lock, until something waits; false once queue_end was called. For one thread. */
bool queue_wait(Queue *);
void queue_end(Queue *);

/* The next batch, or NULL if all that waited was refused. */
Waiting *queue_take(Queue *, uint64_t at, Refused *);

/* The batch is answered: `cost` of what got scores took `ns`; 0 if nothing did, which tells nothing. */
void queue_done(Queue *, uint64_t cost, uint64_t ns);

/* A request of a batch was not computed after all. */
void queue_count(Queue *, int reason);
