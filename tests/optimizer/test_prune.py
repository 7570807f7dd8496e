"""The stage prune: smaller matrices that load with transformers, at the target, tuned to give what was given before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bantam.artifact import Artifact, Compute, Numbers
from bantam.errors import ModelError, StageError
from optimizer import prune
from optimizer.architecture import anatomy, blocks, flops
from optimizer.config import PRUNING, PruneConfig
from optimizer.prune import structured
from optimizer.prune.tuning import normal_equations, solve, tune
from optimizer.surgery import keep_width
from optimizer.training.classifier import load_artifact, write
from tests.optimizer.tiny_models import make_context, write_tiny_classifier


def config(method: str, **settings: Any) -> Any:
    return PRUNING[method](name="pruned", parent="baseline", method=method, **settings)


def pruned(tmp_path: Path, model_type: str, settings: PruneConfig) -> tuple[Artifact, Artifact]:
    """The parent and what became of it."""
    parent = write_tiny_classifier(tmp_path / "parent", model_type)
    return parent, prune.run(parent, settings, make_context(tmp_path / "pruned"))


def loaded(artifact: Artifact) -> PreTrainedModel:
    model, told = AutoModelForSequenceClassification.from_pretrained(artifact.folder, output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(model, PreTrainedModel)
    model.eval()
    return model


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    ids = torch.randint(4, 200, (16, 20), generator=torch.Generator().manual_seed(1))
    found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("model_type", ["bert", "mpnet", "distilbert", "qwen3"])
@pytest.mark.parametrize("importance", ["magnitude", "taylor", "fisher"])
def test_width_reaches_its_flops_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, importance: str
) -> None:
    in_memory: list[PreTrainedModel] = []

    def keep(model: PreTrainedModel, *arguments: Any, **named: Any) -> Artifact:
        in_memory.append(model)
        return write(model, *arguments, **named)

    monkeypatch.setattr(structured, "write", keep)
    parent, artifact = pruned(tmp_path, model_type, config("width", ratio=0.5, importance=importance, tokens=20))
    model = loaded(artifact)
    assert torch.equal(logits(model), logits(in_memory[0].eval()))
    before, after, details = anatomy(loaded(parent)), anatomy(model), artifact.manifest.details
    reached = flops(after, 20) / flops(before, 20)
    assert 0.4 < reached <= 0.5
    assert details["flops_ratio"] == pytest.approx(reached, abs=1e-4)
    assert (details["heads"], details["neurons"], details["hidden"]) == (after.heads, after.neurons, after.hidden)
    assert details["parameters"] == model.num_parameters() < loaded(parent).num_parameters()
    assert (details["tuned"] > 0) == (after.hidden == before.hidden)
    assert artifact.manifest.signature == parent.manifest.signature
    assert [entry["stage"] for entry in artifact.manifest.lineage] == ["finetune", "prune"]
    assert artifact.manifest.random_weights


def test_the_same_config_gives_the_same_weights(tmp_path: Path) -> None:
    files = [
        pruned(tmp_path / name, "bert", config("width", calibration_rows=20))[1].manifest.files for name in ("a", "b")
    ]
    assert files[0]["model.safetensors"] == files[1]["model.safetensors"]


def test_kept_hidden_prunes_neurons_alone(tmp_path: Path) -> None:
    _, artifact = pruned(tmp_path, "bert", config("width", ratio=0.6, keep_hidden=True))
    details = artifact.manifest.details
    assert (details["heads"], details["hidden"]) == (4, 32)
    assert details["neurons"] < 64
    assert details["tuned"] > 0


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["bert", "qwen3"])
def test_tuned_is_closer_to_the_unpruned_than_untuned(tmp_path: Path, model_type: str) -> None:
    parent = write_tiny_classifier(tmp_path / "parent", model_type)
    tokenizer, model = load_artifact(parent.folder)
    context = make_context(tmp_path / "pruned", texts=200)
    batches = structured.calibration(tokenizer, model, parent, config("width"), context)
    heads = [[0, 1], [2, 3]] if model_type == "qwen3" else None
    smaller = keep_width(model.eval(), heads=heads, neurons=[list(range(0, 64, 2))] * 2)

    def distance(layer: int) -> float:
        """Squared, of the hidden states after a layer, relative."""
        apart = size = 0.0
        for batch in batches:
            tokens = batch["attention_mask"].bool()
            states = [m(**batch, output_hidden_states=True).hidden_states[layer][tokens] for m in (smaller, model)]
            apart += float((states[0] - states[1]).square().sum())
            size += float(states[1].square().sum())
        return apart / size

    untuned = [distance(1), distance(2)]
    assert tune(smaller, model, batches) == 4
    assert distance(1) < 0.99 * untuned[0]
    assert distance(2) < 0.98 * untuned[1]


def test_the_scales_are_those_of_plain_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.prune.tuning.DAMPING", 1e-6)
    draw = torch.Generator().manual_seed(0)
    inputs, weight, given = (torch.randn(shape, generator=draw).double() for shape in ((50, 12), (5, 12), (50, 5)))
    columns = [(inputs[:, i : i + 3] @ weight[:, i : i + 3].T).flatten() for i in range(0, 12, 3)]
    expected = torch.linalg.lstsq(torch.stack(columns, 1), given.flatten()[:, None]).solution[:, 0]
    matrix, right = normal_equations(inputs, weight, given, 3)
    torch.testing.assert_close(torch.linalg.solve(matrix, right), expected)
    torch.testing.assert_close(solve(matrix, right), expected, atol=1e-4, rtol=1e-4)
    # A part that gives nothing has any scale: it keeps 1.
    assert float(solve(*normal_equations(inputs * torch.arange(12).ge(3), weight, given, 3))[0]) == pytest.approx(1)


def test_a_wild_solution_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = write_tiny_classifier(tmp_path / "parent", "bert")
    tokenizer, model = load_artifact(parent.folder)
    context = make_context(tmp_path / "pruned")
    batches = structured.calibration(tokenizer, model, parent, config("width"), context)
    smaller = keep_width(model, neurons=[list(range(32))] * 2)
    before = {name: weight.clone() for name, weight in smaller.state_dict().items()}
    monkeypatch.setattr("optimizer.prune.tuning.WILD", 0.0)
    assert tune(smaller, model, batches) == 0
    assert all(torch.equal(weight, before[name]) for name, weight in smaller.state_dict().items())


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_layers_by_number_are_the_most_influential(tmp_path: Path, model_type: str) -> None:
    parent, artifact = pruned(tmp_path, model_type, config("layers", layers=1))
    influence = artifact.manifest.details["influence"]
    assert artifact.manifest.details["layers"] == [influence.index(max(influence))]
    assert len(blocks(loaded(artifact))) == 1
    assert len(blocks(loaded(parent))) == 2


def test_layers_by_name(tmp_path: Path) -> None:
    parent, artifact = pruned(tmp_path, "bert", config("layers", layers=[1]))
    assert artifact.manifest.details["layers"] == [1]
    assert "influence" not in artifact.manifest.details
    kept, second = anatomy(loaded(artifact)).layers[0], anatomy(loaded(parent)).layers[1]
    assert torch.equal(kept.query.weight, second.query.weight)


@pytest.mark.parametrize("layers", [2, 3, [0, 1], []], ids=str)
def test_as_many_layers_as_there_are_or_none_is_refused(tmp_path: Path, layers: Any) -> None:
    with pytest.raises(StageError, match=r"which has 2.\s+Expected 1 to 1"):
        pruned(tmp_path, "bert", config("layers", layers=layers))


def test_a_layer_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="2"):
        pruned(tmp_path, "bert", config("layers", layers=[2]))


def test_each_method_has_a_config() -> None:
    assert prune.METHODS.keys() == PRUNING.keys()


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5])
def test_a_ratio_of_nothing_or_all_is_no_config(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        config("width", ratio=ratio)


def test_an_unreachable_ratio_says_what_can_be_reached(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"Expected at least 0\.\d+; remove layers"):
        pruned(tmp_path, "bert", config("width", ratio=0.01, keep_hidden=True, calibration_rows=4))


@pytest.mark.parametrize(("method", "model_type"), [("width", "gpt2"), ("layers", "albert"), ("magnitude", "albert")])
def test_an_architecture_that_cannot_be_taken_apart_is_refused(tmp_path: Path, method: str, model_type: str) -> None:
    more = {"layers": 1} if method == "layers" else {}
    with pytest.raises(ModelError, match=model_type):
        pruned(tmp_path, model_type, config(method, **more))


@pytest.mark.parametrize("changes", [{"layout": "onnx"}, {"compute": Compute(weights=Numbers("int", 8))}])
def test_only_pytorch_in_fp32_is_pruned(tmp_path: Path, changes: dict[str, Any]) -> None:
    parent = write_tiny_classifier(tmp_path / "parent", "bert")
    other = Artifact(parent.folder, replace(parent.manifest, **changes))
    with pytest.raises(StageError, match="Expected a parent of format pytorch in fp32"):
        prune.run(other, config("width"), make_context(tmp_path / "pruned"))
