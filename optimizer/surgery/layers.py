"""Take whole layers out of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from bantam.errors import StageError
from optimizer.architecture import blocks_path
from optimizer.surgery.rebuild import fill, resized, selection


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model with only these layers of ``model``, counted from 0, in ascending order; they share their weights.

    It computes what ``model`` would if each of the other layers returned its input. Raises :class:`ModelError` for an
    architecture without one list of blocks, :class:`StageError` for layers that do not exist, and where a layer cannot
    stand where it would come to stand (modernbert's first has no norm, so that layer 0 has to stay; a gpt2 may divide
    its attention scores by a layer's number).
    """
    path = blocks_path(model)
    count = int(model.config.num_hidden_layers)
    kept = selection("layers", layers, range(count))
    if getattr(model.config, "scale_attn_by_inverse_layer_idx", False) and kept != list(range(len(kept))):
        raise StageError(
            f"Layers {kept} are to stay of a {model.config.model_type} model that divides attention scores by a layer's"
            " number (scale_attn_by_inverse_layer_idx). Expected the first ones: 0, 1 and so on."
        )
    # Lists with an entry for each layer, such as layer_types. Length alone does not tell: eos_token_id can be a list.
    per_layer: dict[str, Any] = {
        name: [value[layer] for layer in kept]
        for name, value in model.config.to_dict().items()
        if "layer" in name and isinstance(value, list) and len(value) == count
    }
    new = resized(model, {"num_hidden_layers": len(kept), **per_layer})
    place = {layer: index for index, layer in enumerate(kept)}
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        layer, _, rest = name.removeprefix(f"{path}.").partition(".")
        if not name.startswith(f"{path}."):
            weights[name] = tensor
        elif int(layer) in place:
            weights[f"{path}.{place[int(layer)]}.{rest}"] = tensor
    return fill(new, weights)
