"""CSV that people open in a spreadsheet: no cell of it is run as a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

FORMULA = re.compile(r"[=+\-@\t\n\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that a spreadsheet computes; the last four are the wide forms of =, +, - and @."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def to_csv(rows: Iterable[Sequence[object]]) -> str:
    """The rows as CSV, with line feeds; None is an empty cell.

    A text that a spreadsheet would compute gets an apostrophe in front, which makes it a text (OWASP, "CSV
    Injection"). Numbers stay as they are, also negative ones that were read from a file as text.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    # csv quotes a line feed but no carriage return, after which a spreadsheet would begin another cell.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text
