"""What the base install reaches imports only what the base declares."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
START = ("bantam", "bantam.__main__")
"""What users import, and the command that an installation brings."""
BEYOND = {"bantam.commands"}
"""Imported by the command if it is there; it is not in the wheel."""


def source(module: str, root: Path) -> Path | None:
    """The file of a module in the wheel; None if it is not in there."""
    path = root.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    package = module if path.is_dir() else module.rpartition(".")[0]
    return file if package in PROJECT["tool"]["setuptools"]["packages"] and file.is_file() else None


def imported(tree: ast.AST) -> set[str]:
    """All absolute imports, also those in functions; ``from a import b`` is both ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here (TID252)"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def undeclared(root: Path) -> list[str]:
    """``module imports name`` for what is neither the standard library's, nor in the wheel, nor a base dependency's."""
    base = {re.split(r"[^\w.-]", line)[0].lower() for line in PROJECT["project"]["dependencies"]}
    providers = importlib.metadata.packages_distributions()
    seen, todo, wrong = set(), [*START], []
    while todo:
        module = todo.pop()
        path = source(module, root)
        if module in seen or path is None:
            continue
        seen.add(module)
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))) - {"__future__"}:
            top = name.partition(".")[0]
            if top == "bantam":
                parts = name.split(".")
                todo += [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
                inside = source(name, root) or source(name.rpartition(".")[0], root)
                if not inside and not any(name == known or name.startswith(f"{known}.") for known in BEYOND):
                    wrong.append(f"{module} imports {name}")
            elif top not in sys.stdlib_module_names and not base & {
                provider.lower() for provider in providers.get(top, ())
            }:
                wrong.append(f"{module} imports {name}")
    assert {"bantam.client.classifier", "bantam.client.http_transport", "bantam.errors"} <= seen
    return sorted(wrong)


def test_what_the_base_install_reaches_imports_only_what_it_declares() -> None:
    assert undeclared(ROOT) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import rich", "imports rich"),
        ("def f():\n    from pydantic import BaseModel", "imports pydantic.BaseModel"),
        ("from bantam.report import schema", "imports bantam.report.schema"),
        ("import serving.server", "imports serving.server"),
    ],
)
def test_what_it_would_find(tmp_path: Path, line: str, found: str) -> None:
    for name in ("bantam", "bantam/client"):
        (tmp_path / name).mkdir(exist_ok=True)
        for file in (ROOT / name).glob("*.py"):
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "bantam/client/retry.py").open("a", encoding="utf-8") as retry:
        retry.write(f"\n{line}\n")
    assert [wrong for wrong in undeclared(tmp_path) if wrong.endswith(found)] == [f"bantam.client.retry {found}"]
