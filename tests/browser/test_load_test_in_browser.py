"""load-test.html in a real browser: it renders, fits a phone, and asks no network for anything."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from serving.loadtest.page import render
from tests.browser.test_report_in_browser import browse
from tests.serving import load_test_sample

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "load-test.html"
    path.write_text(render(load_test_sample.report()), encoding="utf-8")
    return path


def test_the_browser_shows_three_plots_and_asks_for_nothing(chromium: str, page: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    shown = browse(chromium, page, tmp_path / "profile", "--dump-dom", f"--log-net-log={log}")
    assert shown.count("<svg") == 3
    assert "corrected for coordinated omission" in shown
    assert page.name in log.read_text()
    asked = [line for line in log.read_text().splitlines() if '"url":"http' in line and "URL_REQUEST" in line]
    assert asked == []


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_a_screenshot_has_the_theme_and_content(
    chromium: str, page: Path, tmp_path: Path, width: int, theme: str
) -> None:
    picture = tmp_path / f"{theme}-{width}.png"
    setting = f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}"
    browse(chromium, page, tmp_path / "profile", f"--screenshot={picture}", f"--window-size={width},2000", setting)
    pixels = matplotlib.image.imread(picture)[..., :3]
    background = float(np.median(pixels))
    assert background < 0.3 if theme == "dark" else background > 0.7
    assert np.mean(np.abs(pixels - np.median(pixels, axis=(0, 1))).max(axis=2) > 0.2) > 0.02
