"""The student: cut out of the parent, or another model altogether."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bantam.artifact import Artifact
from bantam.errors import StageError
from optimizer.architecture import anatomy, blocks
from optimizer.config import DistillConfig
from optimizer.stage import RunContext
from optimizer.surgery import importance, keep_layers, keep_width
from optimizer.training.classifier import load_artifact, load_checkpoint

Student = tuple[PreTrainedTokenizerBase, PreTrainedModel]


def make_student(parent: Artifact, config: DistillConfig, context: RunContext) -> tuple[Student, tuple[int, ...]]:
    """The student before training, and which of the parent's layers it keeps (none if it is another model).

    Raises :class:`StageError` for layers or sizes that the parent does not have.
    """
    if config.model is not None:
        return load_checkpoint(context.checkpoint, context.data, log=context.log), ()
    tokenizer, model = load_artifact(parent.folder)
    kept = chosen_layers(model, tokenizer, config, context)
    if len(kept) < len(blocks(model)):
        model = keep_layers(model, kept)
    if config.heads or config.neurons or config.hidden:
        model = _narrower(model, config)
    return (tokenizer, model), kept


def chosen_layers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: DistillConfig, context: RunContext
) -> tuple[int, ...]:
    """Indices of the layers that ``config`` keeps, ascending; raises :class:`StageError` if there are none such."""
    have = len(blocks(model))
    wanted = config.layers
    if wanted is None:
        return tuple(range(have))
    if isinstance(wanted, tuple):
        if not wanted or list(wanted) != sorted(set(wanted)) or not set(wanted) <= set(range(have)):
            raise StageError(
                f"Stage {config.name!r} keeps layers {list(wanted)} of {config.parent!r}, which has {have}. "
                f"Expected numbers from 0 to {have - 1} in ascending order, none twice."
            )
        return wanted
    if not 1 <= wanted <= have:
        raise StageError(
            f"Stage {config.name!r} keeps {wanted} layers of {config.parent!r}, which has {have}: a student is no "
            f"larger than its parent. Expected 1 to {have}."
        )
    if config.choose == "importance":
        texts = context.data.splits["train"].texts[:INFLUENCE_TEXTS]
        influence = importance.of_blocks(model, tokenizer, texts)
        return tuple(sorted(sorted(range(have), key=lambda layer: -influence[layer])[:wanted]))
    return {
        "first": tuple(range(wanted)),
        "last": tuple(range(have - wanted, have)),
        "even": spread(wanted, have),
    }[config.choose]


INFLUENCE_TEXTS = 256
"""Training texts from which a layer's influence is taken; it settles long before."""


def spread(count: int, over: int) -> tuple[int, ...]:
    """``count`` of ``over`` indices, evenly, the first and the last among them (of one: the first)."""
    return tuple(round(i * (over - 1) / (count - 1)) for i in range(count)) if count > 1 else (0,)


def layer_map(config: DistillConfig, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Pairs (student's layer, teacher's layer), from 0; by default each imitates the end of its share of the teacher.

    That is TinyBERT's uniform map: of 3 and 6 layers, the pairs (0, 1), (1, 3) and (2, 5). Raises :class:`StageError`
    for a pair that points to no layer.
    """
    if config.layer_map is None:
        return tuple((i, round((i + 1) * teacher / student) - 1) for i in range(student))
    for own, other in config.layer_map:
        if not (0 <= own < student and 0 <= other < teacher):
            raise StageError(
                f"Stage {config.name!r} maps layer {own} of the student to layer {other} of the teacher. "
                f"Expected a layer from 0 to {student - 1} and one from 0 to {teacher - 1}."
            )
    return config.layer_map


def _narrower(model: PreTrainedModel, config: DistillConfig) -> PreTrainedModel:
    """Only the heads, neurons and hidden dimensions with the largest weights, in the numbers asked for."""
    parts = anatomy(model)
    sizes = {"heads": (config.heads, parts.heads), "neurons": (config.neurons, parts.neurons)}
    sizes["hidden"] = (config.hidden, parts.hidden)
    for name, (wanted, have) in sizes.items():
        if wanted is not None and wanted > have:
            raise StageError(
                f"Stage {config.name!r} asks for a student with {name} = {wanted}; {config.parent!r} has {have}. "
                "A student is no larger than its parent."
            )
    weights = importance.by_magnitude(model)
    return keep_width(
        model,
        heads=[_largest(layer, config.heads) for layer in weights.heads] if config.heads else None,
        neurons=[_largest(layer, config.neurons) for layer in weights.neurons] if config.neurons else None,
        hidden=_largest(weights.hidden, config.hidden) if config.hidden else None,
    )


def _largest(values: torch.Tensor, count: int) -> list[int]:
    return sorted(values.topk(count).indices.tolist())
