"""What tests of made-up runs share."""

from __future__ import annotations

import pytest

from bantam.run import judge, quality
from optimizer import metric


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals that are rough, in a tenth of the time: for tests that do not look at their width."""
    monkeypatch.setattr(metric, "RESAMPLES", 500)
    for module in (metric, judge, quality):
        monkeypatch.setattr(module, "RESAMPLES_OF_ORDER", 500)
