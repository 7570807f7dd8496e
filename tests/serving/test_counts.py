"""What an engine counts, in a file that others read; and its cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from bantam.artifact import Artifact
from serving.backend.cache import OVERHEAD_BYTES, ScoreCache
from serving.backend.counts import NAMES, PROBE, Counts, Work
from serving.backend.engine import Engine
from serving.counted import answered, read


def test_an_engine_counts_texts_tokens_cuts_and_runs(tiny_artifact: Artifact) -> None:
    engine = Engine(tiny_artifact.folder, threads=1, micro_batch=4)
    engine.probabilities(["nobody counts yet"])
    engine.counts = Counts()
    engine.probabilities(["i love it", "i", "love " * 200, "you", "hate"])
    counted = engine.counts.as_dict()
    assert counted["texts"] == 5
    assert counted["tokens"] == 5 + 3 + 64 + 3 + 3  # [CLS] and [SEP] are tokens too
    assert counted["cut_texts"] == 1
    assert (counted["runs_of_4"], counted["runs_of_1"]) == (1, 1)
    engine.probabilities(["i love it"])
    assert engine.counts.as_dict()["texts"] == 6


def test_a_text_that_just_fits_is_not_cut(tiny_artifact: Artifact) -> None:
    engine = Engine(tiny_artifact.folder, threads=1)
    engine.counts = Counts()
    engine.probabilities(["love " * 62])
    assert engine.counts.as_dict()["cut_texts"] == 0
    engine.probabilities(["love " * 63])
    assert engine.counts.as_dict()["cut_texts"] == 1


def test_the_watchs_own_texts_are_answered_and_not_counted(make_artifact: Callable[..., Artifact]) -> None:
    for pair in (False, True):
        engine = Engine(make_artifact(pair=pair).folder, threads=1, micro_batch=2)
        probe, text = (f"{PROBE}7", "i love it")
        asked: list[str | tuple[str, str]] = [(each, "you") for each in (probe, text)] if pair else [probe, text]
        expected = engine.probabilities(asked)
        engine.counts = Counts()
        np.testing.assert_array_equal(engine.probabilities(asked), expected)
        counted = engine.counts.as_dict()
        assert (counted["texts"], counted["runs_of_1"], counted["runs_of_2"]) == (1, 1, 0)
        assert counted["tokens"] == (7 if pair else 5)
        engine.probabilities(asked[:1])
        assert engine.counts.as_dict() == counted


@pytest.mark.parametrize(
    ("size", "name"), [(1, "runs_of_1"), (2, "runs_of_2"), (3, "runs_of_4"), (64, "runs_of_64"), (65, "runs_of_more")]
)
def test_runs_are_counted_by_their_size(size: int, name: str) -> None:
    counts = Counts()
    counts.add(size, Work(tokens=0, cut=0, runs=[size]))
    assert {name for name, value in counts.as_dict().items() if value and name.startswith("runs")} == {name}


def test_counts_in_a_file_are_read_meanwhile_and_go_on_after_a_reload(tmp_path: Path) -> None:
    counts = Counts.shared(tmp_path / "a", "minilm", "3")
    counts.add(2, Work(tokens=7, cut=1, runs=[2]))
    ((model, version, values),) = read(tmp_path)
    assert (model, version) == ("minilm", "3")
    assert values == dict(zip(NAMES, [2, 7, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], strict=True))
    again = Counts.shared(tmp_path / "a", "minilm", "3")  # the other one is still there, as while a model is reloaded
    again.add(1, Work(tokens=1, cut=0, runs=[1]))
    counts.add(1, Work(tokens=1, cut=0, runs=[1]))
    assert read(tmp_path)[0].values["texts"] == 4
    later = Counts.shared(tmp_path / "b", "minilm", "4")
    later.add(3, Work(tokens=9, cut=0, runs=[3]))
    later.looked_up(hits=10, misses=3)
    Counts.shared(tmp_path / "c", "other", "1")
    assert answered(tmp_path) == {"minilm": 17, "other": 0}


def test_the_file_of_counts_has_no_hole_that_a_full_disk_could_not_fill(tmp_path: Path) -> None:
    Counts.shared(tmp_path / "a", "minilm", "3")
    found = (tmp_path / "a").stat()
    assert found.st_blocks * 512 >= found.st_size >= 8 * len(NAMES)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_where_the_disk_is_full_there_are_no_counts() -> None:
    with pytest.raises(OSError, match="No space left"):
        Counts.shared(Path("/dev/full"), "minilm", "3")


def test_a_file_that_is_no_counts_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_bytes(b'{"model": "m"}\n')
    (tmp_path / "short").write_bytes(b'{"model": "m", "version": "1", "names": ["texts"]}\n')
    assert read(tmp_path) == []
    assert read(tmp_path / "none") == []


class Scorer:
    """Scores a text by its length, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str | tuple[str, str]]) -> np.ndarray:
        self.asked.append([str(text) for text in texts])
        if "bad" in texts:
            raise ValueError("bad")
        return np.array([[len(text), 1] for text in texts], dtype=np.float32).reshape(-1, 2)


def test_a_cache_asks_for_each_text_once() -> None:
    scorer, counts = Scorer(), Counts()
    cache = ScoreCache(scorer, 10**6, counts)
    pair = ("a", "b")
    asked: list[list[str | tuple[str, str]]] = [["a", "bb"], ["bb", "ccc", "bb", "a"], ["a"], [], [pair], [pair, "a"]]
    for texts in asked:
        np.testing.assert_array_equal(cache(texts), Scorer()(texts))
    assert scorer.asked == [["a", "bb"], ["ccc"], [], ["('a', 'b')"]]
    assert (counts.as_dict()["cache_hits"], counts.as_dict()["cache_misses"]) == (6, 4)


def test_a_cache_neither_keeps_nor_counts_the_watchs_own_texts() -> None:
    scorer, counts = Scorer(), Counts()
    cache = ScoreCache(scorer, 10**6, counts)
    probe = f"{PROBE}7"
    asked: list[list[str | tuple[str, str]]] = [[probe, "a"], [probe], [(probe, probe)], ["a", probe]]
    for texts in asked:
        np.testing.assert_array_equal(cache(texts), Scorer()(texts))
    assert scorer.asked == [[probe, "a"], [probe], [str((probe, probe))], [probe]]
    assert (counts.as_dict()["cache_hits"], counts.as_dict()["cache_misses"]) == (1, 1)


def test_a_cache_keeps_nothing_of_what_failed() -> None:
    cache = ScoreCache(Scorer(), 10**6, Counts())
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            cache(["bad", "a"])


def test_a_cache_forgets_what_was_not_asked_for_the_longest() -> None:
    scorer = Scorer()
    room = 20 * (50 + 8 + OVERHEAD_BYTES)  # 20 texts of one letter, of 50 bytes each
    cache = ScoreCache(scorer, room, Counts())
    letters = [chr(ord("a") + number) for number in range(21)]
    cache(letters[:20])
    cache(["a"])  # now the youngest
    cache(letters[20:])  # drives out b
    cache(["a", "c"])
    cache(["b"])
    assert scorer.asked[1:] == [["u"], ["b"]]
    cache(["x" * 10_000] * 2)  # larger than its part of the room: not kept, and nothing else is lost
    cache(["a", "u"])
    assert scorer.asked[3:] == [["x" * 10_000]]
