"""The schemes and range estimators, against ONNX Runtime's operators and calibrators, NNCF and published figures."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import HistogramCollector, MinMaxCalibrater

from optimizer.quantize import numerics
from optimizer.quantize.numerics import (
    ESTIMATORS,
    HistogramObserver,
    affine,
    dequantize,
    parameters,
    quantize,
    symmetric,
)

RANGES = [(-1.0, 3.0), (0.5, 4.0), (-2.0, -0.1), (0.0, 0.0), (-1e-3, 1e3)]


def sample(seed: int = 0, size: int = 100_003) -> NDArray[np.float32]:
    """Long tails, as activations have them."""
    return np.random.default_rng(seed).standard_t(5, size=size).astype(np.float32)


def seen(*samples: NDArray[np.float32]) -> HistogramObserver:
    histogram = HistogramObserver()
    for each in samples:
        histogram.add(each)
    return histogram


def run(kind: str, inputs: list[NDArray[Any]], outputs: int = 1) -> list[NDArray[Any]]:
    """What ONNX Runtime's operator gives."""
    names = [f"x{i}" for i in range(len(inputs))]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, inputs, strict=True)
    ]
    given = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(kind, names, given)], "one", values, [onnx.ValueInfoProto(name=name) for name in given]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(given, dict(zip(names, inputs, strict=True))))


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
def test_quantized_and_back_is_what_onnx_runtime_gives(low: float, high: float, scheme: str) -> None:
    values = np.concatenate([sample(size=1000), np.array([low, high, 0], np.float32)])
    scale, zero_point = parameters(low, high, scheme)
    zero = zero_point.astype(np.uint8)
    (expected,) = run("QuantizeLinear", [values, scale, zero])
    integers = quantize(values, scale, zero_point, 0, 255)
    np.testing.assert_array_equal(integers, expected)
    (expected,) = run("DequantizeLinear", [integers, scale, zero])
    np.testing.assert_array_equal(dequantize(integers, scale, zero_point), expected)
    assert dequantize(np.array(zero), scale, zero_point) == 0, "0 is exact"


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_the_affine_scheme_is_that_of_dynamic_quantize_linear(shift: float) -> None:
    values = np.clip(sample(size=500), -2, 2) + np.float32(shift)
    integers, scale, zero_point = run("DynamicQuantizeLinear", [values], outputs=3)
    own_scale, own_zero = affine(values.min(), values.max())
    assert own_scale == pytest.approx(float(scale), rel=1e-6)
    assert own_zero == int(zero_point)
    assert np.abs(quantize(values, own_scale, own_zero, 0, 255).astype(int) - integers).max() <= 1


def test_each_channel_is_off_by_at_most_half_a_step_of_its_own() -> None:
    weight = sample(size=64 * 16).reshape(64, 16) * np.logspace(-3, 2, 16, dtype=np.float32)
    scale = symmetric(weight.min(axis=0), weight.max(axis=0))
    integers = quantize(weight, scale, 0, -127, 127)
    assert integers.dtype == np.int8
    assert (np.abs(dequantize(integers, scale, 0) - weight) <= scale * 0.501).all()
    assert (np.abs(integers).max(axis=0) == 127).all()


def test_a_histogram_counts_what_comes_bit_by_bit_in_memory_that_does_not_grow() -> None:
    values = np.sort(sample())[::-1] * 1e-3  # the outermost values come first and last
    values = np.concatenate([np.zeros(7, np.float32), values[len(values) // 2 :], values[: len(values) // 2] * 50])
    histogram = seen(*np.array_split(values, 300))
    assert histogram.counts.nbytes == seen(values[:10]).counts.nbytes == 8 * numerics.BINS
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    np.testing.assert_array_equal(histogram.counts, np.histogram(values, histogram.edges)[0])
    turned = seen(*np.array_split(values, 300)[::-1])
    assert turned.limit == histogram.limit
    np.testing.assert_array_equal(turned.counts, histogram.counts, "in whatever order they come")


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        seen(np.array([1, np.inf], np.float32))


@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_all_estimators_take_constants_and_one_sided_values(name: str, scheme: str) -> None:
    assert ESTIMATORS[name](seen(np.zeros((2, 3), np.float32)), scheme) == (0, 0)
    low, high = ESTIMATORS[name](seen(np.linspace(0, 8, 999, dtype=np.float32)), scheme)
    assert low <= 0.01
    assert 7 < high <= 8


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_ranges_are_those_of_onnx_runtimes_histograms(
    method: str, is_symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numerics, "BINS", 512)  # its own search takes minutes for 8,192
    monkeypatch.setattr(numerics, "LEVELS", 64)
    values = sample()
    values *= np.float32(15.99) / np.abs(values).max()  # its bins end at the largest, ours at a power of 2
    collector = HistogramCollector(method, is_symmetric, 512, 64, 100 * numerics.SHARE, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": values})
        expected = collector.compute_collection_result()["x"][:2]
    histogram = seen(values)
    found = ESTIMATORS[method](histogram, "symmetric" if is_symmetric else "asymmetric")
    # Of the entropy, it cuts merged counts to whole numbers, and lets the last bins go where they do not divide.
    bins = {"entropy": 10, "percentile": 2}[method]
    np.testing.assert_allclose(found, expected, atol=(bins + 0.01) * (histogram.edges[1] - histogram.edges[0]))
    assert found[1] < 0.9 * histogram.high, "something is clipped"


@pytest.mark.parametrize("size", [12.0, 49.9, 100.0])
@pytest.mark.parametrize("name", ["entropy", "percentile"])
def test_a_single_outlier_is_clipped_however_far_it_lies(name: str, size: float) -> None:
    samples = np.random.default_rng(0).normal(size=(100, 3000)).astype(np.float32)
    usual = ESTIMATORS[name](seen(*samples), "symmetric")
    samples[50, 0] = size
    histogram = seen(*samples)
    assert histogram.high == np.float32(size)
    low, high = ESTIMATORS[name](histogram, "symmetric")
    assert 3 < -low < 7
    assert 3 < high < 7, f"without the outlier: {usual}"


@pytest.mark.parametrize("averaged", [False, True])
def test_ranges_are_those_of_onnx_runtimes_min_max(averaged: bool, tmp_path: Path) -> None:
    samples = [sample(seed, 64).reshape(4, 16) for seed in range(20)]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    value = helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.eye(16, dtype=np.float32), "w")
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, [4, 16])], [value("y", TensorProto.FLOAT, [4, 16])], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    calibrator = MinMaxCalibrater(
        tmp_path / "model.onnx", ["MatMul"], tmp_path / "augmented.onnx", moving_average=averaged
    )
    calibrator.augment_graph()
    calibrator.create_inference_session()
    # In one call: it takes the mean of a call's samples, and moves by 0.01 from one call to the next.
    batches = iter([*({"x": each} for each in samples), None])
    calibrator.collect_data(type("Reader", (), {"get_next": lambda self: next(batches)})())
    expected = [float(np.squeeze(each)) for each in calibrator.compute_data()["x"].range_value]
    found = ESTIMATORS["moving-average" if averaged else "min-max"](seen(*samples), "asymmetric")
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_no_sample_counts_more_than_another_until_the_average_moves() -> None:
    narrow, wide = np.array([-1, 1], np.float32), np.array([-9, 9], np.float32)
    assert numerics.moving_average(seen(wide, *[narrow] * 19), "symmetric") == pytest.approx((-1.4, 1.4))
    assert numerics.moving_average(seen(*[narrow] * 400, wide), "symmetric") == pytest.approx((-1.08, 1.08))


def test_scale_and_zero_point_are_those_of_nncf() -> None:
    samples = [{"x": sample(seed, 64).reshape(4, 16) + 1} for seed in range(8)]
    value = openvino.opset13.parameter([-1, 16], np.float32, name="x")
    weight = openvino.opset13.constant(np.eye(16, dtype=np.float32))
    model = openvino.Model([openvino.opset13.matmul(value, weight, False, False)], [value])
    ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    with contextlib.redirect_stdout(io.StringIO()):
        quantized = nncf.quantize(
            model,
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
            advanced_parameters=nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges),
        )
    nodes = [node for node in quantized.get_ops() if node.get_type_name() == "FakeQuantize"]
    (node,) = [node for node in nodes if node.input_value(0).get_node().get_type_name() == "Parameter"]
    low, high = (float(node.input_value(i).get_node().get_data().reshape(())) for i in (1, 2))
    histogram = seen(*(each["x"] for each in samples))
    scale, zero_point = affine(*numerics.min_max(histogram, "asymmetric"))
    # NNCF moves the range so that 0 is one of its steps, and so may widen it by one.
    assert (high - low) / 255 == pytest.approx(float(scale), rel=0.01)
    assert abs(round(-low / ((high - low) / 255)) - int(zero_point)) <= 1


def test_the_least_squared_error_clips_a_normal_distribution_where_it_is_known_to() -> None:
    """At 3.92 standard deviations for 8 bits (Banner et al. 2019, table of the optimal clipping values)."""
    histogram = seen(np.random.default_rng(0).normal(size=1_000_000).astype(np.float32))
    low, high = ESTIMATORS["mse"](histogram, "symmetric")
    assert low == -high
    assert high == pytest.approx(3.92, abs=0.12)


@pytest.mark.parametrize("outlier", [0.0, 100.0])
@pytest.mark.parametrize("scheme", ["asymmetric", "symmetric"])
def test_no_range_has_a_smaller_squared_error_than_mse(scheme: str, outlier: float) -> None:
    values = np.maximum(sample(), -0.17).astype(np.float32)  # as GELU gives them
    values[5] = max(outlier, values[5])
    histogram = seen(*np.array_split(values, 10))
    ranges = {name: estimate(histogram, scheme) for name, estimate in ESTIMATORS.items()}
    if scheme == "symmetric":  # of two sides the least is not looked for by all pairs
        ranges |= {f"up to {high}": histogram.within(-high, high) for high in np.linspace(1, 100, 100)}
    errors = {}
    for name, found in ranges.items():
        scale, zero_point = parameters(*found, scheme)
        again = dequantize(quantize(values, scale, zero_point, 0, 255), scale, zero_point)
        errors[name] = float(np.square(again - values).mean())
    assert errors["mse"] <= 1.02 * min(errors.values())
    assert errors["mse"] < max(errors.values())
