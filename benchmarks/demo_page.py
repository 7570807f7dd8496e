"""A demo page in a browser, and what tests and benchmarks do on it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
SCREENSHOTS = ROOT / "build" / "test-output" / "demo"
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# What web.dev calls cumulative layout shift: what moves without anybody having pressed a key or button just before.
WATCH_SHIFTS = """window.shifted = 0; new PerformanceObserver(list => { for (const entry of list.getEntries())
  if (!entry.hadRecentInput) window.shifted += entry.value }).observe({type: "layout-shift", buffered: true})"""


@contextmanager
def running_demo(
    folder: Path,
    model: str,
    address: str,
    *options: str,
    watched: Callable[[int], AbstractContextManager[object]] = nullcontext,
) -> Iterator[str]:
    """``bantam demo`` in ``folder``, on a free port; yields its URL, and ends it as a service manager would.

    ``watched``: entered with the process's id while it runs.
    """
    command = [sys.executable, "-m", "bantam", "demo", model, "--address", address, "--port", "0", "--json", *options]
    with (
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        watched(process.pid),
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        try:
            yield json.loads(line)["url"]
        finally:
            process.terminate()
            process.wait(timeout=20)


@dataclass
class Visit:
    """A page that is open, and what its browser asked for meanwhile."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ask(self, text: str) -> None:
        """Type a text, press Enter, and wait for the answer."""
        self.page.fill("#text textarea", text)
        self.page.press("#text textarea", "Enter")
        self.page.wait_for_selector("#scores :is(.said, .bad)")

    def tab(self, name: str) -> None:
        """Open a tab."""
        self.page.get_by_role("tab", name=name).click()

    def upload(self, path: Path) -> None:
        """Choose a file in the tab of files, as a user does: the button opens the browser's dialog."""
        with self.page.expect_file_chooser() as chooser:
            self.page.locator("#file").get_by_text("Click to Upload").click()
        chooser.value.set_files(path)
        self.page.locator("#file").get_by_text(path.stem).first.wait_for()

    def scores(self) -> dict[str, tuple[float, float]]:
        """Label -> the baseline's and the model's score, as shown."""
        return {name: (float(was), float(now)) for name, was, now, _ in self.rows("#scores table")}

    def rows(self, table: str) -> list[list[str]]:
        """The cells of a table's body as a reader sees them."""
        read = (
            "table => [...table.tBodies[0].rows].map(r => [...r.cells].map(c => (c.querySelector('b') ?? c).innerText))"
        )
        found: list[list[str]] = self.page.locator(table).evaluate(read)
        return [[cell.strip() for cell in row] for row in found]

    def milliseconds(self) -> list[float]:
        """The figures of the baseline and of the model."""
        shown = self.page.locator("#scores .figures strong").all_inner_texts()[:2]
        return [float(re.sub(r"[^\d.]", "", text)) for text in shown]

    def shifted(self) -> float:
        """The cumulative layout shift so far; below 0.1 is good."""
        return float(self.page.evaluate("window.shifted"))


@contextmanager
def visit(browser: Browser, url: str, name: str, *, width: int = 1280, theme: Any = "light") -> Iterator[Visit]:
    """Open the demo in a browser of its own; a screenshot is kept when it is left."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    found = Visit(page)
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("console", lambda message: found.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.add_init_script(WATCH_SHIFTS)
    try:
        page.goto(url)
        page.wait_for_selector("#scores table")
        page.wait_for_selector("#status .status")
        yield found
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    finally:
        page.close()
