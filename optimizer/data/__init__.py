"""Texts and labels: from a set that ships with Bantam, a file or folder, or a hub data set."""

from __future__ import annotations

from pathlib import Path

from bantam.errors import DataError
from optimizer.data.bundled import BUNDLED, load_bundled
from optimizer.data.dataset import SPLITS, Columns, Dataset, Split

AS_USUAL = Columns()

__all__ = ["BUNDLED", "SPLITS", "Columns", "Dataset", "Split", "load_dataset"]


def load_dataset(
    name: str,
    *,
    columns: Columns = AS_USUAL,
    seed: int = 0,
) -> Dataset:
    """Load a data set with its three splits.

    ``name`` is a bundled set, the path of a CSV, TSV, JSONL, Parquet or text file or of a folder with files for each
    split, or the id of a data set on the Hugging Face hub, tried in this order; docs/data.md has the forms. The columns
    are found by their usual names unless they are given. Rows without a split column or split files are split 60/30/10
    into train, test and dev, stratified by label, by ``seed``; rows without labels 60/10/30.

    Raises :class:`DataError` if the data cannot be found, read or used for training.
    """
    if name in BUNDLED:
        if columns != AS_USUAL:
            raise DataError(
                f"{name} ships with Bantam, and it is known what its columns are. Leave the options of columns, labels "
                "and task out, such as --slice-column; or give data of your own."
            )
        return load_bundled(name, seed=seed)
    path = Path(name).expanduser()
    if path.exists():
        from optimizer.data.files import load_path

        return load_path(path, columns=columns, seed=seed)
    if path.suffix or path.is_absolute() or name.startswith((".", "~")):
        raise DataError(
            f"There is no data file {name!r}. Give the path of a CSV, TSV, JSONL or Parquet file, "
            f"a hub data set, or one of: {', '.join(BUNDLED)}."
        )
    from optimizer.data.hub import load_hub

    return load_hub(name, columns=columns, seed=seed)
