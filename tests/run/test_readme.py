"""README's lines for one's own classifier and data: what make hands to the command line, and what that resolves to."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bantam.commands import application
from bantam.run.prepare import prepare
from bantam.run.request import OptimizeRequest
from bantam.run.state import Run
from optimizer.config import AdoptConfig, FinetuneConfig
from tests.optimizer.toy_classifiers import write_classifier

ROOT = Path(__file__).resolve().parents[2]
(BLOCK,) = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
LINES = [line.partition("#")[0].strip() for line in BLOCK.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the lines name."""
    write_classifier(tmp_path / "my-classifier", labels=("pos", "neg"))
    rows = [(f"a text {number}", f"another {number}", ("neg", "pos")[number % 2], number / 7) for number in range(60)]
    tables = {
        "reviews.csv": ["text,label", *(f"{text},{label}" for text, _, label, _ in rows)],
        "texts.txt": [text for text, *_ in rows],
        "pairs.csv": ["premise,hypothesis,label", *(f"{a},{b},{label}" for a, b, label, _ in rows)],
        "scored.csv": ["text,label", *(f"{text},{value:.2f}" for text, _, _, value in rows)],
    }
    for name, lines in tables.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resolved(line: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What a line of README asks for, as far as it is known before any work."""
    dry = subprocess.run(
        [*shlex.split(line), "-n", "-C", str(ROOT)], capture_output=True, text=True, check=True, timeout=60
    )
    (command,) = re.findall(r"-m bantam (optimize .*)", dry.stdout.replace("\\\n", " "))
    found: list[Run] = []

    def only_prepare(request: OptimizeRequest, log: object) -> tuple[object, Path]:
        found.append(prepare(request, lambda line: None))
        raise KeyboardInterrupt

    monkeypatch.setattr("bantam.run.optimize.optimize", only_prepare)
    CliRunner().invoke(application(), shlex.split(command))
    return found[0]


def test_the_lines_are_the_five_that_are_looked_at() -> None:
    assert [line.split()[2:] for line in LINES] == [
        ["MODEL=./my-classifier", "DATA=reviews.csv"],
        ["MODEL=./my-classifier", "DATA=texts.txt"],
        ["MODEL=./my-classifier"],
        ["MODEL=minilm", "DATA=pairs.csv"],
        ["MODEL=minilm", "DATA=scored.csv"],
    ]


@pytest.mark.index
@pytest.mark.parametrize(
    ("line", "stage", "task", "metric", "labelled", "pair"),
    [
        (LINES[0], AdoptConfig, "single_label", "macro-f1", True, False),
        (LINES[1], AdoptConfig, "single_label", "agreement", False, False),
        (LINES[2], AdoptConfig, "single_label", "agreement", False, False),
        (LINES[3], FinetuneConfig, "single_label", "macro-f1", True, True),
        (LINES[4], FinetuneConfig, "regression", "spearman", True, False),
    ],
)
def test_each_line_means_what_it_says(
    line: str,
    stage: type,
    task: str,
    metric: str,
    labelled: bool,
    pair: bool,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = resolved(line, monkeypatch)
    assert type(run.recipe.stages[0]) is stage
    assert (run.data.task, str(run.metric), run.data.labelled, run.data.pair) == (task, metric, labelled, pair)
