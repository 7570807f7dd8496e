"""Runs one Triton and cleans up after it, whatever happens to the process that wanted it.

Started by ``server.py`` as a script of its own, standard library only. Its standard input is a pipe whose other end
the owner holds: when the owner stops, crashes or is killed with SIGKILL, the pipe closes, and that ends Triton::

    python supervisor.py RUN_DIR LOCK COMMAND...

``RUN_DIR/lock`` is locked as long as the supervisor, Triton or one of its Python processes lives (they inherit the
lock), so that a later start can tell what a killed supervisor left behind from what is in use; ``sweep`` removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PREFIX = "bantam-"
NAME = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")
"""What tempfile makes of the prefix."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where Linux keeps it
GRACE_S = 20.0
"""How long Triton may take to finish its requests and to unload its models."""
POLL_S = 0.2
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> int:
    """Run the command until the owner is gone, then clean up.

    Writes two lines to standard output: Triton's process id, and its exit code if it ends before it is told to.
    """
    run_dir, descriptor, command = Path(arguments[0]), int(arguments[1]), arguments[2:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the owner decides when to stop, and tells it by closing the pipe
    with (run_dir / "triton.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=run_dir,
            pass_fds=[descriptor],
            start_new_session=True,
            preexec_fn=_prepare,
        )
    print(process.pid, flush=True)
    _wait_for_owner(process)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGCONT)  # paused, it would not even notice
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # Triton if it hangs, and Python processes that it left behind
    process.wait()
    remove(run_dir)
    return 0


def create() -> tuple[Path, int]:
    """A new folder for one server, locked; returns it with the lock's file descriptor, to be passed on."""
    run_dir = Path(tempfile.mkdtemp(prefix=PREFIX))
    descriptor = lock(run_dir / "lock.new")
    if descriptor is None:
        raise BlockingIOError(f"{run_dir}: another process has locked a folder that was just made.")
    # Renamed when it is held, so that nobody can find it free.
    (run_dir / "lock.new").rename(run_dir / "lock")
    return run_dir, descriptor


def sweep() -> list[Path]:
    """Remove what killed supervisors left: folders and shared memory whose lock nobody holds. Returns the folders.

    Anybody can put something into the folder for temporary files: only what a server of this user has made is removed.
    """
    removed = []
    for run_dir in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if not NAME.fullmatch(run_dir.name) or not is_ours(run_dir, stat.S_ISDIR):
            continue
        with contextlib.suppress(OSError):  # gone meanwhile
            if is_ours(run_dir / "lock", stat.S_ISREG) and (descriptor := lock(run_dir / "lock")) is not None:
                remove(run_dir)
                os.close(descriptor)
                removed.append(run_dir)
    return removed


def is_ours(path: Path, kind: Callable[[int], bool]) -> bool:
    """Whether this user owns the path, which is of this kind itself: no link to it."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return found.st_uid == os.geteuid() and kind(found.st_mode)


def lock(path: Path) -> int | None:
    """Take the lock without waiting; returns its file descriptor, or None if it is held."""
    import fcntl  # not on Windows, where nothing is started

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def remove(run_dir: Path) -> None:
    """Remove a server's shared memory, as far as it is this user's, and its folder."""
    for segment in SHARED_MEMORY.glob(f"{glob.escape(run_dir.name)}-*"):
        if is_ours(segment, stat.S_ISREG):
            segment.unlink(missing_ok=True)
    shutil.rmtree(run_dir, ignore_errors=True)


def _prepare() -> None:
    """In Triton's process before it starts: default signals; die with the supervisor."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_for_owner(process: subprocess.Popen[bytes]) -> None:
    """Wait until the owner closes the pipe or dies; meanwhile report if the process ends."""
    owner = os.getppid()
    reported = False
    while os.getppid() == owner:  # a forked child of the owner may keep the pipe open after its death
        readable, _, _ = select.select([sys.stdin.fileno()], [], [], POLL_S)
        if readable and not os.read(sys.stdin.fileno(), 1):
            return
        if not reported and process.poll() is not None:
            reported = True
            with contextlib.suppress(BrokenPipeError):
                print(process.returncode, flush=True)


def wait_until_stopped(pid: int, seconds: float = 1.0) -> None:
    """Return when a process that was sent SIGSTOP has stopped, or has ended; after ``seconds`` in any case.

    On a busy machine it may run on, and answer, until one of its threads gets a core to take the signal with. Others of
    its group, which were sent the signal too, are not waited for.
    """
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):  # it has ended
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZX":
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
