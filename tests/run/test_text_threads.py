"""Threads of a text, measured at publish: what is chosen of times, and a real measurement."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import onnxruntime as ort
import pytest

from bantam.artifact import Artifact, Compute, seal
from bantam.run import text_threads as module
from bantam.run.request import OptimizeRequest
from bantam.run.state import Run
from bantam.run.text_threads import Measured, alone, choose, measured, pays_from
from optimizer.recipe import ServingConfig
from serving.backend.cores import TextThreads
from serving.backend.providers import CUDA


def test_times_without_cores_for_several_threads_choose_nothing(
    tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITED", 100.0)
    monkeypatch.setattr(module, "_time", lambda session, feeds: 0.001)  # no length gains by threads
    assert module._Timing(tiny_artifact.folder, 2)._ratios() == {}
    monkeypatch.setattr(module, "GAIN", 1.1)
    assert {ratio for _, ratio in module._Timing(tiny_artifact.folder, 2)._ratios()[2]} == {1.0}


@pytest.mark.parametrize(
    ("ratios", "tokens"),
    [
        ([(8, 1.2), (16, 1.0), (32, 1 / 1.2)], range(16, 20)),
        ([(8, 1.2), (16, 1.0), (32, 1.02), (64, 0.694)], range(18, 26)),
        ([(8, 0.6), (16, 0.6), (32, 0.61)], [1]),
        ([(8, 1.1), (16, 1.1)], [17]),
        ([(8, 1.3), (12, 1.29), (16, 1.29)], range(17, 50)),
        ([(8, 0.7)], [1]),
    ],
)
def test_threads_pay_from_where_a_line_through_all_lengths_says(
    ratios: list[tuple[int, float]], tokens: range | list[int]
) -> None:
    assert pays_from(ratios) in tokens


def test_one_odd_ratio_does_not_choose() -> None:
    usual = [(8, 1.2), (12, 1.1), (16, 1.0), (24, 0.9), (32, 0.8), (48, 0.72)]
    odd = [*usual[:3], (24, 1.5), *usual[4:]]
    assert abs(pays_from(odd) - pays_from(usual)) < 12


def test_of_several_counts_the_fastest_on_the_whole_is_chosen_and_fewer_where_more_win_nothing() -> None:
    two = [(8, 0.9), (32, 0.7), (128, 0.6)]
    four = [(8, 1.2), (32, 0.6), (128, 0.4)]
    assert choose({2: two, 4: four}, 4).threads == 4
    assert choose({2: two, 4: [(length, ratio * 0.99) for length, ratio in two]}, 4).threads == 2
    assert choose({2: [(8, 1.2), (32, 1.1), (128, 1.0)]}, 2) == TextThreads(1, 1, 2)


def test_a_model_is_measured_on_this_machine(tiny_artifact: Artifact) -> None:
    found = measured(tiny_artifact, 2)
    assert found is not None
    assert found.longest_ms > 0
    # A busy machine is not quiet enough to choose on.
    assert found.text_threads is None or found.text_threads.cores == 2


def test_there_is_nothing_to_measure_on_one_core_or_of_another_runtime(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact]
) -> None:
    for artifact, threads in ((tiny_artifact, 1), (make_artifact(layout="openvino"), 2)):
        found = measured(artifact, threads)
        assert found is not None
        assert (found.text_threads, found.longest_ms > 0) == (None, True)


def test_what_cannot_be_run_here_is_not_measured(make_artifact: Callable[..., Artifact]) -> None:
    broken = make_artifact()
    (broken.folder / "model.onnx").write_bytes(b"not a model")
    assert measured(Artifact(broken.folder, seal(broken.folder, broken.manifest)), 2) is None


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_a_model_is_measured_where_the_run_places_it(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact]
) -> None:
    parts: Any = {
        "alone": {},
        "request": OptimizeRequest(target="gpu"),
        "recipe": SimpleNamespace(serving=ServingConfig()),
    }
    run = cast(Run, SimpleNamespace(**parts))
    found = alone(run, tiny_artifact)
    assert found is not None, "it was made for the CPU alone"
    assert found.longest_ms > 0
    for_gpus = make_artifact(compute=Compute(devices=("cpu", "cuda")))
    parts["alone"].clear()
    assert alone(run, for_gpus) is None, "there is no CUDA"
    timing = module._Timing(for_gpus.folder, 2, "cuda")
    with pytest.raises(ValueError, match="Device cuda was asked for"):
        timing.measured()


def test_a_machine_that_is_never_quiet_leaves_the_choice_to_the_rule(
    tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITED", -1.0)
    timing = module._Timing(tiny_artifact.folder, 2)
    assert timing.measured().text_threads is None


def test_a_round_of_each_count_and_length_is_timed(tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITED", 100.0)
    monkeypatch.setattr(module, "GAIN", 100.0)
    ratios = module._Timing(tiny_artifact.folder, 4)._ratios()
    assert sorted(ratios) == [2, 4]
    assert [length for length, _ in ratios[2]] == [length for length in module.LENGTHS if length <= 64]
    assert all(ratio > 0 for found in ratios.values() for _, ratio in found)


def test_a_model_to_which_texts_take_long_lets_requests_wait_longer() -> None:
    assert Measured(None, 31.0).limit_ms is None
    assert Measured(None, 251.0).options == {"text_threads": None, "limit_ms": 16100}
