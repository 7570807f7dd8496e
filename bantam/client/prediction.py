"""What a served classifier says of itself, and of a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bantam.client.transport import ModelConfig, Scores, Target
from bantam.errors import ClientError

UNTUNED = 0.5
"""Threshold of a label that was not given one: more likely than not."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one text."""

    labels: list[str]
    """multi_label: those whose score is at or above their threshold, maybe none; single_label: the best one."""
    scores: dict[str, float]
    """Label -> probability, in the model's order."""


@dataclass(frozen=True, eq=False)
class Description:
    """What publishing wrote into the model's config."""

    task: str
    """``multi_label`` or ``single_label``."""
    labels: tuple[str, ...]
    thresholds: npt.NDArray[np.float64] | None
    """``[labels]`` for multi_label, 0.5 each if it was published without; None for single_label."""
    max_batch_size: int

    @classmethod
    def from_config(cls, config: ModelConfig, target: Target) -> Description:
        """Read the parameters of a model config; :class:`ClientError` if it is not a published classifier's."""
        try:
            task, labels = config.parameters["task"], tuple(json.loads(config.parameters["labels"]))
            if task not in ("multi_label", "single_label"):
                raise ValueError(f"task is {task!r}")
            thresholds = None
            if task == "multi_label":
                given = json.loads(config.parameters.get("thresholds", "null"))
                thresholds = np.full(len(labels), UNTUNED) if given is None else np.array(given, dtype=np.float64)
                if thresholds.shape != (len(labels),):
                    raise ValueError(f"{thresholds.size} thresholds for {len(labels)} labels")
        except (KeyError, TypeError, ValueError) as exc:
            raise ClientError(
                f"The config of {target} is not a text classifier's ({exc!r}). Expected the parameters "
                "task, labels and one threshold a label: publish the model with `bantam`."
            ) from exc
        return cls(task, labels, thresholds, max(1, config.max_batch_size))

    def join(self, parts: Sequence[Scores], target: Target) -> Scores:
        """The scores of all batches, ``[texts, labels]``, in an array of the caller's own."""
        for part in parts:
            if part.shape[1] != len(self.labels):
                raise target.failed(
                    f"it gave {part.shape[1]} scores a text, and its config had {len(self.labels)} labels when this "
                    "client read it. Make a new client"
                )
        return np.concatenate(parts) if parts else np.empty((0, len(self.labels)), dtype=np.float32)

    def predictions(self, scores: Scores) -> list[Prediction]:
        """Name and threshold scores ``[texts, labels]``."""
        if self.thresholds is None:
            chosen = np.arange(len(self.labels)) == scores.argmax(axis=1)[:, None]
        else:
            chosen = scores >= self.thresholds
        return [
            Prediction(
                [label for label, yes in zip(self.labels, mask, strict=True) if yes],
                dict(zip(self.labels, row, strict=True)),
            )
            for mask, row in zip(chosen.tolist(), scores.tolist(), strict=True)
        ]
