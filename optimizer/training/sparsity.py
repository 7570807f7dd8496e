"""Weights that are zero: made so by magnitude, more and more of them in training, and kept zero in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from bantam.artifact import Artifact
from optimizer.architecture import blocks_path
from optimizer.config import DistillConfig


def linears_of_blocks(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Name in the model -> each Linear module of its blocks; raises :class:`ModelError` without one list of blocks."""
    path = blocks_path(model)
    return {
        name: module
        for name, module in model.named_modules()
        if name.startswith(f"{path}.") and isinstance(module, nn.Linear)
    }


@torch.no_grad()
def zero_smallest(modules: Iterable[nn.Linear], share: float) -> None:
    """Set this share of the weights of all modules together to zero, the smallest; weights that are zero count.

    By hand, because ``torch.nn.utils.prune`` registers each weight anew: the order of a model's parameters changes, and
    with it the last bits of the gradient's norm, so that a resumed run would end in other weights.
    """
    weights = [module.weight for module in modules]
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights])
    zero = torch.zeros_like(magnitudes, dtype=torch.bool)
    zero[magnitudes.topk(round(share * len(zero)), largest=False).indices] = True
    for weight, mask in zip(weights, zero.split([weight.numel() for weight in weights]), strict=True):
        weight.masked_fill_(mask.view_as(weight), 0.0)


@torch.no_grad()
def two_of_four(modules: Iterable[nn.Linear]) -> None:
    """Leave the two largest of each four weights along the inputs, whose number 4 divides, in each module.

    By hand, because torch's own (``torch.ao.pruning``) is deprecated, and torchao's needs torchao.
    """
    for module in modules:
        fours = module.weight.view(-1, 4)
        smallest = fours.abs().topk(2, dim=1, largest=False).indices
        fours.scatter_(1, smallest, 0.0)


def is_two_of_four(modules: Iterable[nn.Linear]) -> bool:
    """Whether at least two of each four weights along the inputs are zero, in all modules."""
    return all(
        module.in_features % 4 == 0 and bool(((module.weight.view(-1, 4) != 0).sum(1) <= 2).all()) for module in modules
    )


def remaining(modules: Iterable[nn.Linear]) -> float:
    """Share of the weights of all modules together that are not zero."""
    weights = [module.weight for module in modules]
    return sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


def described(pattern: str, modules: Mapping[str, nn.Linear]) -> dict[str, Any]:
    """For a manifest's ``details``: the pattern, the share of weights that remains, and in which modules."""
    ratio = round(remaining(modules.values()), 6)
    return {"sparsity": {"pattern": pattern, "ratio": ratio, "modules": sorted(modules)}}


def sparsity_callbacks(
    student: PreTrainedModel, parent: Artifact, config: DistillConfig
) -> tuple[list[TrainerCallback], dict[str, Any]]:
    """What keeps a student's zeros while it trains, or makes more of them, and the same for the manifest's details.

    A student that is cut out of a sparse parent keeps its zeros; where the cut breaks the pattern 2:4, the details say
    "magnitude". With ``config.sparsity`` the share of zeros grows to that. Else both are empty. Raises
    :class:`ModelError` for zeros in an architecture without one list of blocks.
    """
    before = parent.manifest.details.get("sparsity") if config.model is None else None
    if config.sparsity is None and before is None:
        return [], {}
    modules = linears_of_blocks(student)
    if config.sparsity is not None:
        details = described("magnitude", modules)
        details["sparsity"]["ratio"] = round(1 - config.sparsity, 6)
        return [CubicSchedule(tuple(modules), config.sparsity)], details
    modules = {name: module for name, module in modules.items() if not module.weight.all()}
    if not modules:
        return [], {}
    kept = before and before["pattern"] == "2:4" and is_two_of_four(modules.values())
    return [KeepZeros(tuple(modules))], described("2:4" if kept else "magnitude", modules)


class KeepZeros(TrainerCallback):
    """Weights of the named modules that are zero when training starts are zero again after each optimizer step.

    Resetting them beats masking their gradients: momentum and weight decay move a weight that has no gradient, too.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = tuple(modules)
        self.parts: list[nn.Linear] = []
        self.zeros: list[Tensor] = []

    def start(self, model: nn.Module) -> None:
        """Find the modules and remember where their weights are zero."""
        self.parts = [part for name in self.modules if isinstance(part := model.get_submodule(name), nn.Linear)]
        self.remember()

    def remember(self) -> None:
        """Keep what is zero now."""
        self.zeros = [part.weight == 0 for part in self.parts]

    @torch.no_grad()
    def apply(self) -> None:
        """Make it zero again."""
        for part, zero in zip(self.parts, self.zeros, strict=True):
            part.weight.masked_fill_(zero, 0.0)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """After a checkpoint was loaded, if training resumes from one."""
        self.start(model)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before anything looks at the weights."""
        self.apply()


class CubicSchedule(KeepZeros):
    """Grows the share of zeros while training, fast at first and slower to the end; what is zero stays zero.

    Zhu and Gupta 2017, "To prune, or not to prune", equation 1, from a share of 0 at the first step to ``final`` after
    ``until`` of all steps; the rest of them recovers at the full share. Until then no weights count as the best on dev
    and no training stops early: they have too few zeros.
    """

    def __init__(self, modules: Sequence[str], final: float, *, until: float = 0.7, every: int = 20) -> None:
        super().__init__(modules)
        self.final, self.until, self.every = final, until, every

    def share(self, step: int, steps: int) -> float:
        """Share of zeros after ``step`` of all ``steps``."""
        return self.final * (1 - (1 - min(1.0, step / self.last(steps))) ** 3)

    def last(self, steps: int) -> int:
        """The step of all ``steps`` after which the share has grown to ``final``."""
        return max(1, round(self.until * steps))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the zeros and, every so many steps, add some. The Trainer counts this step afterwards."""
        self.apply()
        step, last = state.global_step + 1, self.last(state.max_steps)
        if step <= last:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        if step == last or (step < last and step % self.every == 0):
            zero_smallest(self.parts, self.share(step, state.max_steps))
            self.remember()
