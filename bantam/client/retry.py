"""When to send a request again.

Not by gRPC's own retries (``retryPolicy`` in its service configuration): gRPC's core caps the tries of a call at 5,
which are over within a second, so a server that restarts is not found again; between two tries the time-out gives
DEADLINE_EXCEEDED, which hides that the server refused; and HTTP would need this module all the same. gRPC's rule
against too many retries is a good one, and is :class:`Throttle`.
"""

from __future__ import annotations

import random
import threading
import time

from bantam.errors import UnavailableError

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class Throttle:
    """Holds retries back while many requests of a client fail: an overloaded server must not get several times as many.

    gRPC's rule (proposal A6, "Throttling Retry Attempts and Hedged RPCs"): a failure takes one token, an answer gives
    ``ratio`` of one, and while no more than half of ``tokens`` are left, no request is sent again. So 50 failures in a
    row may be retried, and in the long run one request in eleven.
    """

    def __init__(self, tokens: float = 100.0, ratio: float = 0.1) -> None:
        self._most = self._left = tokens
        self._ratio = ratio
        self._lock = threading.Lock()

    def failed(self) -> bool:
        """Count a failure; returns whether a request may be sent again."""
        with self._lock:
            self._left = max(self._left - 1, 0.0)
            return self._left > self._most / 2

    def answered(self) -> None:
        """Count an answer."""
        if self._left < self._most:
            with self._lock:
                self._left = min(self._left + self._ratio, self._most)


class Attempts:
    """The tries of one request: exponential back-off with full jitter, within a deadline.

    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: clients that were refused together must not
    come back together, so each pause is drawn from all of zero to its limit.
    """

    def __init__(self, retries: int, timeout: float, throttle: Throttle) -> None:
        self._retries = retries
        self._deadline = time.monotonic() + timeout
        self._throttle = throttle
        self._longest = FIRST_PAUSE_S

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(self._deadline - time.monotonic(), 0.0)

    def pause(self, error: UnavailableError) -> float:
        """Seconds to wait before the next try; raises ``error`` if there is no retry or no time left for one."""
        pause = random.uniform(0, self._longest)
        if not self._throttle.failed() or self._retries <= 0 or pause >= self.left():
            raise error
        self._retries -= 1
        self._longest = min(2 * self._longest, LONGEST_PAUSE_S)
        return pause
