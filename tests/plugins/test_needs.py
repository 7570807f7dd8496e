"""The markers: a test whose needs are not met is skipped with the reason, or fails where they have to be met."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugins import needs


def because(reason: str | None) -> Callable[[str], str | None]:
    """A look-up that gives the same answer for every marker."""
    return lambda marker: reason


def test_a_test_without_needs_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "missing", because("not installed"))
    assert needs.verdict({"slow", "parametrize"}, ci=True) is None


@pytest.mark.parametrize("marker", sorted(needs.PROBES))
def test_a_test_whose_needs_are_met_runs(marker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "missing", because(None))
    assert needs.verdict({marker}, ci=True) is None


@pytest.mark.parametrize("engine", ["", "1"])
@pytest.mark.parametrize("marker", sorted(needs.PROBES))
def test_what_is_missing_skips_the_test_with_the_reason(
    marker: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "missing", because("not installed"))
    monkeypatch.setenv(needs.ENGINE_VARIABLE, engine)
    assert needs.verdict({marker}, ci=False) == ("skip", f"needs {marker}: not installed")
    expected = (
        "fail"
        if marker in {"browser", "compiler", "index", "openssl", "triton", *(["docker"] if engine else [])}
        else "skip"
    )
    assert needs.verdict({marker}, ci=True) == (expected, f"needs {marker}: not installed")


def test_the_browser_is_looked_for_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert "apt install chromium" in str(needs.missing_browser())
    monkeypatch.setenv("CHROMIUM", "/opt/chromium")
    assert needs.missing_browser() is None


@pytest.mark.parametrize("look", [needs.missing_docker, needs.missing_gpu, needs.missing_triton])
def test_nothing_is_found_on_an_empty_machine(
    look: Callable[[], str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(needs, "ROOT", tmp_path)
    assert look()


def test_a_hub_that_is_out_of_reach_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 is out of reach" in str(needs.missing_hub())


def test_pytest_skips_and_in_ci_fails(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n@pytest.mark.browser\ndef test_page(): pass\n\n@pytest.mark.gpu\ndef test_gpu(): pass\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-c", str(needs.ROOT / "pyproject.toml"), "-p", "tests.plugins.needs"]
    for ci, outcome in (("", "2 skipped"), ("true", "1 skipped, 1 error")):
        done = subprocess.run(
            [*command, "--rootdir", str(tmp_path), str(tmp_path)],
            cwd=needs.ROOT,
            env={"PATH": str(tmp_path), "CI": ci},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert outcome in done.stdout
        assert "needs browser: no Chromium on the PATH" in done.stdout
        assert "needs gpu: no NVIDIA GPU" in done.stdout
