"""Kills a run with SIGKILL and runs it again: does it end well, in the same files, with nothing left?

``python -m tests.integration.kills --times 10`` kills at random moments, each a fresh run, and prints what came of it;
with ``--search`` it is one search that is killed so often before it may end. A test kills one run at the moments that
matter. The runs are of toy size, but whole: fine-tuning, export, int8, a real Triton, publishing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from bantam.artifact import MANIFEST
from benchmarks.architectures.toy import ONNX_FP32, OPENVINO_INT8
from serving.version_folder import EVIDENCE
from tests.integration.conftest import Toy, make_toy
from tests.plugins import tiny

SHM = Path("/dev/shm")
RECIPE = tiny.RECIPE.replace(OPENVINO_INT8, OPENVINO_INT8 + tiny.NOT_MEASURED)
"""Of two int8 variants, noise would decide which is published, and files would differ without a fault."""

SEARCH = (
    tiny.TRAINED
    + ONNX_FP32
    + "".join(
        f'''
[[stages]]
stage = "quantize"
name = "{name}"
parent = "onnx-fp32"
{keys}
'''
        for name, keys in {
            "int8": 'method = "onnx-dynamic-int8"',
            "int8-32": 'method = "onnx-dynamic-int8"\nembedding_bits = 4\nblock_size = 32',
            "int8-16": 'method = "onnx-dynamic-int8"\nembedding_bits = 4\nblock_size = 16',
            "int4": 'method = "onnx-int4"',
            "int4-64": 'method = "onnx-int4"\nblock_size = 64',
        }.items()
    )
    + tiny.MEASURED
    + "[search]\nrungs = [[10, 2], [10, 2]]\nfinalists = 1\n"
)
"""The smallest is searched for, which no noise decides; a limit of time that all hold has them timed in rungs too."""
SMALLEST = ("--objective", "size", "--max-p99-ms", "60000", "--max-drop", "30")


@dataclass(frozen=True)
class Outcome:
    """What was found after kills and the run that followed."""

    killed: tuple[str, ...]
    """When, in seconds from its start, and what the killed run had said last; a run that ended before is none."""
    exit_code: int
    """Of the run that followed, or of the first that failed by itself."""
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


def run(toy: Toy, folder: Path) -> subprocess.Popen[str]:
    """Start a run that builds and publishes in ``folder``; its standard error goes to a file there."""
    folder.mkdir(parents=True, exist_ok=True)
    places = ("--build", str(folder / "build"), "--repository", str(folder / "model_repo"))
    with (folder / "stderr.txt").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "bantam", *toy.arguments, *places],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
            cwd=toy.folder,
            env=toy.environment,
            start_new_session=True,
        )


def it_trains(folder: Path, process: psutil.Process) -> bool:
    """And has saved what it can go on from."""
    return any(folder.glob("build/*/.work/*/checkpoint-*/trainer_state.json"))


def it_measures(folder: Path, process: psutil.Process) -> bool:
    """Servers of the variants are there."""
    servers = [child for child in process.children(recursive=True) if child.name() == "tritonserver"]
    return bool(servers) and any(folder.glob("build/*/candidates"))


def it_publishes(folder: Path, process: psutil.Process) -> bool:
    """The version is staged, and neither checked nor promoted."""
    return (folder / "model_repo" / "tiny" / "1").is_dir()


MOMENTS = (it_trains, it_measures, it_publishes)


def kill_at(moment: Callable[[Path, psutil.Process], bool], toy: Toy, folder: Path) -> None:
    """Start a run in ``folder`` and kill it at that moment; raises :class:`RuntimeError` if it has ended before."""
    process = run(toy, folder)
    known = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(OSError, psutil.Error):  # what is looked at may be going away
            if moment(folder, known):
                process.kill()
                break
        time.sleep(0.05)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError(f"never {moment.__name__}: {(folder / 'stderr.txt').read_text()}")


def published(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that is served; what was measured, and so its times, is not, nor is the digest of that."""
    repository = folder / "model_repo"
    return {
        path.relative_to(repository).as_posix(): hashlib.sha256(unmeasured(path)).hexdigest()
        for path in sorted(repository.rglob("*"))
        if path.is_file()
        and path.name != EVIDENCE
        and not path.name.startswith(".")
        and "__pycache__" not in path.parts
    }


def unmeasured(path: Path) -> bytes:
    """The content of a file; of a version's manifest, without the digest of its evidence."""
    content = path.read_bytes()
    return re.sub(rb'"evidence": "[0-9a-f]{64}"', b"", content) if path.name == MANIFEST else content


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


def kill_and_run_again(toy: Toy, folder: Path, moments: Sequence[float]) -> Outcome:
    """Kill a run so many seconds after its start, again each time it has gone on, run it to its end, and look."""
    shm_before, killed = {path.name for path in SHM.iterdir()}, list[str]()
    for seconds in moments:
        process = run(toy, folder)
        with suppress(subprocess.TimeoutExpired):
            if code := process.wait(seconds):
                return Outcome(tuple(killed), code, published(folder), left_over(folder, shm_before))
            continue
        process.kill()
        process.wait()
        said = (folder / "stderr.txt").read_text().strip().splitlines()
        killed.append(f"{seconds:5.1f} s after '{said[-1][:60] if said else ''}'")
    exit_code = run(toy, folder).wait()
    return Outcome(tuple(killed), exit_code, published(folder), left_over(folder, shm_before))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search", action="store_true", help="kill a search instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        toy = make_toy(folder).with_recipe("unmeasured.toml", RECIPE)
        if options.search:
            toy = replace(toy.with_recipe("search.toml", SEARCH), options=SMALLEST)
        started = time.monotonic()
        if run(toy, folder / "whole").wait():
            sys.exit((folder / "whole/stderr.txt").read_text())
        whole, reference = time.monotonic() - started, published(folder / "whole")
        print(f"a whole run takes {whole:.0f} s and publishes {len(reference)} files")
        failures, rng = 0, random.Random(options.seed)
        # What was killed goes on where it was: a run that is killed again and again has less left each time.
        longest = whole / 3 if options.search else whole
        moments = sorted((rng.uniform(0, longest) for _ in range(options.times)), reverse=options.search)
        for number, group in enumerate([moments] if options.search else [[moment] for moment in moments]):
            found = kill_and_run_again(toy, folder / f"kill-{number}", group)
            good = found.exit_code == 0 and found.published == reference and not found.left
            failures += not good
            told = f"killed {len(found.killed)} of {len(group)} times, after"
            print(told, *found.killed, "ends well" if good else found, sep="\n  ", flush=True)
            shutil.rmtree(folder / f"kill-{number}")
        print(f"{failures} of them failed" if failures else "all end well")
        sys.exit(failures > 0)


if __name__ == "__main__":
    main()
