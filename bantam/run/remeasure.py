"""A published version, scored and timed again on the machine where it runs; needs the serving environment alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Artifact
from bantam.client.classifier import Classifier
from bantam.errors import RepositoryError
from bantam.machine import describe_machine
from bantam.run.endpoint import Endpoint, paused
from bantam.run.evidence import Evidence, read
from bantam.run.timing import Compared, Estimate, Latencies
from bantam.run.worker import Requester, Worker
from optimizer.evaluate import predict
from optimizer.metric import parse
from serving.backend.cores import TextThreads
from serving.repository import Version, models, published
from serving.triton_config import CONFIG, parse_pbtxt

TEXTS, ROUNDS = 200, 3
"""Timed: so many texts in so many rounds, after one that warms up."""


@dataclass(frozen=True)
class Remeasured:
    """A version on this machine, beside what it was where it was made."""

    name: str
    version: int
    machine: str
    made_on: str
    rows: int
    max_score_difference: float
    """Between the served scores here and those it was published with."""
    decisions_changed: int | None
    """Rows that are decided otherwise here; None for numbers, which are no decisions."""
    metric: str
    value: float
    """Of the served answers here, as the budget's metric."""
    published_value: float
    in_process_ms: Estimate
    published_in_process_ms: float
    served_ms: Estimate
    published_served_ms: float | None
    server_peak_rss_mb: float
    max_drop_points: float

    @property
    def drop_points(self) -> float:
        """What it loses here against where it was made; negative is a gain."""
        return 100 * (self.published_value - self.value)

    @property
    def kept(self) -> bool:
        """Whether that is within the budget with which it was published."""
        return self.drop_points <= self.max_drop_points


def remeasure(repository: Path, name: str) -> Remeasured:
    """Serve the published ``name``, ask it the texts that it was published with, and time it in process and served.

    Raises :class:`RepositoryError` if it is not published or has no evidence, :class:`ServerError` if it cannot be
    served here.
    """
    version = published(repository, name)
    if version is None:
        known = ", ".join(models(repository)) or "nothing"
        raise RepositoryError(f"{repository} has no published model {name!r}; expected one of: {known}.")
    evidence, artifact = read(version.folder), Artifact.load(version.folder, verify=True)
    with (
        Requester() as requester,
        paused(repository, name, requester) as endpoint,
        Worker(artifact, **_threads(version.folder), micro_batch=8) as worker,
    ):
        with endpoint.resumed():
            answers = endpoint.client.probabilities(evidence.texts)
            thresholds = _thresholds(endpoint.client)
        in_process, served = _timed(worker, endpoint, evidence)
        memory = endpoint.peak_rss_mb()
    return _compared(version, evidence, answers, thresholds, in_process, served, memory)


def _threads(folder: Path) -> dict[str, Any]:
    """What a version was published to run with, as a :class:`Worker` takes it."""
    parameters = parse_pbtxt((folder / CONFIG).read_text(encoding="utf-8")).parameters
    given = {key: json.loads(parameters[key].string_value) for key in ("threads", "text_threads") if key in parameters}
    measured = given.get("text_threads")
    return {"threads": given.get("threads"), "text_threads": measured and TextThreads(**measured)}


def _thresholds(client: Classifier) -> tuple[float, ...] | None:
    found = client.describe().thresholds
    return None if found is None else tuple(found.tolist())


def _timed(worker: Worker, endpoint: Endpoint, evidence: Evidence) -> tuple[Estimate, Estimate]:
    """Medians of one text at a time, in milliseconds, in turns so that a busy machine hits both alike."""
    texts = evidence.texts[:TEXTS]
    subjects: tuple[Worker | Endpoint, ...] = (worker, endpoint)
    rounds = [[subject.timed(texts).latencies_ms for subject in subjects] for _ in range(ROUNDS + 1)]
    in_process, served = (np.stack(passes) for passes in zip(*rounds[1:], strict=True))
    return _median(in_process), _median(served)


def _median(latencies_ms: Latencies) -> Estimate:
    return Compared(latencies_ms, latencies_ms, 0, float(np.nanmedian(latencies_ms))).p50_ms


def _compared(
    version: Version,
    evidence: Evidence,
    answers: NDArray[np.float32],
    thresholds: tuple[float, ...] | None,
    in_process: Estimate,
    served: Estimate,
    memory: float,
) -> Remeasured:
    metric, signature = parse(evidence.metric), Artifact.load(version.folder).manifest.signature
    numbers = signature.task == "regression"
    expected, actual = np.array(evidence.scores, np.float32), np.array(evidence.actual)
    actual = actual if numbers else actual > 0
    decided = [scores if numbers else predict(scores, thresholds) for scores in (answers, expected)]
    whole = np.ones((1, len(actual)), dtype=np.float32)
    here, there = (
        float(metric.on(scores, found, actual, signature.labels)(whole)[0])
        for scores, found in zip((answers, expected), decided, strict=True)
    )
    return Remeasured(
        name=version.name,
        version=version.number,
        machine=describe_machine().title,
        made_on=evidence.machine,
        rows=len(actual),
        max_score_difference=float(np.abs(answers - expected).max()),
        decisions_changed=None if numbers else int((decided[0] != decided[1]).any(axis=1).sum()),
        metric=evidence.metric,
        value=here,
        published_value=there,
        in_process_ms=in_process,
        published_in_process_ms=evidence.in_process_ms,
        served_ms=served,
        published_served_ms=evidence.served_ms,
        server_peak_rss_mb=memory,
        max_drop_points=evidence.max_drop_points,
    )
