"""The page: what is on it, and what happens when. Gradio draws it; nothing is loaded from elsewhere."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before Gradio is imported: it would report its use, and ask the network for its newest version.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import pandas as pd

from optimizer.errors import BantamError
from serving.demo import fragments
from serving.demo.batch import ReadUpload, score_file
from serving.demo.latency import Course, Load, run
from serving.demo.served import Served, Status
from serving.report import Report

CSS = Path(__file__).parents[1] / "templates" / "demo.css"
LOOK_EVERY_S = 2.0
SHOWN_ROWS = 1000
"""Rows of a file that the table shows; the download has all."""
WIDE, NARROW = 360, 130
"""Pixels of the column of the texts and of the others; Gradio would measure them first, and move them then."""
MAX_FILE = "100mb"
KEEP_FILES_S = 24 * 3600
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
COLORS = {"Baseline": "#7a8494", "Compressed": "#2f7de1"}
"""Of the lines, as in demo.css; both stand out on white and on black."""
CLOSED, OPEN = "clients that wait for their answers", "a fixed rate, whatever the answers"
ANNOUNCE = "() => document.querySelectorAll('.spoken').forEach(part => part.setAttribute('aria-live', 'polite'))"
"""What changes by itself is read out; Gradio has no argument for it."""
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {**HIDDEN, "queue": False}
"""For what takes milliseconds: without waiting for those in the queue."""


@dataclass(frozen=True)
class Sources:
    """What the page shows beside the server's answers."""

    texts: Sequence[str]
    """For the load test: real ones, at their real lengths."""
    examples: Sequence[str]
    read_upload: ReadUpload
    report: Callable[[], Report | None]
    """The newest report of the run that published the model; None if there is none."""


def build(served: Served, sources: Sources) -> gr.Blocks:
    """The page of a model, its texts and its report."""
    title = f"{served.model} beside its baseline"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, KEEP_FILES_S)) as blocks:
        _html(fragments.title(served), "title")
        status = _html("", "status", spoken=True)
        seen = gr.State(Status())

        def look(before: Status) -> tuple[Any, Any]:
            found = served.look()
            return (gr.skip(), gr.skip()) if found == before else (fragments.status(served, found), found)

        with gr.Tab("Text"):
            _one_text(served, sources, _labels(served, sources))
        with gr.Tab("File"):
            _file(served, sources)
        with gr.Tab("Latency"):
            _latency(served, sources)
        with gr.Tab("Quality"):
            quality = _html("", "quality")
        gr.Timer(LOOK_EVERY_S).tick(look, seen, [status, seen], **AT_ONCE)
        blocks.load(lambda: look(Status()), None, [status, seen], **AT_ONCE)
        blocks.load(lambda: fragments.quality(sources.report(), served), None, quality, **AT_ONCE)
        blocks.load(None, js=ANNOUNCE, api_visibility="private")
    return blocks


def open_page(blocks: gr.Blocks, host: str, port: int) -> None:
    """Serve the page in threads of its own, until ``blocks.close()``."""
    blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        footer_links=[],
        max_file_size=MAX_FILE,
        theme=_theme(),
        css_paths=CSS,
    )


def _one_text(served: Served, sources: Sources, labels: Sequence[str]) -> None:
    def compare(text: str) -> str:
        if not text.strip():
            return fragments.scores(served, labels, problem="There is no text. Type one, and press Enter.")
        try:
            return fragments.scores(served, labels, served.compare(text))
        except BantamError as exc:
            return fragments.scores(served, labels, problem=str(exc))

    with gr.Row(elem_classes="ask"):
        text = gr.Textbox(
            label="Text",
            placeholder="Type a text and press Enter",
            lines=1,
            max_lines=4,
            scale=5,
            elem_id="text",
        )
        button = gr.Button("Compare", variant="primary", scale=1, min_width=110)
    with gr.Row(elem_classes="examples", elem_id="examples"):
        examples = [(gr.Button(example, size="sm"), example) for example in sources.examples]
    scores = _html(fragments.scores(served, labels), "scores", spoken=True)
    for event in (text.submit, button.click):
        event(compare, text, scores, **AT_ONCE)
    for example, words in examples:
        example.click(lambda words=words: (words, compare(words)), None, [text, scores], **AT_ONCE)


def _file(served: Served, sources: Sources) -> None:
    def score(path: str | None, column: str, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008 how Gradio passes it
        nothing = (gr.skip(), gr.update(value=None, interactive=False))
        if path is None:
            return (fragments.message("There is no file. Choose one first.", bad=True), *nothing)
        source = Path(path)
        try:
            upload = sources.read_upload(source, column.strip())
            target = source.with_name(f"{source.stem}-scored.csv")
            with served.client(served.model) as client:
                found = score_file(client, upload, target, lambda done, of: progress((done, of), unit="texts"))
        except BantamError as exc:
            # The upload lies in a folder that means nothing to who uploaded it.
            return (fragments.message(str(exc).replace(path, source.name), bad=True), *nothing)
        shown = found.rows[:SHOWN_ROWS]
        more = f" The first {SHOWN_ROWS:,} are shown." if len(shown) < len(found.rows) else ""
        rate = len(found.rows) / found.seconds
        said = (
            f"{len(found.rows):,} texts of column {found.text!r} in {found.seconds:.2f} s: {rate:,.0f} a second.{more}"
        )
        widths = [WIDE if name == found.text else NARROW for name in found.columns]
        table = gr.update(value=shown, headers=list(found.columns), column_widths=widths)
        return fragments.message(said), table, gr.update(value=str(found.path), interactive=True)

    with gr.Row(equal_height=True):
        file = gr.File(
            label="CSV or TSV, with a header or a text a line",
            file_types=[".csv", ".tsv"],
            height=140,
            scale=3,
            elem_id="file",
        )
        with gr.Column(scale=2):
            column = gr.Textbox(
                label="Text column",
                placeholder="found by its name",
                info="Its name; or its number, if the file has no header.",
                elem_id="column",
            )
            button = gr.Button("Score the file", variant="primary")
    said = _html(fragments.message("Every row is scored by the compressed model."), "said", spoken=True)
    table = gr.Dataframe(
        label="Rows with labels and scores",
        interactive=False,
        max_height=420,
        max_chars=60,
        elem_id="rows",
    )
    download = gr.DownloadButton("Download as CSV", interactive=False, elem_id="download")
    for event in (button.click, column.submit):
        event(
            score,
            [file, column],
            [said, table, download],
            show_progress_on=said,
            api_visibility="private",
            concurrency_limit=2,
        )


def _latency(served: Served, sources: Sources) -> None:
    def test(kind: str, clients: float, rate: float, seconds: float) -> Iterator[tuple[Any, ...]]:
        load = Load(seconds, int(clients), rate if kind == OPEN else None)
        found = served.look()
        names = {served.baseline: "Baseline", served.model: "Compressed"}
        tested = [name for name in names if name == served.model or found.baseline]
        courses: dict[str, Course] = {}
        yield _points(names, courses), fragments.latency(names, courses, load), fragments.message("Connecting ...")
        try:
            for courses in run(served, tested, sources.texts, load):
                yield (
                    _points(names, courses),
                    fragments.latency(names, courses, load),
                    fragments.message("Measuring, in turns of a second ..."),
                )
        except BantamError as exc:
            yield gr.skip(), gr.skip(), fragments.message(str(exc), bad=True)
        else:
            yield (
                gr.skip(),
                gr.skip(),
                fragments.message(
                    f"{load.seconds:g} s for each model, in turns of a second; texts of the test split, one a request."
                ),
            )

    names = {served.baseline: "Baseline", served.model: "Compressed"}
    kind = gr.Radio([CLOSED, OPEN], value=CLOSED, label="Requests come from", elem_id="kind")
    with gr.Row():
        clients = gr.Slider(1, 16, value=1, step=1, label="Clients")
        rate = gr.Slider(5, 500, value=50, step=5, label="Requests per second")
        seconds = gr.Slider(2, 30, value=6, step=1, label="Seconds for each model")
    with gr.Row():
        start, stop = gr.Button("Start", variant="primary", elem_id="start"), gr.Button("Stop", elem_id="stop")
    said = _html(
        fragments.message("Both models are measured in turn, by processes of their own on the machine of this page."),
        "told",
        spoken=True,
    )
    plot = gr.LinePlot(
        _points(names, {}),
        x="seconds",
        y="median latency, ms",
        color="model",
        color_map=COLORS,
        colors_in_legend=[],  # it would not fit; the table has the colours
        height=300,
        label="Median latency over time",
        elem_id="course",
        y_lim=[0, None],
    )
    table = _html(fragments.latency(names, {}, None), "measured")
    running = start.click(test, [kind, clients, rate, seconds], [plot, table, said], concurrency_limit=1, **HIDDEN)
    stop.click(lambda: fragments.message("Stopped."), None, said, cancels=running, **AT_ONCE)


def _html(content: str, elem_id: str, *, spoken: bool = False) -> gr.HTML:
    """A part in our own style, read out when it changes if it is ``spoken``."""
    classes = ["ours-html", "spoken"] if spoken else ["ours-html"]
    return gr.HTML(content, elem_id=elem_id, elem_classes=classes, apply_default_css=False)


def _points(names: dict[str, str], courses: dict[str, Course]) -> pd.DataFrame:
    """What the plot shows; a row without a latency for each model, so that both have their colour from the start."""
    rows: list[tuple[float, float, str]] = [(0.0, math.nan, what) for what in names.values()]
    rows += [(at, ms, names[name]) for name, course in courses.items() for at, ms in course.points]
    return pd.DataFrame(rows, columns=["seconds", "median latency, ms", "model"])


def _labels(served: Served, sources: Sources) -> tuple[str, ...]:
    """Labels to keep room for: the server's, or the report's while it is down."""
    report = sources.report()
    quality = report.variant(report.chosen).quality if report else None
    return served.look().labels or tuple(entry.label for entry in (quality and quality.per_label) or ())


def _theme() -> gr.themes.Base:
    # Gradio's greys and blues are too light to be read by everyone: WCAG AA asks for a contrast of 4.5.
    quiet = dict.fromkeys(
        ("body_text_color_subdued", "block_label_text_color", "input_placeholder_color"), "*neutral_600"
    )
    quiet |= {f"{name}_dark": "*neutral_300" for name in quiet}
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=MONO_FONTS).set(
        **quiet,
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )
