"""What all teachers of a student say about its training rows: asked once, kept on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bantam.artifact import Artifact, Text, cache_key
from bantam.errors import StageError
from optimizer import distributed
from optimizer.architecture import anatomy, blocks
from optimizer.config import DistillConfig, LossWeights
from optimizer.data import Split
from optimizer.distill.losses import average_probabilities
from optimizer.distill.rows import Row
from optimizer.distill.student import layer_map
from optimizer.distill.teacher import TeacherOutputs, Wanted, teacher_outputs
from optimizer.evaluate import said_as_targets
from optimizer.load.model import forward_inputs
from optimizer.stage import RunContext
from optimizer.training.classifier import encode, load_artifact

LayerMap = tuple[tuple[int, int], ...]

BATCH = 32


@dataclass(frozen=True)
class Teacher:
    """All teachers as one: probabilities are the mean of all, what is inside of the layers is the first one's."""

    logits: NDArray[np.float32]
    """``[rows, labels]``."""
    inside: TeacherOutputs
    """Hidden states, queries, keys and values of the first teacher, where a loss compares them."""
    layer_map: LayerMap
    """Pairs (student's layer, first teacher's layer); empty if no loss compares layers."""
    hidden_size: int
    head_size: int
    """Of the first teacher; 0 if no loss looks at attention."""


def ask_teachers(
    teachers: list[Artifact],
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Row],
    texts: list[Text] | None,
    config: DistillConfig,
    context: RunContext,
    *,
    student_layers: int,
) -> Teacher:
    """Run each teacher over all rows, or read what it said before.

    A teacher with another tokenizer is asked about the ``texts``; only its logits can be used then. Raises
    :class:`StageError` if a loss needs more than that, or rows have no texts because they are changed copies.
    """
    said: list[TeacherOutputs] = []
    pairs: LayerMap = ()
    sizes: list[tuple[int, int]] = []
    for number, artifact in enumerate(teachers):
        own_tokenizer, model = load_artifact(artifact.folder)
        sizes.append((int(model.config.hidden_size), anatomy(model).head_dim if config.losses.of_attention else 0))
        asked, own_rows = Wanted(), rows
        if own_tokenizer.get_vocab() != tokenizer.get_vocab():
            own_rows = _encoded_again(artifact, own_tokenizer, texts, config, context)
        elif number == 0 and config.losses.of_layers:
            pairs = layer_map(config, student_layers, len(blocks(model)))
            asked = wanted(config.losses, tuple(other for _, other in pairs))
        inputs = forward_inputs(model) & set(artifact.manifest.signature.inputs)
        questions = [{name: row[name] for name in row if name in inputs} for row in own_rows]
        key = cache_key(teacher=artifact.digest, rows=questions, wanted=repr(asked))
        with distributed.main_first(context.device):
            said.append(
                teacher_outputs(
                    model,
                    context.shared / f"teacher-{key[:16]}",
                    questions,
                    asked,
                    batch_size=BATCH,
                    pad_token_id=artifact.manifest.signature.pad_token_id,
                    device=context.device,
                    log=context.log,
                    key=key,
                )
            )
    everything = np.arange(len(rows))
    logits = average_probabilities([torch.from_numpy(one.logits(everything)) for one in said], context.data.task)
    return Teacher(logits.numpy(), said[0], pairs, *sizes[0])


def judged_by(
    teachers: list[Artifact],
    tokenizer: PreTrainedTokenizerBase,
    student: PreTrainedModel,
    split: Split,
    config: DistillConfig,
    context: RunContext,
) -> Split:
    """A split with what the teachers decide as its targets: what a student is judged by where there are no labels."""
    outputs_alone = config.model_copy(update={"losses": LossWeights()})
    rows, texts = encode(tokenizer, student, split, config.max_length), list(split.texts)
    teacher = ask_teachers(teachers, tokenizer, rows, texts, outputs_alone, context, student_layers=0)
    return replace(split, targets=said_as_targets(teacher.logits, context.data.task))


def _encoded_again(
    artifact: Artifact,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[Text] | None,
    config: DistillConfig,
    context: RunContext,
) -> list[dict[str, Any]]:
    name = artifact.name
    if config.losses.of_layers:
        raise StageError(
            f"Stage {config.name!r}: teacher {name!r} splits texts into other tokens than the student, so that "
            f"{', '.join(config.losses.of_layers)} would compare different words. Expected losses on logits alone: "
            "soft and hard; set the others to 0."
        )
    if texts is None:
        raise StageError(
            f"Stage {config.name!r}: augmentation changes tokens, and teacher {name!r} has other tokens than the "
            "student. Leave augmentation out, or take a teacher with the student's tokenizer."
        )
    context.log(f"{config.name}: teacher {name} has another tokenizer, only its logits are used")
    encoded = tokenizer(texts, truncation=True, max_length=artifact.manifest.signature.max_length)
    return [{key: encoded[key][i] for key in encoded} for i in range(len(texts))]


def wanted(losses: LossWeights, layers: tuple[int, ...]) -> Wanted:
    """What the losses in use compare of these layers: hidden states and attention of all, relations of the last."""
    last, layers = layers[-1:], tuple(dict.fromkeys(layers))
    queries = layers if losses.attention else last if losses.attention_transfer or losses.relations else ()
    return Wanted(
        hidden=layers if losses.hidden or losses.cosine else (),
        queries=queries,
        keys=queries,
        values=last if losses.value_relation or losses.relations else (),
    )
