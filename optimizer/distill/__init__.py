"""Distil: train a small student to give what one or several teachers give."""

from __future__ import annotations

import time
from typing import Any

from bantam.artifact import LAYOUTS, Artifact
from bantam.errors import StageError
from optimizer.architecture import blocks
from optimizer.config import DistillConfig, LossWeights
from optimizer.data.sample import draw
from optimizer.distill.rows import training_rows
from optimizer.distill.student import make_student
from optimizer.distill.teachers import ask_teachers, judged_by
from optimizer.distill.trainer import ROW, DistillTrainer
from optimizer.stage import RunContext
from optimizer.training.classifier import encode, set_up, write
from optimizer.training.memory import Attempt, within_memory
from optimizer.training.sparsity import sparsity_callbacks
from optimizer.training.trainer import metrics, set_seed, train, trained

REVISION = 2
"""Raised when the same config gives another student, here or in what all trainings share."""


def run(parent: Artifact, config: DistillConfig, context: RunContext) -> Artifact:
    """Train a student made from ``parent`` on what the teachers say; keep the weights that were best on dev.

    Raises :class:`StageError` if the student would be larger than its teacher, a layer does not exist, or a loss
    compares tokens and the teacher splits texts into other ones, or it is to learn from labels that are not there; and
    what :func:`optimizer.finetune.run` raises.
    """
    started = time.monotonic()
    learnt = _what_can_be_learnt(config, context)
    teachers = [context.sources[name] for name in config.teachers] or [parent]
    for artifact in (parent, *teachers):
        _check_source(artifact, config, context)
    details: dict[str, Any] = {}

    def attempt_training(attempt: Attempt) -> DistillTrainer:
        trainer, found = _train(parent, teachers, learnt, context, attempt)
        details.update(found)
        return trainer

    trainer = within_memory(attempt_training, config, context)
    trainer.finish()
    return write(
        *trained(trainer),
        config,
        context,
        longest=parent.manifest.signature.max_length,
        parent=parent,
        details=details,
        metrics=metrics(trainer, time.monotonic() - started),
        random_weights=parent.manifest.random_weights,
    )


def _train(
    parent: Artifact, teachers: list[Artifact], config: DistillConfig, context: RunContext, attempt: Attempt
) -> tuple[DistillTrainer, dict[str, Any]]:
    """The trainer when it has trained, and the manifest's details."""
    set_seed(config.seed)
    (tokenizer, student), kept = make_student(parent, config, context)
    _check_size(student.num_parameters(), teachers, config)
    set_up(student, config)
    rows, texts = training_rows(tokenizer, student, config, context)
    dev = draw(context.data.splits["dev"], config.dev_rows, config.seed)
    teacher = ask_teachers(teachers, tokenizer, rows, texts, config, context, student_layers=len(blocks(student)))
    if not context.data.labelled:
        dev = judged_by(teachers, tokenizer, student, dev, config, context)
    zeros, sparsity = sparsity_callbacks(student, parent, config)
    trainer = train(
        student,
        tokenizer,
        [{**row, ROW: number} for number, row in enumerate(rows)],
        encode(tokenizer, student, dev, config.max_length),
        config,
        context,
        attempt,
        doing="distilling",
        kind=DistillTrainer,
        zeros=zeros,
        distill=config,
        teacher=teacher,
        task=context.data.task,
    )
    digests = [one.digest for one in teachers]
    return trainer, {"teachers": digests, "layers": kept, "layer_map": teacher.layer_map, **sparsity}


def _what_can_be_learnt(config: DistillConfig, context: RunContext) -> DistillConfig:
    """The config without a loss on labels, where there are none."""
    if context.data.labelled or not config.losses.hard:
        return config
    others = {name: weight for name, weight in config.losses if name != "hard"}
    if not any(others.values()):
        raise StageError(
            f"Stage {config.name!r} learns from labels alone (losses hard), and {context.data.name} has none. Expected "
            "a loss that a teacher gives, such as soft = 1.0."
        )
    context.log(f"{config.name}: {context.data.name} has no labels, so it learns from its teachers alone (hard = 0)")
    return config.model_copy(update={"losses": LossWeights(**others)})


def _check_source(artifact: Artifact, config: DistillConfig, context: RunContext) -> None:
    manifest = artifact.manifest
    if not LAYOUTS[manifest.layout].trainable:
        raise StageError(
            f"Stage {config.name!r} learns from {artifact.name!r}, which is {manifest.kind}. "
            "Expected a fine-tuned, distilled or pruned model, before its export."
        )
    if manifest.signature.labels != context.data.labels:
        raise StageError(
            f"Stage {config.name!r} learns from {artifact.name!r}, whose labels are "
            f"{', '.join(manifest.signature.labels)}; the data set's are {', '.join(context.data.labels)}. "
            "Expected the same labels in the same order: fine-tune the teacher on this data set."
        )


def _check_size(parameters: int, teachers: list[Artifact], config: DistillConfig) -> None:
    largest = max(teachers, key=lambda teacher: int(teacher.manifest.details["parameters"]))
    if parameters > int(largest.manifest.details["parameters"]):
        raise StageError(
            f"Stage {config.name!r}: the student has {parameters:,} parameters, its teacher {largest.name!r} only "
            f"{largest.manifest.details['parameters']:,}. Expected a student no larger than its teacher: swap them, or "
            "cut the student with layers, heads, neurons or hidden."
        )
