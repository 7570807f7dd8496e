"""A data set from the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from bantam.errors import DataError
from optimizer.data.bundled import BUNDLED
from optimizer.data.columns import SPLIT_NAMES, build_from_tables
from optimizer.data.dataset import Columns, Dataset
from optimizer.data.table import Table
from optimizer.hub import HubError, require_hub


def load_hub(name: str, *, columns: Columns, seed: int) -> Dataset:
    """Load ``owner/name``, or ``owner/name:configuration``; see :func:`optimizer.data.load_dataset`.

    Raises :class:`DataError` if the hub is out of reach or has no such data set.
    """
    parts = _load(name)
    first = next(iter(parts.values()))
    tables, notes = {}, []
    for split, part in parts.items():
        known = SPLIT_NAMES.get(split.lower())
        table = Table(f"{name} ({split})", _columns(part), range(1, part.num_rows + 1))
        if known is None or known in tables:
            notes.append(f"The split {split!r} was left out.")
        elif known != "train" and _unlabelled(table, part):
            notes.append(f"The split {split!r} has no labels; it was left out.")
        else:
            tables[known] = table
    if "train" not in tables:
        raise DataError(f"{name} has the splits {', '.join(parts)}, but no train split.")
    return build_from_tables(
        name.replace("/", "--").replace(":", "--"),
        tables,
        columns=columns,
        seed=seed,
        licence=str(first.info.license or "not stated"),
        source=f"hub: {name}",
        notes=notes,
        hub_id=name.partition(":")[0],
    )


def _load(name: str) -> Any:
    import datasets

    hub_id, _, configuration = name.partition(":")
    offline = bool(datasets.config.HF_HUB_OFFLINE)
    try:
        if not offline:
            require_hub()
        return datasets.load_dataset(hub_id, configuration or None)
    except datasets.exceptions.DatasetNotFoundError as exc:
        raise DataError(
            f"Unknown data {name!r}: no local file, and the hub has no data set of that name (or it is private).\n"
            f"Known: {', '.join(BUNDLED)}; or the path of a CSV, TSV, JSONL or Parquet file; or a hub data set."
        ) from exc
    except (HubError, ConnectionError) as exc:
        raise DataError(
            f"Unknown data {name!r}: no local file or bundled set, and the hub could not be asked. {exc}\n"
            f"Known: {', '.join(BUNDLED)}; or the path of a CSV, TSV, JSONL or Parquet file. If this hub data set was "
            "loaded here before, set HF_HUB_OFFLINE=1 to take it from the cache."
        ) from exc
    except (ValueError, RuntimeError, OSError) as exc:
        # The library says which configurations there are, or that a data set needs its own code.
        raise DataError(f"The hub data set {name} cannot be loaded: {exc}") from exc


def _columns(part: Any) -> dict[str, list[Any]]:
    """The columns as lists, images and the like left out; numbers that stand for classes become the classes' names."""
    import datasets

    return {
        column: _named(list(part[column]), feature)
        for column, feature in part.features.items()
        if isinstance(getattr(feature, "feature", feature), (datasets.Value, datasets.ClassLabel))
    }


def _named(cells: list[Any], feature: Any) -> list[Any]:
    import datasets

    inner = getattr(feature, "feature", feature)
    if not isinstance(inner, datasets.ClassLabel):
        return cells
    names = inner.names
    if inner is feature:
        # -1 is the hub's word for a label that is kept secret.
        return [None if cell is None or cell < 0 else names[cell] for cell in cells]
    return [[names[i] for i in cell] for cell in cells]


def _unlabelled(table: Table, part: Any) -> bool:
    import datasets

    classes = [name for name, feature in part.features.items() if isinstance(feature, datasets.ClassLabel)]
    return any(all(cell is None for cell in table.columns[name]) for name in classes)
