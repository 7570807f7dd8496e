"""Which checkpoints are classifiers of the data's labels already, and so are taken as they are; what FINETUNE asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from bantam.errors import ModelError
from bantam.run.state import Log
from optimizer.catalog import Checkpoint
from optimizer.config import FinetuneConfig
from optimizer.data import Dataset
from optimizer.load.head import Fit, fit, read_head
from optimizer.recipe import Recipe

Finetune = Literal["auto", "always", "never"]


def as_they_are(
    recipe: Recipe, data: Dataset, checkpoints: Mapping[str | None, Checkpoint], finetune: Finetune, log: Log
) -> tuple[Recipe, Dataset]:
    """The recipe with the fine-tuning stages left out whose checkpoint has a trained head for the data's labels.

    The data is read as the run's own classifier reads it: labels in the order of its outputs, so that its head stays
    untouched; a head that others bring is put into that order. What is taken, what is trained, and which output means
    what is said. Raises :class:`ModelError` where a head does not fit and training is out of the question.
    """
    stages = [stage for stage in recipe.stages if isinstance(stage, FinetuneConfig)]
    if not data.labelled and finetune == "always":
        raise ModelError(f"{data.name} has no labels to train on. Give some, or leave FINETUNE=always out.")
    # The run's own checkpoint first: the order of its outputs is the order of all others.
    taken: list[str] = []
    for stage in sorted(stages, key=lambda stage: stage.model is not None):
        checkpoint = checkpoints[stage.model]
        try:
            found = _fit(checkpoint, data, own=stage.model is None and finetune != "always")
        except ModelError as exc:
            if finetune == "never" or not data.labelled:
                without = " The data has no labels, so nothing can be trained." * (not data.labelled)
                raise ModelError(
                    f"{checkpoint.name} cannot be taken as it is. {exc}{without}\nExpected a classifier that was "
                    "fine-tuned for these labels; or labelled data, with FINETUNE=auto."
                ) from exc
            log(f"{stage.name}: {checkpoint.name} is trained with a new head. {exc}")
            continue
        if finetune == "always":
            log(f"{stage.name}: {checkpoint.name} is trained on from the head that it has. {found.how}")
            continue
        if not taken and (stage.model is None or data.task == "unlabelled"):
            data = data.read_by(found.task, found.labels, found.called)
        taken.append(stage.name)
        log(f"{stage.name}: {checkpoint.name} is a classifier already and is not trained. {found.how}")
    return recipe.adopting(taken), data


def texts_alone(data: Dataset, checkpoint: Checkpoint) -> Dataset:
    """Data that nobody asked for: its texts alone if the checkpoint is a classifier of other labels, else as it is."""
    try:
        _fit(checkpoint, data, own=True)
    except ModelError:
        if checkpoint.random_weights or read_head(checkpoint.folder) is None:
            return data
        return data.without_labels(
            f"No data was given: texts of {data.name} ({data.licence}) serve for calibration and timing. Agreement on "
            "them says little about your own: give some of those, without labels if there are none (DATA=, --data). "
            "A classifier that reads pairs of texts is asked these single texts: its scores on them mean nothing."
        )
    return data


def _fit(checkpoint: Checkpoint, data: Dataset, *, own: bool) -> Fit:
    """How the checkpoint's head has the labels of ``data``; raises :class:`ModelError` that says why it has not.

    The run's ``own`` may know labels that no row has.
    """
    head = None if checkpoint.random_weights else read_head(checkpoint.folder)
    if head is None:
        raise ModelError("It has no trained classification head.")
    found = fit(head, data.labels, data.task, data.classes)
    if not own and found.rows(data.labels) is None:
        raise ModelError(f"Its head has {len(head.labels)} labels, and {len(data.labels)} are wanted. {found.how}")
    return found
