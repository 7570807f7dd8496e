/* A bound in time: a request is refused at once if it would wait longer than half of the limit, by the time that
 * batches have taken until then. Who is let in is then begun within the limit also where the model takes twice as long
 * meanwhile; who has waited for the whole of it all the same is refused. A request that takes long itself, as a list
 * does on a slow model, may wait for twice as long as it takes, and a few requests are no overload, however slow the
 * model: a client that has some lists under way would be refused by a server that does nothing else. A queue that is
 * bounded by a number would be too short for a small model, or too long for a large one.
 *
 * Requests of few texts, behind which somebody waits for an answer, go before long lists. While both wait, the lists
 * get a quarter of the time.
 */
#include "queue.h"
#include "rate.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { FEW_ROWS = 4 };
enum { SHARE = 3 };     /* cost of requests of few that is computed for one of a list, while both wait */
enum { UNDER_WAY = 4 }; /* requests that are no overload */
/* A batch of several requests takes about a quarter of the limit at most: who comes just after its begin waits for all
 * of it. */
enum { BATCHES = 4 };
/* Where a rate cannot tell, as before the first answer: Triton keeps some kilobytes of each request besides its texts,
 * and a connection over gRPC has no more than that at a time. */
enum { MOST_WAITING = 16384 };
/* Four of the largest requests that `bantam serve` takes. */
enum { MOST_BYTES = 256 << 20 };
/* Nothing is answered sooner: whoever has less time has none. */
enum { LEAST_NS = 100000 };

enum { WATCH, FEW, LISTS, LINES };

typedef struct {
    Waiting *first, *last;
    uint64_t rows, cost;
} Line;

struct Queue {
    pthread_mutex_t lock;
    Line lines[LINES];
    uint64_t waiting, bytes;
    uint64_t limit_ns, most_rows;
    Rate rate;
    uint64_t owed; /* cost of few that was computed while lists waited, not yet made up for */
    pthread_cond_t comes;
    bool idle, ended;          /* whether somebody is in queue_wait; whether nobody will be */
    uint64_t running;          /* requests of the batch that is computed; 0 if none is */
    uint64_t began, expected; /* when it was, and what it was to take */
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
static uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Atomic, because another queue of the same version may add to them while that is loaded again. */
static void add(Queue *queue, int what, int64_t number) {
    __atomic_fetch_add(&queue->counts[what], number, __ATOMIC_RELAXED);
}

void queue_count(Queue *queue, int reason) { add(queue, reason, 1); }

static void refuse(Queue *queue, Waiting *request, int reason, Refused *refused) {
    add(queue, reason, 1);
    request->reason = reason;
    request->next = NULL;
    if (refused->first)
        refused->last->next = request;
    else
        refused->first = request;
    refused->last = request;
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
    line->cost += request->cost;
    queue->waiting++;
    queue->bytes += request->bytes;
    add(queue, REASONS, (int64_t)request->rows);
}

static Waiting *pop(Queue *queue, Line *line) {
    Waiting *request = line->first;
    line->first = request->next;
    line->rows -= request->rows;
    line->cost -= request->cost;
    queue->waiting--;
    queue->bytes -= request->bytes;
    add(queue, REASONS, -(int64_t)request->rows);
    return request;
}

static bool past(uint64_t age, const Waiting *request) { return request->timeout && age >= request->timeout; }

/* Why a request has waited too long, or REASONS if it has not. */
static int over(uint64_t age, const Waiting *request) {
    return request->watch ? REASONS : past(age, request) ? DEADLINE : age >= request->limit ? LATE : REASONS;
}

/* Those at the heads of their lines whose time is over. */
static void refuse_late(Queue *queue, uint64_t at, Refused *refused) {
    for (int i = FEW; i < LINES; i++) {
        Line *line = &queue->lines[i];
        int reason;
        while (line->first && (reason = over(at - line->first->arrived, line->first)) != REASONS)
            refuse(queue, pop(queue, line), reason, refused);
    }
}

/* What the running batch still takes: one that is overdue needs as long again as it is overdue. */
static uint64_t left(const Queue *queue, uint64_t at) {
    uint64_t elapsed = at - queue->began;
    if (!queue->running)
        return 0;
    return elapsed > queue->expected ? elapsed - queue->expected : queue->expected - elapsed;
}

/* How long a request would wait until it is begun. */
static uint64_t foresee(const Queue *queue, const Waiting *request, uint64_t at) {
    const Line *few = &queue->lines[FEW], *lists = &queue->lines[LISTS], *watch = &queue->lines[WATCH];
    uint64_t few_cost, lists_cost;
    if (line_of(request) == LISTS) {
        uint64_t between = SHARE * (lists->cost + request->cost);
        lists_cost = lists->cost;
        few_cost = least(few->cost, between > queue->owed ? between - queue->owed : 0);
    } else {
        few_cost = few->cost;
        lists_cost = least(lists->cost, (few->cost + queue->owed) / SHARE);
    }
    uint64_t cost = watch->cost + few_cost + lists_cost;
    if (!cost)
        return left(queue, at);
    /* Behind its fixed part, a batch takes what its cost takes, of as many batches as rows and cost make. */
    double rows = (double)watch->rows;
    rows += few->cost ? (double)few->rows * (double)few_cost / (double)few->cost : 0;
    rows += lists->cost ? (double)lists->rows * (double)lists_cost / (double)lists->cost : 0;
    double batches = rows / (double)queue->most_rows;
    double by_cost = (double)cost / (double)rate_bound(&queue->rate, queue->limit_ns / BATCHES);
    batches = by_cost > batches ? by_cost : batches;
    return left(queue, at) + (uint64_t)(batches * queue->rate.fixed + queue->rate.rate * (double)cost);
}

/* Why a request is not let in, or REASONS if it is. An idle queue takes anything that has time at all, so that a rate
 * that is wrong is unlearned. */
static int why_not(const Queue *queue, const Waiting *request, uint64_t own) {
    uint64_t under_way = queue->waiting + queue->running;
    if (queue->waiting >= MOST_WAITING || (queue->waiting && queue->bytes + request->bytes > MOST_BYTES))
        return FULL;
    if (under_way >= UNDER_WAY && request->foreseen > most(queue->limit_ns, 4 * own) / 2)
        return FORESEEN;
    if (past(under_way ? request->foreseen + own : LEAST_NS, request))
        return DEADLINE;
    return REASONS;
}

void queue_put(Queue *queue, Waiting *request, uint64_t at, Refused *refused) {
    refuse_late(queue, at, refused);
    uint64_t own = rate_of(&queue->rate, request->cost);
    request->arrived = at;
    request->foreseen = foresee(queue, request, at);
    request->limit = most(queue->limit_ns, most(4 * own, 2 * request->foreseen));
    if (!queue->waiting && !queue->running)
        request->limit = UINT64_MAX; /* or a worker that is slow to wake would make it late */
    int reason = request->watch ? REASONS : why_not(queue, request, own);
    if (reason == REASONS)
        push(queue, request);
    else
        refuse(queue, request, reason, refused);
}

/* The next request for a batch that has `rows` and `cost`, if one fits: into an empty one any does. */
static Waiting *next(Queue *queue, uint64_t rows, uint64_t cost, uint64_t bound) {
    const Waiting *list = queue->lines[LISTS].first;
    bool due = list && queue->owed >= SHARE * list->cost;
    const int order[] = {WATCH, due ? LISTS : FEW, due ? FEW : LISTS};
    for (int i = 0; i < LINES; i++) {
        Line *line = &queue->lines[order[i]];
        if (!line->first)
            continue;
        if (cost && (rows + line->first->rows > queue->most_rows || cost + line->first->cost > bound))
            continue;
        Waiting *request = pop(queue, line);
        if (order[i] == LISTS)
            queue->owed -= least(queue->owed, SHARE * request->cost);
        else if (list)
            queue->owed += request->cost;
        if (!queue->lines[LISTS].first)
            queue->owed = 0;
        return request;
    }
    return NULL;
}

Waiting *queue_take(Queue *queue, uint64_t at, Refused *refused) {
    uint64_t bound = rate_bound(&queue->rate, queue->limit_ns / BATCHES), rows = 0, cost = 0;
    Waiting *batch = NULL, **end = &batch, *request, *spare = NULL;
    refuse_late(queue, at, refused);
    queue->running = 0;
    while ((request = next(queue, rows, cost, bound))) {
        uint64_t age = at - request->arrived;
        int reason = over(age, request);
        request->next = NULL;
        if (reason != REASONS) {
            refuse(queue, request, reason, refused);
        } else if (!request->watch && past(age + rate_of(&queue->rate, request->cost), request)) {
            /* It would be computed for nobody, if the rate is right; one is, if there is nothing else to do. */
            if (batch || spare)
                refuse(queue, request, DEADLINE, refused);
            else
                spare = request;
        } else {
            rows += request->rows;
            cost += request->cost;
            queue->running++;
            *end = request;
            end = &request->next;
        }
    }
    if (spare && batch) {
        refuse(queue, spare, DEADLINE, refused);
    } else if (spare) {
        batch = spare;
        cost = spare->cost;
        queue->running = 1;
    }
    queue->began = at;
    queue->expected = rate_of(&queue->rate, cost);
    return batch;
}

void queue_done(Queue *queue, uint64_t cost, uint64_t ns) {
    queue->running = 0;
    if (cost)
        rate_learn(&queue->rate, cost, ns);
}
