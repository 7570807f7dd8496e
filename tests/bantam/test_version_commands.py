"""``bantam publish | promote | rollback | versions``: what is typed, done and printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bantam.artifact import Artifact
from bantam.commands import application
from bantam.errors import ArtifactError, RepositoryError
from bantam.run import release
from bantam.run.canary import Canary
from serving.remote import Remote
from serving.repository import publish, published


@pytest.fixture
def repository(
    tiny_artifact: Artifact,
    make_artifact: Callable[..., Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """With versions 1 and 2 of ``tiny``, of which 2 is served; versions need not answer in order to be promoted."""
    root = tmp_path / "models"
    for artifact in (tiny_artifact, make_artifact(details={"seed": 1})):
        publish(artifact, root, "tiny", thresholds=None)
    monkeypatch.setattr(release, "ask", lambda *_: Canary(5, 1e-6, 0.1, ("unproven here",)))
    return root


def typed(*line: object) -> Any:
    done = CliRunner().invoke(application(), [str(word) for word in line], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_publish_promote_and_rollback(repository: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    done = typed("publish", repository / "tiny" / "1", "--repository", target, "--json")
    found = json.loads(done.stdout)
    assert (found["name"], found["version"], found["promoted"], found["before"]) == ("tiny", 1, True, None)
    assert found["answered"]["max_score_difference"] == 1e-6
    assert "WARNING: unproven here" in done.stderr
    done = typed("publish", repository / "tiny" / "2", "--repository", target, "--no-promote")
    assert f"It is not served: bantam promote tiny 2 --repository {target}" in done.stderr
    assert "bantam rollback tiny returns to 1" in typed("promote", "tiny", 2, "--repository", target).stderr
    assert json.loads(typed("rollback", "tiny", "--repository", target, "--json").stdout) == {
        "model": "tiny",
        "version": 1,
        "before": 2,
    }


def test_versions_are_listed_and_old_ones_removed(repository: Path, make_artifact: Callable[..., Artifact]) -> None:
    lines = typed("versions", "tiny", "--repository", repository).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["version", "state"], ["2", "served"], ["1", "previous"]]
    publish(make_artifact(details={"seed": 2}), repository, "tiny", thresholds=None)
    done = typed("versions", "tiny", "--repository", repository, "--keep", 2, "--json")
    assert [(each["number"], each["state"]) for each in json.loads(done.stdout)] == [(3, "served"), (2, "previous")]
    assert "removed 1" in done.stderr
    with pytest.raises(RepositoryError, match="has no version of 'huge'"):
        typed("versions", "huge", "--repository", repository)


def test_all_of_it_in_a_bucket(repository: Path, bucket: str) -> None:
    for number in (1, 2):
        typed("publish", repository / "tiny" / str(number), "--repository", bucket)
    assert json.loads(typed("rollback", "tiny", "--repository", bucket, "--json").stdout)["version"] == 1
    assert "is promoted" in typed("promote", "tiny", 2, "--repository", bucket).stderr
    lines = typed("versions", "tiny", "--repository", bucket).stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["2", "served"], ["1", "previous"]]
    assert Remote(bucket).served("tiny") == (2, 1)
    with pytest.raises(ArtifactError, match="It is refused"):
        typed("measure", "tiny", "--repository", bucket, "--digest", "0" * 64)
    local = published(repository, "tiny")
    assert local is not None
    assert local.number == 2
