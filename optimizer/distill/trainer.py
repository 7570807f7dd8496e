"""The Trainer with the losses of distillation in place of the model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from optimizer.architecture import anatomy
from optimizer.config import DistillConfig
from optimizer.distill import losses
from optimizer.distill.rows import LABELLED
from optimizer.distill.teacher import Captured
from optimizer.distill.teachers import LayerMap, Teacher, wanted
from optimizer.training.trainer import RepeatableTrainer

ROW = "row"
"""Key of a training row: its number, by which the teacher's answers are found."""
PROJECTIONS = "distillation_projections"
"""Name under which the student carries the learned projections while it trains, so that checkpoints hold them."""


class DistillTrainer(RepeatableTrainer):
    """Sums the weighted losses between what the student and its teacher compute for the same rows."""

    def __init__(
        self,
        *,
        model: Any,
        distill: DistillConfig,
        teacher: Teacher,
        task: str,
        zeros: Sequence[TrainerCallback] = (),
        callbacks: Sequence[TrainerCallback] = (),
        **more: Any,
    ) -> None:
        self.weights, self.temperature, self.task = distill.losses, distill.temperature, task
        self.relation_heads, self.teacher = distill.relation_heads, teacher
        self.own = Captured(model, wanted(distill.losses, tuple(student for student, _ in teacher.layer_map)))
        self.head_size = anatomy(model).head_dim if distill.losses.of_attention else 0
        self.projections = _projections(model, teacher) if distill.losses.hidden else None
        if self.projections:
            model.add_module(PROJECTIONS, self.projections)
        super().__init__(model=model, callbacks=[*callbacks, *zeros], **more)

    def finish(self) -> None:
        """Take hooks and learned projections off the student: they have done their work."""
        self.own.close()
        if self.projections:
            delattr(self.model, PROJECTIONS)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The weighted sum of losses on a training batch; the model's own loss on dev, whose rows no teacher knows."""
        if ROW not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        rows, labelled, targets = inputs.pop(ROW).cpu().numpy(), inputs.pop(LABELLED), inputs.pop("labels")
        outputs = model(**inputs)
        # In fp32: KL of near-equal distributions is a difference that bf16 cannot show.
        with torch.autocast(outputs.logits.device.type, enabled=False):
            logits = outputs.logits.float()
            said = torch.from_numpy(self.teacher.logits[rows]).to(logits.device)
            terms = {
                "hard": lambda: losses.hard_labels(logits, targets, self.task, labelled),
                "soft": lambda: losses.soft_labels(logits, said, self.temperature, self.task),
                **self._terms_of_layers(rows, inputs["attention_mask"]),
            }
            loss = sum(weight * terms[name]() for name, weight in self.weights if weight)
        return (loss, outputs) if return_outputs else loss

    def _terms_of_layers(self, rows: NDArray[np.int64], mask: Tensor) -> dict[str, Callable[[], Tensor]]:
        """Loss name -> its value, for the losses that compare layers; computed only when called."""
        own, pairs = self.own, self.teacher.layer_map
        last = pairs[-1:]

        def mean(over: LayerMap, value: Callable[[int, int], Tensor]) -> Tensor:
            return torch.stack([value(student, teacher) for student, teacher in over]).mean()

        def theirs(kind: str, layer: int) -> Tensor:
            return torch.from_numpy(getattr(self.teacher.inside, kind)(layer, rows)).to(mask.device)

        def both(kind: str, student: int, teacher: int) -> tuple[Tensor, Tensor]:
            return getattr(own, kind)[student], theirs(kind, teacher)

        def heads(kind: str, student: int, teacher: int) -> tuple[Tensor, Tensor]:
            mine, other = both(kind, student, teacher)
            return losses.split_heads(mine, self.head_size), losses.split_heads(other, self.teacher.head_size)

        def scores(student: int, teacher: int) -> tuple[Tensor, Tensor]:
            queries, keys = heads("queries", student, teacher), heads("keys", student, teacher)
            return losses.attention_scores(queries[0], keys[0]), losses.attention_scores(queries[1], keys[1])

        def transfer(student: int, teacher: int) -> Tensor:
            queries, keys = heads("queries", student, teacher), heads("keys", student, teacher)
            return losses.attention_transfer(queries[0], keys[0], queries[1], keys[1], mask)

        def relations(student: int, teacher: int) -> Tensor:
            kinds = ("queries", "keys", "values")
            return torch.stack(
                [losses.relations(*both(kind, student, teacher), mask, self.relation_heads) for kind in kinds]
            ).mean()

        projection = dict(self.projections.items()) if self.projections else {}
        return {
            "hidden": lambda: mean(
                pairs, lambda s, t: losses.hidden_states(*both("hidden", s, t), mask, projection.get(str(s)))
            ),
            "cosine": lambda: mean(pairs, lambda s, t: losses.cosine(*both("hidden", s, t), mask)),
            "attention": lambda: mean(pairs, lambda s, t: losses.attention_maps(*scores(s, t), mask)),
            "attention_transfer": lambda: mean(last, transfer),
            "value_relation": lambda: mean(last, lambda s, t: losses.value_relation(*heads("values", s, t), mask)),
            "relations": lambda: mean(last, relations),
        }


def _projections(model: PreTrainedModel, teacher: Teacher) -> nn.ModuleDict | None:
    """A learned map from the student's width to the teacher's for each mapped layer; None if the widths are equal."""
    own = int(model.config.hidden_size)
    if own == teacher.hidden_size:
        return None
    return nn.ModuleDict(
        {str(student): nn.Linear(own, teacher.hidden_size, bias=False) for student, _ in teacher.layer_map}
    )
