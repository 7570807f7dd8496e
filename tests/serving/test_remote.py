"""A repository in a bucket, against a server on loopback that does what S3 does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bantam.artifact import Artifact, seal, sha256
from bantam.errors import ArtifactError, RepositoryError
from serving.mirror import Mirror, local
from serving.remote import Remote
from serving.repository import Version, models, promote, published, stage, take, verified
from serving.triton_config import CONFIG

Make = Callable[..., Artifact]


@pytest.fixture
def remote(bucket: str) -> Remote:
    return Remote(f"{bucket}/team/repository")


def staged(artifact: Artifact, root: Path, number: int = 1, evidence: str = "") -> Version:
    """A version of that number in a repository of its own in ``root``."""
    first = stage(artifact, root / "first", "tiny", thresholds=[0.5] * 3, evidence=evidence)
    return take(first.folder, root / f"staged-{number}", "tiny", number=number)


@pytest.fixture
def two(remote: Remote, tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path) -> Remote:
    """With versions 1 and 2, of which 2 is served."""
    for number, artifact in ((1, tiny_artifact), (2, make_artifact(details={"seed": 2}))):
        remote.upload(staged(artifact, tmp_path / f"made-{number}", number, evidence="{}"))
        assert remote.promote("tiny", number)
    return remote


def test_a_version_is_uploaded_promoted_and_fetched_as_it_is(
    remote: Remote, tiny_artifact: Artifact, tmp_path: Path
) -> None:
    assert (remote.models(), remote.served("tiny"), remote.numbers("tiny"), remote.free("tiny")) == ([], None, [], 1)
    version = staged(tiny_artifact, tmp_path, evidence='{"texts": []}')
    remote.upload(version)
    assert (remote.models(), remote.numbers("tiny"), remote.free("tiny")) == ([], [1], 2), "there, and not served"
    assert remote.find("tiny", verified(version.folder).manifest.details["content"]) == 1
    assert remote.find("tiny", "another") is None
    assert (remote.promote("tiny", 1), remote.promote("tiny", 1)) == (True, False)
    assert (remote.models(), remote.served("tiny")) == (["tiny"], (1, None))
    (tmp_path / "fetched").mkdir()
    fetched = remote.fetch("tiny", 1, tmp_path / "fetched", [sha256(version.folder / "manifest.json")])
    assert {path.relative_to(fetched.folder): path.read_bytes() for path in fetched.folder.rglob("*.*")} == {
        path.relative_to(version.folder): path.read_bytes() for path in version.folder.rglob("*.*")
    }


def test_nobody_sees_half_of_an_upload(
    two: Remote, make_artifact: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = staged(make_artifact(details={"seed": 3}), tmp_path, 3)
    put, seen = two._fs.put_file, list[tuple[str, list[int]]]()

    def cut(source: str, target: str) -> None:
        seen.append((target.rpartition("/")[2], two.numbers("tiny")))
        if target.endswith(CONFIG):
            raise OSError("the connection is gone")
        put(source, target)

    monkeypatch.setattr(two._fs, "put_file", cut)
    with pytest.raises(RepositoryError, match="the connection is gone"):
        two.upload(version)
    assert seen[-1][0] == CONFIG, "the last one"
    assert all(numbers == [1, 2] for _, numbers in seen)
    assert (two.numbers("tiny"), two.free("tiny"), two.served("tiny")) == ([1, 2], 4, (2, 1))
    with pytest.raises(RepositoryError, match="no version 3"):
        two.promote("tiny", 3)


def test_two_that_publish_at_once_do_not_share_a_number(two: Remote, make_artifact: Make, tmp_path: Path) -> None:
    ours, theirs = (staged(make_artifact(details={"seed": s}), tmp_path / str(s), 3) for s in (3, 4))
    two.upload(theirs)
    with pytest.raises(RepositoryError, match="tiny/3 is being written by somebody else; run it again"):
        two.upload(ours)
    (tmp_path / "fetched").mkdir()
    assert two.fetch("tiny", 3, tmp_path / "fetched").folder.is_dir()


def test_rollback_goes_back_and_forth_and_stays_where_the_other_one_is_not_whole(two: Remote) -> None:
    assert two.rollback("tiny") == (1, 2)
    assert two.rollback("tiny") == (2, 1)
    two._fs.rm_file(two._path("tiny", "1", "model.onnx"))
    with pytest.raises(RepositoryError, match=r"tiny stays at version 2: .*tiny/1/model\.onnx"):
        two.rollback("tiny")
    assert two.served("tiny") == (2, 1)
    with pytest.raises(RepositoryError, match="no version that was served"):
        two.rollback("huge")


def test_versions_are_listed_and_pruned(two: Remote, make_artifact: Make, tmp_path: Path) -> None:
    for number in (3, 4):
        two.upload(staged(make_artifact(details={"seed": number}), tmp_path / str(number), number))
        two.promote("tiny", number)
    two._fs.pipe_file(two._path("tiny", "5", "manifest.json"), b"left by a killed upload")
    found = list(two.listed("tiny"))
    assert [(each.number, each.state) for each in found] == [(4, "served"), (3, "previous"), (2, "old"), (1, "old")]
    assert all(len(each.digest) == 64 and each.written and not each.problem for each in found)
    assert two.prune("tiny", 4) == [1]
    assert two.prune("tiny", 0) == [2]
    assert (two.numbers("tiny"), two.free("tiny")) == ([3, 4], 6)


def damaged(two: Remote, tmp_path: Path, file: str, content: bytes | None, reseal: bool) -> None:
    """Change a file of version 2 in the bucket; ``reseal``: as if whoever did it had written the manifest anew."""
    path = two._path("tiny", "2", file)
    two._fs.pipe_file(path, two._fs.cat_file(path)[::-1] if content is None else content)
    if reseal:
        copy = tmp_path / "copy"
        two._fs.get(two._path("tiny", "2"), str(copy), recursive=True)
        (copy / "evidence.json").unlink()
        seal(copy, Artifact.described(copy).manifest)
        two._fs.put_file(str(copy / "manifest.json"), two._path("tiny", "2", "manifest.json"))


EVIL = b"import os; os.system('echo mine')\n"


@pytest.mark.parametrize(
    ("file", "content", "reseal", "said"),
    [
        ("model.onnx", None, False, r"model\.onnx: its content has changed since it was written"),
        ("model.onnx", b"other weights", False, r"model\.onnx: missing or not \d+ bytes"),
        ("model.py", EVIL, False, r"model\.py: missing or not"),
        ("model.py", EVIL, True, r"its model\.py is not the one that is installed here.* It is refused"),
        ("backend/engine.py", EVIL, True, r"its backend/engine\.py is not the one that is installed here"),
        ("backend/numpy.py", EVIL, True, r"holds backend/numpy\.py, expected files of a model alone"),
        ("environment.tar.gz", EVIL, True, r"holds environment\.tar\.gz, expected files of a model alone"),
    ],
)
def test_what_is_fetched_is_data(
    two: Remote, tmp_path: Path, file: str, content: bytes | None, reseal: bool, said: str
) -> None:
    damaged(two, tmp_path, file, content, reseal)
    with pytest.raises(ArtifactError, match=said):
        two.fetch("tiny", 2, tmp_path / "fetched")


def test_a_config_that_names_an_environment_to_run_is_refused(two: Remote, tmp_path: Path) -> None:
    text = two._fs.cat_file(two._path("tiny", "2", CONFIG)).decode()
    text += 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/e.tar.gz" } }\n'
    damaged(two, tmp_path, CONFIG, text.encode(), reseal=True)
    with pytest.raises(ArtifactError, match=r"config\.pbtxt says of parameters what Bantam does not write"):
        two.fetch("tiny", 2, tmp_path / "fetched")


def test_the_digest_pins_the_manifest(two: Remote, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tiny/2 has the digest [0-9a-f]{64}, expected 0{64}\. It is refused"):
        two.fetch("tiny", 2, tmp_path / "fetched", ["0" * 64])


@pytest.mark.parametrize("address", ["ftp://models", "s3://no-such-bucket/models"])
def test_addresses_that_are_none(bucket: str, tmp_path: Path, address: str) -> None:
    with pytest.raises(RepositoryError, match=r"expected a folder, or an address|no model 'tiny'|Expected a bucket"):
        Mirror(Remote(address), tmp_path).start(["tiny"], print)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(RepositoryError, match=r"pip install '\.\[s3\]' in Bantam's folder"):
        Remote("s3://models")


def gone(*_: Any) -> bytes:
    raise OSError("no route to host")


class TestMirror:
    """What ``bantam serve`` keeps of a bucket in a folder."""

    def test_it_is_kept_at_what_is_promoted(self, two: Remote, make_artifact: Make, tmp_path: Path) -> None:
        mirror = Mirror(two, tmp_path / "mirror")
        mirror.start([], print)
        assert models(mirror.root) == ["tiny"]
        assert published(mirror.root, "tiny") == Version("tiny", 2, mirror.root / "tiny" / "2")
        two.upload(staged(make_artifact(details={"seed": 3}), tmp_path, 3))
        assert list(mirror.step([])) == []
        assert not (mirror.root / "tiny" / "3").exists(), "staged is not promoted"
        two.promote("tiny", 3)
        assert list(mirror.step([])) == []
        two.rollback("tiny")
        assert list(mirror.step([])) == []
        assert published(mirror.root, "tiny") == Version("tiny", 2, mirror.root / "tiny" / "2")
        assert verified(mirror.root / "tiny" / "3")

    def test_what_is_refused_is_said_once_and_what_is_served_stays(
        self, two: Remote, make_artifact: Make, tmp_path: Path
    ) -> None:
        mirror = Mirror(two, tmp_path / "mirror")
        mirror.start(["tiny"], print)
        two.upload(staged(make_artifact(details={"seed": 3}), tmp_path, 3))
        two._fs.pipe_file(two._path("tiny", "3", "model.onnx"), b"other weights")
        two.promote("tiny", 3)
        (line,) = mirror.step([])
        assert line.startswith("tiny stays as it is: ")
        assert "model.onnx: missing or not" in line
        assert list(mirror.step([])) == []
        assert published(mirror.root, "tiny") == Version("tiny", 2, mirror.root / "tiny" / "2")
        with pytest.raises(ArtifactError, match=r"model\.onnx"):
            Mirror(two, tmp_path / "another").start(["tiny"], print)

    def test_a_copy_that_was_changed_here_is_fetched_again(self, two: Remote, tmp_path: Path) -> None:
        mirror = Mirror(two, tmp_path / "mirror")
        mirror.start(["tiny"], print)
        path = mirror.root / "tiny" / "2" / "model.onnx"
        path.write_bytes(path.read_bytes()[::-1])
        Mirror(two, tmp_path / "mirror").start(["tiny"], print)
        assert verified(path.parent)

    def test_what_was_fetched_without_a_digest_is_not_served_with_one(
        self, two: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Mirror(two, tmp_path / "mirror").start(["tiny"], print)
        two.rollback("tiny")
        Mirror(two, tmp_path / "mirror").start(["tiny"], print)
        digest = sha256(tmp_path / "mirror" / "tiny" / "1" / "manifest.json")
        mirror = Mirror(two, tmp_path / "mirror", [digest])
        mirror.start(["tiny"], print)
        two.rollback("tiny")
        (line,) = mirror.step([])
        assert f"tiny/2 has the digest {sha256(tmp_path / 'mirror' / 'tiny' / '2' / 'manifest.json')}, expect" in line
        assert published(mirror.root, "tiny") == Version("tiny", 1, mirror.root / "tiny" / "1")
        with pytest.raises(ArtifactError, match="It is refused"):
            Mirror(two, tmp_path / "mirror", ["0" * 64]).start(["tiny"], print)
        monkeypatch.setattr(two._fs, "cat_file", gone)
        with pytest.raises(RepositoryError, match="no route to host"):
            Mirror(two, tmp_path / "mirror", ["0" * 64]).start(["tiny"], print)

    def test_out_of_reach_it_serves_what_is_here_and_says_so(
        self, two: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mirror, said = Mirror(two, tmp_path / "mirror"), list[str]()

        with monkeypatch.context() as patch:
            patch.setattr(two._fs, "cat_file", gone)
            with pytest.raises(RepositoryError, match="no route to host"):
                mirror.start(["tiny"], said.append)
        mirror.start(["tiny"], said.append)
        monkeypatch.setattr(two._fs, "cat_file", gone)
        mirror.start(["tiny"], said.append)
        assert len(said) == 1
        assert said[0].startswith("WARNING: serving what was fetched before: ")
        assert [line.startswith("tiny stays as it is: ") for line in mirror.step([])] == [True]


def test_a_folder_is_served_as_it_is_and_a_bucket_through_a_mirror(
    two: Remote, tiny_artifact: Artifact, tmp_path: Path
) -> None:
    threads = threading.active_count()
    with local(str(tmp_path), (), (), print) as folder:
        assert (folder, threading.active_count()) == (tmp_path, threads)
    with (
        pytest.raises(RepositoryError, match="expected one for a bucket's repository"),
        local(str(tmp_path), (), ["0" * 64], print),
    ):
        pass
    with local(two.url, ["tiny"], (), print) as folder:
        assert folder.is_relative_to(tmp_path / "cache")
        assert models(folder) == ["tiny"]


def test_promoting_in_the_mirror_is_promoting(two: Remote, tmp_path: Path) -> None:
    mirror = Mirror(two, tmp_path / "mirror")
    mirror.start([], print)
    assert promote(Version("tiny", 2, mirror.root / "tiny" / "2")).changed is False
