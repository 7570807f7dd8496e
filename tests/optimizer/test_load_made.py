"""A folder that Bantam has made, as a model: its manifest says where its weights come from."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from bantam.artifact import MANIFEST, Artifact
from bantam.errors import ArtifactError
from bantam.licence import Licence
from optimizer.load import resolve
from optimizer.load.made import Origin, once_in, origin_of
from tests.optimizer.tiny_models import write_tiny_model

pytestmark = pytest.mark.usefixtures("cache")
GEMMA = Licence("gemma", "gemma3-270m", outputs=True)


def quiet(_: str) -> None:
    """Nothing to say."""


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    return write_tiny_model(tmp_path / "made", "bert")


def say(folder: Path, **more: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | more), encoding="utf-8")


def test_what_it_descends_from_goes_along(made: Artifact) -> None:
    say(made.folder, licences=[asdict(GEMMA)], quantization="Q4_K_M", random_weights=True)
    checkpoint = resolve(str(made.folder), log=quiet)
    assert checkpoint.licences == (GEMMA,)
    assert checkpoint.quantization == "Q4_K_M"
    assert checkpoint.source == f"{made.folder} (from Q4_K_M)"
    assert checkpoint.random_weights


def test_a_folder_of_others_and_a_manifest_from_before_say_nothing(made: Artifact) -> None:
    raw = json.loads((made.folder / MANIFEST).read_text())
    for key in ("licences", "quantization", "random_weights"):
        raw.pop(key)
    (made.folder / MANIFEST).write_text(json.dumps(raw))
    assert origin_of(made.folder) == Origin()
    (made.folder / MANIFEST).unlink()
    assert origin_of(made.folder) == Origin()


def test_changed_files_and_unknown_fields_take_no_terms_away(made: Artifact) -> None:
    say(made.folder, licences=[{**asdict(GEMMA), "since": "2027"}], later={"more": 1})
    (made.folder / "tokenizer_config.json").write_text("{}")
    assert origin_of(made.folder).licences == (GEMMA,)


@pytest.mark.parametrize(
    "content", ['{"licences": [', "[]", '{"licences": ["mit"]}', '{"licences": [{}]}', '{"quantization": 4}']
)
def test_a_manifest_that_cannot_be_read_is_refused(made: Artifact, content: str) -> None:
    (made.folder / MANIFEST).write_text(content)
    with pytest.raises(
        ArtifactError, match=r"manifest\.json cannot be read \(.*licences of the model\.\nCopy the folder"
    ):
        resolve(str(made.folder), log=quiet)


def test_marks_of_several_models_are_one_with_each_once() -> None:
    assert once_in(None, "Q4_K_M", "Q8_0", None, "Q8_0 and Q4_K_M") == "Q4_K_M and Q8_0"
    assert once_in(None) is None
