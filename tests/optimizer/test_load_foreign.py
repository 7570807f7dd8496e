"""What other tools have made of a model: each is told what to bring instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bantam.errors import ModelError
from optimizer.load import resolve
from tests.optimizer.toy_classifiers import change_json, write_classifier


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "toy")


def instead_of_weights(folder: Path, *names: str) -> None:
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / name).write_text("{}")


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"load_in_8bit": True},
    ],
)
def test_m13_a_compressed_checkpoint_is_told_to_bring_its_source(toy: Path, quantization: dict[str, Any]) -> None:
    change_json(toy / "config.json", quantization_config=quantization, _name_or_path="org/source")
    with pytest.raises(
        ModelError, match=r"is compressed already .*\nGive the model that it was made of \(org/source\)"
    ):
        resolve(str(toy))


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json"])
def test_m13_a_compressors_own_file_says_so_too(toy: Path, file: str) -> None:
    (toy / file).write_text("{}")
    with pytest.raises(ModelError, match=rf"is compressed already \({file}\)"):
        resolve(str(toy))


@pytest.mark.usefixtures("no_hub")
def test_m28_an_adapter_whose_base_cannot_be_had_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    for base in ("org/base", str(tmp_path / "trained-elsewhere")):
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        with pytest.raises(
            ModelError, match=f"(?s)holds an adapter for '{base}', which cannot be had.*Bring that model"
        ):
            resolve(str(folder))


def test_m28_an_adapter_beside_weights_is_not_passed_over(toy: Path) -> None:
    (toy / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ModelError, match=r"a model's weights and an adapter .*\nRemove the adapter's files if it is merged"
    ):
        resolve(str(toy))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.onnx", r"is an ONNX export \(model\.onnx\), not a model\.\nGive the model that it was made of"),
        ("model_quantized.onnx", "is an ONNX export"),
        ("openvino_model.xml", "is an OpenVINO export"),
        ("model-q4_k_m.gguf", "cannot be loaded as a GGUF file"),
        ("tf_model.h5", r"has TensorFlow weights .*\nConvert it once, with transformers 4 and tensorflow: .*from_tf"),
        ("flax_model.msgpack", "has Flax weights"),
        ("weights.safetensors", r"has weights\.safetensors, but not model\.safetensors"),
        ("README.md", r"has no weights; expected model\.safetensors"),
    ],
)
def test_m29_an_export_is_told_to_bring_its_source(toy: Path, file: str, message: str) -> None:
    instead_of_weights(toy, file)
    with pytest.raises(ModelError, match=message):
        resolve(str(toy))


def test_a_folder_around_the_model_says_where_it_is(toy: Path) -> None:
    (toy.rename(toy.parent / "checkpoint-500")).rename(toy.parent / "run-500")
    with pytest.raises(ModelError, match=r"has no config\.json\.\nThere is one in .*run-500: give that folder"):
        resolve(str(toy.parent))
    with pytest.raises(ModelError, match=r"is a file; expected the folder that save_pretrained wrote"):
        resolve(str(toy.parent / "run-500/model.safetensors"))
