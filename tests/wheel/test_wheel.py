"""The client's wheel: built, installed alone into a new environment, and used there as README says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bantam import Classifier
from bantam.artifact import Artifact
from serving.repository import publish
from serving.server import Server

ROOT = Path(__file__).resolve().parents[2]
MOST_DISTRIBUTIONS, MOST_MB = 15, 130
TEXTS = ["I love it", "You broke it again!"]
README = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
"""Its pieces of Python: one for production, and those that ask a model of pairs, called ``nli``."""
PAIRS = [block for block in README if 'model="nli"' in block]

pytestmark = [pytest.mark.index, pytest.mark.slow]


def run(*command: str | Path, cwd: Path, **options: bool) -> subprocess.CompletedProcess[str]:
    """Without what an activated environment would add: the new one must be enough."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=options.get("check", True)
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools leaves its ``build/`` where it works."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "Makefile"):
        shutil.copy(ROOT / name, source)
    for package in ("bantam", "optimizer", "serving"):
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__", "datasets", "*.tmp-*")
        )
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel and what it depends on."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", environment, cwd=environment.parent)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel, cwd=environment.parent)
    return python


def interpreters() -> list[str]:
    """Of those that the client is for, the ones that this machine has beside ours."""
    names = [f"python3.{minor}" for minor in (11, 12, 13) if minor != sys.version_info.minor]
    folders = sorted(Path.home().glob(".pyenv/versions/3.*/bin"))
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    found = []
    for name in names:
        candidates = [Path(folder, name) for folder in path.split(os.pathsep) if Path(folder, name).is_file()]
        # A shim may stand for none.
        runs = [each for each in candidates if subprocess.run([each, "-V"], capture_output=True).returncode == 0]
        found += [str(each) for each in runs[:1]]
    return found


@pytest.fixture(scope="module")
def server(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("model_repo")
    publish(tiny_artifact, repository, "tiny", thresholds=[0.4, 0.5, 0.6])
    pairs = make_artifact(task="single_label", labels=("entailment", "neutral", "contradiction"), pair=True)
    publish(pairs, repository, "pairs", thresholds=None)
    with Server(repository) as running:
        yield running


def test_it_holds_the_package_bantam_and_its_client_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.rpartition("/")[0] for name in names}
    assert {folder for folder in folders if ".dist-info" not in folder} == {"bantam", "bantam/client"}
    assert "bantam/py.typed" in names
    assert wheel.name.startswith("bantam_classifier-")


def test_it_takes_few_distributions_and_little_space(python: Path, tmp_path: Path) -> None:
    pip = run(python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check", cwd=tmp_path)
    installed = [each["name"] for each in json.loads(pip.stdout)]
    assert len(installed) <= MOST_DISTRIBUTIONS, installed
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip()
    files = [path for path in Path(where).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) / 1e6 <= MOST_MB


def test_it_imports_nothing_of_the_checkout(python: Path, tmp_path: Path) -> None:
    code = "import bantam, sys; bantam.Classifier; print(bantam.__file__); print(*sys.modules)"
    where, modules = run(python, "-c", code, cwd=tmp_path).stdout.splitlines()
    assert not Path(where).is_relative_to(ROOT)
    roots = {name.partition(".")[0] for name in modules.split()}
    assert {"bantam", "grpc", "httpcore2", "numpy"} <= roots
    assert not roots & {"optimizer", "serving", "torch", "pydantic", "tritonclient", "typer"}


def readme_lines(sync: str, asynchronous: str) -> str:
    """README's Python for production, with other arguments in place of those that name the server and the model."""
    (block,) = (block for block in README if block not in PAIRS)
    for words, replacement in (
        ('"localhost:8001", model="minilm"', sync),
        ('"localhost:8000", model="minilm", protocol="http"', asynchronous),
    ):
        assert str(block).count(words) == 1
        block = block.replace(words, replacement)
    return str(block)


@pytest.mark.triton
@pytest.mark.parametrize("swapped", [False, True])
def test_the_lines_of_readme_ask_a_served_model(python: Path, server: Server, tmp_path: Path, swapped: bool) -> None:
    grpc = f'"{server.grpc_address}", model="tiny"'
    http = f'"{server.http_address}", model="tiny", protocol="http"'
    script = tmp_path / "readme.py"
    script.write_text(readme_lines(*((http, grpc) if swapped else (grpc, http))), encoding="utf-8")
    done = run(python, "-W", "error", script, cwd=tmp_path)
    with Classifier(server.grpc_address, "tiny") as classify:
        expected = [f"{prediction.labels} {prediction.scores}" for prediction in classify(TEXTS)]
    assert done.stdout.splitlines() == expected * 2
    assert done.stderr == ""


@pytest.mark.triton
@pytest.mark.parametrize("block", PAIRS)
def test_the_pairs_of_readme_ask_a_served_model(python: Path, server: Server, tmp_path: Path, block: str) -> None:
    assert block.count('"localhost:8001", model="nli"') == 1
    script = tmp_path / "pairs.py"
    lines = block.replace('"localhost:8001", model="nli"', f'"{server.grpc_address}", model="pairs"')
    script.write_text(lines, encoding="utf-8")
    done = run(python, "-W", "error", script, cwd=tmp_path)
    asked = re.findall(r'\("([^"]*)", "([^"]*)"\)', block)
    with Classifier(server.grpc_address, "pairs") as classify:
        expected = [f"{prediction.labels} {prediction.scores}" for prediction in classify(asked)]
    assert asked
    assert done.stdout.splitlines() == expected
    assert done.stderr == ""


@pytest.mark.parametrize("command", [["serve"], ["optimize", "minilm"], ["--help"], []])
def test_its_command_says_that_the_checkout_is_missing(python: Path, tmp_path: Path, command: list[str]) -> None:
    for start in ([python.with_name("bantam")], [python, "-m", "bantam"]):
        done = run(*start, *command, cwd=tmp_path, check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        first, second = done.stderr.splitlines()
        assert "client alone; its commands need the checkout" in first
        assert "git" in second
        assert "make setup" in second


@pytest.mark.triton
@pytest.mark.parametrize("minor", [11, 12, 13])
def test_the_lines_of_readme_on_other_interpreters(minor: int, wheel: Path, server: Server, tmp_path: Path) -> None:
    other = next((each for each in interpreters() if each.endswith(f"3.{minor}")), None)
    if other is None:
        own = sys.version_info.minor == minor
        pytest.skip("our own interpreter: the tests above" if own else f"no Python 3.{minor} on this machine")
    run(other, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel, cwd=tmp_path)
    grpc, http = f'"{server.grpc_address}", model="tiny"', f'"{server.http_address}", model="tiny", protocol="http"'
    script = tmp_path / "readme.py"
    script.write_text(readme_lines(grpc, http), encoding="utf-8")
    done = run(python, script, cwd=tmp_path)
    with Classifier(server.grpc_address, "tiny") as classify:
        expected = [f"{prediction.labels} {prediction.scores}" for prediction in classify(TEXTS)]
    assert done.stdout.splitlines() == expected * 2
