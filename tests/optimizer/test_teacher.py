"""The teacher's outputs: what it computes, written once, in a file that a killed run goes on with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bantam.errors import DiskFullError, StageError
from optimizer.architecture import anatomy
from optimizer.distill import teacher
from optimizer.distill.teacher import Captured, TeacherOutputs, Wanted, pad, teacher_outputs
from tests.optimizer.tiny_models import VOCABULARY, write_tiny_model

WANTED = Wanted(hidden=(0, 1), queries=(1,), keys=(1,), values=(0,))
WIDTHS = {"bert": (32, 32), "llama": (32, 16)}
"""Of queries, and of keys and values, which llama's heads share."""
RNG = np.random.default_rng(0)
ROWS = [
    {"input_ids": (ids := RNG.integers(4, VOCABULARY, n).tolist()), "attention_mask": [1] * len(ids)}
    for n in (3, 20, 1, 7, 7, 12, 5, 30, 2, 9)
]


class Counting:
    """Stands in front of a model and notes how many texts each call has, and how long; dies at call ``until``."""

    def __init__(self, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, until: int | None = None) -> None:
        self.texts: list[int] = []
        self.tokens: list[int] = []
        forward = model.forward

        def counted(*args: Any, **kwargs: Any) -> Any:
            if len(self.texts) == until:
                raise KeyboardInterrupt
            self.texts.append(kwargs["input_ids"].shape[0])
            self.tokens.append(kwargs["input_ids"].shape[1])
            return forward(*args, **kwargs)

        monkeypatch.setattr(model, "forward", counted)


@pytest.fixture(params=list(WIDTHS), scope="module")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    write_tiny_model(folder, request.param)
    loaded: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(folder)
    return loaded


@pytest.fixture(autouse=True)
def _often_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "FLUSH_EVERY", 1)


def ask(
    model: PreTrainedModel, folder: Path, *, wanted: Wanted = WANTED, key: str = "k", **options: Any
) -> TeacherOutputs:
    settings: dict[str, Any] = {"batch_size": 4, "pad_token_id": 0, "device": "cpu", "log": lambda line: None}
    return teacher_outputs(model, folder, ROWS, wanted, key=key, **{**settings, **options})


@pytest.fixture
def outputs(model: PreTrainedModel, tmp_path: Path) -> TeacherOutputs:
    return ask(model, tmp_path / "cache")


def direct(model: PreTrainedModel, row: int) -> dict[str, Any]:
    """What the model computes for one text alone, by transformers' own means."""
    inside: dict[str, Any] = {}
    block = {"query": anatomy(model).layers[1].query, "key": anatomy(model).layers[1].key}
    block["value"] = anatomy(model).layers[0].value
    handles = [
        module.register_forward_hook(lambda m, i, out, name=name: inside.__setitem__(name, out))
        for name, module in block.items()
    ]
    with torch.no_grad():
        found = model.eval()(**pad([ROWS[row]], 0), output_hidden_states=True)
    for handle in handles:
        handle.remove()
    return {"logits": found.logits[0], "hidden": found.hidden_states[1][0], **{k: v[0] for k, v in inside.items()}}


def test_outputs_are_those_of_the_model_for_each_text_alone(model: PreTrainedModel, outputs: TeacherOutputs) -> None:
    rows = [7, 2, 5]
    got = {
        "hidden": outputs.hidden(0, rows),
        "query": outputs.queries(1, rows),
        "key": outputs.keys(1, rows),
        "value": outputs.values(0, rows),
    }
    query, key = WIDTHS[model.config.model_type]
    assert got["query"].shape == (3, 30, query)
    assert got["key"].shape == got["value"].shape == (3, 30, key)
    for i, row in enumerate(rows):
        expected, n = direct(model, row), len(ROWS[row]["input_ids"])
        np.testing.assert_allclose(outputs.logits(rows)[i], expected["logits"], atol=1e-4)
        for name, padded in got.items():
            assert padded.dtype == np.float32
            np.testing.assert_allclose(padded[i, :n], expected[name], rtol=2e-3, atol=2e-3, err_msg=name)
            assert not padded[i, n:].any()


def test_a_batch_is_as_long_as_its_longest_text_and_read_by_memory_map(outputs: TeacherOutputs) -> None:
    assert outputs.hidden(1, [2, 8]).shape == (2, 2, 32)
    assert outputs.hidden(1, np.array([7])).shape == (1, 30, 32)
    assert set(outputs.arrays) == {"offsets", "logits", "hidden-0", "hidden-1", "queries-1", "keys-1", "values-0"}
    assert all(isinstance(array, np.memmap) and not array.flags.writeable for array in outputs.arrays.values())
    assert outputs.arrays["hidden-1"].shape == (sum(len(row["input_ids"]) for row in ROWS), 32)
    assert outputs.arrays["hidden-1"].dtype == np.float16


def test_the_teacher_is_asked_once(model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Counting(model, monkeypatch)
    said: list[str] = []
    first = ask(model, tmp_path, log=said.append)
    assert calls.texts == [4, 4, 2]
    assert calls.tokens == [30, 7, 2], "like lengths together, the longest first"
    assert len(said) == 1
    assert "MB of logits, hidden-0" in said[0]
    second = ask(model, tmp_path, log=said.append, batch_size=3)
    assert calls.texts == [4, 4, 2]
    assert len(said) == 1
    assert np.array_equal(first.hidden(1, range(10)), second.hidden(1, range(10)))


def test_a_killed_run_goes_on_where_it_was(
    model: PreTrainedModel, tmp_path: Path, outputs: TeacherOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "killed"
    said: list[str] = []
    with monkeypatch.context() as patch:
        calls = Counting(model, patch, until=2)
        with pytest.raises(KeyboardInterrupt):
            ask(model, folder)
    assert calls.texts == [4, 4]
    with monkeypatch.context() as patch:
        calls = Counting(model, patch)
        resumed = ask(model, folder, log=said.append, batch_size=1)
    assert calls.texts == [1, 1]
    assert said == ["teacher outputs: going on after 8 of 10 texts"]
    for name, array in outputs.arrays.items():
        np.testing.assert_allclose(resumed.arrays[name], array, rtol=2e-3, atol=1e-3, err_msg=name)


def test_a_kill_costs_what_was_not_recorded(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "FLUSH_EVERY", 2)
    with monkeypatch.context() as patch:
        Counting(model, patch, until=3)
        with pytest.raises(KeyboardInterrupt):
            ask(model, tmp_path, batch_size=2)
    calls = Counting(model, monkeypatch)
    ask(model, tmp_path, batch_size=2)
    assert calls.texts == [2, 2, 2]


def test_a_run_killed_before_its_first_record_begins_again(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "FLUSH_EVERY", 100)
    with monkeypatch.context() as patch:
        Counting(model, patch, until=1)
        with pytest.raises(KeyboardInterrupt):
            ask(model, tmp_path)
    assert not (tmp_path / "progress.json").exists()
    calls = Counting(model, monkeypatch)
    ask(model, tmp_path)
    assert calls.texts == [4, 4, 2]


def test_another_key_is_another_cache(model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(model, tmp_path)
    calls = Counting(model, monkeypatch)
    fewer = ask(model, tmp_path, key="other", wanted=Wanted())
    assert calls.texts == [4, 4, 2]
    assert set(fewer.arrays) == {"offsets", "logits"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logits.npy", "offsets.npy", "progress.json"]


def test_a_disk_too_small_is_said_before_anything_is_written(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 100, 100))
    with pytest.raises(DiskFullError, match="0 MB free; the teacher's outputs need 0 MB"):
        ask(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wanted", [Wanted(hidden=(2,)), Wanted(values=(-1,))])
def test_a_layer_that_does_not_exist(model: PreTrainedModel, wanted: Wanted) -> None:
    with pytest.raises(StageError, match="layers are 0 to 1"):
        Captured(model, wanted)


def test_a_student_is_caught_with_its_gradient_until_the_hooks_go(model: PreTrainedModel) -> None:
    model.train()
    with Captured(model, Wanted(hidden=(0,), queries=(1,))) as captured:
        with torch.autocast("cpu", torch.bfloat16):
            model(**pad(ROWS[:3], 0))
        assert captured.hidden[0].dtype == captured.queries[1].dtype == torch.float32
        captured.hidden[0].sum().backward(retain_graph=True)
        captured.queries[1].sum().backward()
        assert anatomy(model).layers[1].query.weight.grad is not None
    model(**pad(ROWS[:3], 0))
    assert captured.hidden == {}
    model.zero_grad()


def test_values_beyond_float16_are_cut_not_infinite(model: PreTrainedModel, tmp_path: Path) -> None:
    layer = anatomy(model).layers[1].query
    handle = layer.register_forward_hook(lambda m, i, out: out * 1e9)
    try:
        got = ask(model, tmp_path, wanted=Wanted(logits=False, queries=(1,))).queries(1, [0])
    finally:
        handle.remove()
    assert np.isfinite(got).all()
    assert np.abs(got).max() == 65504


def test_a_text_without_tokens_counts_as_one_of_padding(model: PreTrainedModel, tmp_path: Path) -> None:
    """As a decoder has it that adds no token to a text; alone in its batch, and beside another one."""
    alone: Any = {"input_ids": [], "attention_mask": []}
    settings: dict[str, Any] = {"pad_token_id": 1, "device": "cpu", "log": lambda line: None, "key": "k"}
    found = [
        teacher_outputs(model, tmp_path / str(size), [alone, ROWS[0]], Wanted(), batch_size=size, **settings)
        for size in (1, 2)
    ]
    one = teacher_outputs(
        model, tmp_path / "one", [{"input_ids": [1], "attention_mask": [1]}], Wanted(), batch_size=1, **settings
    )
    for outputs in found:
        np.testing.assert_allclose(outputs.logits([0]), one.logits([0]), atol=1e-5)
