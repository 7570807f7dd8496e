"""The rules of the design, held over all source files: who imports whom, how long things are, what is never done."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("optimizer", "serving", "bantam")
INSIDE_TRITON = ("serving.backend", "serving.inline")
STAGES = ("adopt", "finetune", "distill", "prune", "quantize", "export")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 50
HEAVY = (
    "torch",
    "transformers",
    "onnxruntime",
    "openvino",
    "nncf",
    "onnx",
    "datasets",
    "matplotlib",
    "sklearn",
    "pandas",
)

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def named(path: Path) -> str:
    """The path as test ids and messages show it."""
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), named(path))


def module_of(path: Path) -> str:
    """Dotted name of a source file: ``optimizer.export.onnx``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, anywhere in it; relative imports made absolute.

    ``from package import name`` counts as ``package.name``, because ``name`` may be a module.
    """
    package = path.relative_to(ROOT).parent.parts
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def within(name: str, module: str) -> bool:
    """Whether the imported name is this module or something in it."""
    return name == module or name.startswith(f"{module}.")


def modules_inside_triton() -> set[str]:
    """Names under which files that are put into Triton's folders import each other; one of them is Triton's own."""
    return {path.stem for folder in INSIDE_TRITON for path in (ROOT / folder.replace(".", "/")).glob("*.py")}


def breaches(folder: str, allowed: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    """Imports in ``folder`` of something forbidden which is not allowed explicitly."""
    return [
        f"{named(path)} imports {name}"
        for path in SOURCES
        if within(module_of(path), folder)
        for name in sorted(imports(path))
        if any(within(name, f) for f in forbidden) and not any(within(name, a) for a in allowed)
    ]


def functions(path: Path) -> Iterator[Function]:
    """All functions and methods of a file."""
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def test_there_is_source_to_look_at() -> None:
    assert {module_of(path).split(".")[0] for path in SOURCES} == set(PACKAGES)
    assert "serving.backend" in {module_of(path).rpartition(".")[0] for path in SOURCES}


SEAM = (
    *("bantam.artifact", "bantam.errors", "bantam.files", "bantam.licence", "bantam.memory", "bantam.checkout"),
    "bantam.telemetry",
)


def test_the_optimizer_knows_nothing_of_serving() -> None:
    assert breaches("optimizer", SEAM, ("serving", "bantam", "tritonclient", "pytriton")) == []


def test_serving_knows_nothing_of_the_optimizer() -> None:
    seam = SEAM
    assert breaches("serving", seam, ("optimizer", "bantam", "torch", "transformers")) == []


def test_the_client_imports_nothing_but_itself_and_the_errors() -> None:
    assert breaches("bantam.client", ("bantam.client", "bantam.errors"), PACKAGES) == []


def test_benchmarks_import_nothing_from_tests() -> None:
    assert BENCHMARKS
    assert [named(path) for path in BENCHMARKS for name in imports(path) if within(name, "tests")] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_sibling_stage(stage: str) -> None:
    siblings = tuple(f"optimizer.{other}" for other in STAGES if other != stage)
    assert breaches(f"optimizer.{stage}", (), siblings) == []


def test_the_seam_needs_only_the_standard_library() -> None:
    for module in ("artifact", "errors", "files", "licence", "checkout"):
        roots = {name.split(".")[0] for name in imports(ROOT / f"bantam/{module}.py")}
        foreign = roots - sys.stdlib_module_names
        assert foreign <= {"bantam"}
        assert breaches(f"bantam.{module}", SEAM, PACKAGES) == []


@pytest.mark.parametrize("folder", INSIDE_TRITON)
def test_what_runs_inside_triton_is_self_contained(folder: str) -> None:
    allowed = modules_inside_triton() | {"serving", "numpy", "tokenizers", "onnxruntime", "openvino"}
    for path in (path for path in SOURCES if within(module_of(path), folder)):
        foreign = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names
        assert foreign <= allowed, named(path)
    assert breaches(folder, (folder,), PACKAGES) == []


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE_LINES, "split it by what its parts do"
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path) if f.end_lineno}
    assert {name: length for name, length in long.items() if length > MAX_FUNCTION_LINES} == {}


def test_every_foreign_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["dependencies"] + [line for lines in project["optional-dependencies"].values() for line in lines]
    names = {canonical(re.split(r"[^\w.-]", line)[0]) for line in declared}
    providers = importlib.metadata.packages_distributions()
    roots = {name.split(".")[0] for path in SOURCES for name in imports(path)}
    foreign = roots - sys.stdlib_module_names - {*PACKAGES}
    undeclared = [
        root
        for root in sorted(foreign - modules_inside_triton())
        if not names & {canonical(name) for name in providers.get(root, [root])}
    ]
    assert undeclared == []


def canonical(name: str) -> str:
    """A distribution's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_file_is_named_for_being_shared() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert [named(path) for path in SOURCES if vague & set(path.relative_to(ROOT).with_suffix("").parts)] == []


ONE_THING_TWICE = {
    "Budget": "what the choice is made by, and report.json's record of it, which also says whether it was kept",
}
"""Class names that two modules have for the same thing -> why."""


def test_no_two_public_classes_have_one_name() -> None:
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(named(path))
    assert {name: files for name, files in found.items() if len(files) > 1 and name not in ONE_THING_TWICE} == {}
    assert all(len(found.get(name, [])) == 2 for name in ONE_THING_TWICE), "an exception that nothing needs"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_everything_public_has_a_docstring(path: Path) -> None:
    bare = [] if ast.get_docstring(tree(path)) else ["the module"]
    bodies: list[ast.Module | ast.ClassDef] = [tree(path)]
    bodies += [node for node in tree(path).body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for body in bodies:
        for node in body.body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_") and not is_overload(node):
                bare += [] if ast.get_docstring(node) else [node.name]
    assert bare == []


def is_overload(node: Function | ast.ClassDef) -> bool:
    """Whether it is one of several signatures of a function, which has its docstring once."""
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_file_can_run_foreign_code(path: Path) -> None:
    found = sorted(
        name for name in imports(path) if name.split(".")[0] in {"pickle", "cloudpickle", "dill", "shelve", "joblib"}
    )
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        options = {word.arg: word.value for word in node.keywords}
        for option, wrong in (("trust_remote_code", True), ("weights_only", False), ("shell", True)):
            value = options.get(option)
            if isinstance(value, ast.Constant) and value.value is wrong:
                found.append(f"{option}={wrong} in line {node.lineno}")
    assert found == []


def asserts(function: Function) -> bool:
    """Whether a test function checks anything: an assert, or a context that expects an error or a warning."""
    expecting = {"raises", "warns", "deprecated_call"}
    called = {
        node.func.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    compared = any(name.startswith("assert_") for name in called)  # numpy.testing.assert_allclose and its like
    return compared or bool(expecting & called) or any(isinstance(node, ast.Assert) for node in ast.walk(function))


@pytest.mark.parametrize("path", [path for path in TESTS if path.stem.startswith("test_")], ids=named)
def test_every_test_asserts(path: Path) -> None:
    assert [f.name for f in functions(path) if f.name.startswith("test_") and not asserts(f)] == []


@pytest.mark.parametrize(
    "start",
    [
        "from bantam.commands import application; application()",
        "import serving",
        "import optimizer.recipe",
        "import bantam.doctor",
    ],
)
def test_start_up_loads_no_heavy_library(start: str) -> None:
    code = f"{start}\nimport sys; print(*sorted({set(HEAVY)!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
