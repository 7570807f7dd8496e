"""The Makefile: what it lists, what it hands to the command line, and a set-up that is made once and repaired.

The set-up runs against a Python and a pip which only write down how they were called; the real one takes minutes.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = """#!/bin/sh
case "$1 $2" in
  "-c import sys; sys.exit"*) exit 0;;
  "--version "*) echo Python 3.11.99;;
  "-m venv") mkdir -p "$3/bin"; for name in python pip; do cp "$(dirname "$0")/recorder" "$3/bin/$name"; done;;
esac
"""
RECORDER = """#!/bin/sh
echo "$(basename "$(dirname "$(dirname "$0")")") $(basename "$0") $*" >> calls
if [ -e break ]; then echo "ERROR: no route to host" >&2; exit 1; fi
"""

pytestmark = [
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
    pytest.mark.skipif(platform.system() == "Windows", reason="the Makefile is for Linux and macOS"),
]


class Checkout:
    """A copy of what the set-up reads, with the pretended interpreter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", *(path.name for path in ROOT.glob("constraints*.txt"))):
            shutil.copy(ROOT / name, folder / name)
        self.python = folder / "tools" / "python3.11"
        self.python.parent.mkdir()
        for name, script in (("python3.11", PYTHON), ("recorder", RECORDER)):
            (self.python.parent / name).write_text(script, encoding="utf-8")
            (self.python.parent / name).chmod(0o755)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run make with the pretended interpreter; its output is in the result."""
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "TORCH_INDEX")}
        command = ["make", f"PYTHON={self.python}", f"SERVING_PYTHON={self.python}", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def calls(self) -> list[str]:
        """What was called since the last look: ``environment program arguments``."""
        path = self.folder / "calls"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        return (self.folder / name).exists()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh clone, nothing set up."""
    return Checkout(tmp_path)


def test_make_alone_lists_every_target_and_variable(checkout: Checkout) -> None:
    done = checkout.make()
    assert done.returncode == 0, done.stderr
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = [line.split(":")[1].split() for line in text.splitlines() if line.startswith(".PHONY")]
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    assert set(phony) <= set(listed)
    assert {"MODEL=minilm", "DATA=goemotions-ekman", "TARGET=cpu", "PROFILE=quick", "RECIPE=", "MAX_DROP="} <= {*listed}
    assert not checkout.has(".venv")


def test_the_set_up_is_made_once(checkout: Checkout) -> None:
    done = checkout.make("setup")
    assert done.returncode == 0, done.stderr
    calls = checkout.calls()
    optimizer = [call for call in calls if call.startswith(".venv ")]  # both are made at the same time
    assert "torch==2.13.0+cpu" in optimizer[0], "PyTorch first, so that nothing else chooses its build"
    assert optimizer[-1].endswith("--no-build-isolation -e .[optimize,demo,dev]")
    assert all("-c constraints.txt" in call for call in optimizer)
    assert checkout.has(".venv/.ready-cpu")
    assert not checkout.has(".venv/.unfinished")
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        (serving,) = [call for call in calls if call.startswith(".venv-serving ")]
        assert serving.endswith("-r constraints-serving.txt")
    again = checkout.make("setup")
    assert (again.returncode, checkout.calls()) == (0, [])


def test_a_set_up_that_fails_says_what_to_do_and_is_made_anew(checkout: Checkout) -> None:
    (checkout.folder / "break").touch()
    done = checkout.make("setup")
    assert done.returncode != 0
    assert "no route to host" in done.stderr
    assert "package index within reach" in done.stderr
    assert checkout.has(".venv/.unfinished")
    assert not checkout.has(".venv/.ready-cpu")
    (checkout.folder / "break").unlink()
    (checkout.folder / ".venv/half-installed").touch()
    assert checkout.make("setup").returncode == 0
    assert not checkout.has(".venv/half-installed")
    assert checkout.has(".venv/.ready-cpu")


def test_new_pins_update_an_environment_in_place(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.calls()
    (checkout.folder / ".venv/kept").touch()
    stamp = (checkout.folder / ".venv/.ready-cpu").stat().st_mtime
    os.utime(checkout.folder / "constraints.txt", (stamp + 1, stamp + 1))
    assert checkout.make("setup").returncode == 0
    assert checkout.calls()
    assert checkout.has(".venv/kept")


def test_the_gpu_set_up_replaces_the_cpu_one_and_stays_chosen(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.calls()
    (checkout.folder / ".venv/from-cpu").touch()
    assert checkout.make("setup", "TARGET=gpu").returncode == 0
    calls = checkout.calls()
    assert "+cpu" not in "".join(calls)
    assert any(call.endswith("-e .[gpu,demo,dev]") for call in calls)
    assert not checkout.has(".venv/from-cpu")
    if checkout.has(".venv-serving/requirements.txt"):
        names = (checkout.folder / ".venv-serving/requirements.txt").read_text(encoding="utf-8").splitlines()
        assert "onnxruntime-gpu[cuda,cudnn]" in names
        assert not [name for name in names if name.startswith("onnxruntime==")]
    assert (checkout.make("setup").returncode, checkout.calls()) == (0, [])


def test_where_the_index_has_no_cpu_build_the_other_is_taken_and_named(checkout: Checkout) -> None:
    recorder = checkout.python.parent / "recorder"
    recorder.write_text(RECORDER + 'case "$*" in *+cpu*) exit 1;; esac\n', encoding="utf-8")
    done = checkout.make("setup")
    assert done.returncode == 0, done.stderr
    assert [call for call in checkout.calls() if call.endswith("constraints.txt torch")]
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        assert "TORCH_INDEX" in done.stdout


def test_an_index_for_torch_can_be_named(checkout: Checkout) -> None:
    assert checkout.make("setup", "TORCH_INDEX=http://127.0.0.1:9/simple").returncode == 0
    (torch,) = [call for call in checkout.calls() if "--extra-index-url http://127.0.0.1:9/simple" in call]
    assert torch.endswith(" torch")


def test_another_python_is_refused_with_the_way_to_get_one(checkout: Checkout) -> None:
    checkout.python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n', encoding="utf-8")
    done = checkout.make("setup")
    assert done.returncode != 0
    assert "from Python 3.11 to 3.13; found: Python 3.9.1" in done.stderr
    assert "apt install python3.12" in done.stderr
    assert not checkout.has(".venv")


@pytest.mark.parametrize(
    ("there", "optimizer", "serving"),
    [
        (("3.13",), "3.13", ""),
        (("3.12",), "3.12", "3.12"),
        (("3.13", "3.12"), "3.12", "3.12"),
        (("3.11", "3.12"), "3.11", "3.11"),
        (("3.10",), "", ""),
    ],
)
def test_make_takes_the_python_that_is_there(
    checkout: Checkout, there: tuple[str, ...], optimizer: str, serving: str
) -> None:
    """What runs inside Triton takes another one where the first is too new for it."""
    folder = checkout.folder / "bin"
    folder.mkdir()
    for version in there:
        # Decides as the interpreter would, by the newest that is asked for.
        minor = version.partition(".")[2]
        newest = r"""$(echo "$2" | sed 's/.*(3, \([0-9]*\)).*/\1/')"""
        script = f"#!/bin/sh\n[ {minor} -ge 11 ] && [ {minor} -le {newest} ]\n"
        (folder / f"python{version}").write_text(script, encoding="utf-8")
        (folder / f"python{version}").chmod(0o755)
    for tool in ("sh", "awk", "sed", "echo", "printf", "uname"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        [str(shutil.which("make")), "help"],
        cwd=checkout.folder,
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    named = {word.partition("=")[0]: word.partition("=")[2] for word in done.stdout.split() if "PYTHON=" in word}
    wanted = {"PYTHON": optimizer, "SERVING_PYTHON": serving}
    assert named == {name: f"python{version}" if version else "" for name, version in wanted.items()}


def test_an_unknown_target_is_refused(checkout: Checkout) -> None:
    done = checkout.make("setup", "TARGET=tpu")
    assert done.returncode != 0
    assert "TARGET is 'tpu'; expected cpu or gpu." in done.stderr


def test_variables_reach_the_command_line(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.calls()
    given = ["MODEL=distilbert", "DATA=my reviews.csv", "PROFILE=full", "MAX_DROP=0.5", "MAX_HOURS=2", "RECIPE=small"]
    given += ["MAX_P99_MS=5", "MAX_SIZE_MB=9", "OBJECTIVE=size"]
    done = checkout.make("optimize", *given, "ACCEPT_LICENCE=gemma")
    assert done.returncode == 0, done.stderr
    (call,) = checkout.calls()
    assert call.startswith(".venv python -m bantam optimize ")
    wanted = (
        "distilbert",
        "my reviews.csv",
        "full",
        "--max-drop 0.5",
        "--max-hours 2",
        "--recipe small",
        "--max-p99-ms 5",
        "--max-size-mb 9",
        "--objective size",
    )
    for words in (*wanted, "--accept-licence gemma"):
        assert words in call


def test_clean_keeps_models_and_environments(checkout: Checkout) -> None:
    for name in ("build/store/key", "build/run", "model_repo/minilm/1", ".venv/bin", "optimizer/__pycache__"):
        (checkout.folder / name).mkdir(parents=True)
    assert checkout.make("clean").returncode == 0
    assert checkout.has("model_repo/minilm/1")
    assert checkout.has(".venv/bin")
    assert checkout.has("build/store/key")
    assert checkout.has("build/run")
    assert not checkout.has("optimizer/__pycache__")
    assert checkout.make("clean", "ALL=1").returncode == 0
    assert not checkout.has("build")
    assert checkout.has("model_repo/minilm/1")


def test_serve_and_load_test_meet_on_the_same_port(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.calls()
    assert checkout.make("serve", "PORT=9001").returncode == 0
    assert checkout.make("load-test", "PORT=9001", "MODEL=models/mine").returncode == 0
    serve, load_test = (" ".join(call.split()) for call in checkout.calls())
    assert serve == ".venv python -m bantam serve --grpc-port 9001"
    assert load_test == ".venv python -m bantam load-test mine --data goemotions-ekman --address localhost:9001"
