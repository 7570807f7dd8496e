"""What a contender made of the checkpoint, and its scores: kept by content, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Artifact, cache_key, sha256
from bantam.files import replacing
from benchmarks.bench.contenders import Contender
from benchmarks.bench.driver import Job
from benchmarks.bench.environments import Environment
from benchmarks.bench.process import PeerFailed, PeerProcess, command

RECORD, MODEL = "prepared.json", "model"

Scores = NDArray[np.float32]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A contender that can be loaded or served."""

    contender: Contender
    environment: Environment
    folder: Path
    """What the peer wrote, or Bantam's artifact."""
    deployable: Mapping[str, int]
    """Files that production needs, with their bytes."""
    key: str
    """Hash of all that went into it."""
    job: Path
    """The file with its :class:`Job`."""
    log: Path
    """What it prints."""
    seconds: float | None = None
    """That it took to prepare; None for Bantam's own, whose stages the optimizer times."""
    ours: Artifact | None = None
    """Bantam's artifact, if it is one."""

    @property
    def size_mb(self) -> float:
        """What production must ship, in 10^6 bytes."""
        return sum(self.deployable.values()) / 1e6

    def process(self, job: str, *more: str) -> PeerProcess:
        """The driver at work for it."""
        return PeerProcess(
            command(self.environment.python, job, self.contender.file, self.folder, self.job, *more), self.log
        )


def write_job(contender: Contender, job: Job, root: Path) -> Path:
    """The job of a contender as a file for the driver: ``job`` with the contender's own options."""
    path = root / "jobs" / f"{contender.slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = asdict(job) | {"options": dict(contender.options)}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def prepare(
    contender: Contender, environment: Environment, checkpoint: Artifact, job: Job, root: Path, log: Log
) -> Prepared:
    """Let a peer convert the checkpoint, or keep what it made of the same one with the same pins and options.

    Raises :class:`PeerFailed`.
    """
    key = cache_key(
        checkpoint=checkpoint.digest,
        peer=sha256(contender.file),
        environment=environment.digest,
        options=contender.options,
        job=asdict(job) | {"threads": None},
    )
    final, log_file = root / "prepared" / contender.slug, root / "logs" / f"{contender.slug}.log"
    path = write_job(contender, job, root)
    record = _record(final, key)
    if record is None:
        log(f"{contender.name:<36} is prepared")
        log_file.unlink(missing_ok=True)
        with replacing(final) as temporary:
            folder = temporary / MODEL
            arguments = command(
                environment.python, "prepare", contender.file, folder, path, "--checkpoint", str(checkpoint.folder)
            )
            with PeerProcess(arguments, log_file) as process:
                record = {"key": key, **process.answer("prepare")}
            (temporary / RECORD).write_text(json.dumps(record), encoding="utf-8")
    return Prepared(contender, environment, final / MODEL, record["deployable"], key, path, log_file, record["seconds"])


def _record(final: Path, key: str) -> dict[str, Any] | None:
    """What is known of a folder that was prepared from the same; None if it is not whole."""
    try:
        record: dict[str, Any] = json.loads((final / RECORD).read_text(encoding="utf-8"))
        whole = all((final / MODEL / name).stat().st_size == size for name, size in record["deployable"].items())
    except (OSError, ValueError):
        return None
    return record if whole and record["key"] == key else None


def own(contender: Contender, environment: Environment, artifact: Artifact, job: Job, root: Path) -> Prepared:
    """One of Bantam's own variants, as the optimizer made it."""
    files = artifact.manifest.files
    deployable = {name: int(files[name]["bytes"]) for name in artifact.manifest.deployable}
    log = root / "logs" / f"{contender.slug}.log"
    path = write_job(contender, job, root)
    return Prepared(contender, environment, artifact.folder, deployable, artifact.digest, path, log, ours=artifact)


def kept_scores(
    name: str, key: str, shape: tuple[int, int], root: Path, compute: Callable[[], Any], log: Log
) -> Scores:
    """The scores ``[texts, labels]`` under ``name`` if they were made with the same key; else what ``compute`` gives.

    Raises :class:`PeerFailed` if they are of another shape.
    """
    final = root / "scores" / name
    if (final / f"{key}.npy").exists():
        return np.asarray(np.load(final / f"{key}.npy"), dtype=np.float32)
    log(f"{name:<36} is scored")
    scores = np.asarray(compute(), dtype=np.float32)
    if scores.shape != shape:
        raise PeerFailed("scores", f"got shape {list(scores.shape)}, expected {list(shape)} [texts, labels]")
    with replacing(final) as temporary:
        np.save(temporary / f"{key}.npy", scores)
    return scores


@contextlib.contextmanager
def scorer(prepared: Prepared) -> Iterator[Callable[[Sequence[str]], Any]]:
    """A function that scores texts in the contender's process, which is loaded at the first call and ends with this.

    That function raises :class:`PeerFailed`.
    """
    with ExitStack() as stack:

        @cache
        def loaded() -> PeerProcess:
            process = stack.enter_context(prepared.process("run"))
            process.answer("load")
            return process

        yield lambda texts: loaded().ask("scores", "scores", texts)


def discard(root: Path) -> None:
    """Remove what killed runs left half-written."""
    for left in root.glob("*/*.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
