"""A Triton whose owner or supervisor dies: it ends, and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bantam.artifact import Artifact
from bantam.client.classifier import Classifier
from serving import supervisor
from serving.repository import publish
from serving.server import Server

needs_triton = pytest.mark.triton
SHARED_MEMORY = Path("/dev/shm")
HOW = ("inline", "isolated")


@pytest.fixture(scope="module")
def root(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one model."""
    folder = tmp_path_factory.mktemp("repository")
    publish(tiny_artifact, folder, "tiny", thresholds=None)
    return folder


OWNER = """
import signal, sys, time
from pathlib import Path
from serving.server import Server
# A shell without job control starts what it puts into the background, such as these tests, with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
server = Server(Path(sys.argv[1]), models=["tiny"], isolated=sys.argv[2] == "isolated")
server.start()
print(server._run_dir, server.pid, flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def owner(root: Path, how: str) -> Iterator[tuple[subprocess.Popen[str], Path, list[psutil.Process]]]:
    """Another process of ours that has a Triton: the process, its folder, its supervisor, and Triton with its children.

    ``how``: "isolated", with a process and shared memory for the model, or "inline".
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(root), how], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            folder, pid = process.stdout.readline().split()
            triton = psutil.Process(int(pid))
            processes = [*triton.parents()[:1], triton, *triton.children(recursive=True)]
            assert len(processes) == (3 if how == "isolated" else 2)
            assert bool(list(SHARED_MEMORY.glob(f"{Path(folder).name}*"))) == (how == "isolated")
            yield process, Path(folder), processes
        finally:
            process.kill()


def wait_until_gone(processes: list[psutil.Process], seconds: float = 25) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@needs_triton
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_owner_dies(root: Path, number: signal.Signals, how: str) -> None:
    with owner(root, how) as (process, folder, processes):
        process.send_signal(number)
        process.wait(30)
        assert wait_until_gone(processes) == []
        assert list(SHARED_MEMORY.glob(f"{folder.name}*")) == []
        assert not folder.exists()


@needs_triton
@pytest.mark.parametrize("how", HOW)
def test_a_paused_server_ends_with_its_owner(root: Path, how: str) -> None:
    with owner(root, how) as (process, folder, processes):
        os.killpg(processes[1].pid, signal.SIGSTOP)
        process.kill()
        assert wait_until_gone(processes, supervisor.GRACE_S / 2) == []
        assert not folder.exists()


@needs_triton
@pytest.mark.parametrize("how", HOW)
def test_what_a_killed_supervisor_leaves_is_swept_at_the_next_start(root: Path, how: str) -> None:
    with Server(root) as server, owner(root, how) as (process, folder, processes):
        for victim in (process.pid, processes[0].pid):
            os.kill(victim, signal.SIGKILL)
        assert wait_until_gone(processes) == []
        supervisor.sweep()  # if no other server's start was first
        deadline = time.monotonic() + 10
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not folder.exists()
        assert list(SHARED_MEMORY.glob(f"{folder.name}*")) == []
        assert server.log.exists()
        with Classifier(server.grpc_address, "tiny") as client:
            assert client.probabilities(["love"]).shape == (1, 3)  # a live server's folder and memory were not touched


@contextlib.contextmanager
def planted(temporary: Path, *names: str) -> Iterator[tuple[list[Path], list[Path]]]:
    """Folders with a free lock in the folder for temporary files, and shared memory under their names."""
    folders, segments = [], []
    for name in names:
        folder = temporary / name
        folder.mkdir()
        (folder / "lock").touch()
        folders.append(folder)
        segments.append(SHARED_MEMORY / f"{name}-segment")
    try:
        for segment in segments:
            segment.touch()
        yield folders, segments
    finally:
        for segment in segments:
            segment.unlink(missing_ok=True)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def unused() -> str:
    return f"bantam-{uuid.uuid4().hex[:8]}"


def test_what_a_server_of_ours_left_is_removed(temporary: Path) -> None:
    with planted(temporary, unused()) as (folders, segments):
        assert supervisor.sweep() == folders
        assert not folders[0].exists()
        assert not segments[0].exists()


def test_another_users_folder_and_memory_stay(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with planted(temporary, unused()) as (folders, segments):
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        assert supervisor.sweep() == []
        supervisor.remove(temporary / "no folder" / folders[0].name)  # a folder of ours, memory of theirs
        assert (folders[0] / "lock").exists()
        assert segments[0].exists()


def test_links_lead_to_no_removal(temporary: Path) -> None:
    outside = temporary / "precious"
    outside.mkdir()
    (outside / "lock").touch()
    (temporary / unused()).symlink_to(outside)
    with planted(temporary, unused()) as (folders, segments):
        (folders[0] / "lock").unlink()
        (folders[0] / "lock").symlink_to(outside / "lock")
        segments[0].unlink()
        segments[0].symlink_to(outside / "lock")
        assert supervisor.sweep() == []
        supervisor.remove(temporary / "no folder" / folders[0].name)
        assert segments[0].is_symlink()
    assert (outside / "lock").exists()


@pytest.mark.parametrize("name", ["bantam-*", "bantam-[a-z]*x", "bantam-????????", "bantam-mine-all-mine"])
def test_a_name_that_is_a_pattern_removes_nothing_else(temporary: Path, name: str) -> None:
    other = SHARED_MEMORY / f"{unused()}-segment"
    other.touch()
    try:
        with planted(temporary, name) as (folders, segments):
            assert supervisor.sweep() == []  # no server of ours is called that
            assert folders[0].exists()
            supervisor.remove(folders[0])
            assert not segments[0].exists()
            assert other.exists()
    finally:
        other.unlink()
