"""Triton's Python backend inside Triton's own process: built where there is a compiler, done without where not."""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Callable
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
from serving.inline.build import FLAGS, LIBRARY, PYTHON_FILES, SOURCE, BuildError, build
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
    command = ["cc", *FLAGS, "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / LIBRARY), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
