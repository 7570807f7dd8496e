"""Pairs of texts: found by the usual names of their columns, named by the user, from files and from the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam.errors import DataError
from optimizer.data import Columns, Dataset, load_dataset
from optimizer.data.files import read_texts
from optimizer.data.hub import hub_name


def write(path: Path, first: str, second: str, label: str = "label", n: int = 60, **more: Any) -> str:
    rows = [{first: f"one {i}", second: f"two {i}", label: ("yes", "no")[i % 2], **more} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def first_pair(data: Dataset) -> Any:
    assert data.pair
    assert all(len(text) == 2 for split in data.splits.values() for text in split.texts)
    return min(text for split in data.splits.values() for text in split.texts)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("text", "text_pair"),
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question", "sentence"),
        ("question1", "question2"),
        ("query", "passage"),
        ("query", "document"),
        ("question", "answer"),
        ("question", "context"),
        ("text_a", "text_b"),
        ("sentence_A", "sentence_B"),
        ("textA", "textB"),
        ("Sentence 1", "Sentence 2"),
        ("PREMISE", "HYPOTHESIS"),
        ("#1 String", "#2 String"),
    ],
)
def test_two_text_columns_under_their_usual_names_are_a_pair(tmp_path: Path, first: str, second: str) -> None:
    data = load_dataset(write(tmp_path / "d.jsonl", first, second, idx=1))
    assert first_pair(data) == ("one 0", "two 0")
    assert (data.task, data.labels, data.labelled) == ("single_label", ("no", "yes"), True)
    assert f"Text column {first!r}, text pair column {second!r}, label column 'label'." in data.notes


def test_a_column_of_answers_is_the_second_text_or_the_label(tmp_path: Path) -> None:
    """BoolQ asks a passage; its answers are yes and no."""
    rows = [{"question": f"q {i}", "passage": f"p {i}", "answer": bool(i % 2)} for i in range(60)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.jsonl"))
    assert (first_pair(data), data.labels) == (("q 0", "p 0"), ("False", "True"))


def test_pairs_on_which_raters_did_not_agree_are_left_out(tmp_path: Path) -> None:
    rows = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "gold_label": "-ab"[i % 3]} for i in range(90)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = load_dataset(str(tmp_path / "d.jsonl"))
    assert data.labels == ("a", "b")
    assert any(note.startswith("30 of 90 rows") and "raters did not agree" in note for note in data.notes)


def test_the_order_of_the_columns_in_the_file_does_not_matter(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "d.jsonl", "hypothesis", "premise"))
    assert first_pair(data) == ("two 0", "one 0"), "the premise is first"


def test_columns_that_the_user_names_are_a_pair(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", "left side", "right side", "verdict")
    assert first_pair(load_dataset(path, columns=Columns(text="left side", pair="right side"))) == ("one 0", "two 0")
    with pytest.raises(
        DataError, match=r"no column 'other'\. Columns: left side, right.*; --text-pair-column names one"
    ):
        load_dataset(path, columns=Columns(text="left side", pair="other"))
    assert load_dataset(path, columns=Columns(text="Left_Side", pair="RIGHT SIDE")).pair, "names are compared folded"
    # Of two columns with usual names, one alone can be asked for.
    path = write(tmp_path / "e.jsonl", "premise", "hypothesis")
    alone = load_dataset(path, columns=Columns(text="hypothesis"))
    assert not alone.pair
    assert "two 1" in {text for split in alone.splits.values() for text in split.single}


def test_two_texts_that_are_no_known_pair_are_one_and_the_other_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", "text", "title")
    data = load_dataset(path)
    assert not data.pair
    assert any("'title' holds texts too and is not read: --text-pair-column 'title'" in note for note in data.notes)
    assert first_pair(load_dataset(path, columns=Columns(pair="title"))) == ("one 0", "two 0")


def test_a_pair_without_one_of_its_texts_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"premise": f"one {i}", "hypothesis": f"two {i}" if i else " ", "label": i % 2} for i in range(61)]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = load_dataset(str(path))
    assert sum(len(split.texts) for split in data.splits.values()) == 60
    assert any(note.startswith("1 of 61 rows") for note in data.notes)


def test_a_pair_and_its_reverse_go_into_one_split(tmp_path: Path) -> None:
    lines = ["text,text_pair,label"]
    lines += [f"{a},{b},{'yes' if a < b else 'no'}" for a in "abcdefgh" for b in "abcdefgh"] * 2
    path = tmp_path / "d.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = load_dataset(str(path))
    train, test = set(data.splits["train"].texts), set(data.splits["test"].texts)
    assert not train & test
    assert not {(text[1], text[0]) for text in train} & test
    assert not any("with different labels" in note for note in data.notes), "the other way round is another pair"
    shared = sum(1 for text in test - train if {*text} & {each for pair in train for each in pair})
    assert shared > 0, "each text is paired with each other one: all rows would be one group"
    assert any(note.endswith("pairs of test have a text that is in another pair of train.") for note in data.notes)


def test_pairs_that_share_a_text_go_into_one_split(tmp_path: Path) -> None:
    lines = ["premise,hypothesis,label"]
    lines += [f"p{i},h{i}{kind},{label}" for i in range(60) for kind, label in enumerate(("yes", "no", "maybe"))]
    # The same text as a hypothesis of its own.
    lines += [f"q{i},p{i},yes" for i in range(60)]
    path = tmp_path / "d.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = load_dataset(str(path))
    texts = {name: {text for pair in split.texts for text in pair} for name, split in data.splits.items()}
    assert sum(map(len, texts.values())) == len(set.union(*texts.values())), "no text is in two splits"
    assert not any("another pair of train" in note for note in data.notes)
    rows = {name: len(split.texts) for name, split in data.splits.items()}
    assert rows["train"] == pytest.approx(144, abs=15)


def test_pairs_and_texts_that_read_the_same_have_other_digests(tmp_path: Path) -> None:
    pair = load_dataset(write(tmp_path / "d.jsonl", "text", "text_pair"))
    groups = load_dataset(write(tmp_path / "d.jsonl", "text", "text_pair"), columns=Columns(label="", group="label"))
    alone = load_dataset(write(tmp_path / "d.jsonl", "text", "note"))
    assert len({data.digest for data in (pair, groups, alone)}) == 3


def test_texts_of_a_file_of_pairs_are_pairs(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "d.jsonl", "query", "passage", n=3))
    assert read_texts(path) == [("one 0", "two 0"), ("one 1", "two 1"), ("one 2", "two 2")]


def sick(path: Path, header: str = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment") -> str:
    kinds = ("NEUTRAL", "ENTAILMENT", "CONTRADICTION")
    parts = ("TRAIN", "TRIAL", "TEST")
    lines = [f"{i}\tA {i}\tB {i}\t{1 + i % 9 / 2}\t{kinds[i % 3]}" for i in range(90)]
    if "SemEval_set" in header:
        lines = [f"{line}\t{parts[i // 30]}" for i, line in enumerate(lines)]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["SICK.txt", "SICK.tsv"])
def test_relatedness_is_a_number_and_entailment_a_class(tmp_path: Path, name: str) -> None:
    path = sick(tmp_path / name)
    entailment = load_dataset(path, columns=Columns(label="entailment_judgment"))
    assert (entailment.task, entailment.pair) == ("single_label", True)
    assert entailment.labels == ("CONTRADICTION", "ENTAILMENT", "NEUTRAL")
    related = load_dataset(path, columns=Columns(label="relatedness_score"))
    assert (related.task, related.pair, related.labels) == ("regression", True, ("relatedness_score",))
    for split in related.splits.values():
        assert split.targets.dtype == np.float32
        assert split.targets.shape == (len(split.texts),)
    assert {float(score) for split in related.splits.values() for score in split.targets} == {
        1 + i / 2 for i in range(9)
    }
    assert any("'relatedness_score' may be labels too" in note for note in load_dataset(path).notes)


def test_a_split_column_under_another_name_and_in_upper_case(tmp_path: Path) -> None:
    path = sick(
        tmp_path / "d.txt", "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\tSemEval_set"
    )
    data = load_dataset(path, columns=Columns(label="entailment_judgment", group="SemEval_set"))
    assert {part: len(split.texts) for part, split in data.splits.items()} != {"train": 30, "dev": 30, "test": 30}
    assert set(data.splits["train"].groups) == {"TRAIN", "TRIAL", "TEST"}, "asked for as a group, it is no split"
    data = load_dataset(path, columns=Columns(label="entailment_judgment"))
    assert {part: len(split.texts) for part, split in data.splits.items()} == {"train": 30, "dev": 30, "test": 30}


@pytest.mark.parametrize(
    ("name", "hub_id", "configuration"),
    [
        ("glue/rte", "nyu-mll/glue", "rte"),
        ("glue:mnli", "nyu-mll/glue", "mnli"),
        ("nyu-mll/glue:rte", "nyu-mll/glue", "rte"),
        ("super_glue/boolq", "aps/super_glue", "boolq"),
        ("snli", "stanfordnlp/snli", None),
        ("human-vs-machine", "NicolaiSivesind/human-vs-machine", "wiki_labeled"),
        (
            "human-vs-machine:research_abstracts_labeled",
            "NicolaiSivesind/human-vs-machine",
            "research_abstracts_labeled",
        ),
        ("someone/else", "someone/else", None),
    ],
)
def test_names_of_the_hub_as_papers_write_them(name: str, hub_id: str, configuration: str | None) -> None:
    assert hub_name(name) == (hub_id, configuration)


def test_mnli_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = datasets.Features(
        {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": names}
        | {"idx": datasets.Value("int32")}
    )

    def part(n: int, label: int | None = None) -> Any:
        labels = [i % 3 if label is None else label for i in range(n)]
        texts = {"premise": [f"{n} p {i}" for i in range(n)], "hypothesis": [f"{n} h {i}" for i in range(n)]}
        return datasets.Dataset.from_dict({**texts, "label": labels, "idx": list(range(n))}, features=features)

    undecided = part(31, label=-1).select(range(1))
    parts = {
        "train": datasets.concatenate_datasets([part(90), undecided]),
        "validation_matched": part(12),
        "validation_mismatched": part(13),
        "test_matched": part(8, label=-1),
        "test_mismatched": part(9, label=-1),
    }
    monkeypatch.setattr("optimizer.data.hub.require_hub", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, configuration: datasets.DatasetDict(parts))
    data = load_dataset("glue:mnli")
    assert first_pair(data)[1].startswith("12 h")
    assert data.labels == ("entailment", "neutral", "contradiction")
    assert (len(data.splits["dev"].texts), sum(len(split.texts) for split in data.splits.values())) == (12, 102)
    assert {
        "The split 'validation_mismatched' was left out.",
        "The split 'test' has no labels; it was left out.",
        "1 rows of 'train' have no label (-1); they were left out.",
    } <= set(data.notes)
    assert data.hub_id == "nyu-mll/glue"


def test_glue_tasks_as_files(tmp_path: Path) -> None:
    """MNLI's archive: tab-separated, quotes that are part of the text, a label that raters gave and one that counts."""
    header = "index\tpairID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label"
    lines = [
        f'{i}\t{i}\tfiction\t"Premise {i}\tHypothesis {i}\tneutral\t{("neutral", "entailment")[i % 2]}'
        for i in range(30)
    ]
    for name in ("train", "dev_matched", "dev_mismatched"):
        (tmp_path / f"{name}.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    hidden = [line.rpartition("\t")[0].rpartition("\t")[0] for line in (header, *lines)]
    (tmp_path / "test_matched.tsv").write_text("\n".join(hidden) + "\n", encoding="utf-8")
    data = load_dataset(str(tmp_path))
    assert first_pair(data) == ('"Premise 0', "Hypothesis 0")
    assert data.labels == ("entailment", "neutral")
    assert len(data.splits["dev"].texts) == 30
    assert "The split 'test' has no labels; it was left out." in data.notes
    assert any("dev_mismatched.tsv" in note for note in data.notes)


def test_similarity_from_the_hub_is_a_number_and_its_secret_test_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def part(name: str, n: int, secret: bool = False) -> Any:
        scores = [-1.0 if secret else i % 26 / 5 for i in range(n)]
        texts = {"sentence1": [f"{name} {i}" for i in range(n)], "sentence2": [f"other {i}" for i in range(n)]}
        return datasets.Dataset.from_dict({**texts, "label": scores, "idx": list(range(n))})

    parts = {"train": part("a", 60), "validation": part("b", 20), "test": part("c", 20, secret=True)}
    monkeypatch.setattr("optimizer.data.hub.require_hub", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, configuration: datasets.DatasetDict(parts))
    data = load_dataset("glue/stsb")
    assert (data.task, data.pair, data.labels) == ("regression", True, ("label",))
    assert {part: len(split.texts) for part, split in data.splits.items()} == {"train": 40, "dev": 20, "test": 20}
    assert "The split 'test' has no labels but '-1.0'; it was left out." in data.notes
