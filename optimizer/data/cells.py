"""A label cell without what its format added: lists written as text, numbers written in several ways, spaces around."""

from __future__ import annotations

import ast
import json
import re
from decimal import Decimal
from typing import Any

from optimizer.data.rows import whole

Cell = str | int | float | bool | tuple[Any, ...] | None
"""None: nothing there. A tuple: a list of labels."""
ZEROS_AND_ONES = re.compile(r"[01](\.0*)?([\s,;|]+[01](\.0*)?){2,}")
"""At least three of them: no list of labels has one twice, and no number two commas."""
MISSING = ("nan", "NaN", "<NA>", "#N/A")
"""What pandas and spreadsheets write where nothing is; "none" and "n/a" may be names of classes."""
EXACT_DIGITS = 15
"""Longer whole numbers are names: a float cannot tell them apart."""
BRACKETS = ("[]", "{}", "()")
NUMBER = re.compile(r"-?(0|[1-9]\d*|(?=[.,]))([.,]\d+)?([eE][+-]?\d+)?")
WRAPPED = re.compile(r"(?:array|tensor)\((\[.*\])(?:,\s*dtype=[\w.']+)?\)", re.DOTALL)
"""A list as NumPy and PyTorch write it."""
NUMPY_NUMBERS = re.compile(r"\[\s*-?\d+(\.\d*)?(\s+-?\d+(\.\d*)?)*\s*\]")
NUMPY_STRINGS = re.compile(r"""\[\s*('[^']*'|"[^"]*")(\s+('[^']*'|"[^"]*"))+\s*\]""")


class NotALabelError(Exception):
    """A cell that can be no label, such as an object; whoever knows its line says so to the user."""


def clean(cell: Any) -> Cell:
    """The cell as a name, a number, a tuple for a list, or None. Raises :class:`NotALabelError` for anything else."""
    if cell is None or cell != cell:
        return None
    if isinstance(cell, str):
        stripped = cell.strip()
        if wrapped := WRAPPED.fullmatch(stripped):
            stripped = wrapped[1]
        if stripped[:1] + stripped[-1:] in BRACKETS:
            found = _list(stripped)
            return stripped if found is None else clean(found)
        if ZEROS_AND_ONES.fullmatch(stripped):
            return tuple(int(bit[0]) for bit in re.split(r"[\s,;|]+", stripped))
        return whole(stripped) if stripped and stripped not in MISSING else None
    if isinstance(cell, dict) and set(cell) == {"choices"}:
        return clean(cell["choices"])  # as Label Studio writes several answers
    if isinstance(cell, (list, tuple)):
        inner = tuple(clean(each) for each in cell)
        if any(each is None or isinstance(each, tuple) for each in inner):
            raise NotALabelError
        return inner
    if isinstance(cell, (bool, int, float)):
        return cell
    if isinstance(cell, Decimal):
        return float(cell)
    raise NotALabelError


def _list(text: str) -> list[Any] | None:
    """The list that a text is; None if it is a name in brackets, such as ``[SPAM]`` or ``(25, 32)``."""
    if NUMPY_NUMBERS.fullmatch(text):
        return [float(part) if "." in part else int(part) for part in text[1:-1].split()]
    if NUMPY_STRINGS.fullmatch(text):
        # Python would join the strings of numpy's notation to one.
        return [one or other for one, other in re.findall(r"""'([^']*)'|"([^"]*)\"""", text)]
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(found, dict) and set(found) == {"choices"}:
            found = found["choices"]
        if isinstance(found, (set, tuple)) and all(isinstance(each, str) for each in found):
            found = sorted(found)
        if isinstance(found, list):
            return found
    return None


def number(cell: Cell) -> float | None:
    """The number that a cell is, also with a decimal comma; None for a name, a code such as ``007``, or a list."""
    if cell is None or isinstance(cell, (bool, tuple)):
        return None
    if isinstance(cell, float):
        return cell
    written = str(cell)
    exact = len(written) <= EXACT_DIGITS or any(mark in written for mark in ".,eE")
    return float(written.replace(",", ".")) if exact and NUMBER.fullmatch(written) else None


def name(cell: Cell) -> str:
    """What a class is called: whole numbers without a point."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)
