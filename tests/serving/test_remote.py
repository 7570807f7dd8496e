"""A repository in a bucket, against a server on loopback that does what S3 does."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bantam.artifact import Artifact, seal, sha256
from bantam.errors import ArtifactError, RepositoryError
from serving import repository
from serving.mirror import Mirror, local
from serving.remote import Remote
from serving.repository import Version, models, published, stage, take, verified
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
    assert two.prune("tiny", 4) == [], "what a killed upload has left is no version"
    assert two.prune("tiny", 3) == [1]
    assert two.prune("tiny", 0) == [2]
    assert (two.numbers("tiny"), two.free("tiny")) == ([3, 4], 6)
    two.upload(staged(make_artifact(details={"seed": 6}), tmp_path / "6", 6))
    two.promote("tiny", 6)
    assert two.prune("tiny", 3) == [5], "older than what is served: nobody writes it any more"
    assert (two.numbers("tiny"), two.free("tiny")) == ([3, 4, 6], 7)


def test_what_is_promoted_while_others_are_pruned_stays(
    two: Remote, make_artifact: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (3, 4):
        two.upload(staged(make_artifact(details={"seed": number}), tmp_path / str(number), number))
        two.promote("tiny", number)
    remove = two._fs.rm

    def promote_meanwhile(*arguments: Any, **options: Any) -> None:
        remove(*arguments, **options)
        two.promote("tiny", 2)

    monkeypatch.setattr(two._fs, "rm", promote_meanwhile)
    assert two.prune("tiny", 0) == [1]
    assert (two.numbers("tiny"), two.served("tiny")) == ([2, 3, 4], (2, 4))


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json"])
def test_what_is_pruned_while_it_is_written_does_not_become_a_version(
    two: Remote, make_artifact: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    put = two._fs.put_file

    def prune_meanwhile(source: str, target: str) -> None:
        put(source, target)
        if target.endswith("tokenizer.json"):
            two._fs.rm_file(two._path("tiny", "3", file))

    monkeypatch.setattr(two._fs, "put_file", prune_meanwhile)
    with pytest.raises(RepositoryError, match=rf"tiny/3/{file} is not there, expected \d+ bytes"):
        two.upload(staged(make_artifact(details={"seed": 3}), tmp_path, 3))
    assert two.numbers("tiny") == [1, 2]


def test_a_version_that_is_not_whole_is_not_promoted(two: Remote, make_artifact: Make, tmp_path: Path) -> None:
    two.upload(staged(make_artifact(details={"seed": 3}), tmp_path, 3))
    two._fs.pipe_file(two._path("tiny", "3", "model.onnx"), b"half")
    with pytest.raises(RepositoryError, match=r"tiny/3/model\.onnx has 4 bytes, expected \d+"):
        two.promote("tiny", 3)
    assert two.served("tiny") == (2, 1)


def test_what_is_wrong_with_an_upload_is_said_as_it_is(
    two: Remote, make_artifact: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = staged(make_artifact(details={"seed": 3}), tmp_path, 3)
    monkeypatch.setattr(two._fs, "put_file", gone)
    with pytest.raises(RepositoryError, match=r"tiny/3: OSError: no route to host\. Expected a bucket"):
        two.upload(version)
    monkeypatch.setattr(two._fs, "pipe_file", gone)
    with pytest.raises(RepositoryError, match=r"tiny/4: OSError: no route to host\. Expected a bucket"):
        two.upload(take(version.folder, tmp_path / "staged-4", "tiny", number=4))


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
        ("evidence.json", b"{ }", False, r"evidence\.json: its content has changed since it was written"),
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


def test_addresses_that_are_none(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"Got ftp://models, expected a folder, or an address as in s3://"):
        Remote("ftp://models")
    nowhere = Mirror(Remote("s3://no-such-bucket/models"), tmp_path)
    with pytest.raises(RepositoryError, match=r"no-such-bucket/models has no model 'tiny'; expected one of: none"):
        nowhere.start(["tiny"], print)
    with pytest.raises(RepositoryError, match="no-such-bucket/models has no models, expected one that is published"):
        nowhere.start([], print)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(RepositoryError, match=r"pip install '\.\[s3\]' in Bantam's folder"):
        Remote("s3://models")


def gone(*_: Any, **__: Any) -> bytes:
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
        two.promote("tiny", 3)
        two._fs.pipe_file(two._path("tiny", "3", "model.onnx"), b"other weights")
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

    def test_what_is_refused_is_tried_again_when_it_is_promoted_again(
        self, two: Remote, make_artifact: Make, tmp_path: Path
    ) -> None:
        mirror = Mirror(two, tmp_path / "mirror")
        mirror.start(["tiny"], print)
        two.upload(staged(make_artifact(details={"seed": 3}), tmp_path, 3))
        path = two._path("tiny", "3", "model.onnx")
        whole = two._fs.cat_file(path)
        two._fs.pipe_file(path, whole[::-1])
        two.promote("tiny", 3)
        assert len(list(mirror.step([]))) == 1
        two._fs.pipe_file(path, whole)
        assert list(mirror.step([])) == []
        assert published(mirror.root, "tiny") == Version("tiny", 2, mirror.root / "tiny" / "2"), "not looked at again"
        two.rollback("tiny")
        assert list(mirror.step([])) == []
        two.promote("tiny", 3)
        assert list(mirror.step([])) == []
        assert published(mirror.root, "tiny") == Version("tiny", 3, mirror.root / "tiny" / "3")

    @pytest.mark.parametrize("entry", [{}, 5, {"sha256": 5, "bytes": 1}])
    def test_a_manifest_that_is_none_is_refused(
        self, two: Remote, make_artifact: Make, tmp_path: Path, entry: Any
    ) -> None:
        mirror = Mirror(two, tmp_path / "mirror")
        mirror.start(["tiny"], print)
        two.upload(staged(make_artifact(details={"seed": 3}), tmp_path, 3))
        two.promote("tiny", 3)
        manifest = two._path("tiny", "3", "manifest.json")
        raw = json.loads(two._fs.cat_file(manifest))
        raw["files"]["model.onnx"] = entry
        two._fs.pipe_file(manifest, json.dumps(raw).encode())
        (line,) = mirror.step([])
        assert "'model.onnx' has" in line
        assert "expected its sha256 and bytes" in line

    def test_whatever_is_wrong_there_is_said_and_ends_nothing(
        self, two: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mirror = Mirror(two, tmp_path / "mirror")
        mirror.start(["tiny"], print)
        two._fs.pipe_file(two._path("tiny", CONFIG), b"\xff\xfe")
        (line,) = mirror.step([])
        assert "tiny/config.pbtxt is no text" in line
        monkeypatch.setattr(two, "served", dict[str, int]().__getitem__)
        assert list(mirror.step([])) == ["tiny stays as it is: KeyError: 'tiny'"]

    @pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"no: config", None])
    def test_a_damaged_copy_is_mended_at_the_next_start(
        self, two: Remote, tmp_path: Path, content: bytes | None
    ) -> None:
        mirror = Mirror(two, tmp_path / "mirror")
        mirror.start(["tiny"], print)
        if content is None:
            shutil.rmtree(mirror.root / "tiny" / "2")
        else:
            (mirror.root / "tiny" / CONFIG).write_bytes(content)
        with pytest.raises(RepositoryError):
            published(mirror.root, "tiny")
        Mirror(two, mirror.root).start([], print)
        assert published(mirror.root, "tiny") == Version("tiny", 2, mirror.root / "tiny" / "2")

    def test_what_the_bucket_has_no_more_is_served_no_more(
        self, two: Remote, tiny_artifact: Artifact, tmp_path: Path
    ) -> None:
        other = stage(tiny_artifact, tmp_path / "made", "other", thresholds=None)
        two.upload(other)
        two.promote("other", 1)
        mirror = Mirror(two, tmp_path / "mirror")
        mirror.start([], print)
        assert models(mirror.root) == ["other", "tiny"]
        two._fs.rm(two._path("other"), recursive=True)
        mirror.start(["tiny"], print)
        assert models(mirror.root) == ["other", "tiny"], "nobody asked for all"
        mirror.start([], print)
        assert models(mirror.root) == ["tiny"]

    def test_nobody_waits_for_a_download(self, two: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mirror, fetch = Mirror(two, tmp_path / "mirror"), two.fetch
        monkeypatch.setattr(repository, "LOCK_TIMEOUT_S", 0.1)

        def look(*arguments: Any) -> Version:
            with repository.locked(mirror.root, "tiny"):
                assert models(mirror.root) == []
            fetched = fetch(*arguments)
            assert models(mirror.root) == [], "what is on its way is no model"
            return fetched

        monkeypatch.setattr(two, "fetch", look)
        mirror.start(["tiny"], print)
        assert models(mirror.root) == ["tiny"]

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


def test_what_is_pinned_stays_so_whatever_others_ask_of_the_same_bucket(
    two: Remote, make_artifact: Make, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    two.describe("tiny", 2, tmp_path / "here")
    digest = sha256(tmp_path / "here" / "manifest.json")
    with local(two.url, ["tiny"], [digest], print) as pinned:
        for number in range(3, 8):
            two.upload(staged(make_artifact(details={"seed": number}), tmp_path / str(number), number))
            two.promote("tiny", number)
            with local(two.url, ["tiny"], (), print, follow=False) as other:
                assert published(other, "tiny") == Version("tiny", number, other / "tiny" / str(number))
        assert published(pinned, "tiny") == Version("tiny", 2, pinned / "tiny" / "2")
        assert verified(pinned / "tiny" / "2")
        assert sorted(path.name for path in (other / "tiny").iterdir() if path.is_dir()) == ["4", "5", "6", "7"]
    with pytest.raises(ArtifactError, match="It is refused"), local(two.url, ["tiny"], [digest], print):
        pass


@pytest.mark.parametrize("follow", [True, False])
def test_without_follow_nothing_moves_in_the_block(two: Remote, monkeypatch: pytest.MonkeyPatch, follow: bool) -> None:
    followed = threading.Event()
    monkeypatch.setattr(Mirror, "follow", lambda *_: followed.set())
    with local(two.url, ["tiny"], (), print, follow=follow):
        assert followed.wait(10 if follow else 0.2) is follow
