"""Markers that say what a test needs: it is skipped, with the reason printed, where that is missing.

Where ``CI=true`` is set, Chromium, Triton and openssl are installed and there is a package index, so there a test that
needs one fails instead of skipping: a skip must not hide that nothing was tested. Where .ci/run has found or started a
Docker engine, it sets ``BANTAM_CI_DOCKER``, and the same holds for that.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.browser import find_chromium

ROOT = Path(__file__).resolve().parents[2]
REQUIRED_IN_CI = frozenset({"browser", "compiler", "index", "openssl", "triton"})
ENGINE_VARIABLE = "BANTAM_CI_DOCKER"
"""Set by .ci/run where an engine answers."""
PROBE_S = 60
"""A machine that is busy takes long to say what it has."""


def missing_browser() -> str | None:
    """Why there is no browser; None if there is one."""
    return (
        None if find_chromium() else "no Chromium on the PATH (Debian: apt install chromium), and CHROMIUM is not set"
    )


def missing_triton() -> str | None:
    """Why no Triton can be started; None if one can."""
    embedded = any(ROOT.glob(".venv-serving/lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver"))
    return (
        None if embedded or shutil.which("tritonserver") else "no Triton on the PATH or in .venv-serving (make setup)"
    )


def missing_compiler() -> str | None:
    """Why no C can be compiled; None if it can."""
    return None if shutil.which("cc") else "no C compiler cc on the PATH (Debian: apt install gcc libc6-dev)"


def missing_docker() -> str | None:
    """Why no container can be run; None if one can."""
    return None if _runs("docker", "info") else "no Docker daemon answers"


def missing_gpu() -> str | None:
    """Why nothing can run on a GPU; None if it can."""
    return None if _runs("nvidia-smi", "-L") else "no NVIDIA GPU (nvidia-smi does not run)"


def missing_hub() -> str | None:
    """Why nothing can be downloaded from the model hub; None if it can."""
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(hub, method="HEAD"), timeout=5):  # noqa: S310 - the user's own
            return None
    except urllib.error.HTTPError:
        return None
    except OSError as exc:
        return f"the model hub {hub} is out of reach ({exc})"


def missing_index() -> str | None:
    """Why nothing can be installed; None if it can."""
    pip = (sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--no-deps", "h11")
    return None if _runs(*pip) else "no package index is within pip's reach"


def missing_openssl() -> str | None:
    """Why no certificates can be made; None if they can."""
    return None if shutil.which("openssl") else "no openssl on the PATH"


PROBES: dict[str, Callable[[], str | None]] = {
    "browser": missing_browser,
    "compiler": missing_compiler,
    "triton": missing_triton,
    "docker": missing_docker,
    "gpu": missing_gpu,
    "hub": missing_hub,
    "index": missing_index,
    "openssl": missing_openssl,
}


@functools.cache
def missing(marker: str) -> str | None:
    """What keeps tests with this marker from running; None if nothing does. Looked up once a session."""
    return PROBES[marker]()


def verdict(markers: set[str], *, ci: bool) -> tuple[str, str] | None:
    """``("skip" or "fail", reason)`` for a test with these markers; None if it can run."""
    for marker in sorted(markers & PROBES.keys()):
        reason = missing(marker)
        if reason is not None:
            required = marker in REQUIRED_IN_CI or (marker == "docker" and os.environ.get(ENGINE_VARIABLE))
            return "fail" if ci and required else "skip", f"needs {marker}: {reason}"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test whose needs are not met, before its fixtures start anything."""
    ci = os.environ.get("CI", "").lower() in ("true", "1")
    match verdict({marker.name for marker in item.iter_markers()}, ci=ci):
        case "fail", reason:
            pytest.fail(f"{reason}; with CI=true that is an error", pytrace=False)
        case "skip", reason:
            pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser, for tests marked ``browser``."""
    path = find_chromium()
    assert path, "a test that uses this fixture is marked `browser`"
    return path


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=PROBE_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
