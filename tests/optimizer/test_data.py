"""Data sets: the bundled ones, files in every format, and each way in which data can be unusable."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam.errors import DataError
from optimizer.data import SPLITS, Columns, Dataset, load_dataset
from optimizer.data.bundled import BUNDLED, FOLDER
from optimizer.data.split import stratify
from tests.optimizer.data_files import write_jsonl

EKMAN = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")


def rows(n: int = 60) -> list[dict[str, Any]]:
    return [{"text": f"text number {i}", "label": ("spam", "ham", "ham")[i % 3]} for i in range(n)]


def write_csv(path: Path, header: str, lines: Sequence[str]) -> str:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return str(path)


def sizes(data: Dataset) -> dict[str, int]:
    return {part: len(split.single) for part, split in data.splits.items()}


def pairs(data: Dataset) -> Counter[tuple[str, Any]]:
    """Text and label names of all rows, whatever split they are in."""
    found: Counter[tuple[str, Any]] = Counter()
    for split in data.splits.values():
        for text, target in zip(split.single, split.targets, strict=True):
            chosen = np.flatnonzero(target) if data.task == "multi_label" else [target]
            found[text, tuple(data.labels[i] for i in chosen)] += 1
    return found


@pytest.mark.parametrize(("name", "labels"), [("goemotions-ekman", 7), ("goemotions", 28)])
def test_goemotions_has_its_published_rows_and_loads_fast(name: str, labels: int) -> None:
    start = time.perf_counter()
    data = load_dataset(name)
    seconds = time.perf_counter() - start
    assert sizes(data) == {"train": 43410, "dev": 5426, "test": 5427}
    assert (data.task, len(data.labels)) == ("multi_label", labels)
    for split in data.splits.values():
        assert split.targets.dtype == np.uint8
        assert split.targets.shape == (len(split.single), labels)
        assert split.targets.sum(axis=1).min() >= 1
    assert data.licence == "Apache-2.0"
    assert seconds < 3, "well under a second on an idle machine"


def test_goemotions_labels_are_those_of_the_source_files() -> None:
    ekman, fine = load_dataset("goemotions-ekman"), load_dataset("goemotions")
    assert ekman.labels == EKMAN
    assert ekman.splits["test"].single == fine.splits["test"].single
    # Row 3 of train.tsv: label 2 (anger) of the 28, label 0 (anger) of the 7.
    assert fine.splits["train"].single[2] == "WHY THE FUCK IS BAYLESS ISOING"
    assert fine.splits["train"].targets[2].nonzero()[0].tolist() == [2]
    assert ekman.splits["train"].targets[2].nonzero()[0].tolist() == [0]
    # Counted in the ekman files of the source: rows of test for each label.
    assert ekman.splits["test"].targets.sum(axis=0).tolist() == EKMAN_TEST_COUNTS
    assert any("of test are also in train" in note for note in ekman.notes)


EKMAN_TEST_COUNTS = [726, 123, 98, 2104, 1787, 379, 677]


def test_sms_spam_is_split_evenly_and_shares_no_text_between_splits() -> None:
    data = load_dataset("sms-spam")
    assert (data.task, data.labels) == ("single_label", ("ham", "spam"))
    assert sum(sizes(data).values()) == 5574
    for part, share in {"train": 0.6, "test": 0.3, "dev": 0.1}.items():
        assert sizes(data)[part] == pytest.approx(share * 5574, rel=0.02)
        assert data.splits[part].targets.mean() == pytest.approx(747 / 5574, abs=0.01)
    assert not set(data.splits["train"].single) & set(data.splits["test"].single)
    assert "seed 0" in data.notes[0]


def test_seed_decides_the_splits_and_the_digest() -> None:
    first, again, other = load_dataset("sms-spam"), load_dataset("sms-spam"), load_dataset("sms-spam", seed=1)
    assert first.digest == again.digest != other.digest
    assert pairs(first) == pairs(other)


def test_bundled_sets_carry_licence_and_source() -> None:
    for folder in ("goemotions", "sms_spam"):
        assert len((FOLDER / folder / "LICENSE.txt").read_text(encoding="utf-8")) > 1000
        assert "Taken from: github.com/" in (FOLDER / folder / "SOURCE.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_sets_say_what_a_model_of_them_cannot_know(name: str) -> None:
    data = load_dataset(name)
    assert re.fullmatch(r"[\w-]+/[\w-]+", data.hub_id or "")
    assert data.language == "en"
    assert data.about
    assert "English" in data.about


def test_a_file_is_not_said_to_be_on_the_hub(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "\n".join(f"text {n},{'ab'[n % 2]}" for n in range(60)), encoding="utf-8")
    data = load_dataset(str(path))
    assert (data.hub_id, data.language, data.about) == (None, None, None)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    objects = rows()
    if suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(objects), path)
    elif suffix in (".csv", ".tsv"):
        mark = "," if suffix == ".csv" else "\t"
        write_csv(path, f"text{mark}label", [f"{o['text']}{mark}{o['label']}" for o in objects])
    elif suffix == ".jsonl":
        write_jsonl(path, objects)
    else:
        path.write_text(json.dumps(objects), encoding="utf-8")
    data = load_dataset(str(path))
    assert pairs(data) == Counter((o["text"], (o["label"],)) for o in objects)
    assert sizes(data) == {"train": 36, "test": 18, "dev": 6}
    assert (data.name, data.task, data.labels) == ("data", "single_label", ("ham", "spam"))


def test_csv_with_quotes_line_breaks_and_semicolons(tmp_path: Path) -> None:
    lines = [f'"line one\nline two; {i}";{"ab"[i % 2]}' for i in range(20)]
    data = load_dataset(write_csv(tmp_path / "d.csv", "Review;Category", lines))
    assert "line one\nline two; 7" in {text for text, _ in pairs(data)}
    assert data.labels == ("a", "b")
    assert "Text column 'Review', label column 'Category'." in data.notes


def test_tsv_text_may_begin_with_a_quote(tmp_path: Path) -> None:
    lines = [f'"open quote {i}\t{"ab"[i % 2]}' for i in range(20)]
    data = load_dataset(write_csv(tmp_path / "d.tsv", "text\tlabel", lines))
    assert sum(sizes(data).values()) == 20
    assert all(text.startswith('"open') for text, _ in pairs(data))


@pytest.mark.parametrize("mark", [";", "|", ","])
def test_several_labels_in_a_cell_are_found(tmp_path: Path, mark: str) -> None:
    cells = ["a", "b", f"a{mark} b", "c", f"c{mark}a", ""]
    lines = [f'text {i},"{cells[i % 6]}"' for i in range(90)]
    data = load_dataset(write_csv(tmp_path / "d.csv", "text,labels", lines))
    assert (data.task, data.labels) == ("multi_label", ("a", "b", "c"))
    assert pairs(data)["text 2", ("a", "b")] == 1
    assert pairs(data)["text 5", ()] == 1, "no label at all is allowed where there may be several"
    assert f"separated by {mark!r}" in " ".join(data.notes)


def test_a_comma_in_a_name_is_no_separator(tmp_path: Path) -> None:
    names = ["Home, Garden", "Books", "Toys, Games"]
    data = load_dataset(
        write_jsonl(tmp_path / "d.jsonl", [{"text": f"t{i}", "label": names[i % 3]} for i in range(60)])
    )
    assert (data.task, data.labels) == ("single_label", ("Books", "Home, Garden", "Toys, Games"))


def test_given_separator_and_columns(tmp_path: Path) -> None:
    lines = [f"t{i},{i},{('x', 'y', 'x/y')[i % 3]}" for i in range(60)]
    path = write_csv(tmp_path / "d.csv", "what,number,kinds", lines)
    data = load_dataset(path, columns=Columns(text="what", label="kinds", separator="/"))
    assert (data.task, data.labels) == ("multi_label", ("x", "y"))
    with pytest.raises(DataError, match=r"separator '#' is in no cell"):
        load_dataset(path, columns=Columns(text="what", label="kinds", separator="#"))
    with pytest.raises(DataError, match=r"no column 'text'\. Columns: what, number, kinds; --text-column names one"):
        load_dataset(path, columns=Columns(text="text", label="kinds"))


@pytest.mark.parametrize("written", [list, json.dumps, str], ids=["list", "json", "python"])
def test_lists_of_labels(tmp_path: Path, written: Callable[[list[str]], Any]) -> None:
    cells = [["a"], ["b"], ["a", "b"], []]
    objects = [{"text": f"t{i}", "labels": written(cells[i % 4])} for i in range(80)]
    data = load_dataset(write_jsonl(tmp_path / "d.jsonl", objects))
    assert (data.task, data.labels) == ("multi_label", ("a", "b"))
    assert pairs(data)["t2", ("a", "b")] == 1


def test_number_labels_are_in_order_of_value(tmp_path: Path) -> None:
    data = load_dataset(write_jsonl(tmp_path / "d.jsonl", [{"text": f"t{i}", "label": i % 11} for i in range(330)]))
    assert data.labels == tuple(map(str, range(11)))


def test_folder_with_split_files(tmp_path: Path) -> None:
    for part, n in {"train": 30, "validation": 12, "test": 9}.items():
        write_jsonl(tmp_path / f"{part}.jsonl", [{**row, "text": f"{part} {row['text']}"} for row in rows(n)])
    data = load_dataset(str(tmp_path))
    assert sizes(data) == {"train": 30, "dev": 12, "test": 9}
    assert all(text.startswith("validation") for text in data.splits["dev"].single)


def test_missing_dev_is_taken_out_of_train(tmp_path: Path) -> None:
    for part, n in {"train": 70, "test": 30}.items():
        write_jsonl(tmp_path / f"{part}.jsonl", [{**row, "text": f"{part} {row['text']}"} for row in rows(n)])
    data = load_dataset(str(tmp_path))
    assert sizes(data) == {"train": 60, "dev": 10, "test": 30}
    assert all(text.startswith("test") for text in data.splits["test"].single)
    assert "No dev split was given" in " ".join(data.notes)


def test_split_column(tmp_path: Path) -> None:
    parts = ["train"] * 30 + ["valid"] * 15 + ["test"] * 15
    objects = [{**row, "split": part} for row, part in zip(rows(), parts, strict=True)]
    data = load_dataset(write_jsonl(tmp_path / "d.jsonl", objects))
    assert sizes(data) == {"train": 30, "dev": 15, "test": 15}
    with pytest.raises(DataError, match=r"line 1: the split is 'holdout', expected train, dev or test"):
        load_dataset(write_jsonl(tmp_path / "e.jsonl", [{**objects[0], "split": "holdout"}]))


def test_duplicates_across_splits_are_reported_and_kept(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows(30))
    write_jsonl(tmp_path / "dev.jsonl", [{**row, "text": f"dev {row['text']}"} for row in rows(9)])
    write_jsonl(tmp_path / "test.jsonl", rows(9))
    data = load_dataset(str(tmp_path))
    assert sizes(data)["test"] == 9
    assert "9 of 9 texts of test are also in train, for example 'text number 0'; they were kept." in data.notes


def test_rows_without_text_are_left_out_and_counted(tmp_path: Path) -> None:
    objects = [*rows(), {"text": "  ", "label": "ham"}, {"text": None, "label": "ham"}]
    data = load_dataset(write_jsonl(tmp_path / "d.jsonl", objects))
    assert sum(sizes(data).values()) == 60
    assert any(note.startswith("2 of 62 rows of") and "no text" in note for note in data.notes)


def test_hub_data_set_class_names_and_splits(no_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def part(n: int, secret: bool = False) -> Any:
        columns = {"sentence": [f"{n} {i}" for i in range(n)], "label": [-1 if secret else i % 2 for i in range(n)]}
        names = datasets.ClassLabel(names=["negative", "positive"])
        features = datasets.Features({"sentence": datasets.Value("string"), "label": names})
        return datasets.Dataset.from_dict(columns, features=features)

    loaded = datasets.DatasetDict({"train": part(90), "validation": part(10), "test": part(8, secret=True)})
    monkeypatch.setattr("optimizer.data.hub.require_hub", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, configuration: loaded)
    data = load_dataset("nyu-mll/glue:sst2")
    assert data.labels == ("negative", "positive")
    assert sizes(data) == {"train": 60, "dev": 10, "test": 30}
    assert "The split 'test' has no labels; it was left out." in data.notes
    assert data.hub_id == "nyu-mll/glue", "without the configuration"


def test_stratification_keeps_label_proportions_of_several_labels() -> None:
    rng = np.random.default_rng(0)
    labels = [
        tuple(name for name, p in zip("abcd", (0.5, 0.3, 0.05, 0.01), strict=True) if rng.random() < p)
        for _ in range(3000)
    ]
    parts = stratify(labels, (0.6, 0.3, 0.1), seed=3)
    assert parts == stratify(labels, (0.6, 0.3, 0.1), seed=3)
    assert [parts.count(i) / 3000 for i in range(3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.01)
    for name in "abcd":
        found = Counter(part for part, row in zip(parts, labels, strict=True) if name in row)
        shares = [found[i] / found.total() for i in range(3)]
        assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.05), name


def test_three_rows_of_a_label_are_enough_for_three_splits(tmp_path: Path) -> None:
    objects = [*rows(), *({"text": f"rare {i}", "label": "rare"} for i in range(3))]
    data = load_dataset(write_jsonl(tmp_path / "d.jsonl", objects))
    rare = data.labels.index("rare")
    assert [int((data.splits[part].targets == rare).sum()) for part in SPLITS] == [1, 1, 1]


def as_read(tmp_path: Path, objects: Sequence[Any], several: bool = False) -> Dataset:
    columns = Columns(task="multi_label" if several else None)
    return load_dataset(write_jsonl(tmp_path / "d.jsonl", objects), columns=columns)


def test_a_classifier_with_other_labels_in_another_order_reads_the_same_rows(tmp_path: Path) -> None:
    data = as_read(tmp_path, rows())
    read = data.read_by("single_label", ("other", "spam", "ham"))
    assert pairs(read) == pairs(data)
    assert (read.labels, read.digest != data.digest) == (("other", "spam", "ham"), True)
    several = as_read(tmp_path, [{**row, "label": [row["label"], "all"]} for row in rows()])
    read = several.read_by("multi_label", ("spam", "none", "all", "ham"))
    assert read.splits["dev"].targets.dtype == np.uint8
    names = {(text, frozenset(labels)) for text, labels in pairs(several)}
    assert {(text, frozenset(labels)) for text, labels in pairs(read)} == names


def test_a_classifier_that_lacks_a_label_or_does_another_task_cannot_read_it(tmp_path: Path) -> None:
    data = as_read(tmp_path, rows())
    with pytest.raises(DataError, match=r"the classifier has no label 'spam'\. It has: 'ham', 'eggs'"):
        data.read_by("single_label", ("ham", "eggs"))
    with pytest.raises(DataError, match=r"is single_label, and the classifier does multi_label\. --task multi_label"):
        data.read_by("multi_label", ("ham", "spam"))
    as_several = as_read(tmp_path, rows(), several=True)
    assert pairs(as_several.read_by("multi_label", ("ham", "spam"))) == pairs(data)


def test_a_regression_reads_numbers_whatever_its_output_is_called(tmp_path: Path) -> None:
    data = as_read(tmp_path, [{"text": f"text {i}", "score": i / 8} for i in range(60)])
    read = data.read_by("regression", ("LABEL_0",))
    assert read.labels == ("LABEL_0",)
    assert read.splits["test"].targets.tolist() == data.splits["test"].targets.tolist()


def test_options_of_columns_are_not_passed_over_for_a_bundled_set() -> None:
    with pytest.raises(DataError, match="sms-spam ships with Bantam, and it is known what its columns are"):
        load_dataset("sms-spam", columns=Columns(group="language"))
