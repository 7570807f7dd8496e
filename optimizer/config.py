"""Typed, frozen settings of every stage: what a ``[[stages]]`` table of a recipe may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from optimizer.stage_config import CheckpointConfig as CheckpointConfig
from optimizer.stage_config import Config as Config
from optimizer.stage_config import StageConfig as StageConfig
from optimizer.stage_config import TrainingConfig as TrainingConfig


class AdoptConfig(CheckpointConfig):
    """A checkpoint's trained classifier as it is: its head, labels and task; nothing is trained."""

    stage: Literal["adopt"] = "adopt"


class AdapterConfig(Config):
    """Low-rank matrices beside frozen linear layers, trained in their place and merged into them at the end."""

    method: Literal["lora", "qlora"] = "lora"
    """lora: beside the weights as they are (Hu et al. 2021); qlora: rounded to 4 bits, NF4 with double quantization
    (Dettmers et al. 2023)."""
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    """The matrices' product is multiplied by this, divided by ``rank``."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of what the matrices get."""
    target_modules: tuple[str, ...] = ()
    """Last names of linear layers, such as q_proj; all of them but the head's if empty."""
    keep: bool = False
    """Write matrices and head into the stage's folder ``adapter`` too, as peft saves them."""

    @model_validator(mode="after")
    def _is_of_the_weights_as_they_are(self) -> AdapterConfig:
        if self.keep and self.method == "qlora":
            raise ValueError(
                "keep = true is for lora: matrices that were trained beside weights in 4 bits belong to these, and "
                "beside those of the model they make another one"
            )
        return self


class FinetuneConfig(TrainingConfig):
    """Train a classification head and the encoder on the train split."""

    stage: Literal["finetune"] = "finetune"
    adapter: AdapterConfig | None = None
    """Train low-rank matrices and the head instead of all weights; what comes out is a model as any other."""
    optimizer: Literal["adamw", "galore"] = "adamw"
    """galore: AdamW whose state is of rank 128, in a part of each gradient's space (Zhao et al. 2024): less memory.
    Transformers gives it no weight decay."""
    gradient_checkpointing: bool = False
    """Compute activations again instead of keeping them: less memory, a third more time."""
    minutes: float | None = Field(None, gt=0)
    """At most as many rows as train in this time, by the first steps' own time."""

    @model_validator(mode="after")
    def _one_way_to_save_memory(self) -> FinetuneConfig:
        if self.adapter and self.optimizer == "galore":
            raise ValueError('optimizer = "galore" is for whole matrices, which an adapter does not train: take one')
        if self.adapter and not self.freeze_embeddings:
            raise ValueError(
                "freeze_embeddings = false trains the word embeddings, and an adapter freezes all but the head and its "
                "own matrices: leave one out"
            )
        return self


class LossWeights(Config):
    """How much each loss of a distillation counts; 0 leaves it out. See optimizer/distill/losses.py."""

    hard: float = Field(0.0, ge=0)
    """The data set's own labels; left out where there are none."""
    soft: float = Field(1.0, ge=0)
    """The teacher's probabilities at ``temperature``; of a regression its numbers."""
    hidden: float = Field(0.0, ge=0)
    """Hidden states after each mapped layer, through a learned projection if the widths differ (TinyBERT)."""
    cosine: float = Field(0.0, ge=0)
    """Direction of the same hidden states (DistilBERT); needs equal widths."""
    attention: float = Field(0.0, ge=0)
    """Attention scores of each mapped layer (TinyBERT)."""
    attention_transfer: float = Field(0.0, ge=0)
    """Attention distributions of the last mapped layer (MiniLM)."""
    value_relation: float = Field(0.0, ge=0)
    """Relations between the values of the last mapped layer (MiniLM)."""
    relations: float = Field(0.0, ge=0)
    """Query, key and value relations of the last mapped layer (MiniLMv2); head counts may differ."""

    @property
    def of_layers(self) -> tuple[str, ...]:
        """Names of the losses in use that compare tokens, not just logits: teacher and student share a tokenizer."""
        return tuple(name for name in type(self).model_fields if name not in ("hard", "soft") and getattr(self, name))

    @property
    def of_attention(self) -> bool:
        """Whether a loss in use looks at queries, keys or values."""
        return bool({*self.of_layers} - {"hidden", "cosine"})

    @model_validator(mode="after")
    def _some(self) -> LossWeights:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("all loss weights are 0: give at least one, such as soft = 1.0")
        return self


class Augmentation(Config):
    """More texts for a student: copies of the train split with tokens masked or replaced, labelled by the teacher."""

    copies: int = Field(1, ge=1)
    """Changed copies of each row."""
    mask: float = Field(0.1, ge=0, le=1)
    """Share of the tokens that become the mask token."""
    replace: float = Field(0.0, ge=0, le=1)
    """Share of the tokens that become another token of the data set, drawn by frequency."""


class DistillConfig(TrainingConfig):
    """Train a student to give what its teachers give. The parent is what the student is made from."""

    stage: Literal["distill"] = "distill"
    parent: str
    teachers: tuple[str, ...] = ()
    """Names of stages; several are averaged (probabilities). The parent if absent."""
    layers: int | tuple[int, ...] | None = None
    """Layers of the parent that the student keeps: indices from 0, or how many, chosen by ``choose``. All if absent."""
    choose: Literal["even", "first", "last", "importance"] = "even"
    """With ``layers`` as a number: evenly spaced from the first to the last, or the most influential (ShortGPT)."""
    heads: int | None = Field(None, ge=1)
    """Attention heads in each layer, the largest by magnitude; fewer than the parent has."""
    neurons: int | None = Field(None, ge=1)
    """Feed-forward neurons in each layer."""
    hidden: int | None = Field(None, ge=1)
    """Width of the residual stream; where the head size is fixed by it, heads times head size."""
    losses: LossWeights = LossWeights()
    temperature: float = Field(1.0, gt=0)
    layer_map: tuple[tuple[int, int], ...] | None = None
    """Pairs of a student's layer and the teacher's layer that it imitates, from 0; evenly spread if absent."""
    relation_heads: int = Field(12, ge=1)
    """For ``relations``: into how many heads queries, keys and values are cut."""
    unlabelled: str | None = None
    """A file of more texts, which the teacher labels: .txt (one a line), CSV, TSV, JSONL or Parquet."""
    augmentation: Augmentation | None = None
    sparsity: float | None = Field(None, gt=0, lt=1)
    """Grow the share of zero weights to this while training (cubic schedule); see also stage prune."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The parent, then the teachers."""
        return tuple(dict.fromkeys((self.parent, *self.teachers)))

    @property
    def files(self) -> tuple[str, ...]:
        """The texts without labels."""
        return (self.unlabelled,) if self.unlabelled else ()

    def identified(self, digests: Mapping[str, str]) -> dict[str, Any]:
        """As of any stage; the teachers in their order."""
        return super().identified(digests) | {"teachers": [digests[name] for name in self.teachers]}

    @model_validator(mode="after")
    def _student_from_one_place(self) -> DistillConfig:
        if self.model and (self.layers or self.heads or self.neurons or self.hidden):
            raise ValueError(
                f"the student is {self.model!r} as it is, and layers, heads, neurons and hidden cut one out of the "
                "parent: give either model or these"
            )
        return self


class PruneConfig(StageConfig):
    """Remove parts of a model for real, or set single weights to zero; each method has a class of its own."""

    stage: Literal["prune"] = "prune"
    parent: str
    method: str


class CalibratedPruneConfig(PruneConfig):
    """What methods share that look at training texts."""

    calibration_rows: int = Field(1024, ge=1)
    """Training texts that importance is computed from, drawn by ``seed``."""
    seed: int = 0


class WidthConfig(CalibratedPruneConfig):
    """Fewer attention heads and feed-forward neurons, and a smaller hidden size where heads are tied to it."""

    method: Literal["width"] = "width"
    ratio: float = Field(0.5, gt=0, lt=1)
    """What remains of the parent's FLOPs."""
    importance: Literal["magnitude", "taylor", "fisher"] = "fisher"
    """How heads, neurons and hidden dimensions are ranked."""
    tune: bool = True
    """Rescale what remains by least squares, layer by layer, where the hidden size stays."""
    keep_hidden: bool = False
    """Leave the hidden size, and with it the heads of architectures that tie the two, as they are."""
    tokens: int = Field(24, ge=1)
    """Text length in tokens for which FLOPs are counted."""


class LayersConfig(CalibratedPruneConfig):
    """Whole layers go."""

    method: Literal["layers"] = "layers"
    layers: int | tuple[int, ...]
    """Indices that stay, or how many, chosen by their influence."""


class VocabularyConfig(PruneConfig):
    """Tokens that no text of the data uses go."""

    method: Literal["vocabulary"] = "vocabulary"
    corpora: tuple[str, ...] = ()
    """Files with more texts whose tokens stay, beside train and dev."""
    tolerance: float | None = Field(None, gt=0, lt=1)
    """Keep so many unseen tokens that not significantly more than this share of dev texts would change a class if
    unseen, at most as many as there are seen ones; absent: none."""

    @property
    def files(self) -> tuple[str, ...]:
        """The corpora."""
        return self.corpora


class MagnitudeConfig(PruneConfig):
    """The smallest weights become zero."""

    method: Literal["magnitude"] = "magnitude"
    ratio: float = Field(0.5, gt=0, lt=1)
    """The share of weights that remains."""


class TwoOfFourConfig(PruneConfig):
    """The two smallest of each four weights along the inputs become zero."""

    method: Literal["2:4"] = "2:4"


class ExportConfig(StageConfig):
    """PyTorch to ONNX, or ONNX to OpenVINO IR: the same computation in another format, checked for parity."""

    stage: Literal["export"] = "export"
    format: Literal["onnx", "openvino"]
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 of OpenVINO alone, what the CPU computes in; fp16 of ONNX alone, for GPUs. Either is a variant of its own,
    about 1e-3 away from fp32."""
    fuse_attention: bool = True
    """ONNX only. False: attention in standard operators, all that TensorRT knows; slower elsewhere."""

    @model_validator(mode="after")
    def _precision_of_the_format(self) -> ExportConfig:
        if self.format == "onnx" and self.precision == "bf16":
            raise ValueError('asks for ONNX in bf16, whose kernels compute in fp32: take "openvino"')
        if self.format == "openvino" and self.precision == "fp16":
            raise ValueError('asks for OpenVINO in fp16, which CPUs compute in fp32: take "onnx", for GPUs, or bf16')
        if self.format == "openvino" and not self.fuse_attention:
            raise ValueError("asks for OpenVINO without fused attention, which is decided when its parent is exported")
        return self


class QuantizeConfig(StageConfig):
    """Weights, or weights and activations, in fewer bits; each method adds its own keys, in optimizer/quantize/."""

    stage: Literal["quantize"] = "quantize"
    method: str


class CalibratedQuantizeConfig(QuantizeConfig):
    """What methods share that look at training texts, to find scales for example."""

    calibration_rows: int = Field(300, ge=1)
    """How many training texts, at their real lengths."""
    seed: int = 0
    """Of the draw of these texts."""

    def check_unused(self, keys: tuple[str, ...], without: str) -> None:
        """Raise ``ValueError`` if one of these keys, which do nothing, is given: ``without`` what they would.

        A value that is the default is not given: a run writes its recipe down with all keys.
        """
        if given := [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]:
            raise ValueError(f"{', '.join(given)}: got without {without}, where it does nothing; leave it out")


PRUNING: dict[str, type[PruneConfig]] = {
    "width": WidthConfig,
    "layers": LayersConfig,
    "vocabulary": VocabularyConfig,
    "magnitude": MagnitudeConfig,
    "2:4": TwoOfFourConfig,
}
"""Method of pruning -> its config."""

AnyStage = AdoptConfig | FinetuneConfig | DistillConfig | PruneConfig | ExportConfig | QuantizeConfig
