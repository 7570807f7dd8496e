"""The doctor on this machine, and on broken set-ups made for it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from bantam import doctor
from bantam.doctor.check import Check
from bantam.doctor.environments import optimizer_environment, serving_environment
from bantam.programs import output

PINS = "# comment\nnumpy==1.26.4\ntorch==2.13.0\ntransformers==5.23.0\nml-dtypes==0.5.4\n"


def install(environment: Path, **versions: str) -> None:
    """Make it look as if these packages were installed, as pip leaves them: one .dist-info folder each."""
    site = environment / "lib/python3.11/site-packages"
    for name, version in versions.items():
        folder = site / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here asks the real model hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with pins and no environments."""
    for name in ("constraints.txt", "constraints-serving.txt"):
        (tmp_path / name).write_text(PINS, encoding="utf-8")
    return tmp_path


def only(checks: list[Check], name: str) -> Check:
    """The one check of this name."""
    (check,) = [check for check in checks if check.name == name]
    return check


def test_this_machine_is_diagnosed_and_nothing_crashes() -> None:
    checks = doctor.diagnose()
    names = [check.name for check in checks]
    assert {
        "processor",
        "memory",
        "disk",
        "GPU",
        ".venv",
        ".venv-serving",
        "Triton",
        "C compiler",
        "Docker",
        "model hub",
        "ports",
    } <= {*names}
    assert len(names) == len(set(names))
    assert not [check for check in checks if "could not be looked at" in check.found]
    assert [check.name for check in checks if check.status != "ok" and not check.advice] == []
    text = doctor.as_text(checks)
    assert all(check.found in text and check.advice in text for check in checks)


def test_json_is_for_scripts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda: [Check("disk", "warning", "1.0 GiB free", "Make room.")])
    doctor.main(["--json"])
    assert json.loads(capsys.readouterr().out) == [
        {"name": "disk", "status": "warning", "found": "1.0 GiB free", "advice": "Make room."}
    ]


def test_environments_that_are_not_made(root: Path) -> None:
    for checks in (optimizer_environment(root), serving_environment(root)):
        assert [check.status for check in checks] == ["missing"]
        assert "make setup" in checks[0].advice or "container" in checks[0].advice


def test_an_interrupted_set_up(root: Path) -> None:
    (root / ".venv").mkdir()
    (root / ".venv/.unfinished").touch()
    (check,) = optimizer_environment(root)
    assert (check.status, check.found) == ("warning", "its set-up was interrupted")


def test_an_environment_as_pinned(root: Path) -> None:
    install(root / ".venv", torch="2.13.0+cpu", transformers="5.23.0", ml_dtypes="0.5.4")
    assert optimizer_environment(root) == [Check(".venv", "ok", "3 packages, as pinned")]


def test_other_versions_than_pinned_are_named(root: Path) -> None:
    install(root / ".venv", torch="2.12.1", ml_dtypes="0.5.3", transformers="5.23.0", unknown="1.0")
    check = only(optimizer_environment(root), ".venv")
    assert (check.status, check.found) == ("warning", "ml-dtypes 0.5.3, not 0.5.4; torch 2.12.1, not 2.13.0")


def test_a_cuda_torch_in_a_cpu_set_up(root: Path) -> None:
    install(root / ".venv", torch="2.13.0", nvidia_cublas="13.1.1.3")
    check = only(optimizer_environment(root), ".venv: torch")
    assert check.status == "warning"
    assert "CUDA build in a set-up for the CPU" in check.found
    assert "TORCH_INDEX" in check.advice


def test_a_cpu_torch_in_a_gpu_set_up(root: Path) -> None:
    install(root / ".venv", torch="2.13.0+cpu")
    (root / ".venv/.ready-gpu").touch()
    assert "CPU build in a set-up for the GPU" in only(optimizer_environment(root), ".venv: torch").found


def test_packages_that_break_each_other(root: Path) -> None:
    install(root / ".venv", torchvision="0.28.0", onnxruntime="1.31.1", onnxruntime_gpu="1.31.1")
    checks = optimizer_environment(root)
    assert "breaks transformers" in only(checks, ".venv: torchvision").advice
    assert "overwrite each other" in only(checks, ".venv: onnxruntime").found


def test_numpy_2_beside_triton(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    install(root / ".venv-serving", numpy="2.4.6")
    checks = serving_environment(root)
    assert only(checks, ".venv-serving: numpy").status == "warning"
    assert only(checks, "libpython").status == "missing"  # there is no interpreter in this environment


def test_where_there_is_no_embedded_triton(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    (check,) = serving_environment(root)
    assert "container" in check.advice


def test_an_old_glibc(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = root / ".venv-serving/lib/python3.11/site-packages/pytriton/tritonserver/bin/tritonserver"
    server.parent.mkdir(parents=True)
    server.touch()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.31"))
    check = only(doctor.diagnose(root), "Triton")
    assert (check.status, check.found) == ("warning", "embedded, but glibc is 2.31")


def test_a_port_in_use_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "gRPC"})
        check = only(doctor.diagnose(root), "ports")
    assert (check.status, check.found) == ("warning", f"in use: {port} (gRPC)")


@pytest.mark.parametrize(
    ("endpoint", "status", "words"),
    [("http://127.0.0.1:9", "missing", "out of reach"), ("file:///etc", "warning", "expected an http(s) address")],
)
def test_a_hub_that_cannot_be_reached(
    root: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, status: str, words: str
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    check = only(doctor.diagnose(root), "model hub")
    assert check.status == status
    assert words in check.found
    assert "local folders" in check.advice


def test_a_look_that_crashes_does_not_end_the_diagnosis(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(path: Path) -> None:
        raise OSError("no such device")

    monkeypatch.setattr("shutil.disk_usage", crash)
    assert only(doctor.diagnose(root), "disk").found == "could not be looked at: OSError: no such device"


def test_programs_that_fail_are_no_answer() -> None:
    assert output("true") is None
    assert output("false") is None
    assert output("no-such-program-anywhere") is None
    assert output("echo", "yes") == "yes"
