"""Measuring in groups: who is open when, in which order, what counts. No clock is looked at."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bantam.artifact import Artifact
from bantam.errors import StageError
from bantam.run.latency import LEAST_TEXTS, Anchors, grouped, measure, server_mb, worker_mb
from bantam.run.noise import Sample
from bantam.run.timing import equal
from serving.backend import onnx_program
from tests.run.rig import ANCHORS, TEXTS, Rig, artifact, config, room_for, run, variants


def test_groups_are_as_large_as_the_limit_allows_and_hold_everyone_once() -> None:
    known = variants("a", "b", "c", "d")
    assert grouped(known, ANCHORS, 1e6) == [["fp32", "a", "b", "c", "d"]]
    assert grouped(known, ANCHORS, room_for(2)) == [["fp32", "a"], ["b", "c"], ["d"]]
    assert grouped(known, ANCHORS, 1.0) == [["fp32"], ["a"], ["b"], ["c"], ["d"]]
    assert len(grouped(known, ANCHORS, room_for(2), served=False)) < 3, "without servers there is more room"


def test_a_large_variant_has_a_group_of_its_own() -> None:
    known = {**variants("a"), "large": artifact("large", mb=5000), **{name: artifact(name) for name in "bc"}}
    assert grouped(known, ANCHORS, room_for(4)) == [["fp32", "a"], ["large"], ["b", "c"]]


def test_a_second_session_takes_room_too(tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    of_two = [worker_mb(tiny_artifact), server_mb(tiny_artifact)]
    monkeypatch.setattr(onnx_program, "LARGE", 0)
    second = pytest.approx(tiny_artifact.size_bytes / 1e6)
    assert [
        two - one for two, one in zip(of_two, (worker_mb(tiny_artifact), server_mb(tiny_artifact)), strict=True)
    ] == [second, second]


def test_what_is_open_at_a_time_is_one_group_with_the_anchors_in_it() -> None:
    rig = Rig()
    run(rig, "a", "b", "c", memory_mb=room_for(2))
    fullest = [opened for opened, after in zip(rig.together, [*rig.together[1:], set()], strict=True)
               if len(after) < len(opened)]  # fmt: skip
    assert fullest == [
        {"baseline", "fp32", "fp32 served", "a", "a served"},
        {"baseline", "fp32 served", "b", "b served", "c", "c served"},
    ]
    assert not rig.open


def test_rounds_are_interleaved_over_the_same_texts_and_each_server_is_asked_once_for_the_rest() -> None:
    rig = Rig()
    run(rig, "a")
    one_round = ["baseline", "fp32", "fp32 served", "a", "a served"]
    rest = ["fp32 served answers", "fp32 served rate", "a served answers", "a served rate"]
    assert rig.asked == one_round * 3 + [step.replace("served answers", "answers") for step in rest]
    assert all(texts == TEXTS for texts in rig.texts)


def test_where_it_is_asked_for_each_variant_gets_a_list_of_all_texts_once_the_rounds_are_over() -> None:
    rig = Rig()
    found = measure(variants("a"), ANCHORS, TEXTS, config(), replace(rig.bench(), throughput=True))
    assert [step for step in rig.asked if "list" in step] == ["baseline list", "fp32 list", "a list"]
    assert rig.asked.index("baseline list") > max(i for i, step in enumerate(rig.asked) if step == "a")
    assert {timing.batch_texts_per_s for timing in found.values()} == {len(TEXTS) / config().rate_seconds}
    assert {timing.batch_texts_per_s for timing in run(Rig(), "a").values()} == {None}


def test_without_servers_all_is_timed_in_process_and_nothing_is_served() -> None:
    rig = Rig(a=3.0, baseline=12.0)
    found = measure(
        variants("a"), Anchors("baseline", "baseline"), TEXTS, config(), replace(rig.bench(), endpoint=None)
    )
    assert rig.asked == ["baseline", "fp32", "a"] * 3
    assert {name: (timing.in_process and timing.in_process.ratio.value, timing.served, timing.max_rate)
            for name, timing in found.items()} == {
        "baseline": (1.0, None, None), "fp32": (1 / 12, None, None), "a": (0.25, None, None)
    }  # fmt: skip


def test_an_anchor_in_many_groups_is_asked_for_the_rest_once() -> None:
    rig = Rig()
    run(rig, "a", "b", memory_mb=1.0)
    assert Counter(step for step in rig.asked if "rate" in step) == {f"{n} served rate": 1 for n in ("fp32", "a", "b")}
    assert Counter(step for step in rig.asked if "answers" in step) == {f"{n} answers": 1 for n in ("fp32", "a", "b")}


def test_the_warm_up_is_thrown_away() -> None:
    found = run(Rig(a=3.0, baseline=12.0), "a", rounds=4)["a"]
    assert found.in_process is not None
    assert found.served is not None
    np.testing.assert_array_equal(found.in_process.own_ms, np.full((4, len(TEXTS)), 3.0))
    np.testing.assert_array_equal(found.in_process.anchor_ms, np.full((4, len(TEXTS)), 12.0))
    assert found.in_process.ratio == (0.25, 0.25, 0.25)
    assert (found.served.ratio.value, found.max_rate, found.server_peak_rss_mb) == (3.0, 40.0, 7.0)


def test_of_a_slow_baseline_so_many_texts_are_timed_as_it_can_do_in_the_time() -> None:
    """In its warm-up the baseline takes a second a text; the second group times the same texts as the first."""
    many = [f"text {number}" for number in range(100)]
    known = {**variants("a"), "large": artifact("large", mb=5000)}
    slow = Rig(baseline=10.0)
    found = measure(known, ANCHORS, many, config(room_for(2), pass_seconds=50.0), slow.bench())
    assert slow.texts[0] == many
    assert all(texts == many[:50] for texts in slow.texts[1:])
    assert {timing.in_process and timing.in_process.texts for timing in found.values()} == {50}
    rushed = Rig(baseline=10.0)
    measure(known, ANCHORS, many, config(pass_seconds=1.0), rushed.bench())
    assert {len(texts) for texts in rushed.texts[1:]} == {LEAST_TEXTS}
    failing = Rig()
    failing.fails["baseline"] = "UnavailableError"
    with pytest.raises(StageError, match="failed on most texts"):
        measure(known, ANCHORS, many, config(pass_seconds=1.0), failing.bench())


def test_served_is_compared_with_served() -> None:
    found = run(Rig(baseline=12.0, fp32=6.0, a=3.0), "a")
    ratios = {name: (t.in_process and t.in_process.ratio.value, t.served and t.served.ratio.value)
              for name, t in found.items()}  # fmt: skip
    assert ratios == {"baseline": (1.0, None), "fp32": (0.5, 1.0), "a": (0.25, 0.5)}


def test_figures_of_groups_are_brought_to_one_machine() -> None:
    """In the second group the machine is twice as slow; the two variants are the same."""
    rig = Rig(baseline=8.0, a=4.0, b=4.0)
    rig.slower[frozenset({"baseline", "fp32 served", "b", "b served"})] = 2.0
    found = measure({**variants("a", "b"), "fp32": artifact("fp32", mb=500)}, ANCHORS, TEXTS, config(1.0), rig.bench())
    a, b = found["a"].in_process, found["b"].in_process
    assert a is not None
    assert b is not None
    assert (a.own_ms[0, 0], b.own_ms[0, 0]) == (4.0, 8.0)
    assert a.group != b.group
    assert a.ratio.value == b.ratio.value == 0.5
    assert a.p50_ms.value == b.p50_ms.value == np.median(b.latencies_ms) == 4.0
    assert equal(found["a"], found["b"])


@pytest.mark.parametrize(("where", "phase"), [("a", "in_process"), ("a served", "served")])
def test_failed_requests_are_counted_the_warm_up_s_too(where: str, phase: str) -> None:
    rig = Rig()
    rig.fails[where] = "UnavailableError"
    found = run(rig, "a", rounds=2)
    assert found["a"].errors == {phase: {"UnavailableError": 3 * len(TEXTS)}}
    assert found["a"].failed == 3 * len(TEXTS)
    assert getattr(found["a"], phase) is None
    assert found["fp32"].failed == 0


def test_requests_that_fail_under_load_are_counted() -> None:
    rig = Rig()
    rig.fails["a served rate"] = "TimeoutExceeded"
    found = run(rig, "a")["a"]
    assert (found.errors, found.max_rate) == ({"rate": {"TimeoutExceeded": 3}}, None)
    assert found.served is not None


@pytest.mark.parametrize(
    ("where", "errors"),
    [
        ("a", {"in_process": {"StageError": 4}}),
        ("a served", {"served": {"StageError": 4}, "rate": {"StageError": 1}}),
    ],
)
def test_a_variant_whose_process_ends_is_a_row_that_failed(where: str, errors: dict[str, dict[str, int]]) -> None:
    rig = Rig()
    rig.fails[where] = "end"
    found = run(rig, "a", "b", rounds=2)
    assert found["a"].errors == errors
    assert [name for name, timing in found.items() if timing.failed] == ["a"]
    assert found["b"].served is not None
    assert not rig.open


@pytest.mark.parametrize(("kind", "error"), [("ServerError", "ServerError"), ("end", "StageError")])
@pytest.mark.parametrize("where", ["baseline", "fp32 served"])
def test_an_anchor_that_does_not_answer_is_an_error(where: str, kind: str, error: str) -> None:
    rig = Rig()
    rig.fails[where] = kind
    with pytest.raises(StageError, match=rf"all others are compared with.*{error}"):
        run(rig, "a")


@pytest.mark.parametrize("where", ["a served", "a"])
def test_all_is_closed_when_one_does_not_start(where: str) -> None:
    rig = Rig()
    rig.fails[where] = "start"
    with pytest.raises(StageError, match="does not start"):
        run(rig, "a", "b")
    assert rig.together
    assert not rig.open


def test_the_machine_is_listened_to_before_each_pass_that_counts() -> None:
    found = run(Rig(), "a", rounds=2)
    members = 3  # the baseline, fp32 and a
    for name in ("baseline", "fp32", "a"):
        noise = found[name].noise
        assert noise is not None
        assert [len(heard) for heard in noise.rounds] == [members] * 2
        assert not noise.busy


def test_what_was_timed_while_the_machine_was_busy_is_known() -> None:
    """In the second group something else takes a core."""
    rig = Rig()
    rig.heard[frozenset({"baseline", "fp32 served", "b", "b served"})] = Sample(9.0, 0.4)
    found = measure({**variants("a", "b"), "fp32": artifact("fp32", mb=500)}, ANCHORS, TEXTS, config(1.0), rig.bench())
    busy = {name: timing.noise.busy for name, timing in found.items() if timing.noise}
    assert busy == {"baseline": True, "fp32": True, "a": False, "b": True}, "the anchors are in all groups"
