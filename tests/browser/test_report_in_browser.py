"""report.html in a real browser: the figures of report.json, no network, any width, both themes, paper, accessible."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from bantam.report.file import read_report, write_report
from tests.plugins.reports import EXAMPLE, study

pytestmark = pytest.mark.browser

# Column of the table of variants, and where its figures are in a variant of report.json.
FIGURES = {
    ("Quality", "Macro-F1"): "quality.macro_f1",
    ("Quality", "Drop, points"): "quality.drop_points",
    ("Quality", "95% interval"): "quality.drop_ci95",
    ("In process, ms", "p50"): "in_process.p50_ms",
    ("In process, ms", "p95"): "in_process.p95_ms",
    ("In process, ms", "p99"): "in_process.p99_ms",
    ("Served, ms", "p50"): "served.p50_ms",
    ("Served, ms", "p95"): "served.p95_ms",
    ("Served, ms", "p99"): "served.p99_ms",
    ("Gain and cost", "Speed"): "speed",
    ("Gain and cost", "Size, MB"): "size_mb",
    ("Gain and cost", "Memory, MB"): "peak_rss_mb",
}
# Each row of a table as the texts that a reader sees; a cell that spans columns counts for each.
READ_TABLE = """table => [...table.rows].map(row => [...row.cells].flatMap(cell =>
  Array(cell.colSpan).fill((cell.querySelector("b") ?? cell).innerText.trim())))"""
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass(frozen=True)
class Written:
    """A report's page, and its report.json as any other program reads it."""

    html: Path
    raw: dict[str, Any]

    def variant(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(variant for variant in self.raw["variants"] if variant["name"] == name)
        return found


@pytest.fixture(scope="module", params=["example", "study"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The example's page, and that of a report with four times as many variants."""
    report = read_report(EXAMPLE)
    data, html = write_report(study(report) if request.param == "study" else report, tmp_path_factory.mktemp("page"))
    return Written(html, json.loads(data.read_text(encoding="utf-8")))


@pytest.fixture
def page(browser: Browser, written: Written) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(written.html.as_uri())
    yield page
    page.close()


def value(variant: dict[str, Any], path: str) -> list[float] | None:
    """The figures behind a cell; None if they were not measured."""
    found: Any = variant
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, list | None) else [found]


def rounded(shown: str, exact: list[float]) -> list[str]:
    """The exact figures with as many digits as those that are shown, and no negative zero."""
    digits = [len(number.partition(".")[2]) for number in numbers(shown)]
    return [f"{round(figure, n) + 0:.{n}f}" for figure, n in zip(exact, digits, strict=True)]


def numbers(shown: str) -> list[str]:
    return re.findall(r"-?\d+(?:\.\d+)?", shown.replace(",", ""))


def test_every_figure_in_the_table_is_that_of_report_json(page: Page, written: Written) -> None:
    groups, heads, *rows = page.locator("table.variants").evaluate(READ_TABLE)
    columns = list(zip(groups, heads, strict=True))[1:]
    assert columns == list(FIGURES)
    assert sorted(row[0] for row in rows) == sorted(variant["name"] for variant in written.raw["variants"])
    base = written.variant("baseline")["in_process"]["p50_ms"]
    compared = 0
    for name, *cells in rows:
        variant = written.variant(name)
        variant["speed"] = base / variant["in_process"]["p50_ms"]
        for shown, column in zip(cells, columns, strict=True):
            exact = value(variant, FIGURES[column])
            if exact is None:
                assert shown == "\N{EN DASH}", (name, column)
                continue
            assert numbers(shown) == rounded(shown, exact), (
                name,
                column,
            )
            assert all(sum(map(str.isdigit, number)) >= 2 for number in numbers(shown)), "too few digits to compare by"
            compared += 1
    assert compared > 8 * len(rows)


def test_labels_and_slices_are_those_of_report_json(page: Page, written: Written) -> None:
    chosen, baseline = (written.variant(name)["quality"] for name in (written.raw["chosen"], "baseline"))
    labels = {entry["label"]: entry for entry in chosen["per_label"]}
    before = {entry["label"]: entry["f1"] for entry in baseline["per_label"]}
    (table, other) = page.locator("table.bars").all()
    _, *rows = table.evaluate(READ_TABLE)
    assert len(rows) == len(labels)
    for name, support, was, now, _, drop in rows:
        exact = [labels[name]["support"], before[name], labels[name]["f1"], 100 * (before[name] - labels[name]["f1"])]
        shown = f"{support} {was} {now} {drop}"
        assert numbers(shown) == rounded(shown, exact), name
    _, *rows = other.evaluate(READ_TABLE)
    assert len(rows) == len(chosen["slices"])
    for name, support, was, now, accuracy, drop, ends in rows:
        part = chosen["slices"][name.removesuffix("worst").strip()]
        old = baseline["slices"][name.removesuffix("worst").strip()]["macro_f1"]
        shown = f"{support} {was} {now} {accuracy} {drop} {ends}"
        exact = [part["rows"], old, part["macro_f1"], part["accuracy"], part["drop_points"], *part["drop_ci95"]]
        assert numbers(shown) == rounded(shown, exact), name


def test_the_page_is_small_and_asks_for_nothing_but_itself(browser: Browser, written: Written) -> None:
    assert written.html.stat().st_size < 3_000_000
    page = browser.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(written.html.as_uri())
    page.wait_for_load_state("networkidle")
    page.close()
    assert asked == [written.html.as_uri()]
    assert said == [], "the browser has nothing to complain of"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_never_scrolls_sideways_but_wide_tables_do(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate(WIDER) <= 0
    box = page.locator("div.scroll", has=page.locator("table.variants"))
    wider = box.evaluate("box => box.scrollWidth - box.clientWidth")
    if width < 700:
        assert wider > 0
    box.evaluate("box => box.scrollTo(box.scrollWidth, 0)")
    last = page.locator("table.variants thead tr:last-child th:last-child").bounding_box()
    assert last is not None
    assert last["x"] >= 0
    assert last["x"] + last["width"] <= width, "the last column can be reached"


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(page: Page, theme: Any, width: int) -> None:
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 800})
    for details in page.locator("details").all():
        details.evaluate("details => { details.open = true }")
    found = Axe().run(page)
    assert found.response["passes"], "rules were run"
    assert found.violations_count == 0, found.generate_report()


def test_the_page_follows_the_theme(page: Page) -> None:
    colors = {}
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        style = page.evaluate(
            "() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color] }"
        )
        colors[theme] = [sum(map(int, re.findall(r"\d+", color)[:3])) / 765 for color in style]
    assert colors["light"][0] > 0.9 > 0.2 > colors["light"][1]
    assert colors["dark"][0] < 0.1 < 0.8 < colors["dark"][1]
    assert page.locator("svg[role=img]").count() == 2


def test_paper_is_light_whole_and_wide_enough(page: Page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": 1032, "height": 700})  # A4 across, less its margins
    assert page.evaluate(WIDER) <= 0
    assert page.evaluate("() => getComputedStyle(document.querySelector('h1')).color") == "rgb(20, 24, 31)"
    for text in page.locator("details table, details tbody tr").all():
        assert text.is_visible(), "what is folded on a screen is printed"
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
