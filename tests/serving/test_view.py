"""What Triton sees of a repository."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bantam.artifact import Artifact
from bantam.errors import ServerError
from serving.follower import Follower
from serving.repository import Version, publish, stage
from serving.view import View


def seen(view: View) -> dict[str, str]:
    """Each version that Triton finds, and its config.pbtxt."""
    return {
        path.relative_to(view.models).as_posix(): (path.parent / "config.pbtxt").read_text()
        for path in view.models.glob("*/[0-9]*")
    }


def test_one_version_of_a_model_is_seen_with_the_config_that_fits_it(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    first = publish(tiny_artifact, tmp_path / "repository", "tiny", thresholds=[0.5] * 3)
    config = tmp_path / "repository" / "tiny" / "config.pbtxt"
    config.write_text(config.read_text() + "# an operator's\n")
    second = stage(make_artifact(labels=("a", "b")), tmp_path / "repository", "tiny", thresholds=[0.25] * 2)
    view = View(tmp_path, [first])
    assert seen(view) == {"tiny/1": config.read_text()}
    view.show(second)
    (text,) = seen(view).values()
    assert list(seen(view)) == ["tiny/2"]
    assert "0.25" in text
    view.show(first)
    assert list(seen(view)) == ["tiny/1"]
    assert (view.models / "tiny" / "1" / "model.onnx").read_bytes() == (first.folder / "model.onnx").read_bytes()
    assert view.shown == {"tiny": first}


def test_a_version_of_before_there_was_a_rollback_is_seen(tiny_artifact: Artifact, tmp_path: Path) -> None:
    version: Version = publish(tiny_artifact, tmp_path / "repository", "tiny", thresholds=None)
    (version.folder / "config.pbtxt").unlink()
    assert list(seen(View(tmp_path, [version]))) == ["tiny/1"]


def test_a_full_disk_stops_nothing_that_is_served(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, log = tmp_path / "repository", tmp_path / "log"
    log.touch()
    first = publish(tiny_artifact, root, "tiny", thresholds=None)
    view = View(tmp_path, [first])
    follower = Follower(root, view, log, lambda version: True, 1.0, {})
    second = publish(make_artifact(labels=("a", "b")), root, "tiny", thresholds=None)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        (said,) = follower.step()
    assert said.startswith("tiny stays at version 1: 2 cannot be served (")
    assert "No space left" in said
    assert view.shown == {"tiny": first}
    assert list(follower.step()) == [], "it is not tried again"
    view.show(second)
    assert list(seen(view)) == ["tiny/2"]


def test_a_version_over_which_triton_ended_is_not_what_is_shown_next(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    root, log = tmp_path / "repository", tmp_path / "log"
    log.touch()
    first = publish(tiny_artifact, root, "tiny", thresholds=None)
    view = View(tmp_path, [first])

    def ended(version: Version) -> bool:
        raise ServerError("Triton stopped by itself, exit code -11.")

    read: dict[str, tuple[int, int]] = {}
    publish(make_artifact(labels=("a", "b")), root, "tiny", thresholds=None)
    with pytest.raises(ServerError, match=r"-11.\n  tiny stays at version 1: 2 cannot be served, because Triton ended"):
        list(Follower(root, view, log, ended, 1.0, read).step())
    assert view.shown == {"tiny": first}
    assert list(seen(view)) == ["tiny/1"]
    assert list(Follower(root, view, log, lambda version: True, 1.0, read).step()) == [], "nor tried by the next one"


def test_what_was_served_and_then_removed_is_no_end_of_the_server(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    root, log = tmp_path / "repository", tmp_path / "log"
    log.write_text("a line of a log that is emptied while the version loads\n")
    first = publish(tiny_artifact, root, "tiny", thresholds=None)
    view = View(tmp_path, [first])
    publish(make_artifact(labels=("a", "b")), root, "tiny", thresholds=None)

    def fails(version: Version) -> bool:
        shutil.rmtree(first.folder)
        log.write_text("failed to load 'tiny'\n")
        return False

    (said,) = Follower(root, view, log, fails, 60.0, {}).step()
    assert said.startswith("tiny stays at version 1: 2 cannot be served.")
    assert view.shown == {"tiny": first}
