"""The quality of a variant on a split, as a report has it: of labels, of agreement with the baseline, or of numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bantam.report.provenance import Count, Record, Share

Correlation = Annotated[float, Field(ge=-1, le=1)]


class Slice(Record):
    """Quality on a part of the rows."""

    rows: Count
    kind: Literal["length", "pieces", "group"] | None = None
    """What its rows have in common: length, tokens a word, or a value of the slice column; absent in older reports."""
    metric_value: Correlation | None = None
    """The budget's metric."""
    macro_f1: Share | None = None
    accuracy: Share | None = None
    drop_points: float | None = None
    """Points of the budget's metric lost against the baseline on the same rows."""
    drop_ci95: tuple[float, float] | None = None

    @property
    def value(self) -> float | None:
        """The budget's metric: macro-F1 where no other is named."""
        return self.macro_f1 if self.metric_value is None else self.metric_value


class LabelQuality(Record):
    """Quality on one label."""

    label: str
    support: Count
    """Rows that have this label."""
    f1: Share | None = None
    """Absent for a label without rows."""


class Quality(Record):
    """Quality in process. Test is decided by thresholds tuned on dev; dev by those of its other half.

    Without labels, what is right is what the baseline decides.
    """

    split: str
    rows: int = Field(ge=1)
    macro_f1: Share | None = None
    """Mean over the labels that have a row."""
    macro_f1_ci95: tuple[Share, Share] | None = None
    """Bootstrap interval of ``macro_f1``, without labels: against the baseline's decisions."""
    micro_f1: Share | None = None
    accuracy: Share | None = None
    """Multi-label: share of rows with exactly the right set of labels."""
    top1: Share | None = None
    """Share of rows whose highest score belongs to one of their labels."""
    agreement: Share | None = None
    """Share of rows with the baseline's decision; of data without labels."""
    total_variation: Share | None = None
    """Distance of the probabilities from the baseline's, mean over rows; of data without labels."""
    spearman: Correlation | None = None
    pearson: Correlation | None = None
    mean_absolute_error: float | None = Field(None, ge=0)
    """In the units of the data."""
    metric_value: Correlation | None = None
    """The budget's metric."""
    drop_points: float | None = None
    """Points of the budget's metric lost against the baseline; negative is a gain. Absent for the baseline itself."""
    drop_ci95: tuple[float, float] | None = None
    """Paired bootstrap interval of ``drop_points``."""
    slices: dict[str, Slice] | None = None
    per_label: tuple[LabelQuality, ...] | None = None

    @property
    def value(self) -> float | None:
        """The budget's metric: macro-F1 where no other is named."""
        return self.macro_f1 if self.metric_value is None else self.metric_value

    @property
    def figure(self) -> float | None:
        """What stands for the quality in plots and tables: agreement, Spearman's correlation, or macro-F1."""
        return next((each for each in (self.agreement, self.spearman) if each is not None), self.macro_f1)
