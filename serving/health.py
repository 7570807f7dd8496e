"""Whether a model answers, and what to do if it does not: told from what probes and processes have shown.

A server that is busy is not taken for one that hangs: as long as the process of a model works, a probe may wait behind
other people's texts.
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
"""So long a process that works may answer nothing."""


@dataclass
class Probed:
    """What the probes of one model have shown since Triton was started. Times are those of ``time.monotonic``."""

    asked: float | None = None
    """When the probe that is under way was sent."""
    version: str | None = None
    """The version that answered last; None if the last probe failed, or none was answered."""
    seconds: float = 0.0
    """How long the last answer took."""
    problem: str = ""
    failing_since: float | None = None
    count: int = field(default=0)
    """Probes that were answered."""

    def answered(self, version: str, seconds: float) -> None:
        """The probe under way was."""
        self.version, self.seconds = version, seconds
        self.asked, self.failing_since = None, None
        self.count += 1

    def failed(self, problem: str, began: float) -> None:
        """The probe under way was not."""
        self.problem = problem
        self.failing_since = self.failing_since or began
        self.asked, self.version = None, None

    def resume(self, now: float) -> None:
        """Nobody has looked for a while: what was awaited then is awaited from ``now`` on."""
        self.asked = None if self.asked is None else now
        self.failing_since = None if self.failing_since is None else now


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
    failing, asked = seen.failing_since, seen.asked
    if failing is not None:
        return Verdict(False, seen.problem, restart=now - failing > HANGS_S)
    late = 0.0 if asked is None else now - asked
    if late > LATE_S and idle_s > 0:
        reason = f"it has not answered for {late:.1f} s, and does nothing"
        return Verdict(False, reason, restart=min(late, idle_s) > HANGS_S or late > STUCK_S)
    if late > BUSY_S:
        return Verdict(False, f"it works, but has not answered for {late:.1f} s", restart=late > STUCK_S)
    if seen.version is None:
        return Verdict(False, "it has not answered yet")
    return Verdict(True)
