"""When to send a request again."""

from __future__ import annotations

import random
import time

from bantam.errors import UnavailableError

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class Attempts:
    """The tries of one request: exponential back-off with full jitter, within a deadline.

    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: clients that were refused together must not
    come back together, so each pause is drawn from all of zero to its limit.
    """

    def __init__(self, retries: int, timeout: float) -> None:
        self._retries = retries
        self._deadline = time.monotonic() + timeout
        self._longest = FIRST_PAUSE_S

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(self._deadline - time.monotonic(), 0.0)

    def pause(self, error: UnavailableError) -> float:
        """Seconds to wait before the next try; raises ``error`` if there is no retry or no time left for one."""
        pause = random.uniform(0, self._longest)
        if self._retries <= 0 or pause >= self.left():
            raise error
        self._retries -= 1
        self._longest = min(2 * self._longest, LONGEST_PAUSE_S)
        return pause
