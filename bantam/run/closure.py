"""What code a stage runs: its module and all that this imports of ours, found by reading, without importing anything.

So a run in which every stage is there already needs no torch. What is imported by a name that is put together while
running is not found.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OURS = ("bantam", "optimizer", "serving")
LIBRARIES = (
    "accelerate",
    "bitsandbytes",
    "galore_torch",
    "nncf",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "peft",
    "tokenizers",
    "torch",
    "torchao",
    "transformers",
)
"""Those that compute; a newer version of any other changes no result."""
ROOT = Path(__file__).resolve().parents[2]


def code(*modules: str) -> int | str:
    """What stands for the code behind ``modules`` in a cache key: the first one's ``REVISION``, else a hash of all.

    A module that trains has a ``REVISION``, which is raised by hand when its result changes: hours are not spent again
    for a message. The hash is over the syntax of the modules and of ours that they import: comments do not count.
    """
    revision = _module(_source(modules[0])).revision
    if revision is not None:
        return revision
    found = {name: _module(path).syntax for name, path in _closure(modules).items()}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def libraries(*modules: str) -> dict[str, str]:
    """Versions of the libraries in :data:`LIBRARIES` that ``modules``, or ours behind them, import."""
    paths = _closure(modules).values()
    roots = {name.partition(".")[0] for path in paths for name in _module(path).imports}
    if "transformers" in roots:
        roots.add("tokenizers")
    return {name: version for name in LIBRARIES if name in roots and (version := _version(name))}


def _closure(modules: tuple[str, ...]) -> dict[str, Path]:
    """Module -> source, for the modules and all of ours that they import by name: no packages around them."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if not path.is_file():
            name = name.rpartition(".")[0]
            path = _source(name)
        if name in found or not path.is_file():
            continue
        found[name] = path
        waiting += [each for each in _module(path).imports if each.partition(".")[0] in OURS]
    return found


def _source(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@dataclass(frozen=True)
class _Module:
    syntax: str
    """SHA-256."""
    imports: tuple[str, ...]
    """Anywhere in it but for the type checker; ``from a import b`` is ``a.b``, which may be a module or not."""
    revision: int | None


def _module(path: Path) -> _Module:
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _read(path: Path, changed: int) -> _Module:
    tree = ast.parse(path.read_bytes(), str(path))
    revisions = [
        int(ast.literal_eval(statement.value))
        for statement in tree.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "REVISION"
    ]
    return _Module(
        hashlib.sha256(ast.dump(tree).encode()).hexdigest(),
        tuple(_imports(tree, path.parent.relative_to(ROOT).parts)),
        revisions[0] if revisions else None,
    )


def _imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[str]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif isinstance(node, ast.stmt | ast.Module | ast.ExceptHandler | ast.match_case):
            waiting += ast.iter_child_nodes(node)


def _version(library: str) -> str | None:
    """Of the distribution that provides a module; onnxruntime is also in onnxruntime-gpu."""
    for name in (library, f"{library}-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
