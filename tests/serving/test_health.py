"""What the watch makes of what it has seen: dead, hanging, busy, or well."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from serving.health import BUSY_S, HANGS_S, LATE_S, STUCK_S, Probed, judge
from serving.processes import TRITON, Effort

NOW = 1000.0


def seen(
    *,
    late: float | None = None,
    failing: float | None = None,
    failed: float = 0.0,
    others: float = NOW,
    version: str | None = "1",
) -> Probed:
    """``late``: for how long a probe is under way; ``failing``: how long ago one failed first, and ``failed``, last;
    ``others``: how long ago somebody else was answered."""
    return Probed(
        asked=None if late is None else NOW - late,
        version=version if failing is None else None,
        problem="it says no" if failing is not None else "",
        failing_since=None if failing is None else NOW - failing,
        failed_at=NOW - failed,
        others_at=NOW - others,
    )


@pytest.mark.parametrize(
    ("probed", "idle_s", "ready", "restart"),
    [
        (seen(), 9.0, True, False),
        (seen(late=LATE_S / 2), 9.0, True, False),
        (seen(version=None), 0.0, False, False),  # nothing was answered yet
        (seen(late=LATE_S * 1.1), 9.0, False, False),
        (seen(late=HANGS_S * 1.1), HANGS_S * 1.1, False, True),
        (seen(late=HANGS_S * 1.1), LATE_S, False, False),  # it worked until a moment ago
        (seen(late=LATE_S * 1.1), 0.0, True, False),  # it works for others
        (seen(late=BUSY_S * 1.1), 0.0, False, False),
        (seen(late=STUCK_S * 1.1), 0.0, False, True),
        (seen(late=STUCK_S * 9, others=1.0), 0.0, False, False),  # it answers others
        (seen(late=STUCK_S * 9, others=1.0), HANGS_S * 1.1, False, False),
        (seen(late=STUCK_S * 9, others=HANGS_S * 1.1), 0.0, False, False),
        (seen(late=STUCK_S * 9, others=HANGS_S * 1.1), HANGS_S * 1.1, False, True),
        (seen(late=STUCK_S * 9, others=STUCK_S * 1.1), 0.0, False, True),
        (seen(failing=0.0), 0.0, False, False),
        (seen(failing=HANGS_S * 1.1), 0.0, False, True),
        (seen(failing=HANGS_S * 1.1, late=0.1), 0.0, False, True),
        (seen(failing=HANGS_S * 1.1, failed=HANGS_S * 1.1, late=HANGS_S), 0.0, False, False),  # one alone, and a queue
        (seen(failing=HANGS_S * 1.1, failed=HANGS_S * 1.1, late=HANGS_S * 1.1), HANGS_S * 1.1, False, True),
        (seen(failing=HANGS_S * 1.1, failed=0.0, others=1.0), 0.0, False, True),  # what others get is of a cache
    ],
)
def test_ready_or_to_be_started_again(probed: Probed, idle_s: float, ready: bool, restart: bool) -> None:
    verdict = judge(probed, NOW, idle_s=idle_s)
    assert (verdict.ready, verdict.restart) == (ready, restart)
    assert bool(verdict.reason) == (not ready)


def test_a_process_that_has_ended_needs_no_second_look() -> None:
    verdict = judge(seen(), NOW, idle_s=0.0, gone=True)
    assert (verdict.ready, verdict.restart) == (False, True)


def test_an_answer_ends_what_failed() -> None:
    probed = Probed()
    probed.failed("no", 1.0)
    probed.failed("no, again", 2.0)
    assert (probed.failing_since, probed.failed_at, probed.problem) == (1.0, 2.0, "no, again")
    probed.answered("3", 0.1)
    assert judge(probed, NOW, idle_s=9.0).ready


def test_others_are_answered_when_their_number_grows() -> None:
    probed = seen(late=STUCK_S * 2)
    probed.counted(7, NOW - 3)  # before it was looked at
    assert judge(probed, NOW, idle_s=0.0).restart
    probed.counted(7, NOW - 2)
    assert judge(probed, NOW, idle_s=0.0).restart
    probed.counted(8, NOW - 1)
    assert not judge(probed, NOW, idle_s=0.0).restart
    probed.counted(8, NOW + STUCK_S)
    assert judge(probed, NOW + STUCK_S, idle_s=0.0).restart


def look(effort: Effort, seconds: float) -> set[str]:
    """Look for so long; returns what was gone in the end."""
    gone: set[str] = set()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        gone = effort.look()
        time.sleep(0.05)
    return gone


def test_a_process_works_sleeps_and_ends() -> None:
    code = "import sys\nprint(flush=True)\nsys.stdin.readline()\nwhile True: pass"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            effort = Effort(process.pid, [])
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()  # Python has started
            assert look(effort, 1.0) == set()
            assert effort.idle_s("any model") > 0
            process.stdin.write("go\n")
            process.stdin.flush()
            deadline = time.monotonic() + 90
            while effort.idle_s("any model") > 0:
                assert time.monotonic() < deadline
                look(effort, 0.1)
        finally:
            process.kill()
        process.wait()
        assert look(effort, 0.2) == {TRITON}


ADOPT = """
import ctypes, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, as the first process of a container is by itself
ours = subprocess.Popen([sys.executable, "-c", ""])
orphan = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '']).pid)"
orphans = int(subprocess.run([sys.executable, "-c", orphan], stdout=subprocess.PIPE, check=True).stdout)
from serving.processes import reap
found = []
deadline = time.monotonic() + 30
while not found and time.monotonic() < deadline:
    found = reap({ours.pid})
    time.sleep(0.05)
print(found == [orphans], ours.wait())
"""


def test_adopted_children_are_reaped_and_our_own_are_left_to_who_waits_for_them() -> None:
    done = subprocess.run([sys.executable, "-c", ADOPT], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "0"], done.stderr


def test_who_was_stopped_itself_does_not_blame_others() -> None:
    probed = seen(late=HANGS_S * 2)
    probed.resume(NOW)
    assert judge(probed, NOW + LATE_S / 2, idle_s=HANGS_S * 2) == (True, "", False)
    failing = seen(failing=HANGS_S * 2)
    assert judge(failing, NOW, idle_s=9.0).restart
    failing.resume(NOW)
    assert not judge(failing, NOW, idle_s=9.0).restart
