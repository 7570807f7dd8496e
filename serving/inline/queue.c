/* A bound in time: a request is refused at once if it would wait longer than half of the limit, by the rate at which the
 * model has worked until now. Who is let in is then begun within the limit also where the rate halves meanwhile; who
 * has waited for the whole of it all the same is refused. A request that takes long itself, as a list does on a slow model,
 * may wait for twice as long as it takes, or a client that sends one list after the other would be refused by an idle server. A queue that is bounded by a number would be too short for a
 * small model, or too long for a large one.
 *
 * Requests of few texts, behind which somebody waits for an answer, go before long lists. While both wait, the lists get
 * one row in four.
 */
#include "queue.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FEW_ROWS = 4 };
enum { SHARE = 3 }; /* rows of requests of few that are computed for one of a list, while both wait */
/* A batch takes a quarter of the limit at most: who comes just after its begin waits for all of it. */
enum { BATCHES = 4 };
/* Where a rate cannot tell, as before the first answer: Triton keeps some kilobytes of each request besides its texts,
 * and a connection over gRPC has no more than that at a time. */
enum { MOST_WAITING = 16384 };
/* Four of the largest requests that `bantam serve` takes. */
enum { MOST_BYTES = 256 << 20 };
/* Nothing is answered sooner: whoever has less time has none. */
enum { LEAST_NS = 100000 };
enum { WEIGHT = 4 }; /* the last batch has one part in four of the rate */

enum { WATCH, FEW, LISTS, LINES };

typedef struct {
    Waiting *first, *last;
    uint64_t rows;
} Line;

struct Queue {
    pthread_mutex_t lock;
    Line lines[LINES];
    uint64_t waiting, bytes;
    uint64_t limit_ns, most_rows;
    uint64_t row_ns; /* what a row takes; 0 before the first answer */
    uint64_t owed;   /* rows of few that were computed while lists waited, not yet made up for */
    pthread_cond_t comes;
    bool idle, ended;           /* whether somebody is in queue_wait; whether nobody will be */
    uint64_t began, batch_rows; /* of the batch that is computed; 0 rows if none is */
    int64_t *counts;
};

Queue *queue_new(uint64_t limit_ns, uint64_t most_rows, int64_t *counts) {
    Queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return NULL;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->comes, NULL);
    queue->limit_ns = limit_ns;
    queue->most_rows = most_rows;
    queue->counts = counts;
    return queue;
}

void queue_free(Queue *queue) {
    pthread_cond_destroy(&queue->comes);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
}

uint64_t queue_lock(Queue *queue) {
    struct timespec time;
    pthread_mutex_lock(&queue->lock);
    /* Behind the lock: a time that was taken before it may be earlier than what another thread has noted since. */
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void queue_unlock(Queue *queue) {
    bool wake = queue->idle && (queue->waiting || queue->ended);
    pthread_mutex_unlock(&queue->lock);
    /* Behind the lock, or who is woken would wait for it at once. */
    if (wake)
        pthread_cond_signal(&queue->comes);
}

bool queue_wait(Queue *queue) {
    pthread_mutex_lock(&queue->lock);
    queue->idle = true;
    while (!queue->waiting && !queue->ended)
        pthread_cond_wait(&queue->comes, &queue->lock);
    queue->idle = false;
    bool ended = queue->ended;
    pthread_mutex_unlock(&queue->lock);
    return !ended;
}

void queue_end(Queue *queue) {
    queue_lock(queue);
    queue->ended = true;
    queue_unlock(queue);
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Atomic, because another queue of the same version may add to them while that is loaded again. */
static void add(Queue *queue, int what, int64_t number) {
    __atomic_fetch_add(&queue->counts[what], number, __ATOMIC_RELAXED);
}

void queue_count(Queue *queue, int reason) { add(queue, reason, 1); }

static void refuse(Queue *queue, Waiting *request, int reason, Waiting **refused) {
    add(queue, reason, 1);
    request->reason = reason;
    request->next = *refused;
    *refused = request;
}

static int line_of(const Waiting *request) {
    return request->watch ? WATCH : request->rows <= FEW_ROWS ? FEW : LISTS;
}

static void push(Queue *queue, Waiting *request) {
    Line *line = &queue->lines[line_of(request)];
    request->next = NULL;
    if (line->first)
        line->last->next = request;
    else
        line->first = request;
    line->last = request;
    line->rows += request->rows;
    queue->waiting++;
    queue->bytes += request->bytes;
    add(queue, REASONS, (int64_t)request->rows);
}

static Waiting *pop(Queue *queue, Line *line) {
    Waiting *request = line->first;
    line->first = request->next;
    line->rows -= request->rows;
    queue->waiting--;
    queue->bytes -= request->bytes;
    add(queue, REASONS, -(int64_t)request->rows);
    return request;
}

/* What a row takes: the running batch is believed where it is slower than those before. */
static uint64_t row_of(const Queue *queue, uint64_t at) {
    uint64_t row = queue->batch_rows ? (at - queue->began) / queue->batch_rows : 0;
    return row > queue->row_ns ? row : queue->row_ns;
}

/* How long a request may wait until it is begun; it is let in if half of that is foreseen. */
static uint64_t limit_of(const Queue *queue, const Waiting *request, uint64_t row) {
    uint64_t own = 4 * request->rows * row;
    return own > queue->limit_ns ? own : queue->limit_ns;
}

/* By the rate of the batches that have ended: behind one that hangs nobody would ever be late. */
static void refuse_late(Queue *queue, uint64_t at, Waiting **refused) {
    for (int i = FEW; i < LINES; i++) {
        Line *line = &queue->lines[i];
        while (line->first && at - line->first->arrived >= limit_of(queue, line->first, queue->row_ns))
            refuse(queue, pop(queue, line), LATE, refused);
    }
}

/* How long a request would wait until it is begun. */
static uint64_t foresee(const Queue *queue, const Waiting *request, uint64_t at) {
    const Line *few = &queue->lines[FEW], *lists = &queue->lines[LISTS];
    uint64_t row = row_of(queue, at), ahead = queue->lines[WATCH].rows;
    uint64_t left = queue->batch_rows ? queue->batch_rows * row - least(queue->batch_rows * row, at - queue->began) : 0;
    if (line_of(request) == LISTS) {
        uint64_t between = SHARE * (lists->rows + request->rows);
        ahead += lists->rows + least(few->rows, between > queue->owed ? between - queue->owed : 0);
    } else {
        ahead += few->rows + least(lists->rows, (few->rows + queue->owed) / SHARE);
    }
    return left + ahead * row;
}

void queue_put(Queue *queue, Waiting *request, uint64_t at, Waiting **refused) {
    refuse_late(queue, at, refused);
    request->arrived = at;
    request->foreseen = foresee(queue, request, at);
    bool full = queue->waiting >= MOST_WAITING || (queue->waiting && queue->bytes + request->bytes > MOST_BYTES);
    if (request->watch)
        push(queue, request);
    else if (full)
        refuse(queue, request, FULL, refused);
    else if (request->foreseen > limit_of(queue, request, row_of(queue, at)) / 2)
        refuse(queue, request, FORESEEN, refused);
    else if (request->timeout && request->foreseen + LEAST_NS >= request->timeout)
        refuse(queue, request, DEADLINE, refused);
    else
        push(queue, request);
}

/* The next request for a batch of at most so many rows that has `rows`, if one fits: into an empty one any does. */
static Waiting *next(Queue *queue, uint64_t most, uint64_t rows) {
    const Waiting *list = queue->lines[LISTS].first;
    bool due = list && queue->owed >= SHARE * least(list->rows, most);
    const int order[] = {WATCH, due ? LISTS : FEW, due ? FEW : LISTS};
    for (int i = 0; i < LINES; i++) {
        Line *line = &queue->lines[order[i]];
        if (!line->first || (rows && rows + line->first->rows > most))
            continue;
        Waiting *request = pop(queue, line);
        if (order[i] == LISTS)
            queue->owed -= least(queue->owed, SHARE * request->rows);
        else if (list)
            queue->owed += request->rows;
        if (!queue->lines[LISTS].first)
            queue->owed = 0;
        return request;
    }
    return NULL;
}

Waiting *queue_take(Queue *queue, uint64_t at, Waiting **refused) {
    uint64_t most = queue->most_rows, rows = 0;
    Waiting *batch = NULL, **end = &batch, *request;
    refuse_late(queue, at, refused);
    if (queue->row_ns)
        most = least(most, queue->limit_ns / BATCHES / queue->row_ns);
    while ((request = next(queue, most, rows))) {
        if (request->timeout && at - request->arrived >= request->timeout) {
            refuse(queue, request, DEADLINE, refused);
            continue;
        }
        rows += request->rows;
        request->next = NULL;
        *end = request;
        end = &request->next;
    }
    queue->began = at;
    queue->batch_rows = rows;
    return batch;
}

void queue_done(Queue *queue, uint64_t rows, uint64_t ns) {
    queue->batch_rows = 0;
    if (rows)
        queue->row_ns = queue->row_ns ? (queue->row_ns * (WEIGHT - 1) + ns / rows) / WEIGHT : ns / rows;
}
