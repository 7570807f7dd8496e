"""Which tests run one after another where pytest-xdist has several workers, as in ``make test``.

Tests of one file share a worker, and so its fixtures. All files with tests that start Triton, or look at the toy that
is run once for them, share one: they look at what servers leave in /dev/shm, and servers side by side would
spoil each other's times.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.plugins.needs import ROOT

TRITON = "triton"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A scheduler that keeps them together. (``--dist loadgroup`` of xdist 3.8 has no effect with pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class ByNeed(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0])

    return ByNeed(config, log)


@functools.cache
def group(file: str) -> str:
    """What a test file, relative to the checkout, is kept together with."""
    text = (ROOT / file).read_text(encoding="utf-8")
    together = (f"mark.{TRITON}", "mark.docker", "toy: Toy")
    return TRITON if any(sign in text for sign in together) else file
