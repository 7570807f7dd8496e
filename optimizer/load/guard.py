"""That a model has all of its weights from the checkpoint, and what its head's outputs are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from bantam.errors import ModelError

_SHOWN = 3
_OTHER = "The weights are not those of its config.json: take both from one save_pretrained."


def known_names(model: PreTrainedModel) -> set[str]:
    """Names that the model's tensors may have in a checkpoint: its own, and those of the encoder alone."""
    names = {*model.state_dict()}
    return names | {name.removeprefix(f"{model.base_model_prefix}.") for name in names}


def check(
    model: PreTrainedModel,
    info: Mapping[str, Any],
    weights: Mapping[str, tuple[int, ...]],
    folder: Path,
    *,
    new: bool,
) -> None:
    """Raise :class:`ModelError` if anything but a head that may be ``new`` is not from the checkpoint, or was left out.

    ``info`` is transformers' own account of missing, mismatched and unexpected keys; ``weights`` the shapes in the
    files. A pre-training head, or a pooler that the model has no use for, may be left out.
    """
    lacking = sorted(name for name in info["missing_keys"] if not (new and of_head(model, name)))
    if lacking:
        raise ModelError(
            f"{folder} has no weights for {len(lacking)} of the model's {len(model.state_dict())} tensors: "
            f"{_some(lacking)}.\n{_OTHER}"
        )
    changed = sorted(
        (name, tuple(got), tuple(wanted))
        for name, got, wanted in info["mismatched_keys"]
        if not (new and of_head(model, name))
    )
    if changed:
        shapes = [f"{name} is {[*got]}, by config.json {[*wanted]}" for name, got, wanted in changed]
        raise ModelError(f"{folder}: {_some(shapes, '; ')}.\n{_OTHER}")
    parts = {name for name, _ in model.base_model.named_children()}
    matrices = {name for name, shape in weights.items() if len(shape) == 2}  # not old models' masks and counters
    base = f"{model.base_model_prefix}."
    left = sorted(
        name
        for name in info["unexpected_keys"]
        if name.removeprefix(base).partition(".")[0] in parts and name in matrices
    )
    if left:
        raise ModelError(
            f"{folder} has weights of the encoder that config.json has no place for: {_some(left)}.\n{_OTHER}"
        )


def of_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a tensor belongs to what is trained anew: outside the encoder, or the pooler between the two."""
    return not name.startswith(f"{model.base_model_prefix}.") or "pooler" in name.split(".")


def _some(items: list[str], between: str = ", ") -> str:
    more = len(items) - _SHOWN
    return between.join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def renew_head(model: PreTrainedModel) -> None:
    """Random weights, as the architecture draws them, for a head whose rows mean other labels."""
    for name, part in model.named_children():
        if name != model.base_model_prefix:
            for module in part.modules():
                module._is_hf_initialized = False  # type: ignore[assignment]
                for parameter in module.parameters(recurse=False):
                    parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    model.initialize_weights()


@torch.inference_mode()
def reorder(model: PreTrainedModel, rows: tuple[int, ...], folder: Path) -> None:
    """Make output ``i`` of the model what output ``rows[i]`` was, by moving the rows of its last linear layer.

    Raises :class:`ModelError` if the logits are not the same ones in the new order.
    """
    if rows == tuple(range(len(rows))):
        return
    before = _logits(model)[:, [*rows]]
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == len(rows)]
    for layer in reversed(layers):
        _move(layer, rows)
        if torch.allclose(_logits(model), before, rtol=1e-4, atol=1e-6):
            return
        _move(layer, tuple(rows.index(i) for i in range(len(rows))))
    raise ModelError(
        f"{folder}: the outputs of its {type(model).__name__} cannot be put into the order of the data's labels.\n"
        "Train it: FINETUNE=always."
    )


def _move(layer: nn.Linear, rows: tuple[int, ...]) -> None:
    for parameter in filter(lambda part: part is not None, (layer.weight, layer.bias)):
        parameter.copy_(parameter[[*rows]].clone())


def _logits(model: PreTrainedModel) -> torch.Tensor:
    """For one made-up text, that ends as the model's texts do."""
    end = getattr(model.config, "eos_token_id", None)
    ids = [*range(1, 7), end if isinstance(end, int) else 7]
    logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits
    return logits
