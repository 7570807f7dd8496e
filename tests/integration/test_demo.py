"""The demo in a real browser, over a real Triton that serves the toy and its baseline."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from bantam.client.classifier import Classifier
from bantam.report.file import read_report
from bantam.report.text import milliseconds, points, share
from benchmarks.demo_page import WIDER, Visit, running_demo, visit
from serving.ports import free_ports
from serving.server import Server
from tests.integration.conftest import Toy
from tests.plugins.connections import Connections

pytestmark = [pytest.mark.triton, pytest.mark.browser]

TEXT = "we love this wonderful day"
# Vega, which Gradio draws its plots with, gives a group of invisible marks the role of an image and no name.
GRADIOS_OWN = {"svg-img-alt"}


@dataclass
class Demo:
    """The page's address, the server behind it, whose the ``ports`` are, and whom the page's process spoke with."""

    url: str
    server: Server
    ports: dict[str, int]
    seen: Connections


def make_server(toy: Toy, ports: dict[str, int], models: list[str] | None = None) -> Server:
    """A server that is always found at the same ports."""
    grpc, http, metrics = ports["gRPC"], ports["HTTP"], ports["metrics"]
    return Server(toy.folder / "model_repo", models=models, grpc_port=grpc, http_port=http, metrics_port=metrics)


@pytest.fixture(scope="module")
def demo(toy: Toy) -> Iterator[Demo]:
    """One server and one page for all tests of this file; who stops the server starts it again."""
    ports = free_ports("127.0.0.1", {"gRPC": 0, "HTTP": 0, "metrics": 0})
    server, seen = make_server(toy, ports), Connections()
    with server, running_demo(toy.folder, "tiny", server.grpc_address, watched=seen.of) as url:
        yield Demo(url, server, ports, seen)


@pytest.fixture
def visited(demo: Demo, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    with visit(browser, demo.url, request.node.name) as found:
        yield found


def test_after_enter_the_scores_of_both_models_are_those_of_the_server(demo: Demo, visited: Visit) -> None:
    visited.ask(TEXT)
    shown = visited.scores()
    for column, name in enumerate(("tiny-baseline", "tiny")):
        with Classifier(demo.server.grpc_address, name) as classify:
            expected = classify(TEXT)
        assert {label: scores[column] for label, scores in shown.items()} == pytest.approx(expected.scores, abs=6e-4)
    assert visited.page.locator("#scores td:nth-child(3).said").count() == 1
    baseline, model = visited.milliseconds()
    assert 0 < model < 1000
    assert 0 < baseline < 1000
    assert "5 requests" in visited.page.inner_text("#scores .how")


def test_the_page_asks_nobody_but_its_own_server_and_does_not_jump(demo: Demo, visited: Visit) -> None:
    visited.ask(TEXT)
    for tab in ("File", "Latency", "Quality", "Text"):
        visited.tab(tab)
        visited.page.wait_for_timeout(300)
    assert visited.shifted() < 0.1
    assert len(visited.requests) > 10
    foreign = [url for url in visited.requests if not url.startswith((demo.url, "data:", "blob:"))]
    assert foreign == []
    assert visited.complaints == []


def test_neither_does_its_process(demo: Demo, visited: Visit) -> None:
    """From its start on; what the browser itself asks is the test before this one."""
    visited.ask(TEXT)
    assert demo.seen.looks > 10
    assert demo.seen.here != set()
    assert demo.seen.elsewhere == set()


def test_an_example_is_one_press_away(visited: Visit) -> None:
    example = visited.page.locator("#examples button").nth(2)
    words = example.inner_text()
    example.click()
    visited.page.wait_for_selector("#scores .said")
    expect(visited.page.locator("#text textarea")).to_have_value(words)
    assert visited.page.locator("#scores tbody tr").count() == 3


def test_all_of_it_can_be_done_with_the_keyboard(visited: Visit) -> None:
    page = visited.page
    page.locator("#text textarea").focus()
    page.keyboard.type(TEXT)
    page.keyboard.press("Enter")
    page.wait_for_selector("#scores .said")
    first = page.locator("#scores").inner_text()
    for _ in range(3):  # the button, then the examples
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#examples') !== null")
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelector('#scores').innerText !== before", arg=first)
    expect(page.locator("#text textarea")).not_to_have_value(TEXT)
    page.get_by_role("tab", name="Text").focus()
    for tab in ("File", "Latency", "Quality"):
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")


def test_a_file_is_scored_shown_and_downloaded(demo: Demo, visited: Visit, toy: Toy, tmp_path: Path) -> None:
    rows = list(csv.DictReader((toy.folder / "moods.csv").read_text().splitlines())) * 3
    texts = [row["text"] for row in rows]
    source = tmp_path / "many.csv"
    source.write_text("id;text\n" + "".join(f"{i};{text}\n" for i, text in enumerate(texts)), encoding="utf-8")
    visited.tab("File")
    visited.upload(source)
    visited.page.get_by_role("button", name="Score the file").click()
    visited.page.wait_for_selector("#said >> text=3,000 texts of column 'text'")
    assert "The first 1,000 are shown" in visited.page.inner_text("#said")
    assert "predicted" in visited.page.inner_text("#rows")
    with visited.page.expect_download() as download:
        visited.page.locator("#download").click()
    assert download.value.suggested_filename == "many-scored.csv"
    with open(download.value.path(), encoding="utf-8-sig", newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["id"], row["text"]) for row in found] == [(str(i), text) for i, text in enumerate(texts)]
    with Classifier(demo.server.grpc_address, "tiny") as classify:
        expected = classify(texts)
    assert [row["predicted"] for row in found] == ["|".join(one.labels) for one in expected]
    joy = [float(row["score_joy"]) for row in found]
    assert joy == pytest.approx([one.scores["joy"] for one in expected], abs=1e-4)


def test_a_file_without_a_header_and_one_that_cannot_be_read(visited: Visit, tmp_path: Path) -> None:
    page = visited.page
    (tmp_path / "bare.csv").write_text("we hate this\nwe love this\n", encoding="utf-8")
    (tmp_path / "bad.csv").write_bytes(b"text,label\ngood \xff\xfe,joy\n")
    visited.tab("File")
    visited.upload(tmp_path / "bare.csv")
    page.get_by_role("button", name="Score the file").click()
    page.wait_for_selector("#said >> text=2 texts of column 'column 1'")
    page.locator("#file").get_by_role("button", name="Clear").click()
    visited.upload(tmp_path / "bad.csv")
    page.get_by_role("button", name="Score the file").click()
    page.wait_for_selector("#said .bad")
    assert page.inner_text("#said").startswith("bad.csv, line 2: not UTF-8")
    assert page.locator("#download").is_disabled()


def test_when_the_server_is_down_it_says_so_and_goes_on_when_it_is_back(demo: Demo, visited: Visit) -> None:
    page = visited.page
    demo.server.stop()
    try:
        page.wait_for_selector("#status .down")
        assert "make serve" in page.inner_text("#status")
        visited.ask(TEXT)
        assert "is unavailable" in page.inner_text("#scores .how")
        page.evaluate("window.here = true")
    finally:
        demo.server.start()
    page.wait_for_selector("#status .up", timeout=10_000)
    page.press("#text textarea", "Enter")
    page.wait_for_selector("#scores .said")
    assert page.evaluate("window.here"), "the page was not loaded again"


def test_a_model_that_is_served_without_its_baseline(demo: Demo, visited: Visit, toy: Toy) -> None:
    demo.server.stop()
    try:
        with make_server(toy, demo.ports, ["tiny"]):
            visited.page.wait_for_selector("#status >> text=without its baseline", timeout=10_000)
            visited.ask(TEXT)
            shown = visited.rows("#scores table")
            assert {row[1] for row in shown} == {row[3] for row in shown} == {"\N{EN DASH}"}
            assert max(float(row[2]) for row in shown) > 0.5
    finally:
        demo.server.start()


def test_a_page_that_is_opened_before_the_server_runs(toy: Toy, browser: Browser) -> None:
    (port,) = free_ports("127.0.0.1", {"grpc": 0}).values()
    with (
        running_demo(toy.folder, "tiny", f"127.0.0.1:{port}") as url,
        visit(browser, url, "before-the-server", width=360) as visited,
    ):
        assert "make serve" in visited.page.inner_text("#status .down")
        assert [row[0] for row in visited.rows("#scores table")] == ["anger", "fear", "joy"], "from the report"
        assert visited.shifted() < 0.1
        assert visited.page.evaluate(WIDER) <= 0
        assert Axe().run(visited.page).violations_count == 0
        visited.tab("Latency")
        visited.page.click("#start")
        visited.page.wait_for_selector("#told .bad")
        visited.tab("Quality")
        assert "was chosen" in visited.page.inner_text("#quality")


def test_the_latency_of_both_models_is_plotted_while_it_is_measured(visited: Visit) -> None:
    page = visited.page
    visited.tab("Latency")
    page.get_by_label("number input for Seconds for each model").fill("2")
    page.click("#start")
    page.wait_for_selector("#told >> text=Measuring")
    page.wait_for_selector("#told >> text=2 s for each model", timeout=30_000)
    for name, requests, errors, p50, p95, p99, rate in visited.rows("#measured table"):
        assert int(requests.replace(",", "")) > 20, name
        assert errors == "0"
        assert 0 < float(p50) <= float(p95) <= float(p99)
        assert float(rate.replace(",", "")) > 10
    lines = page.locator("#course svg .mark-line path").all()
    assert len(lines) == 2
    assert all((line.get_attribute("d") or "").count("L") > 3 for line in lines)
    page.click("#start")
    page.wait_for_selector("#told >> text=Measuring")
    page.click("#stop")
    page.wait_for_selector("#told >> text=Stopped")


def test_quality_is_that_of_the_report(visited: Visit, toy: Toy) -> None:
    report = read_report(toy.run_folder)
    chosen = report.variant(report.chosen)
    visited.tab("Quality")
    text = visited.page.inner_text("#quality")
    assert f"{report.chosen} was chosen" in text
    assert chosen.served is not None
    assert f"{milliseconds(chosen.served.p50_ms)} ms" in text
    assert chosen.quality is not None
    slices = {row[0].removesuffix("worst").strip(): row for row in visited.rows("#quality table >> nth=1")}
    for name, part in (chosen.quality.slices or {}).items():
        assert part.macro_f1 is not None
        assert part.drop_points is not None
        assert [slices[name][3], slices[name][5]] == [share(part.macro_f1), points(part.drop_points)]
    labels = {row[0]: row[3] for row in visited.rows("#quality table >> nth=0")}
    assert labels == {entry.label: share(entry.f1 or 0) for entry in chosen.quality.per_label or ()}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_every_tab_is_accessible_and_no_wider_than_the_screen(
    demo: Demo, browser: Browser, width: int, theme: str
) -> None:
    with visit(browser, demo.url, f"{width}-{theme}", width=width, theme=theme) as visited:
        for tab in ("Latency", "File", "Quality", "Text"):
            visited.tab(tab)
            if tab == "Text":
                visited.ask(TEXT)
            time.sleep(0.3)  # colours change smoothly
            assert visited.page.evaluate(WIDER) <= 0, tab
            found = Axe().run(visited.page)
            assert found.response["passes"]
            broken = [v["id"] for v in found.response["violations"] if v["id"] not in GRADIOS_OWN]
            assert broken == [], found.generate_report()
        assert visited.shifted() < 0.1
