#include "rate.h"

#include <stdbool.h>

/* A text costs by its bytes, and something of its own. Models cut texts, most of them at 512 tokens or before, of some
 * 4 bytes each: what is longer takes no more. */
enum { TEXT_COST = 64, MOST_TEXT_BYTES = 2048 };
enum { LAST = 8 }; /* the last batch has one part in so many */
/* A batch teaches at most so many times what was expected: a machine that stood still says nothing of the model. A
 * model that has become slower is known after some batches. */
enum { ODD = 4 };
/* Batches of one size do not tell a fixed part from one that grows. All is taken to grow then, which is as if batches
 * that say so had been seen, whose sizes differ by so much (variance, of the mean squared). They count for little
 * where those that were seen differ by more than EVEN. */
static const double MADE_UP = 1.0 / 512, EVEN = 1.0 / 64;
/* A batch may be so many times as large as the last ones to find out whether that takes as many times as long. */
static const double MORE = 2.5;

uint64_t cost_of(uint64_t rows, uint64_t bytes) {
    if (!rows)
        return TEXT_COST;
    return rows * (TEXT_COST + (bytes / rows < MOST_TEXT_BYTES ? bytes / rows : MOST_TEXT_BYTES));
}

void rate_learn(Rate *rate, uint64_t cost, uint64_t ns) {
    double expected = rate->fixed + rate->rate * (double)cost, x = (double)cost, y = (double)ns;
    if (expected > 0 && y > ODD * expected)
        y = ODD * expected;
    if (rate->batches < LAST)
        rate->batches++;
    rate->cost += (x - rate->cost) / rate->batches;
    rate->ns += (y - rate->ns) / rate->batches;
    rate->squares += (x * x - rate->squares) / rate->batches;
    rate->products += (x * y - rate->products) / rate->batches;
    double mean = rate->ns / rate->cost, square = rate->cost * rate->cost;
    double slope = (rate->products - rate->cost * rate->ns + MADE_UP * square * mean) /
                   (rate->squares - square + MADE_UP * square);
    rate->rate = slope < 0 ? 0 : slope < mean ? slope : mean;
    rate->fixed = rate->ns - rate->rate * rate->cost;
}

uint64_t rate_of(const Rate *rate, uint64_t cost) { return (uint64_t)(rate->fixed + rate->rate * (double)cost); }

uint64_t rate_bound(const Rate *rate, uint64_t ns) {
    if (!rate->batches || rate->ns <= 0)
        return UINT64_MAX;
    /* By the mean of the last ones, which is right where nothing is fixed, and too small elsewhere. */
    double safe = (double)ns * rate->cost / rate->ns, more = MORE * rate->cost;
    /* The fixed part is at most half of a batch: batches of which it is most would do little else. */
    double room = (double)ns - rate->fixed > rate->fixed ? (double)ns - rate->fixed : rate->fixed;
    double fits = rate->rate > 0 && room / rate->rate < more ? room / rate->rate : more;
    /* Small batches of one size would look dear for ever, if none were larger at times. */
    bool even = rate->squares - rate->cost * rate->cost < EVEN * rate->cost * rate->cost;
    if (even && MORE * rate->ns <= 4 * (double)ns)
        fits = more;
    double bound = fits > safe ? fits : safe;
    return bound < 1 ? 1 : bound < 1e18 ? (uint64_t)bound : UINT64_MAX;
}
