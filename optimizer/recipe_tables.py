"""The tables of a recipe beside its stages: how variants are measured and served, and stages made of several models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from optimizer.config import Config


class MeasureConfig(Config):
    """How variants are measured; the same for all of them."""

    texts: int = Field(200, ge=10)
    """Texts of the dev split in one round, drawn with a fixed seed."""
    dev_rows: int = Field(20_000, ge=10)
    """Most rows of dev that variants are scored on; of more, a random part with a fixed seed."""
    test_rows: int = Field(20_000, ge=10)
    """The same of test."""
    rounds: int = Field(5, ge=1)
    """Rounds, interleaved over the variants: A B C A B C ..."""
    pass_seconds: float = Field(20.0, gt=0)
    """About the most that one round of the baseline takes: if it is slow, fewer texts are timed, in all variants."""
    rate_seconds: float = Field(5.0, gt=0)
    """Length of the fixed-rate load test of each variant."""
    slo_ms: float = Field(50.0, gt=0)
    """The 99th percentile that ``max_rps_within_slo`` keeps."""
    memory_mb: float | None = Field(None, gt=0)
    """Most memory (10^6 bytes) for the variants that are measured together; a share of what is there if absent."""


class ServingConfig(Config):
    """How the chosen variant is served."""

    max_batch_size: int = Field(64, ge=1)
    """Most texts in one request, and most that Triton merges into one batch."""
    micro_batch: int = Field(8, ge=1)
    """Most texts in one run of the model; texts are sorted by length first, padded to the longest of these."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; all cores if absent."""


class SearchConfig(Config):
    """How the best of many variants is found; without this table, all of them are measured alike."""

    glance_rows: int = Field(200, ge=50)
    """Rows of dev, drawn with a fixed seed, on which a hopeless variant is told from the others."""
    rungs: tuple[tuple[Annotated[int, Field(ge=10)], Annotated[int, Field(ge=2)]], ...] = ((40, 2), (100, 3))
    """Texts and rounds of each step in which the better half of the variants is kept, timed in process."""
    finalists: int = Field(4, ge=1)
    """So many variants, or more if they cannot be told apart, are served and measured as the table measure says."""


class MatrixConfig(Config):
    """Stages that are made of each of several models."""

    models: tuple[str, ...] = Field(min_length=1)
    """Names of stages."""
    methods: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Tables of stages, whose ``name`` and ``parent`` come after the model's name and a dash."""

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Their tables: all methods of the first model, then those of the next."""
        return [
            {
                **method,
                "name": f"{model}-{method.get('name', '')}",
                "parent": "-".join(filter(None, (model, method.get("parent")))),
            }
            for model in self.models
            for method in self.methods
        ]
