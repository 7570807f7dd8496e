"""Publishing: atomic, repeatable, and clear about what goes wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bantam.artifact import Artifact
from bantam.errors import DiskFullError, RepositoryError
from bantam.licence import Licence
from serving.backend.cores import TextThreads
from serving.backend.engine import Engine
from serving.listing import identity
from serving.repository import (
    Version,
    discard,
    models,
    promote,
    prune,
    publish,
    published,
    rollback,
    stage,
    take,
    withdraw,
)
from serving.triton_config import written_by_us
from serving.version_folder import Identity


def put(artifact: Artifact, root: Path, **options: Any) -> Version:
    return publish(artifact, root, "tiny", **{"thresholds": [0.5] * 3, **options})


def files(root: Path) -> dict[str, bytes]:
    """All files that Triton could see, and anything left over; the lock file aside."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def test_first_publish_is_version_one_and_self_contained(tiny_artifact: Artifact, tmp_path: Path) -> None:
    result = put(tiny_artifact, tmp_path / "repo")
    assert result == Version("tiny", 1, tmp_path / "repo" / "tiny" / "1", changed=True)
    names = {"model.py", "backend/engine.py", "manifest.json", "labels.txt", "tokenizer.json", "model.onnx"}
    assert names <= {path.relative_to(result.folder).as_posix() for path in result.folder.rglob("*")}
    assert (result.folder / "labels.txt").read_text(encoding="utf-8") == "joy\nanger\nfear\n"
    assert Engine(result.folder, threads=1).probabilities(["love"]).shape == (1, 3)
    assert models(tmp_path / "repo") == ["tiny"]
    Artifact.load(result.folder, verify=True)


def test_a_version_names_the_licences_that_count_for_it(tiny_artifact: Artifact, tmp_path: Path) -> None:
    assert not (put(tiny_artifact, tmp_path).folder / "NOTICE.txt").exists(), "from before there were any"
    licence = Licence("gemma", "gemma3-270m", "Gemma Terms of Use", outputs=True)
    named = replace(tiny_artifact, manifest=replace(tiny_artifact.manifest, licences=(licence,)))
    result = put(named, tmp_path)
    assert (result.number, result.changed) == (2, True)
    assert licence.line in (result.folder / "NOTICE.txt").read_text(encoding="utf-8")
    assert Artifact.load(result.folder, verify=True).manifest.licences == (licence,)
    assert put(named, tmp_path).changed is False


def test_same_content_writes_nothing(tiny_artifact: Artifact, tmp_path: Path) -> None:
    put(tiny_artifact, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tiny").rglob("*")}
    again = put(tiny_artifact, tmp_path)
    assert (again.number, again.changed) == (1, False)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tiny").rglob("*")} == before


def test_what_is_withdrawn_is_served_no_longer_and_can_come_back(tiny_artifact: Artifact, tmp_path: Path) -> None:
    put(tiny_artifact, tmp_path)
    before = files(tmp_path)
    assert withdraw(tmp_path, "tiny") is True
    assert withdraw(tmp_path, "tiny") is False
    assert (models(tmp_path), published(tmp_path, "tiny")) == ([], None)
    assert put(tiny_artifact, tmp_path).number == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize("change", [{"thresholds": [0.4, 0.5, 0.5]}, {"threads": 1}, {"max_batch_size": 8}])
def test_other_options_are_a_new_version(tiny_artifact: Artifact, tmp_path: Path, change: dict[str, Any]) -> None:
    put(tiny_artifact, tmp_path)
    result = put(tiny_artifact, tmp_path, **change)
    assert (result.number, result.changed) == (2, True)
    assert published(tmp_path, "tiny") == Version("tiny", 2, tmp_path / "tiny" / "2")
    assert (tmp_path / "tiny" / "1" / "model.onnx").is_file()


def test_measured_threads_are_no_new_version_and_go_where_the_version_goes(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    first = TextThreads(threads=4, tokens=24, cores=8)
    put(tiny_artifact, tmp_path, text_threads=first)
    again = put(tiny_artifact, tmp_path, text_threads=TextThreads(threads=1, tokens=1, cores=8))
    assert (again.number, again.changed) == (1, False)
    put(make_artifact(details={"seed": 1}), tmp_path)
    back = rollback(tmp_path, "tiny")
    taken = take(back.folder, tmp_path / "other", "named")
    for folder in (tmp_path / "tiny", taken.folder):
        assert written_by_us((folder / "config.pbtxt").read_text(encoding="utf-8")).text_threads == first


def test_another_model_and_back(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    put(tiny_artifact, tmp_path)
    assert put(make_artifact(details={"seed": 1}), tmp_path).number == 2
    back = put(tiny_artifact, tmp_path)
    assert (back.number, back.changed) == (1, True)
    assert published(tmp_path, "tiny") == Version("tiny", 1, tmp_path / "tiny" / "1")


def test_damaged_version_is_published_again(tiny_artifact: Artifact, tmp_path: Path) -> None:
    (put(tiny_artifact, tmp_path).folder / "model.onnx").unlink()
    result = put(tiny_artifact, tmp_path)
    assert (result.number, result.changed) == (2, True)


def test_link_shares_the_files(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> None:
    result = put(tiny_artifact, tmp_path_factory.mktemp("linked"), link=True)
    assert os.path.samefile(result.folder / "model.onnx", tiny_artifact.folder / "model.onnx")


def test_nothing_published_is_none(tmp_path: Path) -> None:
    assert published(tmp_path / "absent", "tiny") is None
    assert models(tmp_path / "absent") == []


def versions(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "tiny").iterdir() if path.is_dir())


def test_a_staged_version_is_not_served_until_it_is_promoted(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    put(tiny_artifact, tmp_path)
    served = files(tmp_path)
    staged = stage(make_artifact(details={"seed": 1}), tmp_path, "tiny", thresholds=[0.4] * 3)
    assert staged == Version("tiny", 2, tmp_path / "tiny" / "2", changed=True)
    assert published(tmp_path, "tiny") == Version("tiny", 1, tmp_path / "tiny" / "1")
    assert {name: data for name, data in files(tmp_path).items() if not name.startswith("tiny/2/")} == served
    assert promote(staged) == Version("tiny", 2, tmp_path / "tiny" / "2", changed=True)
    assert promote(staged).changed is False
    assert published(tmp_path, "tiny") == Version("tiny", 2, tmp_path / "tiny" / "2")


def test_rollback_returns_to_the_version_before_with_its_thresholds(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    put(tiny_artifact, tmp_path, thresholds=[0.1, 0.2, 0.3])
    put(make_artifact(details={"seed": 1}), tmp_path)
    put(tiny_artifact, tmp_path, thresholds=[0.7] * 3)
    assert put(make_artifact(details={"seed": 1}), tmp_path).number == 2  # by its content, not by its age
    assert rollback(tmp_path, "tiny") == Version("tiny", 3, tmp_path / "tiny" / "3", changed=True)
    assert "0.7" in (tmp_path / "tiny" / "config.pbtxt").read_text()
    assert rollback(tmp_path, "tiny").number == 2


def test_rollback_says_when_there_is_nothing_to_return_to(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    with pytest.raises(RepositoryError, match="no version that was served, expected one before it"):
        rollback(tmp_path, "tiny")
    put(tiny_artifact, tmp_path)
    with pytest.raises(RepositoryError, match="version 1 is the only one that was served"):
        rollback(tmp_path, "tiny")
    put(make_artifact(details={"seed": 1}), tmp_path)
    (tmp_path / "tiny" / "1" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(RepositoryError, match=r"tiny stays at version 2: .*model\.onnx"):
        rollback(tmp_path, "tiny")
    assert published(tmp_path, "tiny") == Version("tiny", 2, tmp_path / "tiny" / "2")


def test_a_repository_of_before_there_was_a_rollback_has_one(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    put(tiny_artifact, tmp_path, thresholds=[0.1, 0.2, 0.3])
    config = (tmp_path / "tiny" / "config.pbtxt").read_text()
    manifest = tmp_path / "tiny" / "1" / "manifest.json"
    recorded = json.loads(manifest.read_text())
    del recorded["files"]["config.pbtxt"]
    manifest.write_text(json.dumps(recorded))
    (tmp_path / "tiny" / "1" / "config.pbtxt").unlink()
    put(make_artifact(details={"seed": 1}), tmp_path)
    assert rollback(tmp_path, "tiny").number == 1
    assert set(config.splitlines()) <= set((tmp_path / "tiny" / "config.pbtxt").read_text().splitlines())


def test_a_staged_version_is_discarded_and_the_served_ones_never(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    put(tiny_artifact, tmp_path)
    before = files(tmp_path)
    staged = stage(make_artifact(details={"seed": 1}), tmp_path, "tiny", thresholds=None)
    assert discard(staged) is True
    assert files(tmp_path) == before
    with pytest.raises(RepositoryError, match=r"2 cannot be served: its config\.pbtxt cannot be read"):
        promote(staged)
    assert published(tmp_path, "tiny") == Version("tiny", 1, tmp_path / "tiny" / "1")
    second = put(make_artifact(details={"seed": 1}), tmp_path)
    assert [discard(Version("tiny", 1, tmp_path / "tiny" / "1")), discard(second)] == [False, False]
    assert versions(tmp_path) == ["1", "2"]


def test_prune_keeps_the_served_version_the_one_before_and_what_is_staged(
    make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    assert prune(tmp_path, "tiny") == []
    for seed in range(4):
        put(make_artifact(details={"seed": seed}), tmp_path)
    stage(make_artifact(details={"seed": 9}), tmp_path, "tiny", thresholds=None)
    assert prune(tmp_path, "tiny") == [1, 2]
    assert versions(tmp_path) == ["3", "4", "5"]
    assert rollback(tmp_path, "tiny").number == 3


def test_a_published_name_says_what_it_stands_for(tiny_artifact: Artifact, tmp_path: Path) -> None:
    assert identity(tmp_path, "tiny") is None
    meant = Identity("acme/tiny", "a" * 64, "moods.csv", "b" * 64)
    put(tiny_artifact, tmp_path, identity=meant)
    assert identity(tmp_path, "tiny") == meant
    put(tiny_artifact, tmp_path / "other")
    assert identity(tmp_path / "other", "tiny") is None


@pytest.mark.parametrize("name", ["", "Tiny", "../tiny", ".tiny", "a/b", "tiny model", "-x"])
def test_names_that_are_no_folder_names(tiny_artifact: Artifact, tmp_path: Path, name: str) -> None:
    with pytest.raises(RepositoryError, match="expected lower-case letters"):
        publish(tiny_artifact, tmp_path, name, thresholds=None)


def test_format_that_cannot_be_served(make_artifact: Callable[..., Artifact], tmp_path: Path) -> None:
    from dataclasses import replace

    artifact = make_artifact()
    pytorch = Artifact(artifact.folder, replace(artifact.manifest, layout="hf"))
    with pytest.raises(RepositoryError, match=r"got a pytorch fp32 model, expected onnx or openvino. Export it first"):
        put(pytorch, tmp_path)


def test_wrong_number_of_thresholds(tiny_artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="got 2 thresholds, expected one for each of 3 labels"):
        put(tiny_artifact, tmp_path, thresholds=[0.5, 0.5])


def test_root_is_a_file(tiny_artifact: Artifact, tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("not a folder")
    with pytest.raises(
        RepositoryError, match=r"file cannot be written .* Expected a folder that a model can be published to"
    ):
        put(tiny_artifact, root)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of ours that we may not write to, even if the tests run as root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    nobody = hasattr(os, "geteuid") and os.geteuid() == 0
    if nobody:
        os.chown(folder, 65534, 65534)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_read_only_repository_keeps_the_previous_version(
    make_artifact: Callable[..., Artifact], tiny_artifact: Artifact, unprivileged: Path
) -> None:
    put(tiny_artifact, unprivileged)
    before = files(unprivileged)
    source = shutil.copytree(make_artifact(details={"seed": 2}).folder, unprivileged / "source")
    artifact = Artifact.load(source)
    root = os.geteuid() == 0
    for path in (unprivileged, unprivileged / "tiny"):
        path.chmod(0o555)
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(
            RepositoryError, match=r"cannot be written .* Expected a folder that a model can be published to"
        ):
            put(artifact, unprivileged)
    finally:
        if root:
            os.seteuid(0)
        for path in (unprivileged, unprivileged / "tiny"):
            path.chmod(0o755)
    shutil.rmtree(source)
    assert files(unprivileged) == before


def test_full_disk_keeps_the_previous_version(
    make_artifact: Callable[..., Artifact], tiny_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tiny_artifact, tmp_path)
    before = files(tmp_path)
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "tokenizer.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DiskFullError, match=r"No space left .* What was there before is untouched"):
        put(make_artifact(details={"seed": 3}), tmp_path)
    assert files(tmp_path) == before


KILLED = """
import sys, time
from pathlib import Path
from bantam.artifact import Artifact
from serving.repository import publish
artifact, root = Artifact.load(Path(sys.argv[1])), Path(sys.argv[2])
print("go", flush=True)
publish(artifact, root, "tiny", thresholds=[0.5] * 3)
print("done", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_at_any_moment_the_repository_is_the_old_one_or_the_new_one(
    make_artifact: Callable[..., Artifact], tiny_artifact: Artifact, tmp_path: Path
) -> None:
    put(tiny_artifact, tmp_path)
    new = make_artifact(details={"seed": 4})
    root = Path(__file__).parents[2]
    for delay_ms in (0, 1, 2, 4, 6, 9, 13, 20):
        command = [sys.executable, "-c", KILLED, str(new.folder), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)}) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"go\n"
            time.sleep(delay_ms / 1000)
            process.send_signal(signal.SIGKILL)
        state = published(tmp_path, "tiny")
        assert state is not None
        assert state.number in (1, 2)
        Artifact.load(state.folder, verify=True)
    result = put(new, tmp_path)
    assert result.number == 2
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["1", "2", "config.pbtxt"]


KEPT_BUSY = """
import sys
from pathlib import Path
from serving.repository import discard, promote, prune, rollback, stage
from bantam.artifact import Artifact
a, b, root = Artifact.load(Path(sys.argv[1])), Artifact.load(Path(sys.argv[2])), Path(sys.argv[3])
print("go", flush=True)
while True:
    promote(stage(a, root, "tiny", thresholds=None))
    rollback(root, "tiny")
    discard(stage(b, root, "tiny", thresholds=None))
    prune(root, "tiny")
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_while_versions_come_and_go_a_whole_one_is_served_and_one_before_it(
    make_artifact: Callable[..., Artifact], tiny_artifact: Artifact, tmp_path: Path
) -> None:
    put(tiny_artifact, tmp_path)
    others = [make_artifact(details={"seed": seed}) for seed in (5, 6)]
    put(others[0], tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KEPT_BUSY, *(str(other.folder) for other in others), str(tmp_path)]
    for delay_ms in (1, 7, 23, 40, 61, 90):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"go\n"
            time.sleep(delay_ms / 1000)
            process.send_signal(signal.SIGKILL)
        served = published(tmp_path, "tiny")
        assert served is not None
        Artifact.load(served.folder, verify=True)
        assert rollback(tmp_path, "tiny").number != served.number
    discard(Version("tiny", 99, tmp_path / "tiny" / "99"))
    prune(tmp_path, "tiny")
    assert not list((tmp_path / "tiny").glob("*.tmp-*"))


def test_a_repository_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="absent: no such folder, expected a model repository"):
        rollback(tmp_path / "absent", "tiny")
    assert list(tmp_path.iterdir()) == []
