"""The environment that Triton is started in."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import tritonserver
from serving.tritonserver import HUGE_PAGES, Installation

INSTALLATION = Installation(Path("tritonserver"), environment={"PATH": "/serving/bin"})


def test_memory_comes_in_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert tritonserver.environment(INSTALLATION)["GLIBC_TUNABLES"] == HUGE_PAGES


def test_what_the_user_asks_of_glibc_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert tritonserver.environment(INSTALLATION)["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"


def test_our_packages_are_not_tritons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("PATH", "/ours/bin")
    environment = tritonserver.environment(INSTALLATION)
    assert "PYTHONPATH" not in environment
    assert environment["PATH"] == "/serving/bin"
