"""A search over made-up variants: who is left when, what is timed, what is chosen, and that a kill loses nothing."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam.artifact import Artifact
from bantam.errors import GateError, RecipeError, UnfaithfulError
from bantam.files import write_text
from bantam.memory import MemoryWatch
from bantam.report.file import REPORT_JSON, read_report, to_json
from bantam.report.outcome import dropped, searched
from bantam.report.page import render
from bantam.report.schema import Report
from bantam.run import evaluator, judge, record, search, timing, worker
from bantam.run import optimize as module
from bantam.run.choose import choose
from bantam.run.judge import candidates
from bantam.run.kept_times import KeptTimes
from bantam.run.request import OptimizeRequest
from bantam.run.score import Scored
from bantam.run.state import Run
from bantam.run.timing import Compared, Timing
from optimizer.evaluate import disagreement, tune_thresholds
from optimizer.recipe import load_recipe
from optimizer.recipe_tables import SearchConfig
from tests.run.made_up import INT8, artifact, make_run, scores

pytestmark = pytest.mark.usefixtures("few_resamples")
ROWS = 300
QUIET = SearchConfig(glance_rows=100, rungs=((20, 2), (40, 3)), finalists=2)


@dataclass(frozen=True)
class Made:
    """A variant that is only said to be there."""

    ms: float
    wrong: float = 0.0
    """Share of wrong labels."""
    mb: float = 4.0
    off: float = 0.0
    """By how much its server's answers differ."""
    waits: float = 0.0
    """Milliseconds that a request to its server takes longer."""


@dataclass
class Bench:
    """What stands in the place of processes and servers, and notes what is asked of them."""

    made: dict[str, Made]
    asked: list[str] = field(default_factory=list)
    fails_at: int | None = None
    noise: float = 0.0
    seed: int = 0

    def ask(self, what: str) -> None:
        self.asked.append(what)
        if len(self.asked) == self.fails_at:
            raise KeyboardInterrupt

    def compared(self, name: str, texts: int, rounds: int) -> Compared:
        rng = np.random.default_rng([self.seed, texts, len(name), sum(map(ord, name))])
        shape, length = (rounds, texts), np.random.default_rng(texts).uniform(0.7, 1.5, texts)
        own, anchor = (
            ms * length * rng.uniform(1 - self.noise, 1 + self.noise, shape) for ms in (self.made[name].ms, 10.0)
        )
        return Compared(own, anchor, 0, float(np.median(anchor)))

    def glance(self, run: Run, name: str, rows: Any, log: object) -> Any:
        self.ask(f"glance {name}")
        return self._scores(run, name)[rows]

    def score_dev(self, run: Run, names: Sequence[str], log: object) -> None:
        for name in names:
            self.ask(f"dev {name}")
            found = self._scores(run, name)
            thresholds = tune_thresholds(found, run.data.splits["dev"].targets)
            run.scored[name] = Scored(run.artifacts[name], found, thresholds)

    def score_test(self, run: Run, names: Sequence[str], log: object) -> None:
        self.ask(f"test {' '.join(names)}")
        for name in names:
            right = run.data.splits["test"].targets
            run.scored[name] = replace(run.scored[name], test=scores(right, self.made[name].wrong, 9))

    def time_variants(self, run: Run, names: Sequence[str], texts: int, rounds: int, *_: object, **how: bool) -> Any:
        self.ask(f"rung {' '.join(names)}")
        return {name: Timing(self.compared(name, texts, rounds), None) for name in ("baseline", *names)}

    def measure_variants(self, run: Run, names: Sequence[str], *_: object) -> None:
        self.ask(f"full {' '.join(names)}")
        for name in names:
            timed = self.compared(name, 60, 3)
            waits = self.made[name].waits
            served = None if name == "baseline" else replace(timed, own_ms=timed.own_ms + waits)
            run.measured[name] = Timing(timed, served, max_rate=1e3 / self.made[name].ms, peak_rss_mb=9.0)
            if served:
                run.answers[name, "dev"] = run.scored[name].dev + np.float32(self.made[name].off)

    def _scores(self, run: Run, name: str) -> Any:
        return scores(run.data.splits["dev"].targets, self.made[name].wrong, 7)


def start(tmp_path: Path, bench: Bench, config: SearchConfig = QUIET, **request: Any) -> Run:
    """A run whose variants are there, and nothing of them is known."""
    run = make_run(tmp_path, rows=ROWS)
    baseline, export, int8 = run.recipe.stages
    stages = [int8.model_copy(update={"name": name}) for name in bench.made if name not in ("baseline", "fp32")]
    run.recipe = run.recipe.model_copy(update={"stages": (baseline, export, *stages), "search": config})
    run.request = replace(run.request, **request)
    base = (("baseline", "finetune"), ("fp32", "export"))
    for name in [stage.name for stage in stages]:
        run.artifacts[name] = artifact(tmp_path, name, "onnx", INT8, *base, (name, "quantize"))
    for name, made in run.artifacts.items():
        if name in bench.made:
            files = {"model": {"sha256": f"hash of {name}", "bytes": int(1e6 * bench.made[name].mb)}}
            run.artifacts[name] = replace(made, manifest=replace(made.manifest, files=files))
    run.artifacts = {name: run.artifacts[name] for name in bench.made}
    run.scored, run.measured, run.answers = {}, {}, {}
    return run


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Runs a search to its end; publishing is only noted, and a report is made where one is asked for."""
    monkeypatch.setattr(timing, "RESAMPLES", 100)
    make_report = record.report

    def run_it(bench: Bench, *, report: bool = False, **request: Any) -> Run:
        run = start(tmp_path, bench, **request)
        for name in ("glance", "score_dev", "score_test", "time_variants", "measure_variants"):
            monkeypatch.setattr(evaluator, name, getattr(bench, name))
        monkeypatch.setattr(module, "prepare", lambda request, log: run)
        monkeypatch.setattr(module, "rehearse", lambda run, log: None)
        monkeypatch.setattr(module, "publish_chosen", lambda run, name, log: bench.ask(f"publish {name}"))
        monkeypatch.setattr(module, "make", lambda run, log: made(run))
        monkeypatch.setattr(record, "report", make_report if report else lambda run, choice: None)
        monkeypatch.setattr(module, "write_report", _write if report else lambda found, into: None)
        module.optimize(OptimizeRequest(), lambda line: None)
        return run

    return run_it


def _write(found: Report, into: Path) -> None:
    """Without the page, whose plots take seconds."""
    write_text(into / REPORT_JSON, to_json(found))


def made(run: Run) -> None:
    """What :func:`bantam.run.optimize.make` does behind the building."""
    config = run.recipe.search
    assert config is not None
    evaluator.score_dev(run, ["baseline", "fp32"], print)
    hopeful = search.glance(run, config, list(run.artifacts), lambda line: None)
    evaluator.score_dev(run, [name for name in hopeful if name not in run.scored], print)


MADE = {
    "baseline": Made(10.0),
    "fp32": Made(4.0, mb=90.0),
    "fast": Made(1.0, mb=9.0),
    "good": Made(1.5, mb=8.0),
    "fair": Made(2.0, mb=7.0),
    "slow": Made(3.0, mb=3.0),
    "slower": Made(3.5, mb=6.0),
    "lossy": Made(0.5, wrong=0.03, mb=2.0),
    "broken": Made(0.4, wrong=0.5, mb=1.0),
}


def test_each_look_is_at_fewer_variants_and_the_fastest_within_the_budget_is_chosen(
    go: Callable[..., Run], tmp_path: Path
) -> None:
    bench = Bench(MADE)
    run = go(bench, report=True)
    assert bench.asked[2:] == [
        *(f"glance {name}" for name in ("fast", "good", "fair", "slow", "slower", "lossy", "broken")),
        *(f"dev {name}" for name in ("fast", "good", "fair", "slow", "slower", "lossy")),
        "rung fast good fair slow slower",
        "rung fast good fair",
        "full baseline fp32 fast good",
        "test baseline fast",
        "publish fast",
    ]
    assert {name: left.step for name, left in run.left.items()} == {
        "broken": "100 rows of dev",
        "lossy": "dev",
        "slow": "rung 1",
        "slower": "rung 1",
        "fair": "rung 2",
    }
    report = read_report(tmp_path)
    assert (report.chosen, report.budget.met) == ("fast", True)
    reasons = dropped(report)
    assert set(reasons) == set(run.left)
    assert reasons["broken"].startswith("100 rows of dev: loses ")
    assert "(lower end of the interval, which holds for 8 tries), the budget is 2" in reasons["broken"]
    assert reasons["lossy"].startswith("dev: ")
    assert reasons["fair"].startswith("rung 2: takes 1.98 ms in process, fast takes 0.99")
    fair = report.variant("fair")
    assert fair.in_process is not None
    assert fair.in_process.p50_ms == pytest.approx(2.0, rel=0.1), "timed in a rung, and on the front's plot"
    assert (fair.served, report.variant("lossy").in_process) == (None, None)
    assert report.search is not None
    tried = [(rung.texts, rung.rounds, len(rung.variants)) for rung in report.search.rungs]
    assert tried == [(20, 2, 5), (40, 3, 3)]
    assert report.search.confidence == pytest.approx(1 - 0.05 / 8)
    page = render(report)
    assert "</b> was dropped: rung 2: takes 1.98" in page
    assert 'id="tradeoff-size-title"' in page


@pytest.mark.parametrize("metric", ["macro-f1", "micro-f1", "accuracy", "agreement"])
def test_at_a_glance_the_same_scores_lose_nothing_and_worse_ones_lose_something(tmp_path: Path, metric: str) -> None:
    """Of a weak baseline, on whose few rows tuned thresholds are far from those of all of dev."""
    run = make_run(tmp_path, rows=ROWS, metric=metric)
    rng, right = np.random.default_rng(0), run.data.splits["dev"].targets
    weak = np.clip(0.3 * right + 0.7 * rng.random(right.shape), 0, 1).astype(np.float32)
    run.scored["baseline"] = replace(run.scored["baseline"], dev=weak)
    rows = evaluator.glance_rows(run, 100)
    assert len(set(rows)) == 100
    assert rows[-1] >= 100, "not the first ones"
    assert judge.glance(run, rows, weak[rows]) == pytest.approx(
        (0, 0, disagreement(0, 100).high * (metric == "agreement"))
    )
    worse = judge.glance(run, rows, rng.random(weak[rows].shape).astype(np.float32))
    assert worse is not None
    assert worse.points > 1


def test_the_best_is_never_left_on_the_way_however_noisy_the_times(tmp_path: Path) -> None:
    """Times are off by up to a third, twenty others take 2% to 60% more: the best goes on, and some do not."""
    config = SearchConfig(glance_rows=50, rungs=((20, 3), (40, 3)), finalists=3)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        made = {f"v{n}": Made(float(rng.uniform(1.02, 1.6))) for n in range(20)} | {"best": Made(1.0)}
        bench = Bench({"baseline": Made(10.0), "fp32": Made(4.0), **made}, noise=0.33, seed=seed)
        run = start(tmp_path, bench, config)
        clock = search._Clock(run, KeptTimes(tmp_path / f"{seed}"), MemoryWatch(), lambda line: None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluator, "time_variants", bench.time_variants)
            patch.setattr(timing, "RESAMPLES", 200)
            finalists, others = search._halved(clock, config, list(made))
        assert "best" in finalists
        assert 3 <= len(finalists) < 20
        assert sorted([*finalists, *others]) == sorted(made)
        assert set(others) == set(run.left)


ASKED = 20
"""How often a search of these asks something: glances, dev, two rungs, in full, test, publish."""


@pytest.mark.parametrize("fails_at", [4, 12, *range(ASKED - 4, ASKED + 1)])
def test_what_is_ended_at_any_moment_goes_on_and_ends_alike(
    go: Callable[..., Run], tmp_path: Path, fails_at: int
) -> None:
    bench = Bench(MADE, fails_at=fails_at, noise=0.2)
    with pytest.raises(KeyboardInterrupt):
        go(bench)
    done = {step for step in bench.asked[:-1] if step.startswith(("rung", "full"))}
    assert len(done) == max(0, min(3, fails_at - (ASKED - 4)))
    bench.asked.clear()
    bench.fails_at, bench.seed = None, 1  # who measured again would find other times
    run = go(bench)
    assert not done & set(bench.asked), "no rung is measured twice"
    assert bench.asked[-1] == "publish fast"
    assert set(run.left) == {"broken", "lossy", "slow", "slower", "fair"}
    assert not list(tmp_path.glob(f"{search.TIMES}-*")), "a run that begins anew measures anew"


def test_a_limit_of_time_that_nothing_holds_is_known_early_and_names_the_fastest(
    go: Callable[..., Run], tmp_path: Path
) -> None:
    bench = Bench(MADE, noise=0.2)
    with pytest.raises(GateError, match=r"no variant holds every budget, .*nearest came fast: its served p99 is 1\."):
        go(bench, report=True, max_p99_ms=0.001)
    full = [step for step in bench.asked if step.startswith("full")]
    assert full == ["full baseline fp32 fast"]
    assert not any(step.startswith(("test", "publish")) for step in bench.asked)
    report = read_report(tmp_path)
    assert (report.chosen, report.published, report.budget.met) == ("fast", None, False)
    assert "rung 1: its p99 is at least" in dropped(report)["slow"]


def test_of_the_highest_rate_too_a_limit_of_time_that_nothing_holds_is_known_early(go: Callable[..., Run]) -> None:
    bench = Bench(MADE)
    with pytest.raises(GateError, match=r"nearest came fast: its served p99 is"):
        go(bench, max_p99_ms=0.001, objective="throughput")
    timed = [step for step in bench.asked if step.startswith(("rung", "full"))]
    assert timed == ["rung fast good fair slow slower", "full baseline fp32 fast"]


def test_after_the_last_rung_no_more_are_left_than_finalists_and_what_is_like_the_best(tmp_path: Path) -> None:
    made = {f"v{n}": Made(1 + 0.1 * n) for n in range(24)}
    run = start(tmp_path, bench := Bench({"baseline": Made(10.0), "fp32": Made(4.0), **made}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "time_variants", bench.time_variants)
        clock = search._Clock(run, KeptTimes(tmp_path / "times"), MemoryWatch(), lambda line: None)
        assert search._halved(clock, QUIET, list(made))[0] == ["v0", "v1"]


def test_a_limit_of_size_that_nothing_holds_names_what_was_never_timed(go: Callable[..., Run]) -> None:
    bench = Bench(MADE)
    with pytest.raises(GateError, match=r"nearest came slow: it ships 3\.00 MB, the budget is 1\.5 MB"):
        go(bench, max_size_mb=1.5)
    assert not any(step.startswith("rung") for step in bench.asked)


def test_of_the_smallest_nothing_is_timed_before_they_are_measured_in_full(go: Callable[..., Run]) -> None:
    bench = Bench(MADE)
    run = go(bench, objective="size")
    assert bench.asked[-3:] == ["full baseline fp32 slow slower", "test baseline slow", "publish slow"]
    assert run.left["fast"].reason == "ships 9.00 MB, slow ships 3.00 MB"


def test_if_no_finalist_may_be_published_those_left_before_them_are_measured(go: Callable[..., Run]) -> None:
    unfaithful = {name: replace(MADE[name], off=0.5) for name in ("fast", "good")}
    bench = Bench(MADE | unfaithful)
    run = go(bench)
    assert [step for step in bench.asked if step.startswith("full")] == [
        "full baseline fp32 fast good",
        "full baseline fp32 fair slow",
    ]
    assert bench.asked[-1] == "publish fair"
    assert "fair" not in run.left


def test_of_random_weights_too_others_are_measured_if_no_finalist_may_be_published(tmp_path: Path) -> None:
    """There is no safe choice: the first finalist is what the others' times are compared with."""
    names = ("baseline", "fast", "good", "fair")
    made = {name: replace(MADE[name], off=0.5 if name in ("fast", "good") else 0.0) for name in (*names, "fp32")}
    bench = Bench(made)
    run = start(tmp_path, bench)
    run.checkpoint = replace(run.checkpoint, random_weights=True)
    bench.score_dev(run, names, print)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("time_variants", "measure_variants"):
            patch.setattr(evaluator, name, getattr(bench, name))
        search.measure(run, QUIET, MemoryWatch(), lambda line: None)
    assert bench.asked[-2:] == ["full baseline fast good", "full baseline fast fair"]
    assert choose(candidates(run), run.measured["baseline"], run.budget, run.safe).chosen == "fair"


def test_what_is_slower_in_process_is_measured_if_the_faster_take_too_long_when_served(go: Callable[..., Run]) -> None:
    bench = Bench(MADE | {name: replace(MADE[name], waits=5.0) for name in ("fast", "good")})
    go(bench, max_p99_ms=4.0)
    assert bench.asked[-1] == "publish fair"


def test_if_what_they_were_made_from_is_faster_no_more_are_measured(go: Callable[..., Run]) -> None:
    bench = Bench(MADE | {"fp32": Made(0.9)})
    go(bench)
    assert [step for step in bench.asked if step.startswith("full")] == ["full baseline fp32 fast good"]
    assert bench.asked[-1] == "publish fp32"


def test_times_of_two_sessions_compare_by_their_anchors() -> None:
    """The machine takes twice as long in the second one."""
    texts = np.random.default_rng(0).uniform(0.8, 1.2, (3, 20))

    def session(slow: float, **own: float) -> dict[str, Timing]:
        anchor = 10 * slow * texts
        found = {name: Compared(ms * slow * texts, anchor, 0, float(np.median(anchor))) for name, ms in own.items()}
        return {name: Timing(one, one) for name, one in found.items()}

    first = session(1.0, baseline=10, a=2.0)
    both = timing.joined(first, session(2.0, baseline=10, a=2.0, b=3.0))
    assert both["a"] is first["a"]
    a, b = both["a"].served, both["b"].served
    assert a is not None
    assert b is not None
    assert (a.group, b.group) == (0, 1)
    assert b.p50_ms.value == pytest.approx(1.5 * a.p50_ms.value)
    assert b.versus(a).value == pytest.approx(1.5)


def test_what_loses_too_much_is_named_where_nothing_compressed_holds_the_budget(go: Callable[..., Run]) -> None:
    bench = Bench({name: MADE[name] for name in ("baseline", "fp32", "lossy", "broken")})
    run = go(bench)
    assert bench.asked[-1] == "publish fp32"
    choice = choose(candidates(run), run.measured["baseline"], run.budget, run.safe)
    assert choice.nearest is not None
    assert choice.nearest.name == "lossy"


def test_the_chosen_one_is_made_again_alone_by_a_recipe_of_its_lineage(go: Callable[..., Run], tmp_path: Path) -> None:
    go(Bench(MADE), report=True, command="bantam optimize it --recipe search --max-drop 2 --data 'a b.csv' --recipe=x")
    raw = tomllib.loads((tmp_path / "chosen.toml").read_text())
    assert [(stage["name"], stage["measure"]) for stage in raw["stages"]] == [
        ("baseline", True),
        ("fp32", False),
        ("fast", True),
    ]
    again = load_recipe(str(tmp_path / "chosen.toml"))
    assert (again.search, again.servable) == (None, ("fast",))
    report = read_report(tmp_path)
    assert report.search is not None
    assert report.search.again == f"bantam optimize it --max-drop 2 --data 'a b.csv' --recipe {tmp_path}/chosen.toml"
    assert searched(report)[1].endswith(report.search.again)


@pytest.mark.parametrize("lists", [False, True])
def test_a_rung_is_timed_in_processes_without_servers(tmp_path: Path, tiny_artifact: Artifact, lists: bool) -> None:
    run = make_run(tmp_path, rows=ROWS)
    run.artifacts = {name: replace(tiny_artifact, name=name) for name in ("baseline", "int8")}
    run.alone = {"int8": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "LIST_SECONDS", 0.01)
        found = evaluator.time_variants(run, ["int8"], 10, 2, MemoryWatch(), lambda line: None, lists=lists)
    assert list(found) == ["baseline", "int8"]
    timed = found["int8"].in_process
    assert timed is not None
    assert timed.own_ms.shape == (2 * evaluator.LIST_ROUNDS if lists else 2, 10)
    assert (timed.own_ms == timed.own_ms[:, :1]).all() == lists
    assert found["int8"].served is None
    assert found["int8"].noise is not None


def test_an_error_after_the_rungs_is_not_replayed(go: Callable[..., Run], tmp_path: Path) -> None:
    made = {name: MADE[name] for name in ("baseline", "fp32", "fast")}
    for _ in range(2):
        bench = Bench(made | {name: replace(made[name], off=0.5) for name in ("fp32", "fast")})
        with pytest.raises(UnfaithfulError):
            go(bench)
        assert any(step.startswith("full") for step in bench.asked), "measured anew"
        assert not list(tmp_path.glob(f"{search.TIMES}-*"))


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("[search]", "search has nothing to choose from: expected measured stages that export or quantize"),
        ("[search]\nrungs = [[40, 1]]", "greater than or equal to 2"),
        ("[search]\nfinalists = 0", "greater than or equal to 1"),
        ("[search]\ntrials = 3", "trials"),
    ],
)
def test_a_search_that_cannot_be_is_refused_when_the_recipe_is_read(tmp_path: Path, table: str, problem: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'description = "x"\n{table}\n[[stages]]\nstage = "finetune"\nname = "baseline"\n')
    with pytest.raises(RecipeError, match=problem):
        load_recipe(str(path))


def test_the_shipped_search_tries_twenty_variants_or_more_and_trains_what_the_study_trains() -> None:
    for profile in ("quick", "full"):
        recipe = load_recipe("search", profile)
        study = {stage.name: stage for stage in load_recipe("study", profile).stages}
        assert len(recipe.servable) >= 20
        trained = [stage for stage in recipe.stages if stage.stage in ("finetune", "distill", "prune")]
        assert [stage.name for stage in trained if not stage.parent] == ["baseline"]
        for stage in trained:
            names = {name: name for name in stage.sources}
            assert stage.identified(names) == study[stage.name].identified(names), stage.name
