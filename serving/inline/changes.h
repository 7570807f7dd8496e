#pragma once

#include "triton.h"

/* Once for the process; does nothing when it runs. Triton's log is silent about it: without it, changes come later. */
void watch_repository_of(Model *);

/* Before Triton is gone. */
void end_watch(void);
