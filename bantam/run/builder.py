"""From a stage's config to its artifact, whatever was made before: kept, taken from the store, or made.

A stage's key says all that its result follows from: its config with digests for names, the data, the checkpoint, the
libraries and the code. So a stage under another name is found, and what changes nothing about a result makes nothing
again.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from bantam.artifact import Artifact, cache_key, sha256, with_metrics
from bantam.errors import BantamError, DiskFullError, StageError, UserError
from bantam.files import sweep, writing
from bantam.licence import Licence, all_licences
from bantam.memory import give_back, with_peak
from bantam.report.schema import BASELINE
from bantam.run import closure
from bantam.run.store import Store
from optimizer import distributed
from optimizer.catalog import Checkpoint
from optimizer.config import AnyStage, CheckpointConfig, TrainingConfig
from optimizer.data import Dataset
from optimizer.load.made import once_in
from optimizer.recipe import Recipe
from optimizer.stage import RunContext
from serving.backend.cores import usable_cores

# Named, not imported: a run in which every stage is kept needs no torch.
STAGES = {name: f"optimizer.{name}" for name in ("adopt", "finetune", "distill", "prune", "export", "quantize")}
WORK = ".work"
"""Folder of a run for what unfinished stages go on from, and what several stages use; gone when all are there."""

Log = Callable[[str], None]
Make = Callable[[RunContext], Artifact]


@dataclass
class Builder:
    """The stages of one run, in the order in which they are built: each after its sources."""

    folder: Path
    data: Dataset
    checkpoints: Mapping[str | None, Checkpoint]
    """The run's checkpoint under ``None``, and each other one that a stage names under that name."""
    device: Literal["cpu", "cuda"] = "cpu"
    log: Log = print
    deadline: float | None = None
    """As in :class:`RunContext`."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """What was built, by stage name."""
    failed: dict[str, BantamError] = field(default_factory=dict)
    """Why the others could not be built, by stage name."""

    def build(self, stage: AnyStage) -> Artifact:
        """The stage's artifact, as the run's folder shows it; raises what making it raises.

        :class:`StageError` if one of its sources has failed.
        """
        if lost := [name for name in stage.sources if name in self.failed]:
            raise StageError(f"{lost[0]}, which it is made from, failed.")
        context = RunContext(
            folder=self.folder,
            scratch=self.folder,
            key=self._key(stage),
            data=self.data,
            checkpoint=self._checkpoint(stage),
            shared=self.folder / WORK / "shared",
            sources={name: self.artifacts[name] for name in stage.sources},
            device=self.device,
            log=self.log,
            threads=usable_cores(),
            licences=self._licences(stage),
            quantization=self._quantization(stage),
            deadline=self.deadline,
        )

        def make(target: RunContext) -> Artifact:
            parent = target.sources[stage.parent] if stage.parent else None
            module = import_module(STAGES[stage.stage])
            artifact, peak = with_peak(lambda: module.run(parent, stage, target))
            return with_metrics(artifact, peak_rss_mb=round(peak, 1))

        if isinstance(stage, TrainingConfig):
            artifact = _made_together(stage.name, context, make)
        else:
            with distributed.main_first(self.device):
                artifact = kept_or_made(stage.name, context, make)
        # What was taken from the store may have been made of an equal model under another name.
        descent: dict[str, Any] = {"licences": context.licences, "quantization": context.quantization}
        artifact = replace(artifact, manifest=replace(artifact.manifest, **descent))
        self.artifacts[stage.name] = artifact
        return artifact

    def _checkpoint(self, stage: AnyStage) -> Checkpoint:
        return self.checkpoints[stage.model if isinstance(stage, CheckpointConfig) else None]

    def _licences(self, stage: AnyStage) -> tuple[Licence, ...]:
        """Of the checkpoint that the stage starts from, and of what its sources descend from."""
        sources = [self.artifacts[name].manifest.licences for name in stage.sources]
        return all_licences(self._checkpoint(stage).licences if _starts(stage) else (), *sources)

    def _quantization(self, stage: AnyStage) -> str | None:
        """In what the weights of these were stored once, where that was fewer bits."""
        sources = [self.artifacts[name].manifest.quantization for name in stage.sources]
        return once_in(self._checkpoint(stage).quantization if _starts(stage) else None, *sources)

    def _key(self, stage: AnyStage) -> str:
        """What identifies the stage's result."""
        module, checkpoint = STAGES[stage.stage], self._checkpoint(stage)
        return cache_key(
            config=stage.identified({name: self.artifacts[name].digest for name in stage.sources}),
            files=[sha256(path) for path in map(Path, stage.files) if path.is_file()],
            checkpoint=checkpoint.digest,
            random_weights=checkpoint.random_weights,
            data=self.data.digest,
            device=self.device,
            code=closure.code(module),
            libraries=closure.libraries(module),
        )


def run(
    recipe: Recipe,
    data: Dataset,
    checkpoints: Mapping[str | None, Checkpoint],
    folder: Path,
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    log: Log = print,
    deadline: float | None = None,
) -> Builder:
    """Build every stage of ``recipe`` in order; returns the builder with what was built and what failed.

    The caller holds :func:`locked` on ``folder``. A variant that cannot be made, for want of time or memory too, does
    not end the run: what starts from it fails as well, and the others are made. Raises what the stages raise if it is
    one that nothing can be chosen without: the baseline and its export; or if nothing is left that can be served; and
    :class:`DiskFullError`.
    """
    builder = Builder(folder, data, checkpoints, device, log, deadline)
    needed = {BASELINE, recipe.export_of(BASELINE)}
    for stage in recipe.stages:
        try:
            builder.build(stage)
        except DiskFullError:
            raise
        except (StageError, UserError) as exc:
            # Several processes train together: one of them cannot go on without the others.
            if stage.name in needed or distributed.count() > 1:
                raise
            _let_go(exc)
            builder.failed[stage.name] = exc
            log(f"{stage.name:<24} failed: {exc}")
    if builder.failed and not any(artifact.servable for artifact in builder.artifacts.values()):
        raise next(iter(builder.failed.values()))
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return builder


def _let_go(exc: BaseException | None) -> None:
    """Free what the frames that an error came through hold: a model and its optimizer, whose room others need."""
    while exc is not None:
        traceback.clear_frames(exc.__traceback__)
        exc = exc.__cause__ or exc.__context__
    give_back()


def kept_or_made(name: str, context: RunContext, make: Make) -> Artifact:
    """The artifact of ``context.key``, shown as ``context.folder/name``; what is not in the store, ``make`` writes."""
    link, store = context.folder / name, Store(context.folder.parent, context.log)
    scratch = context.folder / WORK / context.key[:16]
    started, outcome = time.monotonic(), "kept" if store.shows(link, context.key) else "taken from the store"

    def write(folder: Path) -> None:
        nonlocal outcome
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            make(replace(context, folder=folder, scratch=scratch))
        finally:
            _remove_if_empty(scratch)
        give_back()
        outcome = f"made in {time.monotonic() - started:.0f} s"

    artifact = store.get_or_make(context.key, write, link, context.licences)
    shutil.rmtree(scratch, ignore_errors=True)
    _remove_if_empty(scratch.parent)
    context.log(f"{name:<24} {outcome}")
    return artifact


def _made_together(name: str, context: RunContext, make: Make) -> Artifact:
    """A stage that trains: all processes of the run train, the main one writes what comes out.

    Whether there is anything to train, the main one says when it holds the key's lock: else another run could finish
    the stage in between, and the others would wait for a training that does not come.
    """
    if distributed.is_main():
        training = False

        def announced(target: RunContext) -> Artifact:
            nonlocal training
            training = distributed.agreed(True, context.device)
            return make(target)

        artifact = kept_or_made(name, context, announced)
        if not training:
            distributed.agreed(False, context.device)
        distributed.wait(context.device)
        return artifact
    if distributed.agreed(False, context.device):
        scratch = context.folder / WORK / context.key[:16]
        with tempfile.TemporaryDirectory() as thrown_away:
            make(replace(context, folder=Path(thrown_away), scratch=scratch))
    distributed.wait(context.device)
    return Artifact.load(context.folder / name)


def _starts(stage: AnyStage) -> bool:
    """Whether it starts from a checkpoint, and not from what another stage has made."""
    return isinstance(stage, CheckpointConfig) and (stage.parent is None or stage.model is not None)


def _remove_if_empty(folder: Path) -> None:
    """Only if there is nothing in it to resume from."""
    with contextlib.suppress(OSError):
        folder.rmdir()


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
