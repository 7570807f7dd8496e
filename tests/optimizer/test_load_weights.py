"""Weights that are damaged, wrapped, of another model or in PyTorch's own files: mended and said, or refused."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from bantam.errors import ModelError
from optimizer.load import resolve
from optimizer.load.model import load_model
from optimizer.load.weights import own_names, shapes
from tests.optimizer.tiny_models import CONFIGS
from tests.optimizer.toy_classifiers import LABELS, change_json, write_classifier

pytestmark = pytest.mark.usefixtures("cache")
Tensors = dict[str, torch.Tensor]


def quiet(_: str) -> None:
    """Nothing to say."""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "toy")


def logits(folder: Path, **asked: Any) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = load_model(folder, log=quiet, **asked)(input_ids=torch.tensor([[2, 5, 6, 7, 3]])).logits
    return result


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """The last bit depends on how the file's tensors lie in memory; a weight that is not the file's moves far more."""
    return torch.allclose(found, expected, rtol=0, atol=1e-6)


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def shard(folder: Path) -> list[Path]:
    """The same weights in two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    index = {name: file for file, part in halves.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "model.safetensors").unlink()
    return [folder / file for file in halves]


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_m01_a_git_lfs_pointer_is_told_from_the_file(toy: Path, file: str) -> None:
    (toy / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 438013677\n")
    with pytest.raises(ModelError, match=rf"{file} is a Git LFS pointer \(\d+ bytes\).*\n.*git lfs pull"):
        resolve(str(toy))


@pytest.mark.parametrize(
    ("keep", "message"),
    [(0, r"is empty\. Copy it again"), (5, "is no safetensors file"), (-100, r"bytes of [\d,]+: the copy was cut off")],
)
def test_m01_weights_that_were_cut_off_are_refused(toy: Path, keep: int, message: str) -> None:
    path = toy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=message):
        resolve(str(toy))


def test_m01_what_is_no_safetensors_is_refused(toy: Path) -> None:
    (toy / "model.safetensors").write_bytes(b"<html>Not found</html>" * 10)
    with pytest.raises(ModelError, match=r"is no safetensors file: its header would end at byte .* save_pretrained"):
        resolve(str(toy))


def test_shards_are_read_and_a_missing_one_is_named(toy: Path) -> None:
    expected = logits(toy)
    parts = shard(toy)
    assert same(logits(resolve(str(toy)).folder), expected)
    parts[1].unlink()
    with pytest.raises(ModelError, match=r"1 of the 2 files .* are not there: model-00002-of-00002\.safetensors"):
        resolve(str(toy))
    (toy / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="is no index of weights"):
        resolve(str(toy))


@pytest.mark.parametrize(
    ("prefix", "tools"),
    [
        ("_orig_mod.", "torch.compile"),
        ("module.", "DataParallel"),
        ("model.", "Lightning"),
        ("net.", "Lightning"),
        ("module._orig_mod.", "torch.compile and DataParallel"),
        ("model._orig_mod.", "torch.compile and Lightning"),
    ],
)
def test_m03_what_a_training_tool_puts_before_the_names_is_left_out(
    toy: Path, tmp_path: Path, prefix: str, tools: str
) -> None:
    expected = logits(toy)
    rewrite(toy, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    said: list[str] = []
    model = load_model(toy, labels=LABELS, task="single_label", new_head=False, log=said.append)
    name = "bert.embeddings.LayerNorm.bias"
    assert said == [f"toy: {prefix}{name} and others are named as {tools} does; read as {name}"]
    assert same(logits(toy), expected)
    model.save_pretrained(tmp_path / "saved")
    saved = shapes(tmp_path / "saved")
    assert own_names(saved) == {name: name for name in saved}


def test_m03_what_is_inside_the_names_is_left_out_too(toy: Path, tmp_path: Path) -> None:
    expected = logits(toy)

    def wrapped(name: str) -> str:
        inside = "layer.1._fsdp_wrapped_module._checkpoint_wrapped_module."
        return f"_fsdp_wrapped_module.{name.replace('layer.1.', inside)}"

    rewrite(toy, lambda tensors: {wrapped(name): tensor for name, tensor in tensors.items()})
    assert same(logits(toy, labels=LABELS, task="single_label", new_head=False), expected)
    load_model(toy, log=quiet).save_pretrained(tmp_path / "saved")
    assert same(logits(tmp_path / "saved"), expected)


@pytest.mark.parametrize("model_type", ["llama", "modernbert", "bert"])
def test_a_prefix_that_is_the_models_own_stays(tmp_path: Path, model_type: str) -> None:
    """An encoder saved alone, or with all of its names below ``model.``, is what transformers reads itself."""
    config = AutoConfig.for_model(model_type, **{"vocab_size": 200, **CONFIGS[model_type]})
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    model.save_pretrained(tmp_path)
    if model_type != "bert":
        rewrite(tmp_path, lambda tensors: {f"model.{name}": tensor for name, tensor in tensors.items()})
    said: list[str] = []
    loaded: Any = load_model(tmp_path, labels=("a", "b"), task="single_label", log=said.append)
    assert said == []
    loaded.base_model.save_pretrained(tmp_path / "again")
    again, before = load_file(tmp_path / "again/model.safetensors"), model.state_dict()
    assert all(torch.equal(again[name], before[name]) for name in again)


def without_layer(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if ".layer.1." not in name}


def renamed(tensors: Tensors) -> Tensors:
    return {name.replace("bert.", "electra."): tensor for name, tensor in tensors.items()}


def in_part_prefixed(tensors: Tensors) -> Tensors:
    return {name.replace("bert.", "mine.bert."): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("change", [without_layer, renamed, in_part_prefixed])
@pytest.mark.parametrize("labels", [LABELS, ("other", "names"), None])
def test_m03_weights_that_lack_a_part_of_the_encoder_are_refused(
    toy: Path, change: Callable[[Tensors], Tensors], labels: tuple[str, ...] | None
) -> None:
    rewrite(toy, change)
    with pytest.raises(
        ModelError, match=r"no weights for \d+ of the model's 41 tensors: bert\..* and \d+ more"
    ) as caught:
        load_model(toy, labels=labels, task="single_label")
    assert len(str(caught.value).splitlines()) == 2


def test_m03_a_config_with_fewer_layers_than_the_weights_is_refused(toy: Path) -> None:
    change_json(toy / "config.json", num_hidden_layers=1)
    with pytest.raises(
        ModelError, match=r"weights of the encoder that config\.json has no place for: bert\.encoder\.la"
    ):
        load_model(toy, labels=("other", "names"), task="single_label")


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"vocab_size": 99}, r"bert\.embeddings\.word_embeddings\.weight is \[\d+, 32\], by config\.json \[99, 32\]"),
        ({"max_position_embeddings": 32}, r"position_embeddings\.weight is \[64, 32\], by config\.json \[32, 32\]"),
        ({"intermediate_size": 8}, r"dense\.bias is \[64\], by config\.json \[8\]; .* and 3 more"),
    ],
)
def test_m04_a_config_that_does_not_fit_the_weights_is_refused(toy: Path, changes: Any, shown: str) -> None:
    change_json(toy / "config.json", **changes)
    for labels in (("other", "names"), LABELS):
        with pytest.raises(ModelError, match=shown):
            load_model(toy, labels=labels, task="single_label")


def test_leftovers_of_older_versions_are_no_fault(toy: Path) -> None:
    """Masks and counters, which transformers kept among the weights once."""
    expected = logits(toy)
    old = {
        "bert.encoder.layer.0.attention.self.bias": torch.ones(1, 1, 64, 64),
        "bert.encoder.layer.0.attention.self.masked_bias": torch.tensor(-1e4),
        "bert.embeddings.position_ids": torch.arange(64)[None],
    }
    rewrite(toy, lambda tensors: tensors | old)
    assert same(logits(toy), expected)


def test_a_pretraining_head_and_a_missing_pooler_are_no_fault(tmp_path: Path) -> None:
    config = AutoConfig.for_model("bert", vocab_size=200, **CONFIGS["bert"])
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)  # has no pooler
    assert load_model(tmp_path, labels=("a", "b"), task="single_label").config.num_labels == 2


# ---------------------------------------------------------------------------------------------------- PyTorch's files


def pickled(folder: Path, **options: Any) -> Tensors:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", **options)
    return tensors


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_m30_pytorchs_own_file_is_read_as_tensors_and_keeps_the_head(
    toy: Path, cache: Path, options: dict[str, Any]
) -> None:
    expected = logits(toy)
    pickled(toy, **options)
    said: list[str] = []
    found = resolve(str(toy), log=said.append)
    assert len(said) == 1
    assert "pytorch_model.bin is read as tensors only" in said[0]
    assert found.folder.is_relative_to(cache)
    assert (found.name, found.source) == ("toy", str(toy))
    assert same(logits(found.folder, labels=LABELS, task="single_label", new_head=False), expected)
    assert resolve(str(toy), log=quiet) == found


def test_m30_several_files_and_shared_tensors(toy: Path) -> None:
    expected, tensors = logits(toy), pickled(toy)
    (toy / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    torch.save(OrderedDict((name, tensors[name]) for name in names[::2]), toy / "pytorch_model-00001-of-00002.bin")
    rest = [*names[1::2], "cls.predictions.decoder.weight"]
    torch.save({name: tensors[name] for name in rest}, toy / "pytorch_model-00002-of-00002.bin")
    (toy / "pytorch_model.bin.index.json").write_text("{}")
    assert same(logits(resolve(str(toy), log=quiet).folder), expected)


def test_m30_the_state_dict_inside_a_trainers_file(toy: Path) -> None:
    expected = logits(toy)
    tensors = pickled(toy)
    torch.save({"state_dict": {f"module.{n}": t for n, t in tensors.items()}, "epoch": 3}, toy / "pytorch_model.bin")
    assert same(logits(resolve(str(toy), log=quiet).folder), expected)


class Runs:
    """What a malicious file does when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("content", ["code", "cut", "text", "no tensors"])
def test_m30_a_file_that_would_run_code_or_is_damaged_is_refused(toy: Path, tmp_path: Path, content: str) -> None:
    pickled(toy)
    path = toy / "pytorch_model.bin"
    if content == "code":
        torch.save({"weight": Runs(tmp_path / "ran")}, path)
    elif content == "no tensors":
        torch.save({"a": 1}, path)
    else:
        path.write_bytes(path.read_bytes()[:1000] if content == "cut" else b"hello")
    with pytest.raises(ModelError, match=r"cannot be read as tensors alone \(\w+\).*\nExpected the weights"):
        resolve(str(toy), log=quiet)
    assert not (tmp_path / "ran").exists()
