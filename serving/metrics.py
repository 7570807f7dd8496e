"""What Prometheus reads of a server: Triton's own metrics, and ours behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from serving.backend.counts import RUN_SIZES
from serving.counted import Counted
from serving.health import Probed, Verdict

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Family(NamedTuple):
    """A name, its type and what it means."""

    name: str
    kind: str
    meaning: str


READY = Family("bantam_ready", "gauge", "Whether all models answer.")
MODEL_READY = Family("bantam_model_ready", "gauge", "Whether the model answers.")
VERSION = Family("bantam_model_version", "gauge", "1 for the version that answered last.")
PROBES = Family(
    "bantam_probes_total",
    "counter",
    "The watch's own texts that were answered; Triton's counts have them, ours do not.",
)
PROBE_SECONDS = Family("bantam_probe_seconds", "gauge", "How long the last of the watch's own texts took.")
RESTARTS = Family("bantam_restarts_total", "counter", "How often Triton was started again.")
TEXTS = Family("bantam_texts_total", "counter", "Texts that were answered.")
TOKENS = Family("bantam_tokens_total", "counter", "Tokens that went through the model, without padding.")
CUT = Family("bantam_cut_texts_total", "counter", "Texts that had more tokens than the model takes.")
HITS = Family("bantam_cache_hits_total", "counter", "Texts that the cache answered.")
MISSES = Family("bantam_cache_misses_total", "counter", "Texts that the cache was asked for in vain.")
REFUSED = Family("bantam_refused_total", "counter", "Requests that were not computed, by why not.")
WAITING = Family("bantam_waiting_texts", "gauge", "Texts that wait in the queue before the model.")
REASONS = ("full", "foreseen", "late", "deadline", "cancelled")
RUNS = Family("bantam_micro_batch_texts", "histogram", "Texts that went through the model together.")


class Findings(NamedTuple):
    """What the watch knows."""

    ready: bool
    verdicts: Mapping[str, Verdict]
    """By model."""
    probed: Mapping[str, Probed]
    restarts: int


def page(triton: str, status: Findings, counted: Iterable[Counted]) -> str:
    """All metrics, as Prometheus reads them. ``triton``: its own, empty if it does not answer."""
    lines = [triton.rstrip("\n")] if triton else []
    lines += _family(READY, [({}, int(status.ready))])
    lines += _family(RESTARTS, [({}, status.restarts)])
    lines += _family(MODEL_READY, [({"model": name}, int(found.ready)) for name, found in status.verdicts.items()])
    probed = status.probed.items()
    lines += _family(VERSION, [({"model": name, "version": seen.version}, 1) for name, seen in probed if seen.version])
    lines += _family(PROBES, [({"model": name}, seen.count) for name, seen in probed])
    lines += _family(PROBE_SECONDS, [({"model": name}, seen.seconds) for name, seen in probed])
    # A version whose backend is older may not count all of them, or nothing: then it has the counts of its queue alone.
    every = [({"model": found.model, "version": found.version}, Counter(found.values)) for found in counted]
    rows = [(labels, values) for labels, values in every if "texts" in values]
    # What the cache answers does not go through the model.
    lines += _family(TEXTS, [(labels, values["texts"] + values["cache_hits"]) for labels, values in rows])
    for metric, name in ((TOKENS, "tokens"), (CUT, "cut_texts"), (HITS, "cache_hits"), (MISSES, "cache_misses")):
        lines += _family(metric, [(labels, values[name]) for labels, values in rows])
    # An isolated model has no queue of ours.
    queues = [(labels, values) for labels, values in every if "waiting_texts" in values]
    lines += _family(WAITING, [(labels, values["waiting_texts"]) for labels, values in queues])
    refused = [({**labels, "reason": why}, values[f"refused_{why}"]) for labels, values in queues for why in REASONS]
    lines += _family(REFUSED, refused)
    lines += _histogram(RUNS, rows)
    return "\n".join(lines) + "\n"


def _family(metric: Family, samples: Iterable[tuple[Mapping[str, str], float]]) -> list[str]:
    return [*_head(metric), *(_sample(metric.name, labels, value) for labels, value in samples)]


def _histogram(metric: Family, rows: Iterable[tuple[Mapping[str, str], Mapping[str, int]]]) -> list[str]:
    lines = _head(metric)
    for labels, values in rows:
        total = 0
        for size in RUN_SIZES:
            total += values[f"runs_of_{size}"]
            lines.append(_sample(f"{metric.name}_bucket", {**labels, "le": str(size)}, total))
        total += values["runs_of_more"]
        lines.append(_sample(f"{metric.name}_bucket", {**labels, "le": "+Inf"}, total))
        lines.append(_sample(f"{metric.name}_sum", labels, values["texts"]))
        lines.append(_sample(f"{metric.name}_count", labels, total))
    return lines


def _head(metric: Family) -> list[str]:
    return [f"# HELP {metric.name} {metric.meaning}", f"# TYPE {metric.name} {metric.kind}"]


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{text}"' for label, text in labels.items())  # names of models need no escapes
    return f"{name}{{{inside}}} {value}" if labels else f"{name} {value}"
