"""How long a user of the demo waits from Enter until the scores of both models are on the screen.

``python -m benchmarks.demo_latency minilm --repository model_repo`` starts the server and the demo, opens the page in
Chromium, and types texts of the test split one after the other. In the browser, the time runs from the key press to
the second frame after the answer is in the page: the one that shows it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from bantam.machine import describe_machine
from bantam.run.latency import draw_texts
from benchmarks.browser import find_chromium
from benchmarks.demo_page import ROOT, running_demo, visit
from optimizer.data import load_dataset
from serving.server import Server

BAR_MS = 300.0
WATCH = """() => {
  let pressed = 0;
  window.waits = [];
  document.addEventListener("keydown", event => { if (event.key === "Enter") pressed = performance.now() }, true);
  new MutationObserver(() => {
    if (!pressed || !document.querySelector("#scores .how").innerText.includes("request")) return;
    const began = pressed;
    pressed = 0;
    requestAnimationFrame(() => requestAnimationFrame(() => window.waits.push(performance.now() - began)));
  }).observe(document.querySelector("#scores"), {childList: true, subtree: true, characterData: true});
}"""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="minilm")
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    texts = draw_texts(load_dataset(options.data).splits["test"].single, options.times + 1)
    with (
        Server(options.repository) as server,
        running_demo(ROOT, options.model, server.grpc_address, "--data", options.data) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=find_chromium())
        with visit(browser, url, "latency") as visited:
            visited.page.evaluate(WATCH)
            shown = []
            for number, text in enumerate(texts, start=1):
                visited.page.fill("#text textarea", text)
                visited.page.press("#text textarea", "Enter")
                visited.page.wait_for_function("n => window.waits.length === n", arg=number)
                shown.append(visited.milliseconds())
            waits = np.array(visited.page.evaluate("window.waits")[1:])  # the first one warms up
            baseline, model = np.median(np.array(shown[1:]), axis=0)
        browser.close()
    found = {
        "enter_to_scores_ms": {"p50": np.median(waits), "p95": np.percentile(waits, 95), "max": waits.max()},
        "shown_ms": {"baseline": baseline, "model": model},
        "times": len(waits),
        "bar_ms": BAR_MS,
        "kept": bool(np.percentile(waits, 95) < BAR_MS),
        "machine": describe_machine().model_dump(exclude_none=True),
    }
    print(json.dumps(found, indent=1, default=float))


if __name__ == "__main__":
    main()
