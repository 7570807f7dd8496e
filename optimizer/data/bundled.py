"""The sets that ship with Bantam, compressed; each folder has its licence and says where it comes from."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from optimizer.data.dataset import SPLITS, Dataset, Rows, build
from optimizer.data.split import fill_splits

FOLDER = Path(__file__).parent.parent / "datasets"


def load_bundled(name: str, *, seed: int = 0) -> Dataset:
    """Load a set of :data:`BUNDLED`. ``seed`` is for the splits of sms-spam, which has none of its own."""
    return BUNDLED[name](seed)


def _lines(folder: str) -> Iterator[list[str]]:
    """Split, labels, text of each row."""
    data = lzma.decompress((FOLDER / folder / "data.tsv.xz").read_bytes()).decode("utf-8")
    return (line.split("\t") for line in data.split("\n") if line)


def _goemotions(seed: int) -> Dataset:
    labels = _goemotions_labels()["goemotions"]
    return _build_goemotions("goemotions", labels, {label: label for label in labels})


def _goemotions_ekman(seed: int) -> Dataset:
    groups = _goemotions_labels()["ekman"]
    return _build_goemotions("goemotions-ekman", groups, {fine: group for group in groups for fine in groups[group]})


def _goemotions_labels() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "goemotions" / "labels.json").read_text(encoding="utf-8")))


def _build_goemotions(name: str, labels: Any, mapping: dict[str, str]) -> Dataset:
    rows: dict[str, tuple[list[str], list[tuple[str, ...]]]] = {part: ([], []) for part in SPLITS}
    for part, found, text in _lines("goemotions"):
        rows[part][0].append(text)
        rows[part][1].append(tuple(mapping[label] for label in found.split(",")))
    return build(
        name,
        "multi_label",
        {part: Rows(*both) for part, both in rows.items()},
        labels=tuple(labels),
        licence="Apache-2.0",
        source="GoEmotions (Demszky et al. 2020), bundled",
        hub_id="google-research-datasets/go_emotions",
        language="en",
        about="Comments in English from Reddit, each labelled by three to five raters, who were native speakers of "
        "English in India. Reddit's users lean towards young men, and its language can be toxic; the set's authors "
        "removed part of the vulgar and offensive comments by word lists, and kept short ones only. Raters often "
        "disagree on an emotion.",
    )


def _sms_spam(seed: int) -> Dataset:
    lines = list(_lines("sms_spam"))
    rows = Rows([text for _, _, text in lines], [(label,) for _, label, _ in lines])
    splits, notes = fill_splits({"train": rows}, seed=seed)
    return build(
        "sms-spam",
        "single_label",
        splits,
        licence="free with copyright notice, no warranty (see optimizer/datasets/sms_spam/LICENSE.txt)",
        source="SMS Spam Collection v.1 (Almeida et al. 2011), bundled",
        notes=notes,
        hub_id="ucirvine/sms_spam",
        language="en",
        about="Text messages in English from before 2012: the wanted ones mostly from students in Singapore, the spam "
        "mostly from complaints on a British web site. Spam has changed since, and other people write otherwise.",
    )


BUNDLED: dict[str, Callable[[int], Dataset]] = {
    "goemotions-ekman": _goemotions_ekman,
    "goemotions": _goemotions,
    "sms-spam": _sms_spam,
}
