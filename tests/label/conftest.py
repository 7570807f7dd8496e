"""A published tiny model, and corpora for it."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bantam.artifact import Artifact
from serving.repository import Version, publish
from tests.conftest import WORDS

THRESHOLDS = (0.3, 0.5, 0.7)


@pytest.fixture(scope="session")
def published(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """A model of several labels with a threshold each."""
    return publish(tiny_artifact, tmp_path_factory.mktemp("label") / "repository", "tiny", thresholds=THRESHOLDS)


@pytest.fixture(scope="session")
def publish_as(
    make_artifact: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Version]:
    """The same of another task, or of pairs."""

    def make(**options: Any) -> Version:
        root = tmp_path_factory.mktemp("label") / "repository"
        return publish(make_artifact(**options), root, "tiny", thresholds=None)

    return make


def sentences(count: int, seed: int = 0) -> list[str]:
    """Texts of the tiny model's words, of 1 to 40 of them."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 40))) for _ in range(count)]


def write_corpus(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format of the suffix."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
