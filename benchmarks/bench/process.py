"""A peer in its own environment and process, from the outside; the other end of :mod:`benchmarks.bench.driver`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Timer
from types import TracebackType
from typing import Any, Self

import psutil

from bantam.errors import StageError
from serving.supervisor import wait_until_stopped

DRIVER = Path(__file__).with_name("driver.py")
ANSWER_TIMEOUT_S = 900.0
"""For the whole of a preparation, and for each answer of a running peer."""
NOT_INHERITED = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


class PeerFailed(StageError):
    """A contender failed; a row of the table, not the end of the bench."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage
        """install, prepare, load, scores, latency, serve."""
        self.reason = reason


def command(python: Path, job: str, peer: Path, folder: Path, job_file: Path, *more: str) -> list[str]:
    """The driver's command line."""
    return [str(python), str(DRIVER), job, str(peer), "--folder", str(folder), "--job", str(job_file), *more]


def environment(python: Path) -> dict[str, str]:
    """Environment variables of a peer: its own programs first, no package of ours or of the user's.

    It may keep what it compiles, else it would load slower here than at a user's.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**inherited, "PATH": path, "PYTHONNOUSERSITE": "1"}


class PeerProcess:
    """One run of the driver, whose answers are read line by line; a context manager that leaves no process behind.

    ``log`` takes what the peer prints. Methods raise :class:`PeerFailed`.
    """

    def __init__(self, arguments: list[str], log: Path, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment(Path(arguments[0])),
                start_new_session=True,  # a group of its own, to be ended as a whole
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(grace_s=0.0)

    def stop(self, grace_s: float) -> None:
        """End the process and all that it has started, by force after ``grace_s`` seconds."""
        left = tree(self.pid)
        resume(self.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM if grace_s else signal.SIGKILL)
        _, alive = psutil.wait_procs(left, timeout=grace_s)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def poll(self) -> int | None:
        """The exit code if it has ended."""
        return self._process.poll()

    def ask(self, stage: str, job: str, texts: Sequence[str] = ()) -> Any:
        """What the running peer answers; ``stage`` names what failed if it does not."""
        assert self._process.stdin is not None
        line = json.dumps({"job": job, "texts": list(texts)}) + "\n"
        with contextlib.suppress(BrokenPipeError):  # it has ended; the answer that is missing says so
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        return self.answer(stage)

    def answer(self, stage: str) -> Any:
        """The next answer."""
        assert self._process.stdout is not None
        late = Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = Timer(self._timeout_s, give_up)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            code = self._process.wait()
            raise PeerFailed(stage, f"no answer within {self._timeout_s:.0f} s" if late.is_set() else _ended(code))
        answer = json.loads(line)
        if not answer["ok"]:
            raise PeerFailed(stage, answer["error"])
        return answer["answer"]


def _ended(code: int) -> str:
    """Why a process may have ended without an answer."""
    if code == -signal.SIGKILL:
        return "its process was killed (signal 9): usually a lack of memory"
    return f"its process ended with exit code {code}" if code >= 0 else f"its process died of signal {-code}"


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it has started, as far as they live."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def pause(pid: int) -> None:
    """Stop a process and all that it has started, waiting for that, so that nothing disturbs the one being measured."""
    _signal(pid, signal.SIGSTOP)
    for process in tree(pid):
        wait_until_stopped(process.pid)


def resume(pid: int) -> None:
    """Let them go on."""
    _signal(pid, signal.SIGCONT)


@contextlib.contextmanager
def resumed(pid: int) -> Iterator[None]:
    """A paused process goes on inside the block."""
    resume(pid)
    try:
        yield
    finally:
        pause(pid)


def _signal(pid: int, number: signal.Signals) -> None:
    for process in tree(pid):
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
