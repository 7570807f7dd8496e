"""Adapters that peft has saved, given as a model: merged into their base, or refused with what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from bantam.errors import ModelError
from optimizer.load import resolve
from optimizer.load.adapter import WEIGHTS
from optimizer.load.head import read_head
from optimizer.load.model import load_model
from tests.optimizer.tiny_models import write_tiny_classifier

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS = torch.tensor([[4, 5, 6, 7, 8, 9]])


@pytest.fixture(params=["llama", "bert"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An encoder or decoder without a head, as it is published."""
    folder = write_tiny_classifier(tmp_path / "base", request.param).folder
    weights = load_file(folder / "model.safetensors")
    (folder / "manifest.json").unlink()
    for name in [name for name in weights if name.startswith(("score", "classifier"))]:
        del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [str(config["architectures"][0]).replace("ForSequenceClassification", "Model")]
    for name in ("id2label", "label2id", "problem_type"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_adapter(base: Path, folder: Path, labels: int = 4, **changes: Any) -> torch.Tensor:
    """Save a LoRA adapter with a head of so many labels; returns what the two give together."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels, dtype=torch.float32)
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, **changes)
    adapted: Any = get_peft_model(model, config).eval()
    for part in adapted.modules():
        if isinstance(part, LoraLayer):
            for matrix in part.lora_B.parameters():
                torch.nn.init.normal_(matrix, std=0.5)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    with torch.inference_mode():
        return torch.as_tensor(adapted(input_ids=IDS).logits)


def test_it_is_merged_into_its_base_with_its_head(base: Path, tmp_path: Path) -> None:
    expected = save_adapter(base, tmp_path / "adapter")
    said: list[str] = []
    checkpoint = resolve(str(tmp_path / "adapter"), log=said.append)
    assert checkpoint.name == "adapter"
    assert checkpoint.source == f"{tmp_path / 'adapter'} (an adapter of {base})"
    assert said == ["adapter is merged into base, which it was trained beside; kept in Bantam's cache"]
    head = read_head(checkpoint.folder)
    assert head is not None
    assert (head.named, len(head.labels), head.problem) == (False, 4, None)
    with torch.inference_mode():
        torch.testing.assert_close(load_model(checkpoint.folder)(input_ids=IDS).logits, expected)
    again = resolve(str(tmp_path / "adapter"), log=said.append)
    assert (again.digest, len(said)) == (checkpoint.digest, 1)


@pytest.mark.parametrize("base", ["llama"], indirect=True)
def test_pytorchs_own_file_serves_as_well_and_a_base_may_lie_beside_it(base: Path, tmp_path: Path) -> None:
    expected = save_adapter(base, folder := tmp_path / "adapter")
    torch.save(load_file(folder / WEIGHTS[0]), folder / WEIGHTS[1])
    (folder / WEIGHTS[0]).unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "base"}))
    merged = load_model(resolve(str(folder), log=lambda _: None).folder)
    with torch.inference_mode():
        torch.testing.assert_close(merged(input_ids=IDS).logits, expected)


@pytest.mark.parametrize("base", ["llama"], indirect=True)
def test_the_head_of_a_base_that_is_a_classifier_keeps_its_labels(base: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=4)
    model.config.id2label = dict(enumerate("abcd"))
    model.save_pretrained(base)
    save_adapter(base, tmp_path / "adapter")
    head = read_head(resolve(str(tmp_path / "adapter"), log=lambda _: None).folder)
    assert head is not None
    assert head.labels == ("a", "b", "c", "d")


def without(folder: Path, part: str) -> None:
    weights = load_file(folder / WEIGHTS[0])
    save_file({name: weight for name, weight in weights.items() if part not in name}, folder / WEIGHTS[0])


def told(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("base", ["llama"], indirect=True)
@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: without(folder, "score"), "has no classification head, and neither has base"),
        (lambda folder: without(folder, "layers.1.self_attn.q_proj.lora_B"), "lacks weights of LlamaForSequence"),
        (lambda folder: told(folder, target_modules=["k_proj"]), "lacks weights of LlamaForSequenceClassification"),
        (lambda folder: told(folder, task_type="CAUSAL_LM"), "holds an adapter for CAUSAL_LM; expected one of a text"),
        (lambda folder: told(folder, base_model_name_or_path=None), "has base_model_name_or_path = None; expected"),
        (lambda folder: told(folder, base_model_name_or_path="/gone"), "(?s)'/gone', .*There is no folder '/gone'"),
        (lambda folder: (folder / WEIGHTS[0]).unlink(), "has adapter_config.json and no weights"),
        (lambda folder: (folder / WEIGHTS[0]).write_bytes(b""), "is empty"),
        (lambda folder: (folder / WEIGHTS[0]).write_bytes(b"x" * 2000), "cannot be loaded as an adapter"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "does not say what the adapter was trained"),
    ],
)
def test_what_is_missing_is_named(base: Path, tmp_path: Path, break_it: Any, message: str) -> None:
    save_adapter(base, folder := tmp_path / "adapter")
    break_it(folder)
    with pytest.raises(ModelError, match=message):
        resolve(str(folder), log=lambda _: None)


@pytest.mark.parametrize("base", ["llama"], indirect=True)
def test_licences_of_the_base_go_along(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter")
    checkpoint = resolve(str(tmp_path / "adapter"), log=lambda _: None)
    assert [licence.model for licence in checkpoint.licences] == ["base"]
