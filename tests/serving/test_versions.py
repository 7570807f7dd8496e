"""Versions that are taken from one repository to another, listed, pruned and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bantam.artifact import Artifact, Signature, seal, sha256
from bantam.errors import RepositoryError, ServerError
from bantam.licence import Licence
from serving.listing import listed, other_interface
from serving.repository import Version, models, promote, prune, publish, published, rollback, stage, take, verified
from serving.server import Server
from serving.triton_config import served_version
from serving.version_folder import EVIDENCE

Make = Callable[..., Artifact]


def put(artifact: Artifact, root: Path, name: str = "tiny", evidence: str = "") -> Version:
    return publish(artifact, root, name, thresholds=[0.25, 0.5, 0.75], evidence=evidence)


def test_a_version_is_taken_to_another_repository_as_its_next_one(
    tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path
) -> None:
    put(tiny_artifact, tmp_path / "from")
    source = put(make_artifact(details={"seed": 1}), tmp_path / "from", evidence="{}")
    put(tiny_artifact, tmp_path / "to")
    taken = take(source.folder, tmp_path / "to", "tiny")
    assert taken == Version("tiny", 2, tmp_path / "to" / "tiny" / "2", changed=True)
    assert published(tmp_path / "to", "tiny") == Version("tiny", 1, tmp_path / "to" / "tiny" / "1"), "staged only"
    assert verified(taken.folder).manifest == verified(source.folder).manifest
    assert (taken.folder / EVIDENCE).read_text() == "{}"
    assert take(source.folder, tmp_path / "to", "tiny") == replace(taken, changed=False)
    assert "0.75" in (promote(taken).folder.parent / "config.pbtxt").read_text()


def test_under_another_number_and_name_its_config_says_so(tiny_artifact: Artifact, tmp_path: Path) -> None:
    source = put(tiny_artifact, tmp_path / "from")
    taken = take(source.folder, tmp_path / "to", "other", number=7)
    assert (taken.name, taken.number) == ("other", 7)
    promote(taken)
    text = (tmp_path / "to" / "other" / "config.pbtxt").read_text()
    assert served_version(text) == (7, None)
    assert ('name: "other"' in text, '"7/labels.txt"' in text, "1/labels" in text) == (True, True, False)
    assert take(source.folder, tmp_path / "to", "other").number == 7
    assert models(tmp_path / "to") == ["other"]


def test_it_keeps_the_backend_that_it_was_measured_with(tiny_artifact: Artifact, tmp_path: Path) -> None:
    source = put(tiny_artifact, tmp_path / "from")
    engine = source.folder / "backend" / "engine.py"
    engine.write_text(engine.read_text() + "# of an older Bantam\n")
    seal(source.folder, Artifact.described(source.folder).manifest)
    taken = take(source.folder, tmp_path / "to", "tiny")
    assert (taken.folder / "backend" / "engine.py").read_text().endswith("# of an older Bantam\n")


def test_a_version_in_its_own_repository_is_there_already(tiny_artifact: Artifact, tmp_path: Path) -> None:
    source = put(tiny_artifact, tmp_path)
    assert take(source.folder, tmp_path, "tiny") == replace(source, changed=False)


def test_what_is_no_version_or_is_damaged_is_not_taken(tiny_artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"expected a version's folder, such as model_repo/minilm/3"):
        take(tiny_artifact.folder, tmp_path, "tiny")
    source = put(tiny_artifact, tmp_path / "from")
    (source.folder / "labels.txt").write_text("joy\nfear\nrage!\n")
    with pytest.raises(RepositoryError, match=r"tiny, version 1, is not as it was published: .*labels\.txt"):
        take(source.folder, tmp_path / "to", "tiny")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json", "model.py", "backend/engine.py", "labels.txt"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_changed_or_missing_file_is_refused_at_start_by_its_name(
    tiny_artifact: Artifact, tmp_path: Path, file: str, how: str
) -> None:
    path = put(tiny_artifact, tmp_path).folder / file
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if how == "missing":
        path.unlink()
    said = {"changed": "its content has changed", "missing": "missing or not"}[how]
    with pytest.raises(ServerError, match=rf"tiny, version 1, is not as it was published: .*{file}: {said}"):
        Server(tmp_path).start()


def test_the_list_says_what_is_served_what_was_and_what_is_staged(make_artifact: Make, tmp_path: Path) -> None:
    licence = Licence("gemma", "gemma3-270m", "Gemma Terms of Use")
    for seed in range(3):
        made = make_artifact(details={"seed": seed})
        put(Artifact(made.folder, replace(made.manifest, licences=(licence,))), tmp_path)
    staged = stage(make_artifact(details={"seed": 9}), tmp_path, "tiny", thresholds=None)
    found = list(listed(tmp_path, "tiny"))
    assert [(each.number, each.state) for each in found] == [(4, "staged"), (3, "served"), (2, "previous"), (1, "old")]
    assert found[0].digest == sha256(staged.folder / "manifest.json")
    assert [each.licences for each in found[:2]] == [(), ("Gemma Terms of Use",)]
    assert all(each.written.endswith("+00:00") and each.size_bytes > 1000 for each in found)
    rollback(tmp_path, "tiny")
    assert [each.state for each in listed(tmp_path, "tiny")] == ["staged", "previous", "served", "old"]
    (staged.folder / "model.onnx").unlink()
    assert "model.onnx: missing" in next(listed(tmp_path, "tiny")).problem


@pytest.mark.parametrize(("keep", "left"), [(0, [5, 6, 7]), (3, [5, 6, 7]), (4, [4, 5, 6, 7]), (99, [*range(1, 8)])])
def test_prune_keeps_so_many_and_always_those_that_may_be_needed(
    make_artifact: Make, tmp_path: Path, keep: int, left: list[int]
) -> None:
    for seed in range(6):
        put(make_artifact(details={"seed": seed}), tmp_path)
    stage(make_artifact(details={"seed": 9}), tmp_path, "tiny", thresholds=None)
    removed = prune(tmp_path, "tiny", keep)
    assert [each.number for each in reversed(list(listed(tmp_path, "tiny")))] == left
    assert removed == [number for number in range(1, 8) if number not in left]


def test_the_order_of_labels_may_change_and_nothing_else(tiny_artifact: Artifact) -> None:
    was = tiny_artifact.manifest.signature
    assert other_interface(was, replace(was, labels=tuple(reversed(was.labels)), max_length=8)) == ""
    other = Signature("single_label", ("joy", "anger", "rage"), was.inputs, 64, pair=True)
    assert other_interface(was, other) == (
        "the task is single_label in place of multi_label; it reads pairs of texts in place of single texts; "
        "new labels: 'rage'; labels that are gone: 'fear'"
    )


def test_a_manifest_is_read_where_its_files_are_not(tiny_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes((tiny_artifact.folder / "manifest.json").read_bytes())
    assert Artifact.described(tmp_path).manifest == tiny_artifact.manifest
    raw = json.loads((tmp_path / "manifest.json").read_text())
    raw["files"]["../escaped"] = {"sha256": "0", "bytes": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(Exception, match=r"\.\./escaped' is not a path below"):
        Artifact.described(tmp_path)
