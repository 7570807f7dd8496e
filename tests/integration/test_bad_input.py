"""What a user can get wrong: a clear message, the right exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import kills
from tests.integration.conftest import Toy, make_toy
from tests.plugins import tiny

USERS_MISTAKE = 2


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A toy that has not run."""
    return make_toy(tmp_path_factory.mktemp("fresh"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./nowhere"], "nowhere"),
        (["./tiny", "--recipe", "int9"], "Unknown recipe 'int9'. Known: decoder, decoder-study, gpu, int8"),
        (["./tiny", "--data", "goemotion"], "goemotions-ekman"),
        (["./tiny", "--profile", "slow"], "Unknown profile 'slow'. Known: quick, full"),
        (["./tiny", "--data", "moods.csv", "--label-column", "mood"], "labels"),
        (["./tiny", "--target", "tpu"], "tpu"),
        (["./tiny", "--max-drop", "-1"], "max-drop"),
    ],
)
def test_what_is_unknown_is_refused_with_what_is_known(fresh: Toy, arguments: list[str], message: str) -> None:
    done = fresh.bantam("optimize", *arguments)
    assert done.returncode == USERS_MISTAKE
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (fresh.folder / "model_repo").exists()


def test_a_model_that_only_the_hub_has_says_what_was_tried_and_what_to_do(fresh: Toy) -> None:
    # A port at which nobody answers stands for a hub out of reach, wherever this runs.
    env = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "BANTAM_CACHE": str(fresh.folder / "cache"),
        "HF_HOME": str(fresh.folder),
    }
    done = fresh.bantam("optimize", "bert", "--data", "moods.csv", env=env)
    assert done.returncode == USERS_MISTAKE
    for part in ("google-bert/bert-base-uncased", "minilm", "--random-init"):
        assert part in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"text,remark\nfine,ok\n", "remark"),
        (b"text,label\ngood \xff\xfe,joy\n", "UTF-8"),
        (b"text,label\n" + b"fine,joy\n" * 30, "one label"),
    ],
)
def test_an_unusable_data_file_is_refused(fresh: Toy, content: bytes, message: str) -> None:
    (fresh.folder / "bad.csv").write_bytes(content)
    done = fresh.bantam("optimize", "./tiny", "--data", "bad.csv")
    assert done.returncode == USERS_MISTAKE
    assert message in done.stderr


def test_errors_are_json_with_json(fresh: Toy) -> None:
    done = fresh.bantam("optimize", "./tiny", "--recipe", "int9", "--json")
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "RecipeError"
    assert "int9" in error["message"]


def test_a_traceback_only_with_debug(fresh: Toy) -> None:
    done = fresh.bantam("--debug", "optimize", "./tiny", "--recipe", "int9")
    assert done.returncode == USERS_MISTAKE
    assert "Traceback" in done.stderr


def test_two_runs_in_one_folder_are_refused(fresh: Toy) -> None:
    from filelock import FileLock

    folder = fresh.run_folder
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        done = fresh.bantam(*fresh.arguments)
    assert done.returncode == 1
    assert "in use by another run" in done.stderr


@pytest.mark.triton
def test_a_port_in_use_is_named(toy: Toy) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = toy.bantam("serve", "tiny", "--grpc-port", str(port), "--http-port", "0", "--watch-port", "0")
    assert done.returncode == 1
    assert f"Port {port}" in done.stderr


@pytest.mark.triton
def test_serving_what_is_not_published_lists_what_is(toy: Toy) -> None:
    done = toy.bantam("serve", "nobody", "--watch-port", "0")
    assert done.returncode in (1, USERS_MISTAKE)
    assert "tiny" in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 20 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.triton
def test_a_full_disk_while_a_stage_writes_is_explained_and_the_run_goes_on_later(
    toy: Toy, small_disk: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy.folder / "model_repo", tmp_path / "model_repo")
    before = kills.published(tmp_path)
    filler, build = small_disk / "filler", small_disk / "build"
    # All but the export is there already, so that it is what finds no room. (A training asks for its room beforehand.)
    exported = (toy.run_folder / "onnx-fp32").resolve()
    shutil.copytree(exported.parent, build / "store", ignore=shutil.ignore_patterns(exported.name))
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 60_000))
    one = toy.with_recipe("one.toml", tiny.ONE_VARIANT)
    command = (*one.arguments, "--build", str(build), "--repository", str(tmp_path / "model_repo"))
    done = toy.bantam(*command)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Free some space and run the same command again" in done.stderr
    assert kills.published(tmp_path) == before
    assert not list(build.glob("*/*.tmp-*"))
    filler.unlink()
    done = toy.bantam(*command)
    assert done.returncode == 0, done.stderr
    assert kills.changed(before, kills.published(tmp_path)) == []
