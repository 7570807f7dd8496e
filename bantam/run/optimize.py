"""``bantam optimize``: from a model's name to a measured, published endpoint."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tomli_w
from numpy.typing import NDArray

from bantam.artifact import LAYOUTS, Artifact
from bantam.client.classifier import Classifier
from bantam.errors import StageError
from bantam.files import write_text, writing
from bantam.memory import MemoryWatch
from bantam.report.file import write_report
from bantam.report.schema import Report
from bantam.run import builder as pipeline
from bantam.run import record
from bantam.run.endpoint import Endpoint, paused
from bantam.run.latency import Anchors, Bench, draw_texts, in_processes, measure
from bantam.run.request import OptimizeRequest
from bantam.run.score import Scored, score
from bantam.run.timing import Timing
from bantam.run.worker import Requester
from optimizer import distributed
from optimizer.catalog import Checkpoint
from optimizer.data import Dataset, load_dataset
from optimizer.load import resolve
from optimizer.recipe import Recipe, load_recipe
from optimizer.stage import RunContext
from serving.backend.cores import usable_cores
from serving.repository import Version, baseline_of, publish, withdraw
from serving.server import Server

Log = Callable[[str], None]
BASELINE = "baseline"
SCORE_TOLERANCE = 1e-3
"""Most that a served and an in-process score of the same text may differ; beyond it, a variant is not published."""


@dataclass(frozen=True)
class Served:
    """What the running server answered for one variant."""

    test: NDArray[np.float32]


@dataclass
class Run:
    """Everything that a run finds out; what :mod:`bantam.run.record` makes the report from."""

    request: OptimizeRequest
    recipe: Recipe
    data: Dataset
    checkpoint: Checkpoint
    checkpoints: Mapping[str | None, Checkpoint]
    """The same under None, and the others that stages of the recipe name."""
    folder: Path
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """Of all stages, measured or not, by name."""
    scored: dict[str, Scored] = field(default_factory=dict)
    served: dict[str, Served] = field(default_factory=dict)
    measured: dict[str, Timing] = field(default_factory=dict)
    published: Version | None = None
    server_peak_rss_mb: float | None = None
    """Peak of all processes of the server that serves the published model alone."""
    isolated_because: str = ""
    """Why the measured servers ran each model in a process of its own; empty if they did not."""
    peak_rss_mb: float = 0.0
    seconds: float = 0.0


def prepare(request: OptimizeRequest, log: Log) -> Run:
    """Find recipe, data and model before any work is done; raises the UserError that fits if one cannot be had."""
    recipe = load_recipe(request.recipe, request.profile)
    if request.max_drop is not None:
        recipe = recipe.model_copy(update={"max_drop_points": request.max_drop})
    data = load_dataset(
        request.data,
        text_column=request.text_column,
        label_column=request.label_column,
        separator=request.separator,
    )
    checkpoint = resolve(request.model, random_init=request.random_init, log=log)
    checkpoints: dict[str | None, Checkpoint] = {name: resolve(name, log=log) for name in recipe.models}
    recipe = recipe.suited_to(checkpoint.training)
    for note in data.notes:
        log(note)
    if checkpoint.random_weights:
        log("RANDOM WEIGHTS: sizes, times and memory mean something; predictions and quality do not.")
    return Run(request, recipe, data, checkpoint, {**checkpoints, None: checkpoint}, request.build / run_name(request))


def run_name(request: OptimizeRequest) -> str:
    """Name of the run's folder: model, data, recipe and profile."""
    parts = [request.model, request.data, request.recipe, request.profile]
    name = "-".join(slug(Path(part).stem if part.endswith((".toml", ".csv", ".tsv")) else part) for part in parts)
    return f"{name}-random" if request.random_init else name


def slug(text: str) -> str:
    """The last part of a path or hub id, with what a folder's or model's name cannot hold replaced by hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.rstrip("/").rpartition("/")[2].lower()).strip("-.") or "model"


def optimize(request: OptimizeRequest, log: Log) -> tuple[Report, Path]:
    """Make every variant, serve all of them, measure, publish the best; returns the report and the run's folder.

    Raises any :class:`BantamError`; whatever was finished is kept for the next call, and what was served before stays.
    """
    started = time.monotonic()
    with distributed.main_first(request.device):
        run = prepare(request, log)
    with pipeline.locked(run.folder), MemoryWatch() as memory:
        make(run, log)
        candidates = run.folder / "candidates"
        try:
            with writing(run.folder):
                _measure_candidates(run, candidates, memory, log)
        finally:
            shutil.rmtree(candidates, ignore_errors=True)
        records = record.variants(run)
        choice = record.choice(run, records, SCORE_TOLERANCE)
        _publish_baseline(run, log)
        _publish_chosen(run, choice.chosen, log)
        run.peak_rss_mb, run.seconds = memory.peak_mb, time.monotonic() - started
        report = record.report(run, records, choice)
        write_report(report, run.folder)
    return report, run.folder


def make(run: Run, log: Log) -> None:
    """Make and score every variant, or keep what is there; nothing is served. The caller holds the folder's lock."""
    _write_recipe(run)
    run.artifacts = pipeline.run(run.recipe, run.data, run.checkpoints, run.folder, device=run.request.device, log=log)
    context = RunContext(
        folder=run.folder,
        scratch=run.folder,
        key="",
        data=run.data,
        checkpoint=run.checkpoint,
        shared=run.folder,
        device=run.request.device,
        log=log,
        threads=usable_cores(),
    )
    for stage in run.recipe.stages:
        if stage.measure:
            run.scored[stage.name] = score(run.artifacts[stage.name], run.data, context, run.recipe.serving)


def take_part(request: OptimizeRequest) -> None:
    """What a process of several does that is not the main one: it trains with the others, and writes nothing."""
    with distributed.main_first(request.device):
        run = prepare(request, lambda _: None)
    pipeline.run(run.recipe, run.data, run.checkpoints, run.folder, device=request.device, log=lambda _: None)


def _measure_candidates(run: Run, candidates: Path, memory: MemoryWatch, log: Log) -> None:
    """Serve all exported variants from a throw-away repository and measure them in groups around the baseline."""
    variants = {name: scored.artifact for name, scored in run.scored.items()}
    servable = [name for name, artifact in variants.items() if LAYOUTS[artifact.manifest.layout].servable]
    if not servable:
        raise StageError(
            f"Recipe {run.recipe.name!r} makes nothing that can be served. "
            "Expected a measured stage that exports to onnx or openvino."
        )
    for name in servable:
        _publish(run.scored[name], candidates, name, run, link=True)
    log(f"serving {', '.join(servable)}")
    export = run.recipe.export_of(BASELINE)
    anchors = Anchors(BASELINE, export if export in servable else servable[0])
    texts = draw_texts(run.data.splits["test"].texts, run.recipe.measure.texts)
    with Requester() as requester:
        bench = Bench(
            worker=in_processes(variants, run.recipe.serving),
            endpoint=lambda name: paused(candidates, name, requester),
            served=lambda name, endpoint: _score_served(run, name, endpoint, log),
            quiet=memory.paused,
            log=log,
        )
        run.measured = measure(variants, anchors, texts, run.recipe.measure, bench)


def _score_served(run: Run, name: str, endpoint: Endpoint, log: Log) -> None:
    """Score the whole test split through the server."""
    run.isolated_because = run.isolated_because or endpoint.isolated_because
    answers = endpoint.client.probabilities(run.data.splits["test"].texts)
    difference = float(np.abs(answers - run.scored[name].test).max())
    log(f"{name:<24} test split scored through the server, largest difference {difference:.1e}")
    run.served[name] = Served(answers)


def published_name(request: OptimizeRequest) -> str:
    """What the chosen variant is published as."""
    return request.name or slug(request.model) + ("-random" if request.random_init else "")


def _publish_baseline(run: Run, log: Log) -> None:
    """Publish the recipe's ONNX export of the baseline beside the chosen variant, for those who compare the two.

    Without such an export, the baseline of an earlier run is withdrawn: the chosen variant was not made from it. Each
    publish is whole by itself; a run that is killed between the two is completed by the next.
    """
    name = baseline_of(published_name(run.request))
    if export := run.recipe.export_of(BASELINE):
        scored = replace(run.scored[BASELINE], artifact=run.artifacts[export])
        found = _publish(scored, run.request.repository, name, run, link=False)
        log(f"{export} {'published as' if found.changed else 'is published already as'} {found.folder}")
    elif withdraw(run.request.repository, name):
        log(f"{name} withdrawn: it is of an earlier run, and recipe {run.recipe.name!r} does not export the baseline")


def _publish_chosen(run: Run, chosen: str, log: Log) -> None:
    """Publish a variant to the model repository, serve it from there, and check its answers on the whole test split.

    Raises :class:`StageError` if the published model answers anything else than what was measured.
    """
    name = published_name(run.request)
    run.published = _publish(run.scored[chosen], run.request.repository, name, run, link=False)
    state = "published as" if run.published.changed else "is published already as"
    log(f"{chosen} {state} {run.published.folder}")
    with (
        Server(run.request.repository, models=[name]) as server,
        Classifier(server.grpc_address, name, timeout=60) as client,
    ):
        answers = client.probabilities(run.data.splits["test"].texts)
        run.server_peak_rss_mb = sum(process.peak for process in server.memory().values())
    difference = float(np.abs(answers - run.scored[chosen].test).max())
    if difference > SCORE_TOLERANCE:
        raise StageError(
            f"{run.published.folder}: served scores differ from those measured by up to {difference:.1e}, expected at "
            f"most {SCORE_TOLERANCE:g}. Please report this, with {run.folder / 'report.json'}."
        )


def _publish(scored: Scored, root: Path, name: str, run: Run, *, link: bool) -> Version:
    serving = run.recipe.serving
    return publish(
        scored.artifact,
        root,
        name,
        thresholds=scored.thresholds,
        max_batch_size=serving.max_batch_size,
        micro_batch=serving.micro_batch,
        threads=serving.threads,
        link=link,
    )


def _write_recipe(run: Run) -> None:
    """The recipe as it was resolved, profile and defaults applied: ``--recipe`` with this file runs it again."""
    path = run.folder / "recipe.toml"
    write_text(path, tomli_w.dumps(run.recipe.model_dump(mode="json", exclude_none=True)))
