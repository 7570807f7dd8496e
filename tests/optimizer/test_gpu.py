"""Training on a GPU, by the code that trains on a CPU: it learns, goes on after a kill, and makes do with less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bantam.artifact import Artifact
from optimizer import distill, finetune
from optimizer.catalog import Checkpoint
from optimizer.config import DistillConfig
from optimizer.data import Dataset
from optimizer.stage import RunContext
from optimizer.training import progress
from tests.optimizer.moods import CONFIG, DISTILL, LOSSES, context_in, macro_f1

pytestmark = pytest.mark.gpu

AUTO = CONFIG.model_copy(update={"precision": "auto"})


def on_gpu(
    folder: Path, moods: Dataset, untrained: Checkpoint, sources: dict[str, Artifact] | None = None
) -> RunContext:
    return replace(context_in(folder, moods, untrained, sources), device="cuda")


def test_fine_tuning_learns_in_bf16_and_what_it_writes_runs_on_a_cpu(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint
) -> None:
    torch.cuda.reset_peak_memory_stats()
    made = finetune.run(None, AUTO, on_gpu(tmp_path, moods, untrained))
    assert torch.cuda.max_memory_allocated() > 0
    assert made.manifest.metrics["bf16"] == torch.cuda.is_bf16_supported()
    assert macro_f1(made, moods) > 0.9


@pytest.mark.parametrize("weights", LOSSES, ids="+".join)
def test_a_student_learns_from_its_teacher(
    weights: dict[str, float], tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    changes = {"losses": weights, "relation_heads": 4, "precision": "auto"}
    config = DistillConfig.model_validate({**DISTILL.model_dump(exclude_unset=True), **changes})
    made = distill.run(fine_tuned, config, on_gpu(tmp_path, moods, untrained, {"baseline": fine_tuned}))
    assert macro_f1(made, moods) > 0.9


def test_a_killed_run_goes_on_from_its_checkpoint(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = progress.ProgressBar.on_step_end
    steps: list[int] = []

    def die_late(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 60:
            raise KeyboardInterrupt
        step(self, args, state, control, **kwargs)

    def count(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps.append(state.global_step)
        step(self, args, state, control, **kwargs)

    monkeypatch.setattr(progress.ProgressBar, "on_step_end", die_late)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(None, AUTO, on_gpu(tmp_path, moods, untrained))
    monkeypatch.setattr(progress.ProgressBar, "on_step_end", count)
    made = finetune.run(None, AUTO, on_gpu(tmp_path, moods, untrained))
    assert 1 < steps[0] <= 60
    assert macro_f1(made, moods) > 0.9


def test_out_of_memory_halves_the_batch(tmp_path: Path, moods: Dataset, untrained: Checkpoint) -> None:
    config = AUTO.model_copy(update={"batch_size": 512, "epochs": 2.0})
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    at_ease = finetune.run(None, config, on_gpu(tmp_path / "at-ease", moods, untrained))
    assert at_ease.manifest.metrics["batch_size"] == 512
    total, needed = torch.cuda.get_device_properties(0).total_memory, torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    said: list[str] = []
    context = replace(on_gpu(tmp_path / "tight", moods, untrained), log=said.append)
    torch.cuda.set_per_process_memory_fraction(0.7 * needed / total)
    try:
        made = finetune.run(None, config, context)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert made.manifest.metrics["batch_size"] < 512
    assert said[0] == "out of memory: going on with batches of 256, 2 accumulated"
