"""Whether a training has room, in memory and on disk, known before its weights are loaded: from a model without any.

Activations are not in it: they depend on the texts, and are measured on the first steps, in
:mod:`optimizer.training.forecast`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bantam.errors import ModelError, UserError
from bantam.memory import available_mb
from optimizer.catalog import Checkpoint
from optimizer.config import AdapterConfig, FinetuneConfig
from optimizer.load.model import load_config, reading
from optimizer.stage import RunContext
from optimizer.training import adapters, galore
from optimizer.training.classifier import set_up

GALORE_RANK = 128
CHECKPOINTS = 3
"""On disk at a time: the best, the newest, and one that is being written."""


@dataclass(frozen=True)
class Needs:
    """What a training takes in memory beside its activations, and on disk; MB (10^6 bytes)."""

    loading: float
    """Weights as they are loaded, before they are rounded to 4 bits."""
    weights: float
    gradients: float
    optimizer: float
    disk: float

    @property
    def training(self) -> float:
        """All that is there at the same time while training."""
        return self.weights + self.gradients + self.optimizer


def check_room(config: FinetuneConfig, context: RunContext) -> Needs:
    """What the training needs; raises :class:`UserError` with the figures, and what would fit, if there is less."""
    needs = needs_of(config, context)
    room = _room(context.device)
    own = sum(
        path.stat().st_size for path in context.scratch.rglob("*") if path.is_file()
    )  # of a training that goes on
    free = (shutil.disk_usage(context.scratch).free + own) / 1e6
    if needs.disk > free:
        raise UserError(
            f"Stage {config.name!r} needs {_gb(needs.disk)} of disk ({CHECKPOINTS} checkpoints and the model), and "
            f"{_gb(free)} are free in {context.scratch}.\nFree some, or train less of it: {_adapter('lora')}."
        )
    if not _fits(needs, room, context.device):
        raise UserError(
            f"Training {context.checkpoint.name} needs at least {_gb(max(needs.training, needs.loading))} of "
            f"{_what(context.device)} (weights {_gb(needs.weights)}, gradients {_gb(needs.gradients)}, the optimizer's "
            f"state {_gb(needs.optimizer)}; loading {_gb(needs.loading)}), and {_gb(room)} are free.\n"
            f"{_what_would_fit(config, context, room)}"
        )
    return needs


def needs_of(config: FinetuneConfig, context: RunContext) -> Needs:
    """From the checkpoint's config alone; raises :class:`ModelError` if it has no layers that can be trained so."""
    model = skeleton(context.checkpoint, len(context.data.labels))
    # Neither GaLore nor 4 bits are for linear layers of another class (Conv1D).
    linear = {f"{name}.weight" for name in adapters.linears(model, (nn.Linear,))}
    projected = {f"{name}.weight" for name in galore.targets(model)} if config.optimizer == "galore" else set()
    set_up(model, config)
    in_4_bits = config.adapter is not None and config.adapter.method == "qlora"
    sizes = [
        (name.replace(".base_layer.", "."), each.requires_grad, tuple(each.shape))
        for name, each in model.named_parameters()
    ]
    total = sum(_count(shape) for _, _, shape in sizes)
    rounded = sum(_count(shape) for name, _, shape in sizes if name in linear) if in_4_bits else 0
    trained = [(name, shape) for name, needs_gradient, shape in sizes if needs_gradient]
    gradients = sum(_count(shape) for _, shape in trained)
    state = sum(_galore_state(shape) if name in projected else 2 * _count(shape) for name, shape in trained)
    saved = gradients if config.adapter else total
    return Needs(
        loading=total * (2 if in_4_bits else 4) / 1e6,
        weights=((total - rounded) * 4 + rounded * adapters.NF4_BITS / 8) / 1e6,
        gradients=gradients * 4 / 1e6,
        optimizer=state * 4 / 1e6,
        disk=(CHECKPOINTS * (saved + state) + total) * 4 / 1e6,
    )


def skeleton(checkpoint: Checkpoint, labels: int) -> PreTrainedModel:
    """The classifier without memory for its weights, on the device ``meta``."""
    config = load_config(checkpoint.folder)
    config.num_labels = labels
    with reading(checkpoint.folder, "a classifier"), torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    return model


def _count(shape: Iterable[int]) -> int:
    return int(torch.Size(shape).numel())


def _galore_state(shape: tuple[int, ...]) -> int:
    """Numbers in AdamW's two moments of the projected gradient, and in the projection (Zhao et al. 2024, table 1)."""
    short, long = sorted(shape)
    rank = min(GALORE_RANK, short)
    return rank * (2 * long + short)


def _room(device: str) -> float:
    """MB that are free where the training is."""
    return torch.cuda.mem_get_info()[0] / 1e6 if device == "cuda" else available_mb()


def _fits(needs: Needs, room: float, device: str) -> bool:
    if device == "cuda":
        return needs.training <= room and needs.loading <= available_mb()
    return max(needs.training, needs.loading) <= room


def _what(device: str) -> str:
    return "GPU memory" if device == "cuda" else "memory"


def _what_would_fit(config: FinetuneConfig, context: RunContext, room: float) -> str:
    """The other ways to train the same model that there is room for."""
    ways: dict[str, dict[str, Any]] = {
        'optimizer = "galore"': {"optimizer": "galore", "adapter": None},
        _adapter("lora"): {"optimizer": "adamw", "adapter": AdapterConfig(method="lora")},
        _adapter("qlora"): {"optimizer": "adamw", "adapter": AdapterConfig(method="qlora")},
    }
    found = []
    for way, update in ways.items():
        try:
            needs = needs_of(config.model_copy(update=update), context)
        except ModelError:
            continue
        if _fits(needs, room, context.device):
            found.append(f"{way} in the recipe ({_gb(max(needs.training, needs.loading))})")
    if context.device != "cuda":
        found.append("a GPU (TARGET=gpu)")
    return f"What would fit: {', '.join([*found, 'a smaller model'])}."


def _adapter(method: str) -> str:
    return f'adapter = {{ method = "{method}" }}'


def _gb(megabytes: float) -> str:
    return f"{megabytes / 1000:.2f} GB"
