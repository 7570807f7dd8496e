"""Zeros: the right ones, in the right pattern, and still there after training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bantam.artifact import Artifact
from bantam.errors import StageError
from optimizer import prune
from optimizer.architecture import anatomy
from optimizer.config import PRUNING, DistillConfig
from optimizer.surgery import keep_layers, keep_width
from optimizer.training.sparsity import (
    CubicSchedule,
    KeepZeros,
    is_two_of_four,
    linears_of_blocks,
    remaining,
    sparsity_callbacks,
    zero_smallest,
)
from tests.optimizer.tiny_models import make_context, write_tiny_classifier


def sparse(tmp_path: Path, method: str, *, model_type: str = "bert", **settings: Any) -> tuple[Artifact, Artifact]:
    config = PRUNING[method](name="sparse", parent="baseline", method=method, **settings)
    parent = write_tiny_classifier(tmp_path / "parent", model_type)
    return parent, prune.run(parent, config, make_context(tmp_path / "sparse"))


def load(artifact: Artifact) -> PreTrainedModel:
    model = AutoModelForSequenceClassification.from_pretrained(artifact.folder)
    assert isinstance(model, PreTrainedModel)
    return model


def test_the_smallest_weights_of_all_modules_together_go(tmp_path: Path) -> None:
    parent, artifact = sparse(tmp_path, "magnitude", ratio=0.3)
    before, after = linears_of_blocks(load(parent)), linears_of_blocks(load(artifact))
    whole = torch.cat([part.weight.abs().flatten() for part in before.values()])
    least = whole.sort(descending=True).values[round(0.3 * len(whole)) - 1]
    for name, part in after.items():
        stays = before[name].weight.abs() >= least
        assert torch.equal(part.weight, before[name].weight * stays)
    told = artifact.manifest.details["sparsity"]
    assert told["pattern"] == "magnitude"
    assert told["ratio"] == pytest.approx(0.3, abs=1e-4)
    assert told["modules"] == sorted(after)
    assert len(after) == 2 * 6


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_two_of_four_is_exact(tmp_path: Path, model_type: str) -> None:
    parent, artifact = sparse(tmp_path, "2:4", model_type=model_type)
    before, after = linears_of_blocks(load(parent)), linears_of_blocks(load(artifact))
    for name, part in after.items():
        for row, old in zip(part.weight.view(-1, 4)[:50], before[name].weight.view(-1, 4)[:50], strict=True):
            largest = old.abs().argsort()[2:]
            assert row.nonzero().flatten().tolist() == sorted(largest.tolist())
            assert torch.equal(row[largest], old[largest])
    assert is_two_of_four(after.values())
    assert not is_two_of_four(before.values())
    assert artifact.manifest.details["sparsity"]["ratio"] == 0.5


def test_only_the_blocks_have_zeros(tmp_path: Path) -> None:
    parent, artifact = sparse(tmp_path, "magnitude", ratio=0.1)
    before, after = load(parent).state_dict(), load(artifact).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.weight" for name in artifact.manifest.details["sparsity"]["modules"]}


def test_an_architecture_without_linear_modules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"gpt2.* have no Linear"):
        sparse(tmp_path, "2:4", model_type="gpt2")


def steps(model: PreTrainedModel, callback: KeepZeros, count: int, *, of: int) -> list[float]:
    """Training by hand, with the calls that the Trainer makes; the share of zeros after each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    state = SimpleNamespace(global_step=0, max_steps=of, best_metric=1.0, best_global_step=1, best_model_checkpoint="")
    callback.on_train_begin(None, state, None, model=model)
    ids = torch.arange(4, 12)[None]
    shares = []
    for _ in range(count):
        model(input_ids=ids, labels=torch.ones(1, 3)).loss.backward()
        optimizer.step()
        callback.on_optimizer_step(None, state, None)
        optimizer.zero_grad()
        state.global_step += 1
        shares.append(1 - remaining(linears_of_blocks(model).values()))
    return shares


def test_zeros_stay_through_training(tmp_path: Path) -> None:
    _, artifact = sparse(tmp_path, "2:4")
    model = load(artifact)
    before = {name: part.weight.clone() for name, part in linears_of_blocks(model).items()}
    steps(model, KeepZeros(artifact.manifest.details["sparsity"]["modules"]), 3, of=3)
    for name, part in linears_of_blocks(model).items():
        assert torch.equal(part.weight == 0, before[name] == 0)
        assert not torch.equal(part.weight, before[name])


def test_without_the_callback_they_do_not(tmp_path: Path) -> None:
    _, artifact = sparse(tmp_path, "2:4")
    model = load(artifact)
    assert steps(model, KeepZeros(()), 1, of=1)[0] < 0.1


def test_the_share_grows_by_the_cubic_schedule(tmp_path: Path) -> None:
    model = load(write_tiny_classifier(tmp_path / "parent", "bert"))
    schedule = CubicSchedule(tuple(linears_of_blocks(model)), 0.8, until=0.5, every=2)
    expected = [0.8 * (1 - (1 - t / 10) ** 3) for t in (2, 4, 6, 8, 10)]
    assert [schedule.share(t, 20) for t in (2, 4, 6, 8, 10)] == pytest.approx(expected)
    assert schedule.share(20, 20) == 0.8
    shares = steps(model, schedule, 14, of=20)
    assert shares[1:10:2] == pytest.approx(expected, abs=1e-3)
    assert shares[2:10:2] == pytest.approx(shares[1:9:2])
    assert shares[10:] == pytest.approx([0.8] * 4, abs=1e-3)


def test_no_weights_count_as_best_before_the_share_is_reached() -> None:
    state = SimpleNamespace(max_steps=10)
    schedule = CubicSchedule(("0",), 0.5)
    schedule.start(nn.Sequential(nn.Linear(4, 4)))
    for step, counts in ((0, False), (6, False), (7, True)):
        state.global_step, state.best_metric = step, 0.9
        state.best_global_step = state.best_model_checkpoint = "earlier"
        schedule.on_optimizer_step(None, state, None)
        kept = (state.best_metric, state.best_global_step, state.best_model_checkpoint)
        assert kept == ((0.9, "earlier", "earlier") if counts else (None, None, None))


def test_zeros_that_are_there_count(tmp_path: Path) -> None:
    linear = nn.Linear(10, 10)
    zero_smallest([linear], 0.5)
    first = linear.weight == 0
    zero_smallest([linear], 0.7)
    assert int((linear.weight == 0).sum()) == 70
    assert bool((linear.weight == 0)[first].all())


def distilling(**settings: Any) -> DistillConfig:
    return DistillConfig.model_validate({"stage": "distill", "name": "student", "parent": "sparse", **settings})


def test_a_student_of_a_sparse_parent_keeps_its_zeros(tmp_path: Path) -> None:
    parent, artifact = sparse(tmp_path, "2:4")
    student = load(artifact)
    ((callback,), details) = sparsity_callbacks(student, artifact, distilling())
    assert isinstance(callback, KeepZeros)
    assert not isinstance(callback, CubicSchedule)
    assert details["sparsity"] == artifact.manifest.details["sparsity"]
    shorter = keep_layers(student, [1])
    assert sparsity_callbacks(shorter, artifact, distilling())[1]["sparsity"]["modules"] == sorted(
        linears_of_blocks(shorter)
    )
    narrower = keep_width(student, neurons=[list(range(0, 64, 2))] * len(anatomy(student).layers))
    assert sparsity_callbacks(narrower, artifact, distilling())[1]["sparsity"]["pattern"] == "magnitude"
    assert sparsity_callbacks(load(parent), parent, distilling()) == ([], {})


def test_a_growing_share_is_told_in_the_details(tmp_path: Path) -> None:
    parent = write_tiny_classifier(tmp_path / "parent", "bert")
    ((callback,), details) = sparsity_callbacks(load(parent), parent, distilling(sparsity=0.6))
    assert isinstance(callback, CubicSchedule)
    assert callback.final == 0.6
    assert details["sparsity"]["ratio"] == pytest.approx(0.4)
    other = Artifact(parent.folder, replace(parent.manifest, details={"sparsity": {"pattern": "2:4"}}))
    assert sparsity_callbacks(load(parent), other, distilling(model="minilm")) == ([], {})
