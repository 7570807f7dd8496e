"""docs/architecture.md speaks of what is there: paths exist, names are defined where it says, no package is missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", PAGE)))
PATHS = [name for name in QUOTED if "/" in name]
PLACED = sorted(set(re.findall(r"`(\w+)`(?: process)? (?:in|from) `([\w/]+\.py)`", PAGE)))


def defined(path: Path) -> set[str]:
    """Names of the classes, functions and constants of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize("name", PATHS)
def test_a_path_of_the_page_exists(name: str) -> None:
    assert (ROOT / name).exists()
    assert (ROOT / name).is_dir() == name.endswith("/")


@pytest.mark.parametrize(("name", "path"), PLACED)
def test_a_name_of_the_page_is_where_it_says(name: str, path: str) -> None:
    assert name in defined(ROOT / path)


def test_the_page_says_enough_to_be_held_against() -> None:
    assert len(PATHS) > 30
    assert len(PLACED) > 20


def test_every_package_is_on_the_page() -> None:
    packages = {
        f"{path.parent.relative_to(ROOT).as_posix()}/"
        for package in ("bantam", "optimizer", "serving")
        for path in (ROOT / package).glob("*/__init__.py")
    }
    assert {package for package in packages if package not in PAGE} == set()
