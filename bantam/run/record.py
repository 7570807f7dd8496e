"""What a run found out, as the records of report.json; and the choice that follows from them."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from bantam import checkout
from bantam.artifact import LAYOUTS
from bantam.machine import describe_machine, versions
from bantam.report.ranking import waiting_ms
from bantam.report.schema import (
    BASELINE,
    Budget,
    Conditions,
    DataSource,
    Dropped,
    InProcess,
    ModelSource,
    Optimize,
    Quality,
    Report,
    StageStep,
    Variant,
    gain,
    percentile_fields,
    speedup,
)
from bantam.report.schema import Published as PublishedRecord
from bantam.report.schema import Served as ServedRecord
from bantam.run.choose import Candidate, Choice, choose
from bantam.run.timing import Compared, Latencies
from optimizer.evaluate import bootstrap_drop, one_hot, per_label, predict, quality, slice_quality
from serving.backend.cores import usable_cores

if TYPE_CHECKING:
    from bantam.run.optimize import Run


def variants(run: Run) -> list[Variant]:
    """A record for each measured variant, in the recipe's order."""
    return [_variant(run, name) for name in run.scored]


def choice(run: Run, records: list[Variant], score_tolerance: float) -> Choice:
    """The variant to publish. One whose served scores are not those measured in process is out, whatever its speed."""
    by_name = {record.name: record for record in records}
    unfaithful = {
        name: f"the server's scores differ from those in process by up to {difference:.1e}"
        for name, record in by_name.items()
        if record.served and (difference := record.served.max_score_difference or 0.0) > score_tolerance
    }
    candidates = [
        _candidate(run, record) for name, record in by_name.items() if name != BASELINE and name not in unfaithful
    ]
    chosen = choose(candidates, _candidate(run, by_name[BASELINE]), run.recipe.max_drop_points)
    return Choice(chosen.chosen, chosen.met, chosen.why, {**chosen.dropped, **unfaithful})


def report(run: Run, records: list[Variant], chosen: Choice) -> Report:
    """The whole report of a finished run."""
    by_name = {record.name: record for record in records}
    baseline, best = by_name[BASELINE], by_name[chosen.chosen]
    return Report(
        model=run.request.model,
        data=run.request.data,
        recipe=run.recipe.name,
        profile=run.request.profile,
        machine=describe_machine(),
        versions=versions(),
        serving_versions=_serving_versions(),
        variants=tuple(_with_server_memory(run, record, chosen.chosen) for record in records),
        chosen=chosen.chosen,
        chosen_reason=chosen.why,
        speedup=speedup(baseline, best),
        size_ratio=gain(baseline.size_mb, best.size_mb),
        budget=Budget(
            max_drop_points=run.recipe.max_drop_points, met=None if run.checkpoint.random_weights else chosen.met
        ),
        dropped=tuple(Dropped(name=name, reason=reason) for name, reason in chosen.dropped.items()),
        notes=(*run.data.notes, *sparsity_notes(run, records), *serving_notes(run)),
        random_weights=run.checkpoint.random_weights or None,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=run.request.command or None,
        published=PublishedRecord(name=run.published.name, version=run.published.number) if run.published else None,
        conditions=Conditions(
            texts=min(run.recipe.measure.texts, len(run.data.splits["test"].texts)),
            rounds=run.recipe.measure.rounds,
            threads=run.recipe.serving.threads or usable_cores(),
        ),
        optimize=Optimize(peak_rss_mb=round(run.peak_rss_mb, 1), seconds=round(run.seconds, 1)),
        data_source=DataSource(
            source=run.data.source,
            licence=run.data.licence,
            digest=run.data.digest,
            hub_id=run.data.hub_id,
            task=run.data.task,
            language=run.data.language,
            about=run.data.about,
            rows={name: len(split.texts) for name, split in run.data.splits.items()},
        ),
        model_source=ModelSource(
            source=run.checkpoint.source,
            revision=run.checkpoint.revision,
            licence=run.checkpoint.licence,
            digest=run.checkpoint.digest,
            hub_id=run.checkpoint.hub_id,
        ),
    )


def _serving_versions() -> dict[str, str] | None:
    root = checkout.root()
    serving = checkout.site_packages(root / checkout.SERVING) if root else None
    return versions(serving) if serving else None


def _variant(run: Run, name: str) -> Variant:
    artifact, measured = run.scored[name].artifact, run.measured[name]
    manifest = artifact.manifest
    return Variant(
        name=name,
        stages=steps(run, name),
        format=LAYOUTS[manifest.layout].format,
        precision=manifest.compute.precision,
        size_mb=round(artifact.size_bytes / 1e6, 2),
        parameters=behind(run, name, "details", "parameters")[-1],
        peak_rss_mb=round(measured.peak_rss_mb, 1),
        train_s=round(sum(behind(run, name, "metrics", "train_s")), 1),
        quality=None if manifest.random_weights else _quality(run, name),
        in_process=_in_process(measured.in_process.latencies_ms) if measured.in_process else None,
        served=_served(run, name, measured.served) if measured.served else None,
    )


def _in_process(latencies_ms: Latencies) -> InProcess:
    return InProcess(**percentile_fields(latencies_ms.tolist()), texts_per_s=round(1e3 / float(latencies_ms.mean()), 1))


def behind(run: Run, name: str, where: str, key: str) -> list[Any]:
    """The values of a key of ``details`` or ``metrics`` in the artifacts that a variant was made from, oldest first."""
    parts = [getattr(run.artifacts[step].manifest, where) for step in _lineage(run, name)]
    return [part[key] for part in parts if key in part]


def _lineage(run: Run, name: str) -> list[str]:
    """What this run calls the stages that a variant went through, oldest first."""
    own = run.artifacts[name].manifest
    names = {artifact.manifest.key: other for other, artifact in run.artifacts.items()} | {own.key: name}
    return [names[step["key"]] for step in own.lineage]


def steps(run: Run, name: str) -> tuple[StageStep, ...]:
    """A variant's lineage as the report shows it: by the names of this run."""
    configs = {stage.name: stage for stage in run.recipe.stages}
    return tuple(
        StageStep(
            name=step,
            stage=configs[step].stage,
            key=run.artifacts[step].manifest.key,
            config=configs[step].model_dump(mode="json"),
        )
        for step in _lineage(run, name)
    )


def _quality(run: Run, name: str) -> Quality:
    split, scored, baseline = run.data.splits["test"], run.scored[name], run.scored[BASELINE]
    actual = one_hot(split.targets, len(run.data.labels))
    before, after = predict(baseline.test, baseline.thresholds), predict(scored.test, scored.thresholds)
    fields: dict[str, Any] = {}
    slices = slice_quality(split.texts, before, after, actual)
    if name != BASELINE:
        drop, low, high = bootstrap_drop(before, after, actual)
        fields = {"drop_points": drop, "drop_ci95": (low, high)}
    else:
        for values in slices.values():
            del values["drop_points"]
    return Quality(
        split="test",
        rows=len(split.texts),
        **quality(scored.test, split.targets, scored.thresholds),
        **fields,
        slices=slices,
        per_label=per_label(scored.test, split.targets, scored.thresholds, run.data.labels),
    )


def _served(run: Run, name: str, compared: Compared) -> ServedRecord:
    split, scored, served, timing = run.data.splits["test"], run.scored[name], run.served[name], run.measured[name]
    answered = quality(served.test, split.targets, scored.thresholds)
    known = not run.checkpoint.random_weights
    return ServedRecord(
        protocol="grpc",
        **percentile_fields(compared.latencies_ms.tolist()),
        max_rps_within_slo=round(timing.max_rate, 1) if timing.max_rate else None,
        slo_ms=run.recipe.measure.slo_ms,
        errors=timing.failed,
        accuracy=answered["accuracy"] if known else None,
        macro_f1=answered["macro_f1"] if known else None,
        max_score_difference=float(np.abs(served.test - scored.test).max()),
        peak_rss_mb=round(timing.server_peak_rss_mb, 1) if timing.server_peak_rss_mb else None,
    )


def sparsity_notes(run: Run, records: list[Variant]) -> list[str]:
    """What zeros in weights were worth: a variant with zeros next to the same one, in size and format, without."""
    notes = []
    zeros = {record.name: behind(run, record.name, "details", "sparsity")[-1:] for record in records}
    for sparse in (record for record in records if zeros[record.name]):
        share = 1 - zeros[sparse.name][0]["ratio"]
        kind = (sparse.format, sparse.precision, sparse.parameters)
        dense = [r for r in records if (r.format, r.precision, r.parameters) == kind and not zeros[r.name]]
        own = _p50(sparse)
        for other in dense[:1]:
            gain = "faster than" if own < SPARSE_GAIN * _p50(other) else "NOT faster than"
            notes.append(
                f"{sparse.name}: {share:.0%} of its blocks' weights are zero; it is {gain} {other.name}, the same "
                f"without zeros ({own:.2f} against {_p50(other):.2f} ms)."
            )
        if not dense:
            notes.append(f"{sparse.name}: {share:.0%} of its blocks' weights are zero; no dense twin was measured.")
    return notes


SPARSE_GAIN = 0.97
"""Two variants that do the same work differ by less than this from run to run."""


def _p50(record: Variant) -> float:
    """What a user will feel is the served time; the baseline has none, so it is compared in process."""
    p50 = waiting_ms(record)
    assert p50  # noqa: S101 every variant is timed in process
    return p50


def serving_notes(run: Run) -> list[str]:
    """What makes the served latencies of this machine longer than they need be."""
    if not run.isolated_because:
        return []
    return [
        f"Triton ran each model in a process of its own, because {run.isolated_because}. That costs a request some "
        "tenths of a millisecond."
    ]


def _with_server_memory(run: Run, record: Variant, chosen: str) -> Variant:
    """The server of the published model alone is measured after the choice."""
    if record.name != chosen or record.served is None or run.server_peak_rss_mb is None:
        return record
    served = record.served.model_copy(update={"server_peak_rss_mb": round(run.server_peak_rss_mb, 1)})
    return record.model_copy(update={"served": served})


def _candidate(run: Run, record: Variant) -> Candidate:
    # Neither the baseline nor a model with random weights has a drop.
    drop = (record.quality and record.quality.drop_points) or 0.0
    _, high = (record.quality and record.quality.drop_ci95) or (0.0, 0.0)
    parents = {stage.name: stage.parent for stage in run.recipe.stages}
    return Candidate(
        name=record.name,
        p50_ms=_p50(record),
        drop_points=drop,
        drop_high=high,
        source=parents.get(record.name),
        servable=record.served is not None,
    )
