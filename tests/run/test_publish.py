"""Staged, checked, promoted: a version that answers otherwise than measured is never served, not even for a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bantam.artifact import Artifact
from bantam.errors import RepositoryError, UnfaithfulError
from bantam.run import publish as module
from bantam.run.publish import publish_chosen
from bantam.run.score import Scored
from bantam.run.state import Run
from serving.listing import identity
from serving.repository import baseline_of, models, published
from serving.repository import publish as put
from tests.run.made_up import make_run

Answer = Callable[[str, str], float]


@pytest.fixture
def publish(tmp_path: Path, make_artifact: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Publishes a variant of a made-up run; its server answers what was measured, off by what ``off`` says.

    ``checked``: each version that was asked, and which one was served meanwhile.
    """
    checked: list[tuple[str, int, int | None]] = []

    def go(
        off: Answer = lambda *_: 0.0, said: list[str] | None = None, *, export: bool = True, chosen: str = "int8"
    ) -> Run:
        run = make_run(tmp_path)
        for name in ("fp32", "int8"):
            run.artifacts[name] = make_artifact(details={"made": name})
            run.scored[name] = replace(run.scored[name], artifact=run.artifacts[name], thresholds=(0.5, 0.5, 0.5))
        if not export:
            run.recipe = run.recipe.model_copy(update={"stages": (run.recipe.stages[0],)})
        served: dict[str, Scored] = {"it": run.scored[chosen], baseline_of("it"): run.scored["baseline"]}
        texts = {id(run.data.splits[split].texts): split for split in ("dev", "test")}

        class Fake:
            """In place of the server, and of the client of it."""

            def __init__(self, *arguments: Any, staged: Any = (), settings: Any = None, timeout: float = 0) -> None:
                self.name, self.grpc_address = arguments[-1], "nowhere"
                for version in staged:
                    there = published(tmp_path / "repo", version.name)
                    checked.append((version.name, version.number, there.number if there else None))

            def __enter__(self) -> Fake:
                return self

            def __exit__(self, *_: object) -> None: ...

            def probabilities(self, asked: Any) -> Any:
                split = texts[id(asked)]
                return served[self.name].on(split) + np.float32(off(self.name, split))

            def memory(self) -> dict[str, Any]:
                return {"tritonserver": SimpleNamespace(peak=50e0), "model": SimpleNamespace(peak=20e0)}

        monkeypatch.setattr(module, "Server", Fake)
        monkeypatch.setattr(module, "Classifier", Fake)
        publish_chosen(run, chosen, (said if said is not None else []).append)
        return run

    return SimpleNamespace(go=go, checked=checked)


def test_both_are_published_after_both_were_checked_and_say_what_they_are(publish: Any, tmp_path: Path) -> None:
    said: list[str] = []
    run = publish.go(said=said)
    assert models(tmp_path / "repo") == ["it", "it-baseline"]
    assert (run.published.name, run.published.number, run.server_peak_rss_mb) == ("it", 1, 70.0)
    assert [identity(tmp_path / "repo", name) for name in ("it", "it-baseline")] == [run.identity] * 2
    assert [line.split()[:3] for line in said] == [["fp32", "published", "as"], ["int8", "published", "as"]]
    assert ("int8", "test") in run.answers


@pytest.mark.parametrize("wrong", [("it", "dev"), ("it", "test"), ("it-baseline", "dev"), ("it-baseline", "test")])
@pytest.mark.parametrize("off", [2e-3, float("nan")])
def test_answers_that_differ_are_refused_and_the_versions_before_stay(
    publish: Any, tmp_path: Path, tiny_artifact: Artifact, wrong: tuple[str, str], off: float
) -> None:
    repo = tmp_path / "repo"
    before = {name: put(tiny_artifact, repo, name, thresholds=None).number for name in ("it", "it-baseline")}
    with pytest.raises(UnfaithfulError, match=rf"staged for {wrong[0]}, it answers .* Nothing was published"):
        publish.go(lambda *asked: off if asked == wrong else 0.0)
    assert {name: v.number for name in before if (v := published(repo, name))} == before
    left = {path.name for name in before for path in (repo / name).iterdir() if path.name.isdecimal()}
    assert left == {"1"}, "what was staged is removed, of both"


def test_the_baselines_export_may_be_what_was_chosen_and_is_published_under_both_names(
    publish: Any, tmp_path: Path, tiny_artifact: Artifact
) -> None:
    put(tiny_artifact, tmp_path / "repo", "it-baseline", thresholds=None)
    said: list[str] = []
    run = publish.go(said=said, chosen="fp32")
    there = {name: published(tmp_path / "repo", name) for name in ("it", "it-baseline")}
    assert {name: version and version.number for name, version in there.items()} == {"it": 1, "it-baseline": 2}
    assert (run.published.name, len(said)) == ("it", 2)


def test_a_small_difference_is_none(publish: Any) -> None:
    assert publish.go(lambda *_: 9e-4).published is not None


def test_what_is_published_already_is_said_to_be_and_a_baseline_is_not_asked_again(publish: Any) -> None:
    publish.go()
    said: list[str] = []
    assert publish.go(said=said).published.changed is False
    assert [line.split()[1:4] for line in said] == [["is", "published", "already"]] * 2
    assert all(
        line.endswith("/1, with the text_threads and limit_ms that were measured when it was made") for line in said
    )
    assert publish.checked[2:] == [("it", 1, 1)]


def test_without_an_export_of_the_baseline_that_of_an_earlier_run_is_withdrawn(
    publish: Any, tmp_path: Path, tiny_artifact: Artifact
) -> None:
    put(tiny_artifact, tmp_path / "repo", "it-baseline", thresholds=None)
    said: list[str] = []
    publish.go(said=said, export=False)
    assert models(tmp_path / "repo") == ["it"]
    assert said[0].startswith("it-baseline withdrawn: it is of an earlier run")


def test_what_was_staged_before_stays_where_it_answers_otherwise(publish: Any, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    run = publish.go()
    before = run.published.folder
    (repo / "it" / "config.pbtxt").unlink()  # staged and not served, as after publish --no-promote
    with pytest.raises(UnfaithfulError):
        publish.go(lambda name, split: 0.5 if (name, split) == ("it", "test") else 0.0)
    assert (before / "manifest.json").is_file()


@pytest.mark.parametrize("other", [{"labels": ("joy", "anger", "rage")}, {"pair": True}])
def test_what_came_to_be_served_meanwhile_with_another_interface_is_not_replaced(
    publish: Any, tmp_path: Path, make_artifact: Callable[..., Artifact], other: Any
) -> None:
    put(make_artifact(**other), tmp_path / "repo", "it", thresholds=None)
    with pytest.raises(RepositoryError, match=r"it would be something else .*--allow-new-labels"):
        publish.go()
    assert (publish.checked, models(tmp_path / "repo")) == ([], ["it"])
