"""Everything that a run knows from the start, and what it finds out on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Artifact
from bantam.report.schema import BASELINE
from bantam.run.choose import Budget
from bantam.run.request import OptimizeRequest
from bantam.run.score import Scored
from bantam.run.timing import Timing
from bantam.run.worker import placed
from optimizer.catalog import Checkpoint
from optimizer.data import Dataset
from optimizer.evaluate import Drop, apart
from optimizer.metric import Metric, default
from optimizer.recipe import Recipe
from optimizer.slices import Tokens
from serving.repository import Version
from serving.version_folder import Identity

if TYPE_CHECKING:  # which imports this
    from bantam.run.text_threads import Measured

Log = Callable[[str], None]
SCORE_TOLERANCE = 1e-3
"""Most that a served and an in-process score of the same text may be :func:`apart`, or a variant is not published."""
HALF_TOLERANCE = 1e-2
"""The same where the products of 16-bit floats are other kernels' than before. A CPU without bfloat16 computes in fp32,
which moved scores by some 1e-3: allowed is ten times that. A GPU's libraries choose kernels by shape, and so by what
else is in a batch: 1e-3 is what others saw in fp16 (FasterTransformer, issue 277); not measured by us."""


class Left(NamedTuple):
    """Why a search went no further with a variant."""

    step: str
    reason: str


class Rung(NamedTuple):
    """What a step of a search has timed in process."""

    timings: Mapping[str, Timing]
    lists: bool
    """Whether a time is a text's share of that of a list."""


@dataclass
class Run:
    """A request, what it was resolved to, and all that was made and measured."""

    request: OptimizeRequest
    recipe: Recipe
    data: Dataset
    checkpoint: Checkpoint
    checkpoints: Mapping[str | None, Checkpoint]
    """The same under None, and the others that stages of the recipe name."""
    folder: Path
    name: str
    """What the chosen variant is published as."""
    identity: Identity
    """What that name stands for."""
    thresholds: tuple[float, ...] | None = None
    """Per label, as given; None where they are tuned on dev, and for tasks that have none."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """Of all stages that could be made, measured or not, by name."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why the others could not, by name."""
    scored: dict[str, Scored] = field(default_factory=dict)
    answers: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict)
    """What servers answered, probabilities ``[rows, labels]``, by variant and split."""
    decisions: dict[tuple[str, str], NDArray[Any]] = field(default_factory=dict)
    """What variants decide, by variant and split; see :func:`bantam.run.judge.decided`."""
    drops: dict[tuple[str, str, str, int], Drop] = field(default_factory=dict)
    """Against the baseline, by variant, split, metric and how many variants the interval holds for at once."""
    part_drops: dict[tuple[str, str, str], Drop] = field(default_factory=dict)
    """The same by variant, split and part of it."""
    slice_drops: dict[tuple[str, str], dict[str, Drop]] = field(default_factory=dict)
    """Those beyond the limit of slices, by variant and split."""
    tokens: dict[str, Tokens] = field(default_factory=dict)
    """How the baseline's tokenizer cuts the texts, by split."""
    measured: dict[str, Timing] = field(default_factory=dict)
    alone: dict[str, Measured | None] = field(default_factory=dict)
    """How texts run alone on this machine, by the name of what can be served, as far as that is known."""
    left: dict[str, Left] = field(default_factory=dict)
    """The variants that a search did not measure in full, by name."""
    rungs: list[Rung] = field(default_factory=list)
    """What a search has timed before that."""
    published: Version | None = None
    server_peak_rss_mb: float | None = None
    """Peak of all processes of the server that serves the published model alone."""
    isolated_because: str = ""
    """Why the measured servers ran each model in a process of its own; empty if they did not."""
    peak_rss_mb: float = 0.0
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)
    """When the request came, before anything was downloaded for it, as :func:`time.monotonic` tells it."""

    @property
    def deadline(self) -> float | None:
        """When trainings must have ended, as :func:`time.monotonic` tells it; None: whenever."""
        return None if self.request.max_hours is None else self.started + 3600 * self.request.max_hours

    @property
    def safe(self) -> str | None:
        """The unquantized export, which is published if nothing compressed may be; None for random weights."""
        return None if self.checkpoint.random_weights else self.recipe.export_of(BASELINE)

    @property
    def metric(self) -> Metric:
        """What the budget is in points of."""
        return self.recipe.metric or default(self.data.task, labelled=self.data.labelled)

    @property
    def budget(self) -> Budget:
        """What the chosen variant may lose."""
        return Budget(
            self.recipe.points_of(self.metric, self.data.task),
            str(self.metric),
            len(self.data.splits["dev"].texts),
            self.recipe.max_slice_drop_points,
            self.request.max_p99_ms,
            self.request.max_size_mb,
            self.request.objective,
            1 if self.recipe.search is None else len(self.recipe.servable),
        )

    def difference(self, name: str, split: str) -> float:
        """How far a served and an in-process score of a variant are :func:`apart` at most; 0 if it was not served."""
        answers, scored = self.answers.get((name, split)), self.scored[name].on(split)
        return 0.0 if answers is None else float(apart(scored, answers).max())

    def tolerance(self, artifact: Artifact) -> float:
        """Most that served scores of a variant may be apart from those in process, where this run runs it."""
        half = placed(artifact, self.request.device) == "cuda" and artifact.manifest.compute.weights.bits == 16
        return HALF_TOLERANCE if half else SCORE_TOLERANCE

    def behind(self, name: str, where: str, key: str) -> list[Any]:
        """The values of a key of ``details`` or ``metrics`` in what a variant was made from, oldest first."""
        parts = [getattr(self.artifacts[step].manifest, where) for step in self.lineage(name)]
        return [part[key] for part in parts if key in part]

    def lineage(self, name: str) -> list[str]:
        """The stages that a variant went through, oldest first.

        Not from its manifest: what was taken from the store may name an equal ancestor that another run has made.
        """
        parents = {stage.name: stage.parent for stage in self.recipe.stages}
        steps = [name]
        while parent := parents[steps[0]]:
            steps.insert(0, parent)
        return steps
