"""report.html in a real browser: it renders, follows the theme, and asks no network for anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from serving.report_file import read_report
from serving.report_page import render

EXAMPLE = Path(__file__).resolve().parents[1] / "fixtures" / "example-report.json"
# Without these, Chromium looks for updates and services of its own at each start.
QUIET = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(read_report(EXAMPLE)), encoding="utf-8")
    return path


def browse(chromium: str, page: Path, profile: Path, *options: str) -> str:
    """What headless Chromium prints for the page."""
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", *QUIET, f"--user-data-dir={profile}", *options]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_the_browser_shows_every_variant_and_both_plots(chromium: str, page: Path, tmp_path: Path) -> None:
    shown = browse(chromium, page, tmp_path, "--dump-dom")
    for variant in read_report(EXAMPLE).variants:
        assert variant.name in shown
    assert shown.count("<svg") >= 2


def test_nothing_is_asked_from_the_network(chromium: str, page: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    browse(chromium, page, tmp_path / "profile", "--dump-dom", f"--log-net-log={log}")
    assert page.name in log.read_text()
    asked = [line for line in log.read_text().splitlines() if '"url":"http' in line and "URL_REQUEST" in line]
    assert asked == []


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_a_screenshot_has_the_theme_and_content(
    chromium: str, page: Path, tmp_path: Path, width: int, theme: str
) -> None:
    picture = tmp_path / f"{theme}-{width}.png"
    setting = f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}"
    browse(chromium, page, tmp_path / "profile", f"--screenshot={picture}", f"--window-size={width},1600", setting)
    pixels = matplotlib.image.imread(picture)[..., :3]
    background = float(np.median(pixels))
    assert background < 0.3 if theme == "dark" else background > 0.7
    # Text and plots: a good part of the page is not background.
    assert np.mean(np.abs(pixels - np.median(pixels, axis=(0, 1))).max(axis=2) > 0.2) > 0.02
