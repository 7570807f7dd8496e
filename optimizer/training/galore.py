"""GaLore: AdamW whose state is in a part of each gradient's space (Zhao et al. 2024)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from bantam.errors import ModelError
from optimizer.training.adapters import linears


def targets(model: PreTrainedModel) -> list[str]:
    """Full names of the layers whose gradients are projected: all of class Linear but the head's.

    Raises :class:`ModelError` if there are none, as in models whose layers are of another class (GPT-2's Conv1D).
    """
    names = linears(model, (nn.Linear,))
    if not names:
        others = sorted({type(model.get_submodule(name)).__name__ for name in linears(model)})
        raise ModelError(
            f'{type(model).__name__} has no layers for optimizer = "galore"; got {", ".join(others) or "none at all"}, '
            'expected some of class Linear. Leave optimizer out, or take adapter = { method = "lora" } in the recipe.'
        )
    return names


class ProjectorsFollow(TrainerCallback):
    """When a training goes on from a checkpoint, its projections are where their parameters are.

    Transformers reads the optimizer's state on the CPU, and torch moves the tensors in it, but not those inside of
    other objects.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """After a checkpoint was loaded, if there is one."""
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        for parameter, kept in inner.state.items():
            if "projector" in kept:
                projector = kept["projector"]
                projector.ortho_matrix = _moved(projector.ortho_matrix, parameter.device)


def _moved(matrix: Tensor | list[Tensor] | None, device: torch.device) -> Tensor | list[Tensor] | None:
    """Of ``proj_type`` full there are two; before the first step there is none."""
    if isinstance(matrix, list):
        return [each.to(device) for each in matrix]
    return None if matrix is None else matrix.to(device)


@contextmanager
def allowed() -> Iterator[None]:
    """Its optimizer warns that it is old, and keeps its projections in a checkpoint as an object of its own class."""
    from galore_torch.galore_projector import GaLoreProjector

    with warnings.catch_warnings(), torch.serialization.safe_globals([GaLoreProjector]):
        warnings.filterwarnings("ignore", "This implementation of AdamW is deprecated", FutureWarning)
        yield
