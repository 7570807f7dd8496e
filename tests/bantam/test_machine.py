"""What this machine is, and which libraries are installed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import pytest

from bantam import machine


def test_this_machine() -> None:
    found = machine.describe_machine()
    assert found.cores is not None
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_gib is not None
    assert found.os is not None
    assert found.os.startswith(platform.system())
    assert machine.describe_machine() == found


def test_cpuinfo_of_x86_and_arm() -> None:
    x86 = "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n\nmodel name\t: 2\n"
    assert machine.parse_cpuinfo(x86) == ("Some CPU @ 2GHz", ("avx2", "avx512_vnni", "amx_int8"))
    assert machine.parse_cpuinfo("processor: 0\nFeatures: fp asimd i8mm bf16\n")[1] == ("asimd", "i8mm", "bf16")
    assert machine.parse_cpuinfo("")[1] is None, "unknown is absent, not an empty list"


@pytest.mark.parametrize(
    ("limit", "kind"),
    [
        ("", "avx2 fma avx512f avx512_vnni amx_int8"),
        ("DEFAULT", "avx2 fma avx512f avx512_vnni amx_int8"),
        ("AVX512_CORE_AMX", "avx2 fma avx512f avx512_vnni amx_int8"),
        ("avx512_core", "avx2 fma avx512f"),
        ("AVX2", "avx2 fma"),
        ("SSE41", ""),
    ],
)
def test_the_kind_of_cpu_is_what_kernels_are_chosen_by(monkeypatch: pytest.MonkeyPatch, limit: str, kind: str) -> None:
    isa = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_int8")
    monkeypatch.setattr(machine, "_processor", lambda: ("Some CPU", isa))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert machine.cpu_kind("openvino").split(" ", 1)[1:] == ([kind] if kind else [])
    assert machine.cpu_kind("onnx") == f"{platform.machine()} {' '.join(isa)}", "its kernels are not oneDNN's"
    monkeypatch.setattr(machine, "_processor", lambda: ("Some CPU", None))
    assert machine.cpu_kind("openvino") == f"{platform.machine()} Some CPU"


def test_a_containers_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n", encoding="utf-8")
    (tmp_path / "memory.max").write_text(f"{2**30}\n", encoding="utf-8")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    found = machine.describe_machine()
    assert (found.cores, found.memory_gib) == (1, 1.0)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvidia-smi is a shell script")
def test_gpus_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA A'\necho 'NVIDIA A'\necho 'NVIDIA B'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert machine.describe_machine().gpu == "2 x NVIDIA A, NVIDIA B"
    program.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n", encoding="utf-8")
    assert machine.describe_machine().gpu is None


def test_versions_are_those_installed(tmp_path: Path) -> None:
    found = machine.versions()
    assert found["python"] == platform.python_version()
    assert list(found)[:2] == ["python", "bantam"], "what made the report comes first"
    assert found["numpy"] == importlib.metadata.version("numpy")
    (tmp_path / "tokenizers-9.8.7.dist-info").mkdir()
    (tmp_path / "tokenizers-9.8.7.dist-info" / "METADATA").write_text(
        "Name: tokenizers\nVersion: 9.8.7\n", encoding="utf-8"
    )
    assert machine.versions(tmp_path) == {"tokenizers": "9.8.7"}
