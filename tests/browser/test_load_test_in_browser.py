"""load-test.html in a real browser: it renders, fits a phone, and asks no network for anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from bantam.loadtest.page import render
from tests.loadtest import sample as load_test_sample

pytestmark = pytest.mark.browser

WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "load-test.html"
    path.write_text(render(load_test_sample.report()), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    yield page
    page.close()


def test_the_browser_shows_three_plots_and_asks_for_nothing(page: Page, html: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(html.as_uri())
    assert asked == [html.as_uri()]
    assert page.locator("svg").count() == 3
    assert "corrected for coordinated omission" in page.inner_text("body")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_is_never_wider_than_the_screen(page: Page, html: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(html.as_uri())
    assert page.evaluate(WIDER) <= 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_can_be_read_in_both_themes(page: Page, html: Path, theme: str) -> None:
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.goto(html.as_uri())
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    shade = sum(int(part) for part in background.strip("rgb()").split(", ")) / 3
    assert shade < 80 if theme == "dark" else shade > 200
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
