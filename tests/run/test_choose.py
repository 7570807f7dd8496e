"""The choice among measured variants, and the reasons that the report gives. All times are made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bantam.run.choose import Budget, Candidate, Choice, choose, contradicts
from bantam.run.timing import Compared, Timing
from optimizer.evaluate import Drop

BUDGET = Budget(1.0, "macro-f1", 500)
TEXTS = np.random.default_rng(0).uniform(0.8, 1.2, (1, 40))
ANCHOR = np.repeat(TEXTS, 5, axis=0) * 10


def compared(p50: float, noise: float = 0.0) -> Compared:
    """Latencies around ``p50``, each off by up to the share ``noise``."""
    own = np.repeat(TEXTS, 5, axis=0) * p50
    own = own * np.random.default_rng(int(1000 * p50)).uniform(1 - noise, 1 + noise, own.shape)
    return Compared(own, ANCHOR, 0, float(np.median(ANCHOR)))


def timing(served: float | None, in_process: float | None = None, noise: float = 0.0) -> Timing:
    return Timing(compared(in_process or served or 1, noise), compared(served, noise) if served else None)


BASELINE = timing(None, 10.0)


def candidate(name: str, p50: float, drop: Drop | float | None = 0.0, **rest: object) -> Candidate:
    """One that is served at ``p50`` ms; a drop in points has an interval of half a point to both sides."""
    known = Drop(drop, drop - 0.5, drop + 0.5) if isinstance(drop, int | float) else drop
    return Candidate(**{"name": name, "timing": timing(p50), "drop": known, **rest})  # type: ignore[arg-type]


FP32 = candidate("fp32", 4, Drop(0, 0, 0), compressed=False)


def chosen_of(*candidates: Candidate, safe: str | None = "fp32") -> Choice:
    return choose(candidates, BASELINE, BUDGET, safe)


def test_the_fastest_within_the_budget_is_chosen() -> None:
    found = chosen_of(FP32, candidate("int8", 2, 0.4), candidate("int4", 1, 1.4))
    assert (found.chosen, found.gain, found.nearest) == ("int8", True, None)
    assert found.why == "the fastest variant within 1 point"
    assert found.dropped == {"int4": "loses 1.40 points, the budget is 1"}


@pytest.mark.parametrize(("high", "chosen"), [(1.0, "int8"), (1.01, "fp32")])
def test_the_upper_end_of_the_interval_is_what_counts(high: float, chosen: str) -> None:
    found = chosen_of(FP32, candidate("int8", 2, Drop(0.2, -0.6, high)))
    assert found.chosen == chosen
    if chosen == "fp32":
        assert found.dropped == {"int8": "may lose 1.01 points (upper end of the interval), the budget is 1"}


def test_if_nothing_compressed_keeps_the_budget_the_unquantized_export_is_chosen_and_what_was_missing_said() -> None:
    near, far = candidate("int8", 2, Drop(0.5, -0.5, 1.5)), candidate("int4", 1, Drop(0.1, -2.4, 2.6))
    found = chosen_of(FP32, near, far)
    assert (found.chosen, found.gain) == ("fp32", False)
    assert found.why == (
        "nothing compressed kept the budget of 1 point of macro-f1, so this is unquantized; nearest came int8, which "
        "loses 0.50 points and may lose 1.50: dev has 500 rows; to prove such a drop within it takes about 2,000"
    )
    assert found.nearest is not None
    assert (found.nearest.name, found.nearest.rows_needed) == ("int8", 2000)


def test_what_a_search_has_left_at_a_glance_kept_no_budget_either() -> None:
    for measured in ([FP32], []):
        found = choose(measured, BASELINE, replace(BUDGET, tries=3), "fp32")
        assert (found.chosen, found.nearest) == ("fp32", None)
        assert found.why == "nothing compressed kept the budget of 1 point, so this is unquantized"


def test_the_nearest_is_one_that_was_left_if_all_that_was_timed_lacks_more_than_time() -> None:
    budget = replace(BUDGET, p99_ms=50.0, size_mb=2.0, tries=3)
    safe = replace(FP32, size_mb=90.0)
    left = [candidate(name, 1, size_mb=size, left="too large") for name, size in (("int8", 5.0), ("int4", 3.0))]
    found = choose([safe, *left], BASELINE, budget, "fp32")
    assert (found.chosen, found.unmet) == ("int4", "it ships 3.00 MB, the budget is 2 MB")
    late = candidate("late", 100, size_mb=1.0)
    assert choose([safe, *left, late], BASELINE, budget, "fp32").chosen == "late"


def test_no_number_of_rows_is_promised_for_a_drop_beyond_the_budget() -> None:
    found = chosen_of(FP32, candidate("int8", 2, 1.2))
    assert found.nearest is not None
    assert found.nearest.rows_needed is None
    assert "rows" not in found.why


def test_the_safe_choice_need_not_be_measured() -> None:
    found = chosen_of(candidate("int8", 2, 1.2), safe="never-measured")
    assert (found.chosen, found.gain) == ("never-measured", False)
    assert list(found.dropped) == ["int8"]


def test_another_unquantized_export_is_no_gain_over_the_budget() -> None:
    openvino = candidate("openvino-fp32", 3, Drop(0, 0, 0), compressed=False)
    found = chosen_of(FP32, openvino, candidate("int8", 2, 1.2))
    assert (found.chosen, found.gain) == ("openvino-fp32", False)
    assert "nothing compressed kept the budget" in found.why


def test_int8_that_is_slower_than_its_source_is_dropped_with_both_figures() -> None:
    found = chosen_of(FP32, candidate("int8", 4.4, source="fp32"))
    assert found.chosen == "fp32"
    ours, theirs = compared(4.4).p50_ms.value, compared(4).p50_ms.value
    assert found.dropped["int8"] == (
        f"not faster than fp32, which it was made from: {ours:.2f} ms against {theirs:.2f} ms served"
    )
    assert found.nearest is None, "it kept the budget"
    assert found.why == "the fastest variant within 1 point"


def test_served_is_compared_with_served_and_in_process_with_in_process() -> None:
    """Served it takes 12 ms, in process 5; the baseline, which is not served, takes 10 in process."""
    found = chosen_of(candidate("int8", 1, timing=timing(12.0, 5.0)), safe="fp32")
    assert found.chosen == "int8"
    found = chosen_of(candidate("int8", 1, timing=timing(5.0, 12.0)), safe="fp32")
    assert (found.chosen, found.why) == (
        "fp32",
        "no variant is faster and within 1 point; this is the unquantized export",
    )
    assert found.dropped["int8"].endswith("ms in process")
    assert "not faster than the baseline: " in found.dropped["int8"]


def test_of_equals_the_published_one_stays() -> None:
    noisy = [candidate(name, 2, timing=timing(p50, noise=0.2)) for name, p50 in (("a", 2.0), ("b", 2.01))]
    first = chosen_of(FP32, *noisy)
    other = next(c for c in noisy if c.name != first.chosen)
    settled = [Candidate(**{**vars(c), "published": c is other}) for c in noisy]
    found = chosen_of(FP32, *settled)
    assert found.chosen == other.name
    assert found.why.endswith(f", as good as {first.chosen} within what can be told, and published already")


def test_what_is_published_gives_way_to_what_is_faster_beyond_doubt() -> None:
    found = chosen_of(FP32, candidate("old", 3, published=True), candidate("new", 2))
    assert (found.chosen, found.why) == ("new", "the fastest variant within 1 point")


def test_of_equals_of_which_none_is_published_the_lower_median_is_chosen() -> None:
    noisy = [candidate(name, 2, timing=timing(p50, noise=0.2)) for name, p50 in (("a", 2.0), ("b", 2.01))]
    medians = {c.name: c.timing.served.p50_ms.value for c in noisy if c.timing.served}
    assert chosen_of(FP32, *noisy).chosen == min(medians, key=lambda name: medians[name])


def test_what_is_published_is_no_excuse_for_a_broken_budget() -> None:
    assert chosen_of(FP32, candidate("int8", 2, 1.2, published=True)).chosen == "fp32"


def test_what_has_a_problem_is_dropped_with_it_whatever_its_speed() -> None:
    found = chosen_of(FP32, candidate("int8", 1, 0.1, problem="the server's scores differ"))
    assert (found.chosen, found.dropped) == ("fp32", {"int8": "the server's scores differ"})


def test_with_random_weights_only_time_counts() -> None:
    found = chosen_of(candidate("a", 3, None), candidate("b", 2, None), safe=None)
    assert (found.chosen, found.gain, found.nearest) == ("b", True, None)
    assert "nobody knows what it loses" in found.why


def test_with_random_weights_the_fastest_is_chosen_also_if_it_gains_nothing() -> None:
    slow = [candidate("a", 30, None), candidate("b", 20, None), candidate("c", 1, None, problem="it answers otherwise")]
    found = chosen_of(*slow, safe=None)
    assert (found.chosen, found.gain) == ("b", False)
    assert set(found.dropped) == {"a", "c"}


def test_test_contradicts_only_with_the_lower_end_of_its_interval() -> None:
    assert not contradicts(Drop(1.5, 0.9, 2.1), BUDGET)
    assert not contradicts(Drop(1.5, 1.0, 2.1), BUDGET)
    assert contradicts(Drop(1.5, 1.1, 2.1), BUDGET)


SLICED = Budget(1.0, "macro-f1", 500, 2.0)


@pytest.mark.parametrize(
    ("drop", "broken"),
    [
        (Drop(4.0, 0.5, 8.0), True),
        (Drop(4.0, -0.5, 9.0), False),  # beyond the limit, but it may be chance
        (Drop(1.9, 1.0, 2.8), False),  # no chance, but within
        (Drop(0.0, -9.0, 9.0), False),  # of few rows nothing is known: no reason to refuse
    ],
)
def test_a_slice_breaks_its_limit_if_its_loss_is_beyond_it_and_no_chance(drop: Drop, broken: bool) -> None:
    assert SLICED.broken(drop) is broken
    assert not BUDGET.broken(drop), "without a limit nothing does"
    found = choose([FP32, candidate("int8", 2, slices={"language: fi": drop})], BASELINE, SLICED, "fp32")
    assert found.chosen == ("fp32" if broken else "int8")
    if broken:
        assert found.dropped["int8"] == (
            "loses 4.00 points on language: fi (interval 0.50 to 8.00), the budget for each slice is 2"
        )
        assert found.why == "the fastest variant within 1 point (2 on each slice)"


def test_test_contradicts_on_a_slice_with_the_lower_end_of_its_interval() -> None:
    fine, bad = Drop(2.5, 1.9, 3.1), Drop(3.0, 2.1, 3.9)
    assert SLICED.contradicted_on({"language: en": fine}) is None
    assert SLICED.contradicted_on({"language: en": fine, "language: fi": bad}) == "language: fi"
    assert BUDGET.contradicted_on({"language: fi": bad}) is None


# --- Time, size and the objective ---
def limited(**limits: object) -> Budget:
    return Budget(1.0, "macro-f1", 500, **limits)  # type: ignore[arg-type]


SIZES = (
    candidate("fp32", 4, Drop(0, 0, 0), compressed=False, size_mb=90.0),
    candidate("int8", 2, 0.1, source="fp32", size_mb=24.0, timing=replace(timing(2), max_rate=500.0)),
    candidate("int4", 3, 0.1, source="fp32", size_mb=15.0, timing=replace(timing(3), max_rate=300.0)),
    candidate("slow", 5, 0.1, source="fp32", size_mb=10.0, timing=replace(timing(5), max_rate=800.0)),
    candidate("bad", 1, 3.0, source="fp32", size_mb=5.0, timing=replace(timing(1), max_rate=900.0)),
)


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        (limited(), "int8"),
        (limited(aim="throughput"), "slow"),
        (limited(aim="size"), "slow"),
        (limited(size_mb=20.0), "int4"),
        (limited(size_mb=12.0), "slow"),  # slower than the export, which is too large to be an alternative
        (limited(p99_ms=4.0, aim="size"), "int4"),
        (limited(p99_ms=2.5), "int8"),
    ],
)
def test_the_best_by_the_objective_within_every_budget_is_chosen(budget: Budget, chosen: str) -> None:
    found = choose(SIZES, BASELINE, budget, "fp32")
    assert (found.chosen, found.gain, found.unmet) == (chosen, True, None)
    assert "bad" in found.dropped


def test_what_takes_too_long_is_dropped_by_the_upper_end_of_its_p99() -> None:
    noisy = candidate("int8", 2, timing=timing(2.0, noise=0.3))
    assert noisy.timing.served is not None
    _, low, high = noisy.timing.served.p99_ms
    assert low < noisy.timing.served.p99_ms.value <= high
    between = (noisy.timing.served.p99_ms.value + high) / 2
    found = choose([FP32, noisy], BASELINE, limited(p99_ms=between), None)
    assert (found.unmet or "").endswith(f"(upper end of the interval), the budget is {between:g} ms")


def test_what_bears_no_requests_is_not_the_one_with_the_highest_throughput() -> None:
    for safe in ("fp32", None):
        found = choose([FP32, candidate("int8", 2)], BASELINE, limited(aim="throughput"), safe)
        assert found.unmet == (
            "its server bears no requests within slo_ms of the recipe's table measure: raise it, or ask for latency"
        )


def test_a_limit_that_nothing_holds_names_the_nearest_and_all_that_it_would_need() -> None:
    found = choose(SIZES, BASELINE, limited(p99_ms=0.001), "fp32")
    assert found.chosen == "bad"
    assert found.unmet is not None
    assert "loses 3.00 points, the budget is 1; its served p99 is 1." in found.unmet
    assert found.why.startswith("no variant holds every budget, 1 point (a p99 of 0.001 ms); nearest came bad: loses")
    assert set(found.dropped) == {"fp32", "int8", "int4", "slow"}
    small = choose(SIZES, BASELINE, limited(size_mb=9.0), "fp32")
    assert (small.chosen, small.unmet) == ("slow", "it ships 10.00 MB, the budget is 9 MB")


def test_the_unquantized_export_is_no_way_out_where_it_takes_too_much() -> None:
    large = candidate("fp32", 4, Drop(0, 0, 0), compressed=False, size_mb=90.0)
    lossy = candidate("int8", 2, 1.4, source="fp32", size_mb=24.0)
    assert choose([large, lossy], BASELINE, limited(), "fp32").chosen == "fp32"
    found = choose([large, lossy], BASELINE, limited(size_mb=30.0), "fp32")
    assert (found.chosen, found.unmet) == ("int8", "loses 1.40 points, the budget is 1")
    unmeasured = choose([lossy], BASELINE, limited(size_mb=30.0), "fp32")
    assert (unmeasured.chosen, unmeasured.unmet) == ("fp32", None), "nobody knows yet what it takes"


def test_a_reason_says_for_how_many_tries_an_interval_holds() -> None:
    found = choose([FP32, candidate("int8", 2, Drop(0.2, -0.6, 1.2))], BASELINE, limited(tries=24), "fp32")
    assert found.dropped["int8"] == (
        "may lose 1.20 points (upper end of the interval, which holds for 24 tries), the budget is 1"
    )
