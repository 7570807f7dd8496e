"""From a version or a run to what is served: what is refused leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bantam.artifact import Artifact, seal, sha256
from bantam.errors import ArtifactError, RepositoryError, UnfaithfulError
from bantam.report.file import REPORT_JSON
from bantam.run import release
from bantam.run.canary import Canary
from serving.remote import Remote
from serving.repository import Version, published
from serving.repository import publish as put

Make = Callable[..., Artifact]
EXAMPLE = Path(__file__).parents[1] / "fixtures" / "example-report.json"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Version]:
    """The versions that were asked their texts; each answers as it should, but for one with ``lies`` in its details."""
    found: list[Version] = []

    def ask(version: Version, repository: str) -> Canary:
        found.append(version)
        if Artifact.load(version.folder).manifest.details.get("lies"):
            raise UnfaithfulError("it lies")
        return Canary(5, 1e-6, 1e-3)

    monkeypatch.setattr(release, "ask", ask)
    return found


def made(artifact: Artifact, root: Path, name: str = "tiny") -> Version:
    task = artifact.manifest.signature.task
    labels = len(artifact.manifest.signature.labels)
    return put(artifact, root, name, thresholds=[0.5] * labels if task == "multi_label" else None)


def numbers(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "tiny").iterdir() if path.is_dir())


def served(root: Path) -> int | None:
    version = published(root, "tiny")
    return version.number if version else None


def test_a_version_is_staged_asked_and_promoted(
    tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path, asked: list[Version]
) -> None:
    source, target = made(make_artifact(details={"seed": 1}), tmp_path / "from"), tmp_path / "to"
    made(tiny_artifact, target)
    done = release.publish(str(source.folder), str(target))
    assert (done.name, done.version, done.written, done.promoted, done.before) == ("tiny", 2, True, True, 1)
    assert (done.answered, served(target)) == (Canary(5, 1e-6, 1e-3), 2)
    assert [each.folder for each in asked] == [target / "tiny" / "2"]
    again = release.publish(str(source.folder), str(target))
    assert (again.version, again.written, again.promoted) == (2, False, False)


def test_what_answers_otherwise_is_removed_again(
    tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path, asked: list[Version]
) -> None:
    source, target = made(make_artifact(details={"lies": True}), tmp_path / "from"), tmp_path / "to"
    made(tiny_artifact, target)
    with pytest.raises(UnfaithfulError):
        release.publish(str(source.folder), str(target))
    assert (numbers(target), served(target)) == (["1"], 1)


def test_staged_first_and_promoted_later(
    tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path, asked: list[Version]
) -> None:
    source, target = made(make_artifact(details={"seed": 1}), tmp_path / "from"), tmp_path / "to"
    made(tiny_artifact, target)
    done = release.publish(str(source.folder), str(target), promote=False)
    assert (done.version, done.promoted, done.answered, served(target)) == (2, False, None, 1)
    assert asked == [], "it is asked when it is to be promoted"
    assert release.promote(str(target), "tiny", 2).promoted is True
    assert (served(target), len(asked)) == (2, 1)
    with pytest.raises(RepositoryError, match=r"is no version\. `bantam versions tiny` lists"):
        release.promote(str(target), "tiny", 9)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"labels": ("joy", "anger", "rage")}, "new labels: 'rage'; labels that are gone: 'fear'"),
        ({"task": "single_label"}, "the task is single_label in place of multi_label"),
        ({"pair": True}, "it reads pairs of texts in place of single texts"),
    ],
)
def test_what_clients_would_not_understand_needs_a_flag(
    tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path, asked: list[Version], other: Any, said: str
) -> None:
    source, target = made(make_artifact(**other), tmp_path / "from"), tmp_path / "to"
    made(tiny_artifact, target)
    with pytest.raises(RepositoryError, match=rf"than version 1, which is served: {said}.*--allow-new-labels"):
        release.publish(str(source.folder), str(target))
    assert (numbers(target), served(target), asked) == (["1"], 1, [])
    assert release.publish(str(source.folder), str(target), allow_new_labels=True).promoted is True
    assert release.publish(str(source.folder), str(target), name="other").promoted is True


def test_another_order_of_labels_needs_none(
    tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path, asked: list[Version]
) -> None:
    source = made(make_artifact(labels=("fear", "joy", "anger")), tmp_path / "from")
    made(tiny_artifact, tmp_path / "to")
    assert release.publish(str(source.folder), str(tmp_path / "to")).promoted is True


def test_a_digest_pins_what_is_taken_from_or_promoted_in_a_folder(
    tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path, asked: list[Version]
) -> None:
    source, target = made(make_artifact(details={"seed": 1}), tmp_path / "from"), tmp_path / "to"
    made(tiny_artifact, target)
    digest = sha256(source.folder / "manifest.json")
    with pytest.raises(ArtifactError, match=rf"from/tiny/1 has the digest {digest}, expected 0{{64}}\. It is refused"):
        release.publish(str(source.folder), str(target), digests=["0" * 64])
    assert numbers(target) == ["1"]
    assert release.publish(str(source.folder), str(target), promote=False, digests=[digest]).written is True
    with pytest.raises(ArtifactError, match=r"to/tiny/2 has the digest [0-9a-f]{64}, expected 0{64}\. It is"):
        release.promote(str(target), "tiny", 2, digests=["0" * 64])
    assert (served(target), asked) == (1, [])
    there = sha256(target / "tiny" / "2" / "manifest.json")
    assert release.promote(str(target), "tiny", 2, digests=["0" * 64, there]).promoted is True


def test_a_runs_folder_is_what_it_published(tiny_artifact: Artifact, tmp_path: Path, asked: list[Version]) -> None:
    import json

    made(tiny_artifact, tmp_path / "from")
    report = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    report["published"] = {"name": "tiny", "version": 1, "repository": str(tmp_path / "from")}
    run = tmp_path / "build" / "run"
    run.mkdir(parents=True)
    (run / REPORT_JSON).write_text(json.dumps(report), encoding="utf-8")
    assert release.publish(str(run), str(tmp_path / "to")).promoted is True
    del report["published"]
    (run / REPORT_JSON).write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(RepositoryError, match="this run has published nothing"):
        release.publish(str(run), str(tmp_path / "to"))
    with pytest.raises(RepositoryError, match="expected a version's folder, such as model_repo/minilm/3, or a run's"):
        release.publish(str(tmp_path), str(tmp_path / "to"))


class TestBucket:
    """The same where the repository is in a bucket."""

    def test_there_and_back(
        self, bucket: str, tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path, asked: list[Version]
    ) -> None:
        first = made(tiny_artifact, tmp_path / "from")
        second = made(make_artifact(details={"seed": 1}), tmp_path / "from")
        done = release.publish(str(first.folder), bucket)
        assert (done.version, done.written, done.promoted, done.before) == (1, True, True, None)
        done = release.publish(str(second.folder), bucket, promote=False)
        assert (done.version, done.written, done.promoted, Remote(bucket).served("tiny")) == (2, True, False, (1, None))
        again = release.publish(str(second.folder), bucket)
        assert (again.version, again.written, again.promoted, again.before) == (2, False, True, 1)
        assert release.promote(bucket, "tiny", 1).promoted is True
        digest = sha256(second.folder / "manifest.json")
        back = release.publish(f"{bucket}/tiny/2", str(tmp_path / "back"), digests=[digest])
        assert (back.version, back.promoted) == (1, True)
        with pytest.raises(ArtifactError, match="It is refused"):
            release.publish(f"{bucket}/tiny/1", str(tmp_path / "back"), digests=[digest])
        with pytest.raises(RepositoryError, match="expected a version's address"):
            release.publish(f"{bucket}/tiny", str(tmp_path / "back"))

    def test_what_is_refused_is_not_uploaded(
        self, bucket: str, tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path, asked: list[Version]
    ) -> None:
        release.publish(str(made(tiny_artifact, tmp_path / "from").folder), bucket)
        for other in ({"details": {"lies": True}}, {"labels": ("joy", "anger", "rage")}):
            source = made(make_artifact(**other), tmp_path / "other")
            with pytest.raises((UnfaithfulError, RepositoryError), match=r"it lies|new labels: 'rage'"):
                release.publish(str(source.folder), bucket)
        assert (Remote(bucket).numbers("tiny"), Remote(bucket).served("tiny")) == ([1], (1, None))

    def test_what_no_server_would_take_is_not_uploaded(
        self, bucket: str, tiny_artifact: Artifact, tmp_path: Path, asked: list[Version]
    ) -> None:
        source = made(tiny_artifact, tmp_path / "from")
        engine = source.folder / "backend" / "engine.py"
        engine.write_text(engine.read_text() + "# of another Bantam\n")
        seal(source.folder, Artifact.described(source.folder).manifest)
        for promote in (True, False):
            with pytest.raises(ArtifactError, match=r"from/tiny/1: its backend/engine\.py is not the one that is inst"):
                release.publish(str(source.folder), bucket, promote=promote)
        assert (Remote(bucket).numbers("tiny"), asked) == ([], [])
        assert release.publish(str(source.folder), str(tmp_path / "to")).promoted is True, "a folder's runs its own"

    def test_what_is_there_already_is_looked_at_before_it_is_promoted(
        self, bucket: str, tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path, asked: list[Version]
    ) -> None:
        release.publish(str(made(tiny_artifact, tmp_path / "from").folder), bucket)
        source = made(make_artifact(details={"seed": 1}), tmp_path / "from")
        remote = Remote(bucket)
        assert release.publish(str(source.folder), bucket, promote=False).version == 2
        weights = remote._path("tiny", "2", "model.onnx")
        whole = remote._fs.cat_file(weights)
        remote._fs.pipe_file(weights, whole[::-1])
        with pytest.raises(ArtifactError, match=r"model\.onnx: its content has changed"):
            release.promote(bucket, "tiny", 2)
        done = release.publish(str(source.folder), bucket)
        assert (done.version, done.written, done.promoted, remote.served("tiny")) == (3, True, True, (3, 1))
        remote.rollback("tiny")
        done = release.publish(str(source.folder), bucket)
        assert (done.version, done.written, done.promoted, done.before) == (3, False, True, 1)

    def test_what_is_there_already_and_answers_otherwise_is_not_promoted(
        self, bucket: str, tiny_artifact: Artifact, make_artifact: Make, tmp_path: Path, asked: list[Version]
    ) -> None:
        release.publish(str(made(tiny_artifact, tmp_path / "from").folder), bucket)
        source = made(make_artifact(details={"lies": True}), tmp_path / "from")
        release.publish(str(source.folder), bucket, promote=False)
        with pytest.raises(UnfaithfulError):
            release.publish(str(source.folder), bucket)
        assert (Remote(bucket).numbers("tiny"), Remote(bucket).served("tiny")) == ([1, 2], (1, None))
