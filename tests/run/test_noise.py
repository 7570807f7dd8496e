"""What figures of a fixed piece of work say of the machine; no figure of this machine is looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bantam.report.page import render
from bantam.report.text import headline
from bantam.run.noise import Noise, Sample, sample, warning
from tests.run.made_up import make_run
from tests.run.test_record import reported

pytestmark = pytest.mark.usefixtures("few_resamples")


def heard(*rounds: list[float], waited: float = 0.0) -> Noise:
    return Noise(tuple(tuple(Sample(ms, waited) for ms in each) for each in rounds))


def test_work_that_waits_for_a_core_is_noise_also_if_its_times_are_alike() -> None:
    always = heard([14.0] * 10, waited=0.44)
    assert (always.spread, always.busy) == (1.0, True)
    assert not heard([5.0, 5.1, 4.9] * 5, waited=0.005).busy


def test_times_that_vary_are_noise_also_if_the_work_did_not_wait() -> None:
    assert heard([5.0] * 8 + [20.0] * 4).busy
    assert not heard([5.0] * 8 + [8.0] * 4).busy


def test_rounds_compare_with_the_whole() -> None:
    found = heard([4.0, 4.0, 4.0], [8.0, 8.0, 8.0], [4.0, 4.0, 4.0])
    assert found.kernel_ms == 4.0
    assert found.by_round == (1.0, 2.0, 1.0)
    assert found.spread == 2.0


def test_the_work_is_done_in_each_thread() -> None:
    found = sample(2)
    assert found.wall_ms > 0
    assert 0 <= found.waited < 1


@pytest.mark.parametrize("busy", [False, True])
def test_a_report_says_which_times_cannot_be_trusted_and_what_to_do(tmp_path: Path, busy: bool) -> None:
    run = make_run(tmp_path)
    quiet, noisy = heard([5.0] * 6, waited=0.001), heard([9.0, 9.1, 12.0] * 2, waited=0.4)
    for name, timing in run.measured.items():
        run.measured[name] = replace(timing, noise=noisy if busy and name == "int8" else quiet)
    report = reported(run)
    assert report.conditions is not None
    assert report.conditions.noise is not None
    assert report.conditions.noise.doubtful == (("int8",) if busy else ())
    said = [note for note in report.notes if "busy" in note]
    assert said == ([warning(noisy, ["int8"])] if busy else [])
    assert ("do not trust the times" in headline(report)[1]) is busy
    if busy:
        assert "while int8 was timed" in said[0]
        assert "waited for a core for 40% of its time" in said[0]
        assert "times are measured anew" in said[0]
        assert "The machine was busy" in render(report)


def test_if_all_were_timed_in_noise_they_are_not_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.measured = {name: replace(t, noise=heard([9.0] * 3, waited=0.4)) for name, t in run.measured.items()}
    (said,) = [note for note in reported(run).notes if "busy" in note]
    assert "while every variant was timed" in said
