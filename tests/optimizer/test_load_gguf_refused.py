"""GGUF files that are refused, because transformers would leave something out, or there is no room for them."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, StableLmConfig, Starcoder2Config

from bantam.errors import ModelError
from optimizer.load import gguf as loader
from optimizer.load import resolve
from optimizer.load.gguf import gguf_file
from optimizer.load.gguf_header import other_rotation, read, refuse_unexpected
from tests.optimizer.tiny_gguf import write_gguf
from tests.optimizer.toy_classifiers import write_classifier

pytestmark = pytest.mark.usefixtures("cache")


def quiet(_: str) -> None:
    """Nothing to say."""


@pytest.mark.parametrize(
    ("metadata", "lost"),
    [
        ({"type": "linear", "factor": 8.0}, r"rope\.scaling\.factor = 8\.0, llama\.rope\.scaling\.type = linear"),
        ({"factor": 2.0}, r"rope\.scaling\.factor = 2\.0"),
        ({"type": "yarn"}, r"rope\.scaling\.type = yarn"),
        ({"type": "linear", "attn_factor": 1.5}, r"rope\.scaling\.attn_factor = 1\.5"),
    ],
)
def test_scaled_rotary_embeddings_are_refused(tmp_path: Path, metadata: dict[str, Any], lost: str) -> None:
    said: Any = {f"llama__rope__scaling__{key}": value for key, value in metadata.items()}
    write_gguf(tmp_path / "a.gguf", **said)
    message = (
        rf"^Got .*a\.gguf with .*{lost}.*, which transformers [\d.]+ does not read\.\n.* Give the model that it was"
    )
    with pytest.raises(ModelError, match=message):
        resolve(str(tmp_path / "a.gguf"), log=quiet)


def test_a_scale_that_changes_nothing_is_none(tmp_path: Path) -> None:
    none: Any = {"llama__rope__scaling__type": "none", "llama__rope__scaling__factor": 8.0}
    write_gguf(tmp_path / "none.gguf", **none)
    one: Any = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 1.0}
    write_gguf(tmp_path / "one.gguf", **one)
    assert [read(tmp_path / f"{name}.gguf").architecture for name in ("none", "one")] == ["llama"] * 2


def test_factors_of_frequencies_are_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", more={"rope_freqs.weight": np.ones(8, np.float32)})
    with pytest.raises(ModelError, match=r"with rope_freqs\.weight, which transformers"):
        resolve(str(tmp_path / "a.gguf"), log=quiet)


def test_rotation_that_transformers_takes_from_its_defaults_is_refused() -> None:
    sizes: Any = {"hidden_size": 64, "num_attention_heads": 4}
    base = {"starcoder2.rope.freq_base": 1e6}
    assert other_rotation(base, "starcoder2", Starcoder2Config(**sizes)) == ["starcoder2.rope.freq_base = 1e+06"]
    assert other_rotation({"starcoder2.rope.freq_base": 1e4}, "starcoder2", Starcoder2Config(**sizes)) == []
    width = {"stablelm.rope.dimension_count": 16}
    assert other_rotation(width, "stablelm", StableLmConfig(**sizes)) == ["stablelm.rope.dimension_count = 16"]
    assert other_rotation({"stablelm.rope.dimension_count": 4}, "stablelm", StableLmConfig(**sizes)) == []


def test_tensors_without_a_place_are_refused_by_name_and_a_language_head_is_not(tmp_path: Path) -> None:
    norm = np.ones(64, np.float32)
    write_gguf(tmp_path / "a.gguf", more={f"blk.{layer}.attn_sub_norm.weight": norm for layer in (0, 1)})
    expected = r"with blk\.0\.attn_sub_norm\.weight, blk\.1\.attn_sub_norm\.weight, which transformers"
    with pytest.raises(ModelError, match=expected):
        resolve(str(tmp_path / "a.gguf"), log=quiet)
    write_gguf(tmp_path / "gemma.gguf", "gemma3", more={"output.weight": np.ones((300, 64), np.float32)})
    assert resolve(str(tmp_path / "gemma.gguf"), log=quiet).quantization == "Q8_0"


def test_what_transformers_says_that_it_left_out_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"with model\.layers\.0\.more\.weight, which transformers"):
        refuse_unexpected(tmp_path / "a.gguf", ["lm_head.weight", "model.layers.0.more.weight"])
    refuse_unexpected(tmp_path / "a.gguf", ["lm_head.weight"])


@pytest.mark.parametrize(("what", "advice"), [("memory", "take a smaller model"), ("disk at", "set BANTAM_CACHE")])
def test_a_conversion_without_room_is_refused_before_it_begins(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, what: str, advice: str
) -> None:
    write_gguf(tmp_path / "a.gguf")
    if what == "memory":
        monkeypatch.setattr(loader, "available_mb", lambda: 0.0)
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ModelError, match=rf"needed, and 0\.00 GB are free\.\nFree some, or {advice}") as caught:
        resolve(str(tmp_path / "a.gguf"), log=quiet)
    assert f" GB of {what}" in str(caught.value)
    assert [path.name for path in (cache / "converted").iterdir()] == [".lock"]


def test_of_two_passes_one_model_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "large.gguf", scale=1e7)  # beyond fp16
    load = AutoModelForSequenceClassification.from_pretrained
    made: list[Any] = []
    alive: list[int] = []

    def noted(*arguments: Any, **keys: Any) -> Any:
        gc.collect()
        alive.append(sum(reference() is not None for reference in made))
        found = load(*arguments, **keys)
        made.append(weakref.ref(found[0].base_model))
        return found

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", noted)
    resolve(str(tmp_path / "large.gguf"), log=quiet)
    assert alive == [0, 0]


def test_pytorchs_own_files_come_before_a_gguf_file_beside_them(tmp_path: Path) -> None:
    toy = write_classifier(tmp_path / "toy")
    weights = toy / "model.safetensors"
    write_gguf(toy / "a.gguf")
    assert gguf_file(str(toy)) is None
    weights.unlink()
    assert gguf_file(str(toy)) == toy / "a.gguf"
    torch.save({}, toy / "pytorch_model.bin")
    assert gguf_file(str(toy)) is None


def test_the_ending_may_be_in_upper_case_and_the_name_is_the_links(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    write_gguf(tmp_path / "blobs" / "0123abcd")
    link = tmp_path / "snapshot" / "Tiny.GGUF"
    link.symlink_to(Path("../blobs/0123abcd"))
    assert gguf_file(str(link)) == gguf_file(str(link.parent)) == link
    said: list[str] = []
    checkpoint = resolve(str(link), log=said.append)
    assert (checkpoint.name, checkpoint.folder.name[:5]) == ("Tiny", "Tiny-")
    assert said[0].startswith("Tiny.GGUF: llama in Q8_0 becomes")


def test_random_weights_need_a_config(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    for model in (tmp_path / "a.gguf", tmp_path):
        with pytest.raises(ModelError, match=r"a\.gguf with --random-init, which needs a config\.json"):
            resolve(str(model), random_init=True, log=quiet)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", r"is a Git LFS pointer .*\nGet the files: git lfs pull"),
        (b"", r"a\.gguf is empty\. Copy it again"),
    ],
)
def test_what_stands_for_a_file_is_told_how_to_get_it(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        resolve(str(tmp_path / "a.gguf"), log=quiet)


def test_nothing_is_said_beside_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "a.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    resolve(str(tmp_path / "a.gguf"), log=quiet)
    assert capfd.readouterr().err == ""
