/* Numbers that the watch of `bantam serve` reads, as serving/backend/counts.py has them. */
#pragma once

#include <stdint.h>

/* Numbers of these names, `count` of them, in a file of the folder BANTAM_COUNTS, or where there is none, for nobody to
 * read. What the same version has counted before goes on. NULL if there is no memory. */
int64_t *counts_new(const char *model, uint64_t version, const char *const *names, int count);

void counts_free(int64_t *);
