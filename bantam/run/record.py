"""What a run found out, as the records of report.json."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import numpy as np

from bantam import checkout
from bantam.artifact import LAYOUTS, Artifact
from bantam.machine import describe_machine, versions
from bantam.report.cost import per_million
from bantam.report.provenance import NoiseRecord, StageStep, TextRecord, Thresholds
from bantam.report.schema import (
    BASELINE,
    Budget,
    Conditions,
    Failed,
    InProcess,
    Optimize,
    Report,
    Variant,
    gain,
    percentile_fields,
    speedup,
)
from bantam.report.schema import Published as PublishedRecord
from bantam.report.schema import Served as ServedRecord
from bantam.run import judge
from bantam.run.choose import Choice, contradicts
from bantam.run.noise import MOST_SPREAD, MOST_WAITED, warning
from bantam.run.quality import figures, notes, quality
from bantam.run.search_record import dropped, search_record, timing
from bantam.run.sources import data_source, licences, model_source
from bantam.run.sparsity import sparsity_notes
from bantam.run.state import Run
from bantam.run.timing import Compared, Timing
from bantam.run.worker import placed
from serving.backend.cores import usable_cores


def report(run: Run, choice: Choice) -> Report:
    """The whole report of a run: test for the baseline and the chosen variant, dev for all."""
    records = [_variant(run, name, choice.chosen) for name in run.scored]
    by_name = {record.name: record for record in records}
    baseline, best = by_name[BASELINE], by_name[choice.chosen]
    return Report(
        model=run.request.model,
        data=str(run.request.data),
        recipe=run.recipe.name,
        profile=run.request.profile,
        machine=describe_machine(),
        versions=versions(),
        serving_versions=_serving_versions(),
        variants=tuple(records),
        chosen=choice.chosen,
        chosen_reason=choice.why,
        speedup=speedup(baseline, best),
        size_ratio=gain(baseline.size_mb, best.size_mb),
        budget=_budget(run, choice),
        search=search_record(run),
        dropped=dropped(run, choice),
        failed=tuple(Failed(name=name, reason=why) for name, why in run.failed.items()),
        notes=(*run.data.notes, *notes(run), *sparsity_notes(run, records), *serving_notes(run), *noise_notes(run)),
        random_weights=run.checkpoint.random_weights or None,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=run.request.command or None,
        published=_published(run),
        conditions=_conditions(run),
        texts=_texts(run),
        thresholds=_thresholds(run, choice.chosen),
        optimize=Optimize(peak_rss_mb=round(run.peak_rss_mb, 1), seconds=round(run.seconds, 1)),
        prices=run.request.prices or None,
        data_source=data_source(run),
        model_source=model_source(run),
        licences=licences(run, choice.chosen),
    )


def _published(run: Run) -> PublishedRecord | None:
    if (made := run.published) is None:
        return None
    return PublishedRecord(name=made.name, version=made.number, repository=str(run.request.repository))


def _conditions(run: Run) -> Conditions:
    timed = run.measured[BASELINE].in_process
    return Conditions(
        texts=timed.texts if timed else 0,
        rounds=run.recipe.measure.rounds,
        threads=run.recipe.serving.threads or usable_cores(),
        noise=_noise(run),
        tokens_p50=float(np.median(run.tokens["dev"].counts)) or None if "dev" in run.tokens else None,
    )


def _serving_versions() -> dict[str, str] | None:
    root = checkout.root()
    serving = checkout.site_packages(root / checkout.SERVING) if root else None
    return versions(serving) if serving else None


def _noise(run: Run) -> NoiseRecord | None:
    heard = run.measured[BASELINE].noise
    if heard is None:
        return None
    return NoiseRecord(
        kernel_ms=round(heard.kernel_ms, 3),
        spread=round(heard.spread, 3),
        waited=round(heard.waited, 4),
        rounds=tuple(round(ratio, 3) for ratio in heard.by_round),
        limits={"spread": MOST_SPREAD, "waited": MOST_WAITED},
        doubtful=tuple(_doubtful(run)),
    )


def _doubtful(run: Run) -> list[str]:
    """The variants that were timed while the machine was busy."""
    return [name for name, timing in run.measured.items() if timing.noise and timing.noise.busy]


def noise_notes(run: Run) -> list[str]:
    """Which times cannot be trusted, if any."""
    names = _doubtful(run)
    heard = run.measured[names[0]].noise if names else None
    return [warning(heard, ["every variant"] if len(names) == len(run.measured) else names)] if heard else []


def _texts(run: Run) -> TextRecord | None:
    if not run.tokens:
        return None
    return TextRecord(
        max_length=next(iter(run.tokens.values())).max_length,
        cut={split: found.cut for split, found in run.tokens.items()},
        tokens_per_word=run.tokens["dev"].pieces if "dev" in run.tokens else None,
    )


def _thresholds(run: Run, chosen: str) -> Thresholds | None:
    values = run.scored[chosen].thresholds
    if values is None:
        return None
    source = "dev" if run.thresholds is None else "given" if run.request.thresholds is not None else "default"
    return Thresholds(source=source, values=dict(zip(run.data.labels, values, strict=True)))


def _budget(run: Run, choice: Choice) -> Budget:
    budget, nearest = run.budget, choice.nearest
    return Budget(
        max_drop_points=budget.points,
        metric=budget.metric,
        met=_met(run, choice),
        nearest=nearest.name if nearest else None,
        rows_needed=nearest.rows_needed if nearest else None,
        slice_column=run.request.slice_column,
        max_slice_drop_points=budget.slice_points,
        max_p99_ms=budget.p99_ms,
        max_size_mb=budget.size_mb,
        objective=budget.aim,
        unmet=choice.unmet,
    )


def _met(run: Run, choice: Choice) -> bool | None:
    """Whether every budget is kept; None if that could not be judged."""
    if choice.unmet:
        return False
    on_dev = judge.drop(run, choice.chosen, "dev", run.budget.tries)
    if on_dev is None:
        return None
    on_test = judge.drop(run, choice.chosen, "test")
    kept = run.budget.holds(on_dev) and not (on_test and contradicts(on_test, run.budget))
    of_dev, of_test = (judge.slice_drops(run, choice.chosen, split) for split in ("dev", "test"))
    return kept and not any(map(run.budget.broken, of_dev.values())) and not run.budget.contradicted_on(of_test)


def _variant(run: Run, name: str, chosen: str) -> Variant:
    artifact, measured = run.scored[name].artifact, timing(run, name)
    manifest = artifact.manifest
    on_test = name in (BASELINE, chosen) and run.scored[name].test is not None
    return Variant(
        name=name,
        stages=_steps(run, name),
        format=LAYOUTS[manifest.layout].format,
        precision=manifest.compute.precision,
        size_mb=round(artifact.size_bytes / 1e6, 2),
        parameters=run.behind(name, "details", "parameters")[-1],
        peak_rss_mb=round(measured.peak_rss_mb, 1) or None,
        train_s=round(sum(run.behind(name, "metrics", "train_s")), 1),
        quality=quality(run, name, "test" if on_test else "dev"),
        quality_dev=quality(run, name, "dev") if on_test else None,
        in_process=_in_process(measured) if measured.in_process else None,
        served=_served(run, name, measured, name == chosen),
        **_placed(run, artifact, measured),
    )


def _steps(run: Run, name: str) -> tuple[StageStep, ...]:
    """A variant's lineage by the names of this run."""
    configs = {stage.name: stage for stage in run.recipe.stages}
    return tuple(
        StageStep(
            name=step,
            stage=configs[step].stage,
            key=run.artifacts[step].manifest.key,
            config=configs[step].model_dump(mode="json"),
        )
        for step in run.lineage(name)
    )


def _placed(run: Run, artifact: Artifact, timing: Timing) -> dict[str, Any]:
    """Where it was measured, unless there was no choice, and what a million texts cost there, at a price."""
    device: Literal["cpu", "gpu"] = "gpu" if placed(artifact, run.request.device) == "cuda" else "cpu"
    rate, price = timing.batch_texts_per_s, run.request.prices.get(device)
    return {
        "device": device if run.request.target == "gpu" or run.request.prices else None,
        "cost_per_million": float(f"{per_million(rate, price):.4g}") if rate and price else None,
    }


def _in_process(timing: Timing) -> InProcess:
    timed, rate = timing.in_process, timing.batch_texts_per_s
    assert timed is not None  # noqa: S101 only what was timed is asked for
    return InProcess(
        **_latency(timed),
        texts_per_s=round(1e3 / float(timed.latencies_ms.mean()), 1),
        batch_texts_per_s=round(rate, 1) if rate else None,
    )


def _latency(timed: Compared) -> dict[str, Any]:
    """What times in process and served have in common."""
    _, low, high = timed.p50_ms
    return percentile_fields(timed.latencies_ms.tolist()) | {"p50_ci95": (round(low, 4), round(high, 4))}


def _served(run: Run, name: str, timing: Timing, chosen: bool) -> ServedRecord | None:
    """What the server answered on the split that the variant's quality is of, and how fast."""
    if timing.served is None or (name, "dev") not in run.answers:  # its server may have ended before it had answered
        return None
    split = "test" if (name, "test") in run.answers else "dev"
    answers = run.answers[name, split]
    answered = {} if run.checkpoint.random_weights else figures(run, name, split, answers)
    memory = run.server_peak_rss_mb if chosen else None
    difference = float(np.max([run.difference(name, each) for each in ("dev", split)]))
    return ServedRecord(
        protocol="grpc",
        **_latency(timing.served),
        max_rps_within_slo=round(timing.max_rate, 1) if timing.max_rate else None,
        slo_ms=run.recipe.measure.slo_ms,
        errors=timing.failed,
        accuracy=answered.get("accuracy"),
        macro_f1=answered.get("macro_f1"),
        agreement=answered.get("agreement"),
        spearman=answered.get("spearman"),
        max_score_difference=difference if np.isfinite(difference) else None,
        peak_rss_mb=round(timing.server_peak_rss_mb, 1) if timing.server_peak_rss_mb else None,
        server_peak_rss_mb=round(memory, 1) if memory else None,
    )


def serving_notes(run: Run) -> list[str]:
    """What makes the served latencies of this machine longer than they need be."""
    if not run.isolated_because:
        return []
    return [
        f"Triton ran each model in a process of its own, because {run.isolated_because}. That costs a request some "
        "tenths of a millisecond."
    ]
