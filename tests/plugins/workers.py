"""Which tests run one after another where pytest-xdist has several workers (``make test``): ``--dist loadgroup``.

Tests that start Triton share a worker, with the toy that is made once for all of them: they look at what servers leave
in /dev/shm, and two servers at a time would spoil each other's times. Tests of one file share a worker, and so its
fixtures.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the group that pytest-xdist keeps together."""
    for item in items:
        triton = item.get_closest_marker("triton") or "toy" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("triton" if triton else item.nodeid.partition("::")[0]))
