"""What figures were measured on, and what they were made of: machine, data, weights, stages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Record(BaseModel):
    """Frozen; refuses unknown keys, infinities and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True)


class Machine(Record):
    """Where it was measured; see :func:`bantam.machine.describe_machine`."""

    cpu: str | None = None
    cores: int | None = Field(None, ge=1)
    """Cores that this process may use."""
    isa: tuple[str, ...] | None = None
    """Instruction sets that make classifiers faster, such as ``avx512_vnni``."""
    gpu: str | None = None
    memory_gib: Positive | None = None
    os: str | None = None

    @property
    def title(self) -> str:
        """Processor and cores, for a line of text."""
        return f"{self.cpu or 'unknown processor'}, {self.cores or 'unknown'} cores"


class StageStep(Record):
    """One step of a variant's lineage, by the run's name for it."""

    name: str
    stage: str
    key: str | None = None
    seconds: float | None = Field(None, ge=0)
    config: dict[str, Any] = {}


class DataSource(Record):
    """Where the texts come from."""

    source: str | None = None
    licence: str | None = None
    digest: str | None = None
    hub_id: str | None = None
    """The data set on the Hugging Face hub; absent for a user's own file."""
    task: Literal["multi_label", "single_label"] | None = None
    language: str | None = None
    """ISO 639-1 code."""
    about: str | None = None
    """What the texts are, and whom they leave out."""
    rows: dict[str, Count] | None = None
    """Rows of each split."""


class ModelSource(Record):
    """Where the weights come from."""

    source: str | None = None
    revision: str | None = None
    licence: str | None = None
    digest: str | None = None
    hub_id: str | None = None
    """The model on the Hugging Face hub whose weights these were; absent for a folder and for random weights."""
