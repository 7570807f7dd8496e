"""Whether a model answers, and what to do if it does not: told from what probes, processes and counts have shown.

A server that is busy is not taken for one that hangs: a probe may wait behind other people's texts as long as the
process of the model works, or these are answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

LATE_S = 0.6
"""A probe that is not answered by then, by a process that does nothing, will not be soon."""
BUSY_S = 10.0
"""So long a probe may wait behind other texts before the server is said not to be ready."""
HANGS_S = 5.0
"""So long nothing may have been answered or done before Triton is started again."""
STUCK_S = 60.0
"""So long a process that works may answer nothing, no probe and nobody else's text."""


@dataclass
class Probed:
    """What the probes of one model have shown since Triton was started. Times are those of ``time.monotonic``."""

    asked: float | None = None
    """Since when a probe is awaited."""
    version: str | None = None
    """The version that answered last; None if the last probe failed, or none was answered."""
    seconds: float = 0.0
    """How long the last answer took."""
    problem: str = ""
    failing_since: float | None = None
    """When the first probe failed since the last that was answered, and when the last one did."""
    failed_at: float = 0.0
    count: int = field(default=0)
    """Probes that were answered."""
    others: int | None = None
    """Texts of others that were answered, when last looked at; and when they were seen to be more than before."""
    others_at: float = 0.0

    def answered(self, version: str, seconds: float) -> None:
        """The probe under way was."""
        self.version, self.seconds = version, seconds
        self.asked, self.failing_since = None, None
        self.count += 1

    def failed(self, problem: str, now: float) -> None:
        """The probe under way was not."""
        self.problem = problem
        self.failing_since, self.failed_at = self.failing_since or now, now
        self.asked, self.version = None, None

    def counted(self, others: int, now: float) -> None:
        """So many texts of others were answered by now."""
        if self.others is not None and others > self.others:
            self.others_at = now
        self.others = others

    def late_s(self, now: float) -> float:
        """For how long a probe is awaited."""
        return 0.0 if self.asked is None else now - self.asked

    def resume(self, now: float) -> None:
        """Nobody has looked for a while: what was awaited then is awaited from ``now`` on."""
        self.asked = None if self.asked is None else now
        if self.failing_since is not None:
            self.failing_since = self.failed_at = now


class Verdict(NamedTuple):
    """On one model."""

    ready: bool
    reason: str = ""
    """Why it is not ready."""
    restart: bool = False
    """Whether only another Triton helps."""


def judge(seen: Probed, now: float, *, idle_s: float, gone: bool = False) -> Verdict:
    """Whether a model is ready; ``idle_s``: for how long its process has done nothing, ``gone``: it has none."""
    if gone:
        return Verdict(False, "its process has ended", restart=True)
    late = seen.late_s(now)
    quiet = min(late, now - seen.others_at)
    restart = (late > LATE_S and min(quiet, idle_s) > HANGS_S) or quiet > STUCK_S
    if seen.failing_since is not None:
        # One that failed may be followed by one that has to wait: two are needed.
        return Verdict(False, seen.problem, restart or seen.failed_at - seen.failing_since > HANGS_S)
    if late > LATE_S and idle_s > 0:
        return Verdict(False, f"it has not answered for {late:.1f} s, and does nothing", restart)
    if late > BUSY_S:
        return Verdict(False, f"it works, but has not answered for {late:.1f} s", restart)
    if seen.version is None:
        return Verdict(False, "it has not answered yet")
    return Verdict(True)
