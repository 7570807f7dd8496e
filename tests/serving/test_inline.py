"""Triton's Python backend inside Triton's own process: built where there is a compiler, done without where not."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from bantam.artifact import Artifact
from bantam.client.classifier import Classifier
from bantam.errors import ClientError, ServerError
from serving import tritonserver
from serving.backend.engine import Engine
from serving.inline.build import CACHE, FLAGS, LIBRARY, PYTHON_FILES, SOURCES, BuildError, build, key, main
from serving.repository import publish
from serving.server import Server
from serving.tritonserver import Installation

needs_triton = pytest.mark.skipif(
    not tritonserver.serving_python().exists(), reason=f"no serving environment at {tritonserver.serving_python()}"
)
TEXTS = ["love", "hate", "love love hate", "fear", "joy and love", "anger " * 30]


@pytest.fixture(scope="module")
def root(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository of three models whose scores differ."""
    folder = tmp_path_factory.mktemp("repository")
    publish(tiny_artifact, folder, "one", thresholds=[0.5, 0.5, 0.5])
    publish(make_artifact(task="single_label"), folder, "two", thresholds=None)
    publish(make_artifact(layout="openvino"), folder, "three", thresholds=None)
    return folder


def test_the_backend_is_built(tmp_path: Path) -> None:
    folder = tmp_path / "python"
    folder.mkdir()
    build(folder)
    assert {path.name for path in folder.iterdir()} == {LIBRARY, *PYTHON_FILES}


def test_its_source_compiles_without_a_warning(tmp_path: Path) -> None:
    command = ["cc", *FLAGS, "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / LIBRARY), *map(str, SOURCES), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def counting(tmp_path: Path) -> str:
    """A compiler that writes a line for each time it is called."""
    return f"sh -c 'echo >> {tmp_path / 'calls'}; exec cc \"$@\"' cc"


def folders(tmp_path: Path) -> Iterator[Path]:
    """Empty folders, each with a parent of its own."""
    for number in itertools.count():
        folder = tmp_path / f"server-{number}" / "python"
        folder.mkdir(parents=True)
        yield folder


def test_it_is_compiled_once_for_all_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", counting(tmp_path))
    environment = tmp_path / "environment"
    environment.mkdir()
    for folder in itertools.islice(folders(tmp_path), 3):
        build(folder, environment)
        assert (folder / LIBRARY).resolve().is_relative_to(environment)
    assert (tmp_path / "calls").read_text().count("\n") == 1
    assert len(list((environment / CACHE).iterdir())) == 1


def test_set_up_compiles_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "serving.inline.build", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    built = list((tmp_path / CACHE).iterdir())
    folder = next(folders(tmp_path))
    build(folder, tmp_path)
    assert [(folder / LIBRARY).resolve()] == built
    monkeypatch.setenv("CC", "no-such-compiler")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0  # models are isolated then
    assert "no C compiler 'no-such-compiler'" in done.stderr


def test_other_sources_are_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    changed = tmp_path / "backend.c"
    changed.write_bytes(SOURCES[0].read_bytes() + b"\n")
    monkeypatch.setattr("serving.inline.build.SOURCES", (changed, *SOURCES[1:]))
    assert key() != before


def test_an_environment_that_cannot_be_written_to_is_done_without(tmp_path: Path) -> None:
    environment = tmp_path / "a file"
    environment.touch()  # as for root, who may write into any folder
    folder = next(folders(tmp_path))
    build(folder, environment)
    assert (folder / LIBRARY).resolve().parent == folder.parent


STAND_IN = """
#include <stddef.h>
int TRITONBACKEND_ApiVersion(unsigned *major, unsigned *minor) { *major = MAJOR; *minor = MINOR; return 0; }
const char *TRITONSERVER_ErrorNew(int code, const char *message) { return __builtin_strdup(message); }
const char *TRITONBACKEND_BackendArtifacts(void *backend, int *kind, const char **folder) { return "went on"; }
"""
ASK = """
import ctypes, os, sys
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
backend = ctypes.CDLL(sys.argv[2], mode=os.RTLD_LAZY)
backend.TRITONBACKEND_Initialize.restype = ctypes.c_char_p
print(backend.TRITONBACKEND_Initialize(None).decode())
"""


@pytest.mark.parametrize(
    ("major", "minor", "expected"),
    [(1, 19, "went on"), (1, 25, "went on"), (2, 19, "API is 2.19, expected 1.19"), (1, 18, "API is 1.18, expected")],
)
def test_another_triton_than_it_was_made_for_is_refused(tmp_path: Path, major: int, minor: int, expected: str) -> None:
    (tmp_path / "triton.c").write_text(STAND_IN.replace("MAJOR", str(major)).replace("MINOR", str(minor)))
    triton = tmp_path / "triton.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", triton, tmp_path / "triton.c"], check=True)
    folder = next(folders(tmp_path))
    build(folder)
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(triton), str(folder / LIBRARY)], capture_output=True, text=True, check=False
    )
    assert expected in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("no-such-compiler", r"no C compiler 'no-such-compiler' .*apt install gcc"),
        ("false", "the C compiler 'false' failed: exit code 1"),
        ("/", "could not be run"),
        ("sh -c 'touch building.so; exit 1'", "the C compiler .* failed: exit code 1"),
    ],
)
def test_without_a_compiler_models_are_isolated_and_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, why: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BuildError, match=why):
        build(empty)
    assert list(empty.iterdir()) == []
    (tmp_path / "stock.so").touch()
    installation = Installation(tmp_path / "tritonserver", stub_backend={"stock.so": tmp_path / "stock.so"})
    backend = tritonserver.lay_out(installation, tmp_path / "backends", isolated=False)
    assert backend.isolated
    assert backend.reason
    assert [path.name for path in (tmp_path / "backends").iterdir()] == ["stock.so"]


def test_a_triton_that_brings_its_own_backend_keeps_it(tmp_path: Path) -> None:
    backend = tritonserver.lay_out(Installation(Path("/opt/tritonserver")), tmp_path / "backends", isolated=False)
    assert backend.folder is None
    assert backend.isolated
    assert "/opt/tritonserver" in backend.reason
    asked = tritonserver.lay_out(Installation(Path("/opt/tritonserver")), tmp_path / "backends", isolated=True)
    assert asked.reason == ""


@needs_triton
@pytest.mark.triton
def test_a_machine_without_a_compiler_serves_all_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with Server(root, models=["one"]) as server, Classifier(server.grpc_address, "one") as client:
        assert server.backend.isolated
        assert client.probabilities(TEXTS).shape == (len(TEXTS), 3)


@needs_triton
@pytest.mark.triton
def test_models_that_share_a_process_answer_for_themselves(root: Path) -> None:
    names = ("one", "two", "three")
    with Server(root) as server, ThreadPoolExecutor(6) as threads:
        assert server.pid is not None
        assert psutil.Process(server.pid).children() == []
        clients = {name: Classifier(server.grpc_address, name) for name in names}
        asked = [(name, text) for name in names for text in TEXTS] * 10
        answers = threads.map(lambda each: clients[each[0]].probabilities([each[1]])[0], asked)
        expected = {
            (name, text): row
            for name in names
            for text, row in zip(TEXTS, Engine(root / name / "1").probabilities(TEXTS), strict=True)
        }
        for each, answer in zip(asked, answers, strict=True):
            np.testing.assert_allclose(answer, expected[each], atol=1e-6)


@needs_triton
@pytest.mark.triton
def test_a_crash_of_an_isolated_model_leaves_the_others_alone(root: Path) -> None:
    with Server(root, models=["one", "two"], isolated=True) as server:
        assert server.pid is not None
        with Classifier(server.grpc_address, "two") as client:
            expected = client.probabilities(TEXTS)
            for process in psutil.Process(server.pid).children():
                if "one" in Path(process.cmdline()[1]).parts:
                    process.kill()
            with Classifier(server.grpc_address, "one", retries=0, timeout=2) as crashed, pytest.raises(ClientError):
                crashed.probabilities(TEXTS)
            np.testing.assert_array_equal(client.probabilities(TEXTS), expected)


@needs_triton
@pytest.mark.triton
def test_an_environment_without_numpy_is_named_and_not_a_crash(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Triton asks for the backend again for the second model, when Python runs already.
    venv.create(tmp_path / "bare")
    usual = tritonserver.environment
    bare = {"PATH": f"{tmp_path / 'bare' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    monkeypatch.setattr(tritonserver, "environment", lambda installation: {**usual(installation), **bare})
    with pytest.raises(ServerError, match=r"(?s)could not load one, two.*No module named 'numpy'"):
        Server(root, models=["one", "two"]).start()


def test_set_up_compiles_into_an_environment_of_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("environment").mkdir()
    assert main(Path("environment")) == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "environment" / CACHE / f"{key()}.so").stat().st_size > 1000
