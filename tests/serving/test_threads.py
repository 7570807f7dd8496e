"""Threads of the engine: which run takes how many, and that a text's scores do not depend on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bantam.artifact import Artifact, Compute, seal
from serving.backend import onnx_program
from serving.backend.engine import Engine, balanced, micro_batches
from serving.backend.work import multiply_adds_a_token
from tests.conftest import SPECIAL, WORDS

WIDTH, INNER, LABELS = 256, 1024, 3
TEXTS = [" ".join(("love", "hate", "it", "so", "!")[i % 5] for i in range(length)) for length in (1, 2, 7, 19, 33, 62)]
SEVERAL = {"threads": 2, "tokens": 1, "cores": 2}


def write_wide(path: Path) -> None:
    """Wide enough for ONNX Runtime to share its products between threads: embedding, two layers, mean, head."""
    rng = np.random.default_rng(0)
    shapes = {
        "table": (len(SPECIAL + WORDS), WIDTH),
        "up": (WIDTH, INNER),
        "down": (INNER, WIDTH),
        "head": (WIDTH, LABELS),
    }
    weights: dict[str, Any] = {k: rng.normal(scale=v[0] ** -0.5, size=v).astype(np.float32) for k, v in shapes.items()}
    weights |= {"tokens": np.array([1], dtype=np.int64), "last": np.array([2], dtype=np.int64)}
    weights |= {"scale": rng.normal(size=WIDTH).astype(np.float32), "shift": np.zeros(WIDTH, dtype=np.float32)}
    nodes = [
        ("Gather", ["table", "input_ids"], "embedded"),
        ("MatMul", ["embedded", "up"], "wide"),
        ("Relu", ["wide"], "bent"),
        ("MatMul", ["bent", "down"], "narrow"),
        ("LayerNormalization", ["narrow", "scale", "shift"], "normal"),
        ("Cast", ["attention_mask"], "mask"),
        ("Unsqueeze", ["mask", "last"], "mask3"),
        ("Mul", ["normal", "mask3"], "masked"),
        ("ReduceSum", ["masked", "tokens"], "summed"),
        ("MatMul", ["summed", "head"], "logits"),
    ]
    extra: dict[str, dict[str, Any]] = {"Cast": {"to": TensorProto.FLOAT}, "ReduceSum": {"keepdims": 0}}
    graph = helper.make_graph(
        [helper.make_node(kind, given, [made], **extra.get(kind, {})) for kind, given, made in nodes],
        "wide",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", LABELS])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


@pytest.fixture
def make_wide(make_artifact: Callable[..., Artifact]) -> Callable[[bool], Artifact]:
    """The wide classifier, in fp32 or with its products in dynamic int8."""

    def make(int8: bool) -> Artifact:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        artifact = make_artifact(compute=Compute(batch_invariant=not int8))
        model = artifact.folder / "model.onnx"
        write_wide(model)
        if int8:
            made = model.with_name("int8.onnx")
            quantize_dynamic(str(model), str(made), weight_type=QuantType.QInt8, per_channel=True)
            made.replace(model)
        return Artifact(artifact.folder, seal(artifact.folder, artifact.manifest))

    return make


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_a_text_has_the_same_scores_on_one_thread_and_on_several(
    make_wide: Callable[[bool], Artifact], int8: bool
) -> None:
    folder = make_wide(int8).folder
    one, several = Engine(folder, threads=1), Engine(folder, threads=2, text_threads=SEVERAL)
    alone = np.concatenate([one.probabilities([text]) for text in TEXTS])
    shared = np.concatenate([several.probabilities([text]) for text in TEXTS])
    assert np.ptp(alone, axis=0).min() > 0.01
    np.testing.assert_array_equal(shared, alone)
    tolerance = 0 if int8 else 1e-6  # int8 runs texts one by one; fp32 in batches, whose padding adds zeros
    for engine in (one, several):
        np.testing.assert_allclose(engine.probabilities(TEXTS), alone, rtol=0, atol=tolerance)


class Recorded:
    """A session that notes the sizes of what it runs, under the number of its threads."""

    def __init__(self, session: Any, threads: int, runs: list[tuple[int, int, int]]) -> None:
        self._session, self._threads, self._runs = session, threads, runs

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> Any:
        self._runs.append((self._threads, *feeds["input_ids"].shape))
        return self._session.run(names, feeds)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Threads, texts and tokens of each run of ONNX Runtime."""
    found: list[tuple[int, int, int]] = []
    make = onnx_program.session
    monkeypatch.setattr(
        onnx_program, "session", lambda path, threads, *rest: Recorded(make(path, threads, *rest), threads, found)
    )
    return found


def test_a_long_text_alone_takes_several_threads_and_what_runs_side_by_side_one_each(
    make_wide: Callable[[bool], Artifact], runs: list[tuple[int, int, int]]
) -> None:
    given = {"threads": 2, "tokens": 20, "cores": 2}
    engine = Engine(make_wide(True).folder, threads=2, text_threads=given)
    for texts, expected in (
        (["love " * 17], {(1, 1, 19)}),
        (["love " * 18], {(2, 1, 20)}),
        (["love " * 18, "love " * 19], {(1, 1, 20), (1, 1, 21)}),
    ):
        runs.clear()
        engine.probabilities(texts)
        assert set(runs) == expected


def test_with_many_cores_a_few_runs_share_them(
    make_wide: Callable[[bool], Artifact], runs: list[tuple[int, int, int]]
) -> None:
    engine = Engine(make_wide(True).folder, threads=4, text_threads={"threads": 4, "tokens": 1, "cores": 4})
    for count, threads in ((1, {4}), (2, {4}), (3, {1}), (8, {1})):
        runs.clear()
        engine.probabilities(TEXTS[1:2] * count)
        assert {run[0] for run in runs} == threads


def test_a_measurement_of_a_machine_with_other_cores_counts_for_nothing(
    make_wide: Callable[[bool], Artifact], runs: list[tuple[int, int, int]]
) -> None:
    folder = make_wide(True).folder
    engine = Engine(folder, threads=2, text_threads={"threads": 2, "tokens": 1, "cores": 8})
    runs.clear()
    engine.probabilities(["love"])
    assert runs == [(1, 1, 3)]  # by its work: far from enough for two threads
    assert engine.placement.text_threads is None


def test_a_large_model_is_held_once(
    make_wide: Callable[[bool], Artifact], runs: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_program, "LARGE", 1000)
    engine = Engine(make_wide(True).folder, threads=2, text_threads=SEVERAL)
    engine.probabilities(TEXTS)
    assert {threads for threads, *_ in runs} == {2}


def test_a_model_is_as_large_as_it_is_once_its_weights_are_restored(make_wide: Callable[[bool], Artifact]) -> None:
    packed = make_wide(True)
    assert not onnx_program.held_once(packed.folder)
    seal(packed.folder, replace(packed.manifest, details={"memory_bytes": onnx_program.LARGE + 1}))
    assert onnx_program.held_once(packed.folder)


def test_beside_a_run_that_has_begun_others_take_one_thread_each(
    make_wide: Callable[[bool], Artifact], runs: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(make_wide(True).folder, threads=2, text_threads=SEVERAL)
    runs.clear()
    run, begun, others_done = Recorded.run, threading.Event(), threading.Event()

    def first_waits(self: Recorded, names: list[str], feeds: dict[str, np.ndarray]) -> Any:
        if not begun.is_set():
            begun.set()
            assert others_done.wait(60)
        return run(self, names, feeds)

    monkeypatch.setattr(Recorded, "run", first_waits)
    with ThreadPoolExecutor(1) as caller:
        first = caller.submit(engine.probabilities, TEXTS[-1:])
        assert begun.wait(60)
        for text in TEXTS:
            engine.probabilities([text])
        others_done.set()
        first.result()
    assert [threads for threads, *_ in runs] == [1] * len(TEXTS) + [2]


def test_callers_at_once_get_their_own_scores(
    make_wide: Callable[[bool], Artifact], runs: list[tuple[int, int, int]]
) -> None:
    engine = Engine(make_wide(True).folder, threads=2, text_threads=SEVERAL)
    expected = {text: engine.probabilities([text])[0] for text in TEXTS}
    runs.clear()
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda text: engine.probabilities([text])[0], TEXTS * 20))
    for text, row in zip(TEXTS * 20, found, strict=True):
        np.testing.assert_array_equal(row, expected[text])
    assert len(runs) == 120


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_work_is_counted_without_the_embedding(make_wide: Callable[[bool], Artifact], int8: bool) -> None:
    expected = WIDTH * INNER * 2 + WIDTH * LABELS
    assert multiply_adds_a_token(make_wide(int8).folder / "model.onnx") == expected


def test_work_is_counted_where_the_weights_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    write_wide(tmp_path / "model.onnx")
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(str(tmp_path / "model.onnx")), str(apart), save_as_external_data=True, size_threshold=0)
    assert apart.stat().st_size < 10_000
    assert multiply_adds_a_token(apart) == multiply_adds_a_token(tmp_path / "model.onnx")


def test_what_is_no_model_has_no_work(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x3f no protobuf")
    with pytest.raises(ValueError, match="expected an ONNX model"):
        multiply_adds_a_token(path)


@pytest.mark.parametrize(
    ("texts", "size", "parallel", "expected"),
    [
        (4, 8, 2, [1] * 4),
        (9, 8, 2, [2, 2, 2, 2, 1]),
        (16, 8, 2, [3, 3, 3, 3, 3, 1]),
        (48, 8, 2, [8] * 6),
        (64, 8, 2, [8] * 8),
        (17, 8, 1, [8, 8, 1]),
        (9, 8, 16, [1] * 9),
        (5, 1, 2, [1] * 5),
        (0, 8, 2, []),
    ],
)
def test_each_core_has_as_much_to_do(texts: int, size: int, parallel: int, expected: list[int]) -> None:
    batches = micro_batches([10] * texts, balanced(texts, size, parallel))
    assert [len(batch) for batch in batches] == expected
