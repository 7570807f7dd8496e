"""What a served classifier says of itself, and of a text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

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
    """multi_label: those whose score is at or above their threshold, maybe none; single_label: the best one;
    regression: none."""
    scores: dict[str, float]
    """Label -> probability; regression: the name of its one score -> that score, any number."""
    version: str = field(default="", compare=False)
    """Of the model, that decided so; empty if the server does not tell. Two that say the same are equal."""


@dataclass(frozen=True, eq=False)
class Description:
    """What publishing wrote into the model's config."""

    task: str
    """``multi_label``, ``single_label`` or ``regression``."""
    labels: tuple[str, ...]
    """regression: the name of its one score."""
    thresholds: npt.NDArray[np.float64] | None
    """``[labels]`` for multi_label, 0.5 each if it was published without; None for other tasks."""
    max_batch_size: int
    version: str
    """The version that this is about; empty if the server does not tell."""
    pair: bool = False
    """Whether it reads pairs of texts."""
    columns: npt.NDArray[np.intp] | None = None
    """Where each label's score is in an answer; None if they come in the order of ``labels``."""

    @classmethod
    def from_config(cls, config: ModelConfig, target: Target) -> Description:
        """Read the parameters of a model config; :class:`ClientError` if it is not a published classifier's."""
        try:
            task, labels = config.parameters["task"], tuple(json.loads(config.parameters["labels"]))
            if task not in ("multi_label", "single_label", "regression"):
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
        pair = config.parameters.get("pair") == "true"
        return cls(task, labels, thresholds, max(1, config.max_batch_size), config.version, pair)

    def in_order_of(self, labels: tuple[str, ...]) -> Description:
        """The same with its labels in another order; itself if those are other labels."""
        if labels == self.labels or sorted(labels) != sorted(self.labels):
            return self
        columns = np.array([self.labels.index(label) for label in labels])
        thresholds = None if self.thresholds is None else self.thresholds[columns]
        return replace(self, labels=labels, thresholds=thresholds, columns=columns)

    def arrange(self, scores: Scores, target: Target) -> Scores:
        """An answer of this version, its columns in the order of ``labels``."""
        if scores.shape[1] != len(self.labels):
            raise target.failed(
                f"it gave {scores.shape[1]} scores a text, and the config of its version {self.version or '(untold)'} "
                f"names {len(self.labels)} labels. Make a new client; if that says so too, publish the model again"
            )
        return scores if self.columns is None else scores[:, self.columns]

    def predictions(self, scores: Scores) -> list[Prediction]:
        """Name and threshold scores ``[texts, labels]``."""
        if self.task == "regression":
            chosen = np.zeros(scores.shape, dtype=np.bool_)
        elif self.thresholds is None:
            chosen = np.arange(len(self.labels)) == scores.argmax(axis=1)[:, None]
        else:
            chosen = scores >= self.thresholds
        return [
            Prediction(
                [label for label, yes in zip(self.labels, mask, strict=True) if yes],
                dict(zip(self.labels, row, strict=True)),
                self.version,
            )
            for mask, row in zip(chosen.tolist(), scores.tolist(), strict=True)
        ]
