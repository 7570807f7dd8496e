/* How long batches take, learned from those that were answered. */
#pragma once

#include <stdint.h>

/* What texts take of a model's time, in a unit of no name. */
uint64_t cost_of(uint64_t rows, uint64_t bytes);

/* A batch takes `fixed` + `rate` * its cost, in ns: the line through the last batches. All 0 before the first. */
typedef struct {
    double fixed, rate;
    double batches;                     /* that were learned, or as many as count */
    double cost, ns, squares, products; /* means of the cost, the time, cost * cost, cost * time */
} Rate;

void rate_learn(Rate *, uint64_t cost, uint64_t ns);

/* What one batch of this cost takes. */
uint64_t rate_of(const Rate *, uint64_t cost);

/* The largest cost of a batch that is to take so long. One that is to find out more may take four times as long. */
uint64_t rate_bound(const Rate *, uint64_t ns);
