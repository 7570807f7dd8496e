"""Runs a recipe's stages in order, each from its parent's artifact. The only place that knows the order.

A stage whose result is there already is kept: its key is the hash of its config, its sources' content, the data, the
checkpoint and the package's version. One that another run has made is copied from there: recipes share a baseline.
Whatever is not whole is made again; nothing half-written is ever used.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bantam import __version__
from bantam.artifact import Artifact, cache_key
from bantam.errors import ArtifactError, StageError
from bantam.files import replacing, sweep, writing
from optimizer import distributed
from optimizer.catalog import Checkpoint
from optimizer.config import AnyStage, TrainingConfig
from optimizer.data import Dataset
from optimizer.recipe import Recipe
from optimizer.stage import RunContext
from serving.backend.cores import usable_cores

# Named, not imported: a run in which every stage is kept needs no torch.
STAGES = {name: f"optimizer.{name}" for name in ("finetune", "distill", "prune", "export", "quantize")}
SHARED = ".shared"

Log = Callable[[str], None]


def run(
    recipe: Recipe,
    data: Dataset,
    checkpoints: Mapping[str | None, Checkpoint],
    folder: Path,
    *,
    device: str = "cpu",
    log: Log = print,
) -> dict[str, Artifact]:
    """Run or keep every stage of ``recipe``; returns the artifacts by stage name, in the recipe's order.

    ``checkpoints`` holds the run's checkpoint under ``None``, and each other one that a stage names under that name.
    The caller holds :func:`locked` on ``folder``. Raises what the stages raise, :class:`DiskFullError` among them.
    """
    artifacts: dict[str, Artifact] = {}
    for config in recipe.stages:
        sources = {name: artifacts[name] for name in config.sources}
        checkpoint = checkpoints[getattr(config, "model", None)]
        context = RunContext(
            folder=folder,
            scratch=folder,
            key=_key(config, sources, checkpoint, data, device),
            data=data,
            checkpoint=checkpoint,
            shared=folder / SHARED,
            sources=sources,
            device=device,
            log=log,
            threads=usable_cores(),
        )

        def make(target: RunContext, config: Any = config) -> Artifact:
            parent = target.sources[config.parent] if config.parent else None
            artifact: Artifact = import_module(STAGES[config.stage]).run(parent, config, target)
            return artifact

        if distributed.count() > 1 and isinstance(config, TrainingConfig):
            artifacts[config.name] = _made_together(config.name, context, make)
        else:
            with distributed.main_first(device):
                artifacts[config.name] = kept_or_made(config.name, context, make)
    shutil.rmtree(folder / SHARED, ignore_errors=True)
    return artifacts


def _key(config: AnyStage, sources: Mapping[str, Artifact], checkpoint: Checkpoint, data: Dataset, device: str) -> str:
    """What identifies a stage's result; whether it is measured changes nothing about it."""
    return cache_key(
        config=config.identified({name: artifact.digest for name, artifact in sources.items()}),
        checkpoint=checkpoint.digest,
        random_weights=checkpoint.random_weights,
        data=data.digest,
        device=device,
        version=__version__,
    )


def kept_or_made(name: str, context: RunContext, make: Callable[[RunContext], Artifact]) -> Artifact:
    """The artifact ``context.folder/name`` if its key is ``context.key`` and it is whole; else what ``make`` writes."""
    final, scratch = context.folder / name, _scratch(name, context)
    if kept := _kept(final, context.key):
        # Killed right after it was finished, it has left what it would have gone on from.
        shutil.rmtree(scratch, ignore_errors=True)
        _remove_if_empty(scratch.parent)
        context.log(f"{name:<24} kept")
        return kept
    with contextlib.suppress(ArtifactError, FileNotFoundError):
        for other in _made_elsewhere(name, context):
            with writing(final), replacing(final) as temporary:
                shutil.copytree(other.folder, temporary, copy_function=_link_or_copy, dirs_exist_ok=True)
            context.log(f"{name:<24} taken from {other.folder.parent.name}")
            return replace(Artifact.load(final), name=name)
    started = time.monotonic()
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with writing(final), replacing(final) as temporary:
            make(replace(context, folder=temporary, scratch=scratch))
        _give_memory_back()
        # Also the checkpoints of other configurations of this stage: their turn has passed.
        for outdated in scratch.parent.glob(f"{name}-{'[0-9a-f]' * 16}"):
            shutil.rmtree(outdated)
    finally:
        for folder in (scratch, scratch.parent):
            _remove_if_empty(folder)
    context.log(f"{name:<24} made in {time.monotonic() - started:.0f} s")
    return replace(Artifact.load(final), name=name)


def _remove_if_empty(folder: Path) -> None:
    """Only if there is nothing in it to resume from."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _give_memory_back() -> None:
    """What a stage has freed goes back to the system: the C library would keep gigabytes of a training for later."""
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _kept(final: Path, key: str) -> Artifact | None:
    with contextlib.suppress(ArtifactError):
        artifact = Artifact.load(final)
        return artifact if artifact.manifest.key == key else None
    return None


def _scratch(name: str, context: RunContext) -> Path:
    return context.folder / ".resume" / f"{name}-{context.key[:16]}"


def _made_together(name: str, context: RunContext, make: Callable[[RunContext], Artifact]) -> Artifact:
    """A stage that trains, on several processes: all of them train, the main one writes what comes out."""
    final = context.folder / name
    distributed.wait(context.device)
    there = _kept(final, context.key) or next(_made_elsewhere(name, context), None)
    # Nobody starts to write before all have looked.
    distributed.wait(context.device)
    if distributed.is_main():
        kept_or_made(name, context, make)
    elif there is None:
        with tempfile.TemporaryDirectory() as thrown_away:
            make(replace(context, folder=Path(thrown_away), scratch=_scratch(name, context)))
    distributed.wait(context.device)
    return replace(Artifact.load(final), name=name)


def _made_elsewhere(name: str, context: RunContext) -> Iterator[Artifact]:
    """The same artifact, by its key, in other runs of the same build folder."""
    for folder in sorted(context.folder.parent.glob(f"*/{name}")):
        with contextlib.suppress(ArtifactError):
            if Artifact.load(folder).manifest.key == context.key:
                yield Artifact.load(folder, verify=True)


def _link_or_copy(source: str, target: str) -> None:
    """Artifacts are never changed in place, so that two runs may share a file."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder alone, and remove what killed runs left half-written in it.

    Raises :class:`StageError` if another process works in it. The lock goes with the process, however it ends.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            sweep(folder)
            yield
    except Timeout as exc:
        raise StageError(
            f"{folder} is in use by another run. Wait for it to end, or choose another recipe or profile."
        ) from exc
