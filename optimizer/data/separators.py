"""Whether a comma, semicolon or bar in label cells separates labels, is part of a name, or of a number."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

SEPARATORS = (",", ";", "|")
OFTEN = 0.8
"""Share of the parts, by rows, that must come back in other cells."""
SOME = 0.01
"""Share of the rows that must have several labels."""
DECIMAL = re.compile(r"[+-]?(0|[1-9]\d*)(,(\d+))?")
ROUND = {"0", "00", "5", "50", "25", "75"}


def parts_of(cell: str, separator: str) -> tuple[str, ...]:
    """The labels of a cell, each once."""
    return tuple(dict.fromkeys(part.strip() for part in cell.split(separator) if part.strip()))


def without_brackets(cells: Iterable[str]) -> dict[str, str]:
    """Each cell without the brackets around it, if all have some and a comma shows a list: ``[joy, fear]``."""
    cells = list(cells)
    bracketed = all(cell.startswith("[") and cell.endswith("]") for cell in cells) and any(
        "," in cell for cell in cells
    )
    return {cell: cell[1:-1] if bracketed else cell for cell in cells}


def find_separator(counts: Mapping[str, int], *, sure: bool) -> str | None:
    """The separator of several labels in a cell, by how many rows have each different cell; None if there is none.

    Labels come back alone and in other combinations; the parts of a name such as "Home, Garden" do not, or in that one
    alone. A comma is common within names, other separators are not, and no number has one. ``sure``: there are several
    labels a row, so that one combination is enough.
    """
    for separator in SEPARATORS:
        cells = {cell: parts_of(cell, separator) for cell in counts}
        several = {cell: parts for cell, parts in cells.items() if len(parts) > 1}
        rows = sum(counts[cell] for cell in several)
        if not several or (not sure and (rows < 2 or rows < SOME * sum(counts.values()))):
            continue  # an odd cell or two make no other task of a whole set
        numbers = all(part.isdecimal() for parts in several.values() for part in parts)
        homes: dict[str, set[str]] = defaultdict(set)
        for cell, parts in cells.items():
            for part in parts:
                homes[part].add(cell)
        total = sum(counts[cell] * len(parts) for cell, parts in several.items())
        back = sum(counts[cell] for cell, parts in several.items() for part in parts if len(homes[part]) > 1)
        shared = sure or separator != "," or numbers or _combine(several)
        if shared and back >= OFTEN * total:
            return separator
    return None


def _combine(several: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether some label is in several combinations, as ``joy`` in "joy, fear" and "anger, joy"."""
    found = Counter(part for parts in several.values() for part in parts)
    return max(found.values()) > 1


def is_decimal_comma(counts: Mapping[str, int]) -> bool:
    """Whether cells such as ``3,75`` are numbers as half of Europe writes them, rather than two labels.

    They are if what follows the comma is the round end of a number, or no number of its own in other cells.
    """
    matches = {cell: DECIMAL.fullmatch(cell) for cell in counts}
    if not all(matches.values()) or not any("," in cell for cell in counts):
        return False
    ends = {match[3] for match in matches.values() if match and match[3]}
    if ends <= ROUND:
        return True
    alone = {cell for cell in counts if "," not in cell}
    rows = sum(count for cell, count in counts.items() if "," in cell)
    known = sum(count for cell, count in counts.items() if "," in cell and cell.partition(",")[2] in alone)
    return known < (1 - OFTEN) * rows


AROUND = " ,;|.:\"'"
"""What a slip of the hand leaves before or after a label."""


def odd_cell(counts: Mapping[str, int]) -> str | None:
    """A cell that is a more frequent one with a mark before or after it, such as ``pos,``."""
    for cell, count in counts.items():
        bare = cell.strip(AROUND)
        if bare != cell and counts.get(bare, 0) > count:
            return cell
    return None
