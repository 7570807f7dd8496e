"""What a run does at its end: test is looked at once, and nothing is published that must not be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bantam.artifact import Artifact, Manifest, Signature, seal
from bantam.errors import GateError, StageError, UnfaithfulError
from bantam.report.file import read_report
from bantam.report.text import headline
from bantam.run import builder, evaluator, text_parity
from bantam.run import optimize as module
from bantam.run.builder import Builder
from bantam.run.optimize import optimize
from bantam.run.request import OptimizeRequest
from bantam.run.state import Run
from bantam.run.store import Store
from tests.run.made_up import make_run, timing

Runs = Callable[..., "Done"]


@dataclass
class Done:
    """What a run did that costs something, in order."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    published: list[str] = field(default_factory=list)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Runs a made-up run from where its variants are there to its end; publishing is only noted."""

    def go(run: Run, publish: Callable[..., object] | None = None) -> Done:
        done = Done()
        monkeypatch.setattr(module, "prepare", lambda request, log: run)
        monkeypatch.setattr(module, "rehearse", lambda run, log: None)
        monkeypatch.setattr(module, "make", lambda run, log: None)
        noted = publish or (lambda run, chosen, log: done.published.append(chosen))
        monkeypatch.setattr(module, "publish_chosen", noted)
        monkeypatch.setattr(evaluator, "score_test", lambda run, names, log: done.calls.append(("test", *names)))
        monkeypatch.setattr(evaluator, "score_dev", lambda run, names, log: _score(run, names, done))
        monkeypatch.setattr(evaluator, "measure_variants", lambda run, names, *_: done.calls.append(("time", *names)))
        optimize(OptimizeRequest(), lambda line: None)
        return done

    return go


def _score(run: Run, names: list[str], done: Done) -> None:
    done.calls.append(("dev", *names))
    for name in names:
        run.scored[name] = replace(run.scored["baseline"], artifact=run.artifacts[name])
        run.measured[name] = timing(name)


def test_test_is_looked_at_once_for_the_baseline_and_the_chosen_variant(runs: Runs, tmp_path: Path) -> None:
    done = runs(make_run(tmp_path))
    assert done.calls == [("time", "baseline", "fp32", "int8"), ("test", "baseline", "int8")]
    assert done.published == ["int8"]


def test_test_contradicts_with_the_lower_end_of_its_interval_and_then_nothing_is_published(
    runs: Runs, tmp_path: Path
) -> None:
    run = make_run(tmp_path, test=(0.0, 0.1))
    with pytest.raises(
        GateError, match=r"int8 was within 2 points of macro-f1 on dev, but on test it\s+loses 1\d\.\d\d"
    ):
        runs(run)
    report = read_report(tmp_path)
    assert (report.chosen, report.budget.met, report.published) == ("int8", False, None)


def test_a_drop_on_test_whose_interval_still_holds_the_budget_is_no_contradiction(runs: Runs, tmp_path: Path) -> None:
    run = make_run(tmp_path, test=(0.0, 0.02), rows=300)
    assert runs(run).published == ["int8"]
    on_test = read_report(tmp_path).variant("int8").quality
    assert on_test is not None
    assert on_test.drop_ci95 is not None
    assert on_test.drop_ci95[0] <= 2 < on_test.drop_ci95[1], "dev alone decides"


def test_if_nothing_compressed_keeps_the_budget_the_unquantized_export_is_published(runs: Runs, tmp_path: Path) -> None:
    assert runs(make_run(tmp_path, dev=(0.0, 0.1))).published == ["fp32"]
    assert "nothing compressed kept the budget" in (read_report(tmp_path).chosen_reason or "")


def test_the_safe_choice_is_scored_and_timed_when_it_is_needed(runs: Runs, tmp_path: Path) -> None:
    """The recipe exports it, but does not measure it."""
    run = make_run(tmp_path, dev=(0.0, 0.1))
    del run.scored["fp32"], run.measured["fp32"]
    done = runs(run)
    assert done.calls == [("time", "baseline", "int8"), ("dev", "fp32"), ("time", "fp32"), ("test", "baseline", "fp32")]
    assert done.published == ["fp32"]
    assert [v.name for v in read_report(tmp_path).variants] == ["baseline", "int8", "fp32"]


def test_require_gain_publishes_nothing_uncompressed(runs: Runs, tmp_path: Path) -> None:
    run = make_run(tmp_path, dev=(0.0, 0.1))
    run.request = replace(run.request, require_gain=True)
    with pytest.raises(
        GateError, match="as --require-gain asks: nothing compressed kept the budget of 2 points"
    ) as caught:
        runs(run)
    assert caught.value.exit_code == 1
    assert read_report(tmp_path).published is None
    run = make_run(tmp_path)
    run.request = replace(run.request, require_gain=True)
    assert runs(run).published == ["int8"]


def test_a_limit_that_nothing_holds_publishes_nothing_looks_at_no_test_and_names_the_nearest(
    runs: Runs, tmp_path: Path
) -> None:
    """The export is no way out: it takes too much itself, which is known once it was measured."""
    run = make_run(tmp_path)
    run.request = replace(run.request, max_p99_ms=0.001)
    del run.scored["fp32"], run.measured["fp32"]
    run.scored = {name: replace(scored, test=None) for name, scored in run.scored.items()}
    with pytest.raises(
        GateError,
        match=r"^Nothing was published: no variant holds every budget, 2 points \(a p99 of 0\.001 ms\); "
        r"nearest came int8: its served p99 is 2\.\d\d ms and may be .* the budget is 0\.001 ms\. The version before",
    ) as caught:
        runs(run)
    assert caught.value.exit_code == 1
    report = read_report(tmp_path)
    assert (report.chosen, report.budget.met, report.published) == ("int8", False, None)
    assert report.budget.max_p99_ms == 0.001
    assert (report.budget.unmet or "").startswith("its served p99 is 2.")
    assert {v.quality.split for v in report.variants if v.quality} == {"dev"}
    assert headline(report)[0].startswith("Nothing was chosen: no variant holds every budget")


def test_a_safe_choice_that_answers_otherwise_is_not_published(runs: Runs, tmp_path: Path) -> None:
    run = make_run(tmp_path, dev=(0.0, 0.1))
    run.answers["fp32", "dev"] = run.answers["fp32", "dev"] + 0.5
    with pytest.raises(UnfaithfulError, match="That is fp32, but the server's scores differ"):
        runs(run)


def test_a_staged_version_that_answers_otherwise_leaves_a_report_and_an_error(runs: Runs, tmp_path: Path) -> None:
    def refuse(run: Run, chosen: str, log: object) -> None:
        raise UnfaithfulError("it answers otherwise")

    with pytest.raises(UnfaithfulError, match="it answers otherwise"):
        runs(make_run(tmp_path), refuse)
    assert read_report(tmp_path).published is None


def test_a_folder_shows_the_stages_of_the_recipe_and_their_scores_once_all_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    run.folder = tmp_path / "run"
    store = Store(tmp_path)
    kept = ("fp32", "scores-fp32-dev", "scores-fp32-test")
    for number, name in enumerate((*kept, "old", "scores-old-dev")):
        store.get_or_make(f"{number}" * 64, partial(_write, f"{number}" * 64), run.folder / name)
    shown: list[int] = []
    monkeypatch.setattr(builder, "run", lambda *_, **__: Builder(run.folder, run.data, {}, artifacts=run.artifacts))
    monkeypatch.setattr(text_parity, "check", lambda *_: 0.0)
    monkeypatch.setattr(evaluator, "score_dev", lambda *_: shown.append(len(list(run.folder.glob("*/manifest.json")))))
    module.make(run, lambda line: None)
    assert shown == [5] * 3, "nothing goes before all is there"
    assert sorted(path.parent.name for path in run.folder.glob("*/manifest.json")) == sorted(kept)
    assert len(store.collect()) == 2


def test_a_variant_that_cannot_run_here_has_failed_and_is_not_the_end_of_the_run(
    tmp_path: Path, make_artifact: Callable[..., Artifact]
) -> None:
    run = make_run(tmp_path, rows=20)
    run.folder = tmp_path / "run"
    broken, said = make_artifact(details={"made": "broken"}), list[str]()
    (broken.folder / "model.onnx").write_bytes(b"no model")
    run.artifacts = {"fp32": make_artifact(), "int8": replace(broken, name="int8"), "baseline": make_artifact()}
    run.scored.clear()
    module._score(run, ["baseline", "int8", "fp32"], said.append)
    assert set(run.scored) == {"baseline", "fp32"}
    assert run.failed["int8"].startswith("int8 failed while running in process: ")
    assert f"{'int8':<24} failed: {run.failed['int8']}" in said
    for needed in ("baseline", "fp32"):
        run.artifacts[needed] = broken
        with pytest.raises(StageError, match="failed while running in process"):
            module._score(run, [needed], said.append)


def _write(key: str, folder: Path) -> None:
    seal(folder, Manifest("test", key, "scores", Signature("single_label", ("no", "yes"), (), 8)))
