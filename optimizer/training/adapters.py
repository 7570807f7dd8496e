"""LoRA and QLoRA: low-rank matrices beside frozen linear layers, trained with the head and merged at the end.

The matrices are put into the model itself, not around it: what trains, saves and encodes needs to know nothing of them.
Of QLoRA's 4-bit weights those are merged that were trained beside, back in fp32: the original ones would make another
model than the one that was trained and looked at on dev.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bantam.errors import ModelError, ParityError
from optimizer.config import AdapterConfig
from optimizer.load.guard import of_head
from optimizer.parity import TOLERANCE

NAME = "default"
"""Of the adapter, as peft calls it."""
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""A weight's bits in NF4 with double quantization: a scale of 8 bits for 64, and of these one of 32 bits for 256."""


def loaded_in(config: AdapterConfig | None) -> torch.dtype:
    """What a model is loaded in: what is rounded to 4 bits anyway need not be twice as large before."""
    return torch.bfloat16 if config is not None and config.method == "qlora" else torch.float32


def targets(model: PreTrainedModel, config: AdapterConfig) -> list[str]:
    """Full names of the linear layers that get matrices; raises :class:`ModelError` if there are none."""
    names = linears(model)
    found = [name for name in names if not config.target_modules or name.rpartition(".")[2] in config.target_modules]
    if not found:
        known = sorted({name.rpartition(".")[2] for name in names})
        raise ModelError(
            f"{type(model).__name__} has no linear layers named {', '.join(config.target_modules) or 'at all'}; "
            f"expected some for an adapter. Known: {', '.join(known) or 'none'}. Change target_modules in the recipe."
        )
    return found


def linears(model: PreTrainedModel, kinds: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D)) -> list[str]:
    """Full names of all linear layers of these ``kinds`` but the head's."""
    return [name for name, part in model.named_modules() if isinstance(part, kinds) and not of_head(model, name)]


def put_into(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Freeze the model but its head, and put trainable matrices beside its linear layers; for QLoRA these in 4 bits.

    In place. All that is trained is in fp32. Raises :class:`ModelError` if the model has none of the layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = targets(model, config)
    if config.method == "qlora":
        _to_4_bits(model)
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=names)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")  # of Conv1D: peft then does what is right
        inject_adapter_in_model(lora, model, NAME)
    for name, parameter in model.named_parameters():
        if of_head(model, name):
            parameter.requires_grad_(True)


def _to_4_bits(model: PreTrainedModel) -> None:
    """Round the linear layers to NF4 one by one, and have all else in fp32; a model on the device ``meta`` stays."""
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    for name in linears(model):
        old = model.get_submodule(name)
        if not isinstance(old, nn.Linear) or old.weight.is_meta:
            continue
        new: Any = Linear4bit(old.in_features, old.out_features, bias=old.bias is not None, device="meta")
        new.weight = Params4bit(old.weight.data.float(), quant_type="nf4", compress_statistics=True, module=new)
        new.bias = old.bias
        # In another layout for inference, which training in between two evaluations could not go on from.
        new.support_avx512bf16_for_cpu = False
        model.set_submodule(name, new.to(old.weight.device))
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()


def has_adapter(model: nn.Module) -> bool:
    """Whether there are matrices in it."""
    return any(hasattr(part, "lora_A") for part in model.modules())


def keep(model: PreTrainedModel, base: str, folder: Path) -> None:
    """Write the matrices and the head into a new ``folder``, as peft saves those of a text classifier.

    ``base``: what is put into its config as the model that they go beside, a hub id or a folder. peft loads it, and so
    does Bantam as a model (:mod:`optimizer.load.adapter`).
    """
    from peft import LoraConfig, TaskType, get_peft_model_state_dict

    heads = {name: each.detach() for name, each in model.named_parameters() if of_head(model, name)}
    used = cast(LoraConfig, cast(Any, model).peft_config[NAME])
    LoraConfig(
        task_type=TaskType.SEQ_CLS,
        base_model_name_or_path=base,
        inference_mode=True,
        modules_to_save=sorted({name.partition(".")[0] for name in heads}),
        **{key: getattr(used, key) for key in ("r", "lora_alpha", "lora_dropout", "target_modules")},
    ).save_pretrained(str(folder))
    matrices = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    weights = {f"base_model.model.{name}": each.contiguous() for name, each in {**matrices, **heads}.items()}
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})


@torch.no_grad()
def merge(model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> float:
    """Add the matrices to the weights, in place, so that nothing is left of them; all of it in fp32 then.

    Returns by how much a logit of ``batches`` differs before and after. Raises :class:`ParityError` if that is more
    than what sums in another order do.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    before = _logits(model, batches)
    for name, part in list(model.named_modules()):
        quantized = type(part).__name__ == "Linear4bit" and not name.endswith(".base_layer")
        if not isinstance(part, LoraLayer) and not quantized:
            continue
        base = cast(nn.Module, part.get_base_layer() if isinstance(part, LoraLayer) else part)
        weight = dequantize_module_weight(base).float()
        if isinstance(part, LoraLayer):
            weight = weight + cast(Any, part).get_delta_weight(NAME)
        model.set_submodule(name, _with_weight(base, weight))
    del model.peft_config
    difference = float((_logits(model, batches) - before).abs().max())
    allowed = TOLERANCE["fp32"] * max(1.0, float(before.abs().max()))
    if not difference <= allowed:
        raise ParityError(
            f"{type(model).__name__} with its adapter merged gives logits that differ by {difference:.1e} from "
            f"those of the two apart; expected at most {allowed:.1e}. Train without an adapter, or with another method."
        )
    return difference


def _with_weight(base: nn.Module, weight: Tensor) -> nn.Module:
    """The layer with this weight in place of its own, which may be in 4 bits."""
    if not isinstance(base, nn.Linear):
        cast(Any, base).weight.data = weight
        return base
    plain = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
    plain.weight, plain.bias = nn.Parameter(weight), base.bias
    return plain


def _logits(model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """Logits ``[rows, labels]`` in fp32, without dropout."""
    for part in model.eval().modules():
        if type(part).__name__ == "Linear4bit":
            cast(Any, part).compute_dtype = torch.float32
    inputs = ({name: array.to(model.device) for name, array in batch.items() if name != "labels"} for batch in batches)
    return torch.cat([model(**batch).logits.float() for batch in inputs])
