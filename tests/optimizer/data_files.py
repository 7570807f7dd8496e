"""Data files as tests write them, and what is read from them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.data import Dataset

ROWS = [{"text": f"text number {i} café", "label": ("spam", "ham", "ham")[i % 3]} for i in range(60)]


def table(delimiter: str = ",", end: str = "\n") -> str:
    """``ROWS`` as a CSV."""
    return end.join([f"text{delimiter}label", *(f"{row['text']}{delimiter}{row['label']}" for row in ROWS), ""])


def texts(data: Dataset) -> set[str]:
    """Of all splits."""
    return {text for split in data.splits.values() for text in split.single}


def same_rows(data: Dataset) -> bool:
    """Whether they are ``ROWS``, in whatever splits."""
    found = {
        (text, data.labels[target])
        for split in data.splits.values()
        for text, target in zip(split.single, split.targets, strict=True)
    }
    return found == {(row["text"], row["label"]) for row in ROWS}


def write_jsonl(path: Path, objects: Iterable[Any]) -> str:
    """One object a line."""
    path.write_text("".join(json.dumps(each) + "\n" for each in objects), encoding="utf-8")
    return str(path)


def write(path: Path, cells: Sequence[Any], n: int = 120, text: str = "text", label: str = "label") -> str:
    """A CSV or JSONL file whose label cells go round."""
    rows = [{text: f"text number {i}", label: cells[i % len(cells)]} for i in range(n)]
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [text, label])
            writer.writeheader()
            writer.writerows(rows)
    else:
        write_jsonl(path, rows)
    return str(path)


def label_sets(data: Dataset) -> dict[str, tuple[str, ...]]:
    """The labels of each text."""
    found = {}
    for split in data.splits.values():
        for text, target in zip(split.single, split.targets, strict=True):
            chosen = np.flatnonzero(target) if data.task == "multi_label" else [target]
            found[text] = tuple(data.labels[i] for i in chosen)
    return found
