"""A model of the same class in other sizes; made from a config of these sizes, so that what is saved loads again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedModel

from bantam.errors import StageError


def resized(model: PreTrainedModel, changes: Mapping[str, Any]) -> PreTrainedModel:
    """A new model of the same class, dtype, device and mode whose config has these ``changes``; for :func:`fill`.

    Its buffers are there, its weights are not yet (they are on PyTorch's device ``meta``), so that it takes no memory
    beside the old one. ``changes`` has transformers' general names, such as ``num_hidden_layers``; the config's own are
    found. Raises :class:`StageError` if the architecture does not allow the sizes.
    """
    names = type(model.config).attribute_map
    values = {**model.config.to_dict(), **{names.get(name, name): value for name, value in changes.items()}}
    try:
        # from_dict checks what setting an attribute of a config does not, and so does loading the saved folder.
        config = type(model.config).from_dict(values, attn_implementation=model.config._attn_implementation)
        with init_empty_weights(include_buffers=False):
            # As AutoModel.from_config does it. Casting afterwards would also cast buffers that stay fp32 (RoPE).
            new: PreTrainedModel = type(model)._from_config(config, dtype=model.dtype)
    except (StrictDataclassError, ValueError) as exc:
        asked = ", ".join(f"{name} = {value}" for name, value in changes.items())
        raise StageError(
            f"A {model.config.model_type} model cannot have {asked}: {str(exc).strip().splitlines()[-1].strip()}\n"
            "Choose other sizes."
        ) from exc
    for part in new.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(model.device))
    new.train(model.training)
    return new


def fill(new: PreTrainedModel, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    """``new`` with these weights, all of them and no others: the tensors themselves, not copies.

    Raises :class:`StageError` naming what is missing or left over: the architecture has other parts in this size.
    """
    if differing := sorted(weights.keys() ^ new.state_dict().keys()):
        raise StageError(
            f"A {new.config.model_type} model of this size has other parts than the one it is cut from: "
            f"{', '.join(differing[:4])}{' ...' if len(differing) > 4 else ''}.\n"
            "Expected the same parts, only fewer or smaller: choose another selection."
        )
    new.load_state_dict(dict(weights), assign=True)
    new.tie_weights()
    return new


def selection(what: str, kept: Sequence[int], available: Collection[int]) -> list[int]:
    """``kept`` as a list, if it names some of what there is, in ascending order and none twice.

    Raises :class:`StageError` otherwise; ``what`` names them in the message ("layers").
    """
    wrong = [index for index in kept if index not in available]
    if wrong or not kept or list(kept) != sorted(set(kept)):
        raise StageError(
            f"{what} to keep: got {list(kept)[:12]}{' ...' if len(kept) > 12 else ''}. "
            f"Expected at least one of 0 to {len(available) - 1}, in ascending order, none twice."
        )
    return [int(index) for index in kept]
