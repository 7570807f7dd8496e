"""``report.json``, schema 1: what was measured in one run. docs/report-schema.md explains each field.

What was not measured is None here and absent in the file, never zero. MB is 10^6 bytes; latencies are milliseconds;
``macro_f1``, ``micro_f1``, ``accuracy``, ``top1`` and ``agreement`` are shares from 0 to 1; a point is 0.01 of such a
share, or of a correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bantam.report.provenance import (
    Count,
    DataSource,
    LicenceRecord,
    Machine,
    ModelSource,
    NoiseRecord,
    Positive,
    Record,
    SearchRecord,
    Share,
    StageStep,
    TextRecord,
    Thresholds,
)
from bantam.report.quality import Correlation, Quality

SCHEMA = 1
BASELINE = "baseline"
"""Name of the variant that all others are compared with."""


class Latency(Record):
    """Batch 1, real texts, tokenization included."""

    p50_ms: Positive
    p95_ms: Positive
    p99_ms: Positive
    p50_ci95: tuple[Positive, Positive] | None = None
    """95% interval of the median, in milliseconds: other rounds and other texts might have given any of these."""
    percentiles_ms: Annotated[tuple[Positive, ...], Field(min_length=101, max_length=101)] | None = None
    """Percentiles 0, 1, ... 100: the distribution in 101 figures."""
    samples: int | None = Field(None, ge=1)
    """How many latencies the percentiles come from."""

    @field_validator("percentiles_ms")
    @classmethod
    def _rising(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if values is not None and list(values) != sorted(values):
            raise ValueError("percentiles must not fall")
        return values


class InProcess(Latency):
    """Measured inside one process, without a server."""

    texts_per_s: Positive | None = None
    batch_texts_per_s: Positive | None = None
    """Of the same texts in one list; absent where no price was given."""


class Served(Latency):
    """Measured by a client of the running server."""

    protocol: Literal["grpc", "http"]
    max_rps_within_slo: Positive | None = None
    """Highest request rate tried whose 99th percentile stayed within ``slo_ms``."""
    slo_ms: Positive | None = None
    errors: Count | None = None
    """Requests without an answer, of all that were sent to this variant."""
    accuracy: Share | None = None
    """From the running server's answers, as is ``macro_f1``."""
    macro_f1: Share | None = None
    agreement: Share | None = None
    """Likewise, of data without labels."""
    spearman: Correlation | None = None
    """Likewise, of a regression."""
    max_score_difference: float | None = Field(None, ge=0)
    """Largest difference between a served and an in-process score of the same text."""
    peak_rss_mb: Positive | None = None
    """Peak resident memory of the process that holds the model."""
    server_peak_rss_mb: Positive | None = None
    """Peak resident memory of all the server's processes together."""


class Variant(Record):
    """One way to run the classifier: a row in the table."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    stages: tuple[StageStep, ...] = ()
    format: Literal["pytorch", "onnx", "openvino"]
    precision: str
    device: Literal["cpu", "gpu"] | None = None
    """Where it was measured; absent in reports of the CPU alone."""
    size_mb: Positive | None = None
    """What production must ship: weights, graph, tokenizer."""
    parameters: int | None = Field(None, ge=1)
    peak_rss_mb: Positive | None = None
    """Peak resident memory of a process that loads this variant alone and answers the texts."""
    train_s: float | None = Field(None, ge=0)
    quality: Quality | None = None
    """On test for the baseline and the chosen variant, on dev for all others."""
    quality_dev: Quality | None = None
    """Of the baseline and the chosen variant on dev, where all variants compare: what the choice was made by."""
    in_process: InProcess | None = None
    served: Served | None = None
    cost_per_million: Positive | None = None
    """Of texts in one list, at the price of its device; absent without one."""

    @property
    def on_dev(self) -> Quality | None:
        """Quality on the split that all variants of the report have."""
        return self.quality_dev or self.quality


class Dropped(Record):
    """A variant that does not pay, and why."""

    name: str
    reason: str
    step: str | None = None
    """At which step of a search; absent of what was measured in full."""


class Failed(Record):
    """A variant that could not be made, and why."""

    name: str
    reason: str


class Budget(Record):
    """What the chosen variant may lose."""

    max_drop_points: Positive
    metric: str | None = None
    """What it is in points of; macro-f1 if absent."""
    met: bool | None = None
    """Absent if it could not be judged, as with random weights."""
    nearest: str | None = None
    """The compressed variant that came nearest, if none kept the budget."""
    rows_needed: int | None = Field(None, ge=1)
    """Rows of dev that would prove a drop like that one within the budget; absent if no number would."""
    slice_column: str | None = None
    """The column whose values have slices of their own."""
    max_slice_drop_points: Positive | None = None
    """What may be lost on any one label, text length or value of that column; absent if there is no such limit."""
    max_p99_ms: Positive | None = None
    """Most that the served p99 may be, the upper end of its interval; likewise."""
    max_size_mb: Positive | None = None
    """Most that production may have to ship; likewise."""
    objective: Literal["latency", "throughput", "size"] | None = None
    """What the chosen variant is the best at; latency if absent."""
    unmet: str | None = None
    """What the nearest variant, which ``chosen`` names, would need; absent if a variant holds every budget."""

    @property
    def is_macro_f1(self) -> bool:
        """Whether drops are in points of macro-F1."""
        return self.metric in (None, "macro-f1")


class Optimize(Record):
    """What the run itself cost."""

    peak_rss_mb: Positive | None = None
    seconds: float | None = Field(None, ge=0)


class Published(Record):
    """What was written to the model repository."""

    name: str
    version: int = Field(ge=1)
    repository: str | None = None
    """Its folder, as the run was told."""


class Conditions(Record):
    """How latency was measured; the same for all variants. Batch 1 always."""

    texts: int | None = Field(None, ge=1)
    rounds: int | None = Field(None, ge=1)
    threads: int | None = Field(None, ge=1)
    tokens_p50: Positive | None = None
    """Median length of the texts in tokens."""
    noise: NoiseRecord | None = None
    """What else the machine did meanwhile."""


class Report(Record):
    """One run, measured."""

    schema_version: Literal[1] = Field(1, alias="schema")
    model: str
    data: str
    recipe: str
    profile: Literal["quick", "full"]
    machine: Machine
    versions: dict[str, str]
    variants: tuple[Variant, ...] = Field(min_length=1)
    chosen: str
    speedup: Positive | None = None
    """The baseline's in-process p50 divided by the chosen variant's."""
    size_ratio: Positive | None = None
    """The baseline's size divided by the chosen variant's."""
    budget: Budget
    search: SearchRecord | None = None
    """Absent where all variants were measured alike."""
    chosen_reason: str | None = None
    """Why it was chosen: the rest of a sentence, such as 'the fastest variant within the budget'."""
    random_weights: bool | None = None
    """True if the weights are random: sizes and times mean something, predictions do not."""
    dropped: tuple[Dropped, ...] = ()
    failed: tuple[Failed, ...] = ()
    """Variants that could not be made; they are not among ``variants``."""
    notes: tuple[str, ...] = ()
    """Lines for the reader."""
    created: str | None = None
    """ISO 8601, UTC."""
    command: str | None = None
    """What to type to get this report again."""
    published: Published | None = None
    conditions: Conditions | None = None
    optimize: Optimize | None = None
    data_source: DataSource | None = None
    model_source: ModelSource | None = None
    licences: tuple[LicenceRecord, ...] = ()
    """Of all models that the chosen variant descends from, teachers included."""
    texts: TextRecord | None = None
    thresholds: Thresholds | None = None
    prices: dict[Literal["cpu", "gpu"], Positive] | None = None
    """An hour of each, as the user gave them, in whatever currency."""
    serving_versions: dict[str, str] | None = None
    """Libraries of the serving environment, where those of ``versions`` do not run."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Report:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"two variants have the same name: {', '.join(names)}")
        for name in (BASELINE, self.chosen):
            if name not in names:
                raise ValueError(f"no variant is named {name!r}; there are {', '.join(names)}")
        return self

    @property
    def judged_by(self) -> Literal["labels", "baseline", "numbers"]:
        """What the variants' quality is of: labels, the baseline's decisions where there are none, or numbers."""
        if self.data_source and self.data_source.task == "regression":
            return "numbers"
        return "baseline" if self.unlabelled else "labels"

    @property
    def unlabelled(self) -> bool:
        """Whether nobody knows what is right, so that all quality is against the baseline."""
        return self.data_source is not None and self.data_source.labelled is False

    def variant(self, name: str) -> Variant:
        """The variant of this name; KeyError if there is none."""
        return {variant.name: variant for variant in self.variants}[name]

    @property
    def ordered(self) -> tuple[Variant, ...]:
        """The variants, the baseline first."""
        return tuple(sorted(self.variants, key=lambda variant: variant.name != BASELINE))


def gain(baseline: float | None, variant: float | None) -> float | None:
    """How many times smaller ``variant`` is than ``baseline``, in time or in size; None if either was not measured."""
    return None if baseline is None or variant is None else baseline / variant


def speedup(baseline: Variant, variant: Variant) -> float | None:
    """The baseline's in-process p50 divided by the variant's; None if either was not measured."""
    if baseline.in_process is None or variant.in_process is None:
        return None
    return gain(baseline.in_process.p50_ms, variant.in_process.p50_ms)


def percentile_fields(latencies_ms: Sequence[float]) -> dict[str, Any]:
    """The fields of :class:`Latency` from all the latencies of a variant, to 0.1 microseconds.

    Percentiles are interpolated linearly (NumPy's default). Raises ValueError if there are none.
    """
    import numpy as np

    if not len(latencies_ms):
        raise ValueError("no latencies: expected at least one")
    p = np.percentile(np.asarray(latencies_ms, dtype=np.float64), np.arange(101)).round(4).tolist()
    return {"p50_ms": p[50], "p95_ms": p[95], "p99_ms": p[99], "percentiles_ms": tuple(p), "samples": len(latencies_ms)}
