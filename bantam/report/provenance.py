"""What figures were measured on, and what they were made of: machine, data, weights, stages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bantam.licence import Licence

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


class DataColumns(Record):
    """Which columns of a table mean what, as the user named them: the fields of ``optimizer.data.Columns``."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    labels: tuple[str, ...] = ()
    separator: str | None = None
    group: str | None = None
    task: Literal["single_label", "multi_label", "regression"] | None = None


class DataSource(Record):
    """Where the texts come from."""

    source: str | None = None
    licence: str | None = None
    digest: str | None = None
    hub_id: str | None = None
    """The data set on the Hugging Face hub; absent for a user's own file."""
    task: Literal["multi_label", "single_label", "regression"] | None = None
    labelled: bool | None = None
    """False: nobody knows what is right, and all quality is against the baseline. Absent: labelled."""
    pair: bool | None = None
    """Whether each text is a pair."""
    language: str | None = None
    """ISO 639-1 code."""
    columns: DataColumns | None = None
    """What the user said of the columns; absent if nothing."""
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
    quantization: str | None = None
    """In what the weights were stored once, as llama.cpp calls it (``Q4_K_M``); absent if they never were in less."""
    teachers_quantization: str | None = None
    """The same of the other checkpoints that the recipe names, together."""


class LicenceRecord(Record):
    """The terms of one model; the fields of :class:`bantam.licence.Licence`."""

    name: str
    model: str
    title: str | None = None
    url: str | None = None
    outputs: bool | None = None
    """True if it counts for what is distilled from the model's outputs."""

    @property
    def line(self) -> str:
        """One line for a reader."""
        return Licence(**self.model_dump(exclude_none=True)).line


class TextRecord(Record):
    """How the baseline's tokenizer cuts the texts."""

    max_length: int | None = Field(None, ge=1)
    """Tokens that the model reads; what is longer is cut."""
    cut: dict[str, Share] | None = None
    """Share of the texts that are cut, by split."""
    tokens_per_word: Positive | None = None
    """Tokens that a word is split into, as the mean over the texts of dev."""


class Thresholds(Record):
    """What decides a multi-label task: a label is given where its score is at least its threshold."""

    source: Literal["dev", "given", "default"]
    """Tuned on dev, given by the user, or one for all where there are no labels to tune with."""
    values: dict[str, Share]
    """Label to threshold, of the chosen variant."""


class RungRecord(Record):
    """A step of a search: variants that were timed in process beside the baseline, of which the better half went on."""

    texts: int = Field(ge=1)
    rounds: int = Field(ge=1)
    variants: tuple[str, ...]


class SearchRecord(Record):
    """How the chosen variant was found among many, of which not all were measured in full."""

    variants: int = Field(ge=1)
    """How many could have been chosen."""
    confidence: Share
    """Of each interval that the choice was made by: then all of them hold at once with 95%."""
    rungs: tuple[RungRecord, ...] = ()
    again: str
    """What to type to make the chosen variant again, alone."""


class NoiseRecord(Record):
    """A fixed piece of work, done again and again between the timed passes: what it took says how quiet it was."""

    kernel_ms: Positive
    """The median."""
    spread: float = Field(ge=1)
    """The 90th percentile divided by the median."""
    waited: Share
    """Share of the time in which the work was not computing, but waiting for a core."""
    rounds: tuple[Positive, ...] = ()
    """Median of each round divided by that of all."""
    limits: dict[str, Positive] | None = None
    """Beyond which of ``spread`` and ``waited`` a machine counts as busy."""
    doubtful: tuple[str, ...] = ()
    """Variants that were timed while it was busy: their ratios cannot be trusted."""
