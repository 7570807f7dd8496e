"""A data set from the Hugging Face hub, or one that ``datasets`` has saved in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bantam.errors import DataError
from optimizer.data.arrow import from_arrow
from optimizer.data.assemble import build_from_tables
from optimizer.data.bundled import BUNDLED
from optimizer.data.dataset import Columns, Dataset
from optimizer.data.names import split_of
from optimizer.data.table import Table
from optimizer.hub import HubError, require_hub

SHORT = {
    "glue": "nyu-mll/glue",
    "super_glue": "aps/super_glue",
    "superglue": "aps/super_glue",
    "xnli": "facebook/xnli",
    "paws": "google-research-datasets/paws",
    "snli": "stanfordnlp/snli",
    "multi_nli": "nyu-mll/multi_nli",
    "anli": "facebook/anli",
    "human-vs-machine": "NicolaiSivesind/human-vs-machine:wiki_labeled",
}
"""Names that the hub once had without an owner, as papers and scripts still write them, and a short name of our
own; after a colon, the configuration that is meant if none is named."""


def load_hub(name: str, *, columns: Columns, seed: int) -> Dataset:
    """Load ``owner/name``, ``owner/name:configuration`` or ``glue/rte``; see :func:`optimizer.data.load_dataset`.

    Raises :class:`DataError` if the hub is out of reach or has no such data set.
    """
    hub_id, configuration = hub_name(name)
    parts = _load(name, hub_id, configuration)
    first = next(iter(parts.values()))
    tables, notes = _tables(name, parts)
    return build_from_tables(
        name.replace("/", "--").replace(":", "--"),
        tables,
        columns=columns,
        seed=seed,
        licence=str(first.info.license or "not stated"),
        source=f"hub: {name}",
        notes=notes,
        hub_id=hub_id,
    )


def hub_name(name: str) -> tuple[str, str | None]:
    """The hub's name of a data set, and its configuration: ``glue/rte`` is ``rte`` of ``nyu-mll/glue``."""
    hub_id, _, configuration = name.partition(":")
    short, _, rest = hub_id.partition("/")
    if short in SHORT:
        hub_id, _, usual = SHORT[short].partition(":")
        return hub_id, configuration or rest or usual or None
    return hub_id, configuration or None


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of ``datasets`` has written the folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def saved_tables(folder: Path) -> tuple[Mapping[str, Sequence[Table]], list[str]]:
    """The tables of a folder of ``save_to_disk``, by split. Raises :class:`DataError` if it is damaged."""
    import datasets
    import pyarrow as pa

    try:
        loaded = datasets.load_from_disk(str(folder))
        if isinstance(loaded, datasets.Dataset):
            return _tables(str(folder), {"train": loaded})
        return _tables(str(folder), loaded)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as exc:
        raise DataError(f"{folder} cannot be read as a saved data set: {exc}") from exc


def _load(name: str, hub_id: str, configuration: str | None) -> Any:
    import datasets

    offline = bool(datasets.config.HF_HUB_OFFLINE)
    try:
        if not offline:
            require_hub()
        return datasets.load_dataset(hub_id, configuration)
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


def _tables(name: str, parts: Mapping[str, Any]) -> tuple[dict[str, list[Table]], list[str]]:
    tables: dict[str, list[Table]] = {}
    notes = []
    for split, part in parts.items():
        known = split_of(split)
        if known is None or known in tables:
            notes.append(f"The split {split!r} was left out.")
            continue
        part, without = _decided(part)
        if without:
            notes.append(f"{without:,} rows of {split!r} have no label (-1); they were left out.")
        tables[known] = [from_arrow(f"{name} ({split})", part.with_format("arrow")[:])]
    if "train" not in tables:
        raise DataError(f"{name} has the splits {', '.join(parts)}, but no train split.")
    return tables, notes


def _decided(part: Any) -> tuple[Any, int]:
    """The columns that may be read, and of the rows those with a label, if some have none: raters did not agree."""
    import datasets

    kept = [
        column
        for column, feature in part.features.items()
        if isinstance(getattr(feature, "feature", feature), (datasets.Value, datasets.ClassLabel))
    ]
    part = part.select_columns(kept)
    classes = [column for column in kept if isinstance(part.features[column], datasets.ClassLabel)]
    if len(classes) != 1:
        return part, 0
    known = [i for i, label in enumerate(part[classes[0]]) if label is not None and label >= 0]
    some = 0 < len(known) < part.num_rows
    return (part.select(known), part.num_rows - len(known)) if some else (part, 0)
