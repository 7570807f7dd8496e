"""Finding a model's files: local folders, and a hub that cannot be reached."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bantam.errors import ModelError
from optimizer.catalog import CATALOG
from optimizer.load import resolve

pytestmark = pytest.mark.usefixtures("cache")


def quiet(_: str) -> None:
    """Nothing to say."""


def test_local_folder(tiny: Path) -> None:
    checkpoint = resolve(str(tiny))
    assert (checkpoint.name, checkpoint.folder, checkpoint.revision) == ("tiny", tiny, "local")
    assert not checkpoint.random_weights


def test_digest_follows_the_weights_and_nothing_else(tiny: Path) -> None:
    before = resolve(str(tiny)).digest
    (tiny / "README.md").write_text("a word")
    assert resolve(str(tiny)).digest == before
    weights = bytearray((tiny / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tiny / "model.safetensors").write_bytes(weights)
    assert resolve(str(tiny)).digest != before


def test_local_folder_loads_as_a_classifier(tiny: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    checkpoint = resolve(str(tiny))
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint.folder, num_labels=3)
    batch = AutoTokenizer.from_pretrained(checkpoint.folder)(["a", "a longer text"], padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (2, 3)
    assert model.config.pad_token_id == 0


def test_a_pickle_that_is_no_tensors_is_refused(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin cannot be read as tensors alone .*\nExpected"):
        resolve(str(tiny), log=quiet)


def test_an_adapters_weights_alone_are_refused(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"holds an adapter's weights without adapter_config.json"):
        resolve(str(tiny))


def test_folder_without_config(tiny: Path) -> None:
    (tiny / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve(str(tiny))


def test_folder_without_tokenizer(tiny: Path) -> None:
    for path in tiny.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer"):
        resolve(str(tiny))


def test_folder_that_is_not_there() -> None:
    with pytest.raises(ModelError, match=r"no folder '\./nowhere'\. Known models: minilm, bert"):
        resolve("./nowhere")


@pytest.mark.parametrize("config", ["{", "[]", '{"hidden_size": 3}'])
def test_damaged_config(tiny: Path, config: str) -> None:
    (tiny / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"is not a Hugging Face config"):
        resolve(str(tiny))


def test_code_that_comes_with_a_model_is_never_run(tiny: Path) -> None:
    (tiny / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoModel": "code.Model"}}))
    (tiny / "code.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(ModelError, match=r"'mine' is code that comes with it, which Bantam never runs"):
        resolve(str(tiny))


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("model", ["nosuch", "nobody/nothing", "bert"])
def test_hub_out_of_reach_fails_within_seconds_and_says_what_to_do(model: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ModelError, match=r"out of reach") as caught:
        resolve(model, log=quiet)
    assert time.perf_counter() - start < 10
    assert "Known models: minilm, bert, distilbert, tinyllama, bloomz-3b, gemma3-270m; minilm needs no hub." in str(
        caught.value
    )
    assert ("bert --random-init" in str(caught.value)) == (model == "bert")
    assert f"hf download {CATALOG[model].hub_id if model in CATALOG else model}" in str(caught.value)


def test_offline_mode_is_respected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE is set, so the Hugging Face hub was not asked"):
        resolve("distilbert", log=quiet)
