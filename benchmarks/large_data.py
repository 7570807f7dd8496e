"""How long 1,000,000 rows take to load, and how much memory: a process for each format.

.venv/bin/python -m benchmarks.large_data [--rows 1000000]

``--write FILE.csv`` writes rows that can be learnt from instead, for a run on them: two of GoEmotions' texts, and the
labels of both.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FORMATS = ("single.csv", "several.csv", "pairs.csv", "single.tsv", "single.jsonl", "single.parquet")
WORDS = [f"word{n}" for n in range(100)]


def main() -> None:
    """Write a file of each format, and load it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--write", type=Path, help="write real texts in pairs to this CSV file, and do nothing else")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        _write_rows(options.write, _real(options.rows))
        return
    if options.load:
        _load(options.load)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            path = Path(folder) / name
            _write(path, options.rows)
            command = [sys.executable, "-m", "benchmarks.large_data", "--load", str(path)]
            subprocess.run(command, check=True, timeout=600)
            path.unlink()


def _load(path: Path) -> None:
    start = time.perf_counter()
    from optimizer.data import load_dataset

    data = load_dataset(str(path))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kilobytes on Linux
    rows = sum(len(split.texts) for split in data.splits.values())
    torch = "torch imported" if "torch" in sys.modules else "without torch"
    size = path.stat().st_size / 1e6
    print(
        f"{path.name}: {rows:,} rows, {size:.0f} MB, {data.task}: {seconds:.1f} s, {peak:.2f} GB at its peak, {torch}"
    )


def _rows(name: str, count: int) -> Iterator[dict[str, object]]:
    draw = random.Random(0)
    for i in range(count):
        text = " ".join(draw.choices(WORDS, k=draw.randint(8, 40))) + f' "{i}"'
        label = draw.choice(("negative", "neutral", "positive"))
        if name == "pairs":
            yield {"premise": text, "hypothesis": text[::-1], "score": draw.randint(0, 50) / 10}
        elif name == "several":
            yield {"text": text, "labels": ",".join(sorted({label, f"topic {i % 7}"}))}
        else:
            yield {"text": text, "label": label}


def _real(count: int) -> Iterator[dict[str, object]]:
    from optimizer.data import load_dataset

    data, draw, written = load_dataset("goemotions-ekman"), random.Random(0), set[tuple[int, int]]()
    train = data.splits["train"]
    names = [{name for name, said in zip(data.labels, row, strict=True) if said} for row in train.targets]
    while len(written) < count:
        pair = first, second = draw.randrange(len(names)), draw.randrange(len(names))
        if pair not in written:
            written.add(pair)
            labels = ",".join(sorted(names[first] | names[second]))
            yield {"text": f"{train.texts[first]} {train.texts[second]}", "labels": labels}


def _write(path: Path, count: int) -> None:
    rows = _rows(path.stem, count)
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        _write_rows(path, rows)


def _write_rows(path: Path, rows: Iterator[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
            return
        first = next(rows)
        writer = csv.DictWriter(file, list(first), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerow(first)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
