"""Kills a run with SIGKILL at random moments and runs it again: does it end well, in the same files, with nothing left?

``python -m tests.integration.kills --times 10`` prints a line for each kill; a test runs fewer. The runs are of toy
size, but whole: fine-tuning, export, both int8 methods, a real Triton, publishing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from serving.version_folder import EVIDENCE
from tests.plugins import tiny

ROOT = Path(__file__).resolve().parents[2]
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Outcome:
    """What was found after a kill and the run that followed."""

    seconds: float
    """When it was killed, from its start."""
    last_line: str
    """What the killed run had said last."""
    exit_code: int
    """Of the run that followed."""
    published: dict[str, str]
    left: tuple[str, ...]
    """Temporary files, processes and shared memory that should not be there."""


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Published files that are not what they were.

    Of two int8 variants of a toy, noise decides which is the faster one. If it decides otherwise than before, a version
    is added, and ``config.pbtxt`` names that; neither counts.
    """
    files = sorted({*before, *after} - {"tiny/config.pbtxt"})
    return [name for name in files if before.get(name) != after.get(name) and (name in before or "tiny/2/" not in name)]


def prepare(folder: Path) -> list[str]:
    """Write checkpoint, data and recipe into ``folder``; returns the command line of a run in it."""
    tiny.write_checkpoint(folder / "tiny")
    data, recipe = tiny.write_data(folder / "moods.csv"), tiny.write_recipe(folder / "toy.toml")
    # Of two int8 variants of a toy, noise would decide which is published, and files would differ without a fault.
    text = recipe.read_text(encoding="utf-8").replace("calibration_rows = 20", "calibration_rows = 20\nmeasure = false")
    recipe.write_text(text, encoding="utf-8")
    inputs = [str(folder / "tiny"), "--data", str(data), "--recipe", str(recipe)]
    return [sys.executable, "-m", "bantam", "optimize", *inputs]


def run(command: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a run that builds and publishes in ``folder``; its standard error goes to a file there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stderr.txt").open("w") as errors:
        return subprocess.Popen(
            [*command, "--build", str(folder / "build"), "--repository", str(folder / "model_repo")],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )


def published(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that is served; what was measured, and so its times, is not."""
    repository = folder / "model_repo"
    return {
        path.relative_to(repository).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(repository.rglob("*"))
        if path.is_file()
        and path.name != EVIDENCE
        and not path.name.startswith(".")
        and "__pycache__" not in path.parts
    }


def left_over(folder: Path, shm_before: set[str]) -> tuple[str, ...]:
    """Temporary files of a run, processes that know its folder, and new shared memory; waits for what is ending."""
    deadline = time.monotonic() + 20
    while True:
        running = {p.pid: " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])}
        processes = [
            f"process {pid}: {command[:150]}"
            for pid, command in running.items()
            if pid != os.getpid() and str(folder) in command
        ]
        shm = [f"shared memory {name}" for name in sorted({p.name for p in SHM.iterdir()} - shm_before)]
        if not (processes or shm) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    patterns = ("build/*/*.tmp-*", "build/*/.work", "build/*/candidates", "model_repo/*/.*", "model_repo/*.tmp-*")
    files = [str(path) for pattern in patterns for path in folder.glob(pattern)]
    return (*processes, *shm, *files)


def kill_and_run_again(command: list[str], folder: Path, seconds: float) -> Outcome:
    """Kill a fresh run after ``seconds``, run it again to its end, and look at what there is."""
    shm_before = {path.name for path in SHM.iterdir()}
    process = run(command, folder)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = (folder / "stderr.txt").read_text().strip().splitlines()
    exit_code = run(command, folder).wait()
    return Outcome(seconds, said[-1] if said else "", exit_code, published(folder), left_over(folder, shm_before))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = prepare(folder)
        started = time.monotonic()
        if run(command, folder / "whole").wait():
            sys.exit((folder / "whole/stderr.txt").read_text())
        whole, reference = time.monotonic() - started, published(folder / "whole")
        print(f"a whole run takes {whole:.0f} s and publishes {len(reference)} files")
        failures, rng = 0, random.Random(options.seed)
        moments = sorted(rng.uniform(0, whole) for _ in range(options.times))
        for number, moment in enumerate(moments):
            found = kill_and_run_again(command, folder / f"kill-{number}", moment)
            good = found.exit_code == 0 and found.published == reference and not found.left
            failures += not good
            print(
                f"killed at {moment:5.1f} s after '{found.last_line[:60]}': {'ends well' if good else found}",
                flush=True,
            )
            shutil.rmtree(folder / f"kill-{number}")
        print(f"{options.times - failures} passed, {failures} failed")
        sys.exit(failures > 0)


if __name__ == "__main__":
    main()
