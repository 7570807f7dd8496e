"""No cell of a CSV of ours is run by a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from bantam.spreadsheet import to_csv


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ('=HYPERLINK("http://x","y")', '\'=HYPERLINK("http://x","y")'),
        ("+1 to that", "'+1 to that"),
        ("- says who?", "'- says who?"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\n=1"),
        ("fine\r\n=1", "fine\n=1"),
        ("\N{FULLWIDTH EQUALS SIGN}1", "'\N{FULLWIDTH EQUALS SIGN}1"),
        ("1 = 1", "1 = 1"),
        ("", ""),
        ("-0.25", "-0.25"),
        ("+3", "+3"),
        ("-1.5e-3", "-1.5e-3"),
        (-0.25, "-0.25"),
        (-7, "-7"),
        (None, ""),
    ],
)
def test_what_would_be_a_formula_is_a_text_and_numbers_stay_numbers(cell: object, written: str) -> None:
    (row,) = csv.reader(io.StringIO(to_csv([["x", cell]]), newline=""))
    assert row == ["x", written]


def test_heads_are_cells_too() -> None:
    assert to_csv([["=cmd", "b"], [1, 2.5]]) == "'=cmd,b\n1,2.5\n"
