"""What a published version was measured to do, which travels with it: enough to measure it again where it runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bantam.artifact import Artifact, Compute, Text
from bantam.errors import ArtifactError, RepositoryError
from bantam.machine import cpu_kind, describe_machine
from bantam.run import judge
from bantam.run.state import HALF_TOLERANCE, SCORE_TOLERANCE, Run
from bantam.run.worker import placed
from serving.version_folder import EVIDENCE, evidence_of

ROWS = 500
"""Of the test split: what a version carries with it of the user's texts."""


@dataclass(frozen=True)
class Evidence:
    """Texts of the test split with what the version answered, and the figures of the report."""

    texts: tuple[Text, ...]
    scores: tuple[tuple[float, ...], ...]
    """``[rows, labels]``, in process, where it was made."""
    actual: tuple[tuple[float, ...], ...]
    """``[rows, labels]``: what ``metric`` wants to be said, as 0 and 1, or the numbers of a regression."""
    metric: str
    max_drop_points: float
    """The run's budget, in points of ``metric``."""
    in_process_ms: float
    served_ms: float | None
    """Medians, one text at a time."""
    machine: str
    cpu: str = ""
    """What :func:`bantam.machine.cpu_kind` was there; empty from before it was recorded."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What computed the scores."""


def elsewhere(compute: Compute) -> float:
    """How far scores of what computes so may be apart on two kinds of CPU, or on a GPU and a CPU.

    - Integers on both sides of a product: kernels without VNNI add pairs of products in 16 bits, which saturate; then
      the result may be as far off as int8 itself is from fp32, which was 0.084 at most on MiniLM.
    - Floats of 16 bits: :data:`HALF_TOLERANCE`.
    - Else the products are of fp32 everywhere, and only the order of sums differs.
    """
    if compute.activations.kind == "int":
        return 0.1
    floats = [numbers for numbers in (compute.activations, compute.weights) if numbers.kind != "int"]
    return HALF_TOLERANCE if any(numbers.bits == 16 for numbers in floats) else SCORE_TOLERANCE


def evidence(run: Run, name: str) -> str:
    """The evidence of a measured variant that was scored on test, as JSON."""
    split, timing = run.data.splits["test"], run.measured[name]
    rows = np.sort(np.random.default_rng(0).permutation(len(split.texts))[:ROWS])
    in_process, served = timing.in_process, timing.served
    artifact = run.scored[name].artifact
    found = Evidence(
        texts=tuple(split.texts[row] for row in rows),
        scores=_rows(run.scored[name].on("test")[rows]),
        actual=_rows(judge.wanted(run, "test", run.metric)[rows]),
        metric=str(run.metric),
        max_drop_points=run.budget.points,
        in_process_ms=in_process.p50_ms.value if in_process else float("nan"),
        served_ms=served.p50_ms.value if served else None,
        machine=describe_machine().title,
        cpu=cpu_kind(artifact.manifest.layout),
        device=placed(artifact, run.request.device),
    )
    return json.dumps(asdict(found), ensure_ascii=False)


def read(folder: Path) -> Evidence:
    """The evidence in a version folder.

    Raises :class:`RepositoryError` if it has none that can be read, or not what the version was published with.
    """
    path = folder / EVIDENCE
    try:
        version = Artifact.described(folder)
        raw = json.loads(evidence_of(version) or path.read_bytes())
        raw.pop("elsewhere", None)  # of before: a bound that nothing seals is none
        texts = tuple(text if isinstance(text, str) else (text[0], text[1]) for text in raw.pop("texts"))
        found = Evidence(texts=texts, scores=_tuples(raw.pop("scores")), actual=_tuples(raw.pop("actual")), **raw)
        _check(found, len(version.manifest.signature.labels))
    except (ArtifactError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
        raise RepositoryError(
            f"{path} cannot be read ({type(exc).__name__}: {exc}). Expected what `bantam optimize` publishes with a "
            "version; publish the model again."
        ) from exc
    return found


def _check(found: Evidence, labels: int) -> None:
    rows = len(found.texts)
    if not rows:
        raise ValueError("got no texts, expected at least one")
    for what, each in (("scores", found.scores), ("actual", found.actual)):
        if len(each) != rows or any(len(row) != labels for row in each):
            raise ValueError(f"got {len(each)} rows of {what}, expected {rows} of {labels} numbers, one a text")


def _rows(array: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return _tuples(np.asarray(array, dtype=np.float64).tolist())


def _tuples(rows: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in rows)
