"""No process that we start reports to the makers of its libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bantam.artifact import Artifact
from bantam.client.classifier import Classifier
from bantam.telemetry import VARIABLES
from serving.repository import publish
from serving.server import Server

ROOT = Path(__file__).parents[2]
NONE = {name: value for name, value in os.environ.items() if name not in VARIABLES}
"""An environment in which nothing is turned off, as a user's is."""
SHOW = """
import os, sys
print({name: os.environ.get(name) for name in sys.argv[1:]})
"""


def python(code: str, *arguments: str, home: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env={**NONE, "HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "entry",
    [
        "import optimizer",
        "from bantam.commands import main\nsys.argv = ['bantam', '--version']\ntry: main()\nexcept SystemExit: pass",
        "from bantam.run import worker",
        "from benchmarks.bench import run",
    ],
    ids=["optimizer", "the command line", "a worker", "the benchmark"],
)
def test_it_is_off_in_our_processes_and_those_that_they_start(entry: str, tmp_path: Path) -> None:
    code = f"import subprocess, sys\n{entry}\nsubprocess.run([sys.executable, '-c', {SHOW!r}, *{list(VARIABLES)!r}])"
    assert python(code, home=tmp_path).splitlines()[-1] == str(VARIABLES)


USE = """
import sys
import optimizer
import onnxruntime, openvino
from openvino.tools.ovc import telemetry_utils
import nncf
from nncf.telemetry import wrapper
onnxruntime.InferenceSession(sys.argv[1])
openvino.convert_model(sys.argv[1])
print(telemetry_utils.tm.__name__, type(wrapper.telemetry).__name__)
"""


def test_the_engines_of_the_optimizer_leave_no_trace(tiny_artifact: Artifact, tmp_path: Path) -> None:
    said = python(USE, str(tiny_artifact.folder / "model.onnx"), home=tmp_path)
    stub, nncf = said.splitlines()[-1].split()
    assert stub == "openvino.tools.ovc.telemetry_stub"
    assert nncf != "NNCFTelemetry"
    # What both would write on the first use: an identifier of the machine.
    assert sorted(p.relative_to(tmp_path).parts[0] for p in tmp_path.iterdir() if p.name in (".cache", "intel")) == []


@pytest.mark.triton
@pytest.mark.parametrize("isolated", [False, True], ids=["inline", "isolated"])
def test_the_engines_in_triton_leave_no_trace(
    make_artifact: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolated: bool
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for layout in ("onnx", "openvino"):
        publish(make_artifact(layout=layout), tmp_path / "repository", layout, thresholds=None)
    with Server(tmp_path / "repository", isolated=isolated) as server:
        for name in server.models:
            with Classifier(server.grpc_address, name) as client:
                assert client.probabilities(["love"]).shape == (1, 3)
        triton = psutil.Process(server.pid)
        for process in (triton, *triton.children()):
            found = process.environ()
            assert {name: found.get(name) for name in VARIABLES} == VARIABLES
    assert list((tmp_path / "home").rglob("*")) == []
