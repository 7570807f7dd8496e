"""The choice among measured variants, and the reasons that the report gives."""

import pytest

from bantam.run.choose import Candidate, choose

BASELINE = Candidate("baseline", 10.0, 0.0, 0.0, servable=False)


def candidate(name: str, p50: float, drop: float, high: float | None = None, source: str | None = None) -> Candidate:
    return Candidate(name, p50, drop, drop + 0.5 if high is None else high, source)


def test_the_fastest_within_the_budget_is_chosen() -> None:
    found = choose([candidate("fp32", 4, 0), candidate("int8", 2, 0.6), candidate("int4", 1, 1.4)], BASELINE, 1.0)
    assert (found.chosen, found.met) == ("int8", True)
    assert found.dropped == {"int4": "loses 1.40 points, the budget is 1"}


def test_a_lucky_drop_with_a_wide_interval_is_not_within_the_budget() -> None:
    found = choose([candidate("fp32", 4, 0), candidate("int8", 2, 0.2, high=2.3)], BASELINE, 1.0)
    assert found.chosen == "fp32"
    assert "may lose 2.30 points" in found.dropped["int8"]


def test_int8_that_is_not_faster_than_its_source_is_dropped_with_both_figures() -> None:
    found = choose([candidate("fp32", 4, 0), candidate("int8", 4.2, 0.1, source="fp32")], BASELINE, 1.0)
    assert found.chosen == "fp32"
    assert found.dropped["int8"] == "not faster than fp32, which it was made from: 4.20 ms against 4.00 ms"


def test_slower_than_the_baseline_is_dropped() -> None:
    found = choose([candidate("slow", 12, 0), candidate("fast", 5, 0)], BASELINE, 1.0)
    assert "not faster than the baseline: 12.00 ms against 10.00 ms" in found.dropped["slow"]


def test_without_any_within_the_budget_the_smallest_loss_is_chosen_and_the_budget_is_not_met() -> None:
    found = choose([candidate("a", 1, 3.0), candidate("b", 2, 1.5)], BASELINE, 1.0)
    assert (found.chosen, found.met) == ("b", False)
    assert "b" not in found.dropped


def test_what_cannot_be_served_is_never_chosen() -> None:
    with pytest.raises(ValueError, match="empty"):
        choose([Candidate("torch", 0.1, 0, 0, servable=False)], BASELINE, 1.0)
