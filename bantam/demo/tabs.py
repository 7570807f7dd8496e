"""What is in the tabs that ask the server, and what happens when."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from bantam.client.texts import Text
from bantam.demo import fragments
from bantam.demo.batch import LABELS, ReadUpload, ScoredFile, score_file
from bantam.demo.latency import Course, Load, run
from bantam.demo.served import ServedPair, Status
from bantam.errors import BantamError
from bantam.report.schema import Report

SHOWN_ROWS = 1000
"""Rows of a file that the table shows; the download has all."""
WIDE, NARROW = 360, 130
"""Pixels of the column of the texts and of the others; Gradio would measure them first, and move them then."""
COLORS = {"Baseline": "#7a8494", "Compressed": "#2f7de1"}
"""Of the lines, as in demo.css; both stand out on white and on black."""
PAIR = (("Text", "text"), ("Second text", "second"))
"""Labels and ids of the boxes; a model of single texts has the first."""
CLOSED, OPEN = "clients that wait for their answers", "a fixed rate, whatever the answers"
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {**HIDDEN, "queue": False}
"""For what takes milliseconds: without waiting for those in the queue."""


@dataclass(frozen=True)
class Sources:
    """What the page shows beside the server's answers."""

    texts: Sequence[Text]
    """For the load test: real ones, at their real lengths."""
    examples: Sequence[Text]
    read_upload: ReadUpload
    report: Callable[[], Report | None]
    """The newest report of the run that published the model; None if there is none."""


def html(content: str, elem_id: str, *, spoken: bool = False) -> gr.HTML:
    """A part in our own style, read out when it changes if it is ``spoken``."""
    classes = ["ours-html", "spoken"] if spoken else ["ours-html"]
    return gr.HTML(content, elem_id=elem_id, elem_classes=classes, apply_default_css=False)


def text_tab(served: ServedPair, sources: Sources, expected: Status) -> None:
    """Type or pick a text, or two: the scores of both models side by side. Room is kept for the ``expected`` labels."""

    def compare(*texts: str) -> str:
        if not all(text.strip() for text in texts):
            missing = "A text is missing. Type both" if len(texts) == 2 else "There is no text. Type one"
            return fragments.scores(served, expected, problem=f"{missing}, and press Enter.")
        try:
            return fragments.scores(
                served, expected, served.compare((texts[0], texts[1]) if expected.pair else texts[0])
            )
        except BantamError as exc:
            return fragments.scores(served, expected, problem=str(exc))

    with gr.Row(elem_classes="ask"):
        boxes = [
            gr.Textbox(
                label=label,
                placeholder="Type a text and press Enter",
                lines=1,
                max_lines=4,
                scale=5,
                elem_id=elem_id,
            )
            for label, elem_id in (PAIR if expected.pair else PAIR[:1])
        ]
        button = gr.Button("Compare", variant="primary", scale=1, min_width=110)
    fitting = [(text,) if isinstance(text, str) else text for text in sources.examples]
    with gr.Row(elem_classes="examples", elem_id="examples"):
        examples = [(gr.Button(" / ".join(each), size="sm"), each) for each in fitting if len(each) == len(boxes)]
    scores = html(fragments.scores(served, expected), "scores", spoken=True)
    for event in (*(box.submit for box in boxes), button.click):
        event(compare, boxes, scores, **AT_ONCE)
    for example, words in examples:
        example.click(lambda words=words: (*words, compare(*words)), None, [*boxes, scores], **AT_ONCE)


def file_tab(served: ServedPair, sources: Sources, expected: Status) -> None:
    """Upload a file: its rows with labels and scores, to look at and to download."""

    def score(path: str | None, text: str, second: str, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008 how Gradio passes it
        nothing = (gr.skip(), gr.update(value=None, interactive=False))
        if path is None:
            return (fragments.message("There is no file. Choose one first.", bad=True), *nothing)
        source = Path(path)
        try:
            columns = [text.strip(), second.strip()] if expected.pair else [text.strip()]
            upload = sources.read_upload(source, columns)
            target = source.with_name(f"{source.stem}-scored.csv")
            with served.client(served.model) as client:
                return _shown(score_file(client, upload, target, lambda done, of: progress((done, of), unit="texts")))
        except BantamError as exc:
            # The upload lies in a folder that means nothing to who uploaded it.
            return (fragments.message(str(exc).replace(path, source.name), bad=True), *nothing)

    with gr.Row(equal_height=True):
        label = "CSV or TSV, with a header or a text a line"
        file = gr.File(label=label, file_types=[".csv", ".tsv"], height=140, scale=3, elem_id="file")
        with gr.Column(scale=2):
            info = "Its name; or its number, if the file has no header."
            named: dict[str, Any] = {"placeholder": "found by its name", "info": info}
            text = gr.Textbox(label="Text column", elem_id="column", **named)
            second = gr.Textbox(label="Second text column", elem_id="second-column", visible=expected.pair, **named)
            button = gr.Button("Score the file", variant="primary")
    said = html(fragments.message("Every row is scored by the compressed model."), "said", spoken=True)
    title = "Rows with labels and scores"
    look: dict[str, Any] = {"headers": ["text", LABELS], "interactive": False, "max_height": 420, "max_chars": 60}
    table = gr.Dataframe(label=title, elem_id="rows", **look)
    download = gr.DownloadButton("Download as CSV", interactive=False, elem_id="download")
    options: dict[str, Any] = {"show_progress_on": said, "api_visibility": "private", "concurrency_limit": 2}
    for event in (button.click, text.submit, second.submit):
        event(score, [file, text, second], [said, table, download], **options)


def _shown(found: ScoredFile) -> tuple[Any, ...]:
    """A line, the table and the button for a file that was scored."""
    shown, rate = found.rows[:SHOWN_ROWS], len(found.rows) / found.seconds
    what = "texts of column" if len(found.texts) == 1 else "pairs of columns"
    where = " and ".join(map(repr, found.texts))
    said = f"{len(found.rows):,} {what} {where} in {found.seconds:.2f} s: {rate:,.0f} a second."
    if len(shown) < len(found.rows):
        said += f" The first {SHOWN_ROWS:,} are shown."
    widths = [WIDE if name in found.texts else NARROW for name in found.columns]
    table = gr.update(value=shown, headers=list(found.columns), column_widths=widths)
    return fragments.message(said), table, gr.update(value=str(found.path), interactive=True)


def latency_tab(served: ServedPair, sources: Sources) -> None:
    """Test both models under load, and watch."""
    names = {served.baseline: "Baseline", served.model: "Compressed"}

    def test(kind: str, clients: float, rate: float, seconds: float) -> Iterator[tuple[Any, ...]]:
        load = Load(seconds, int(clients), rate if kind == OPEN else None)
        tested = list(names) if served.look().baseline else [served.model]
        log, same = fragments.message, (gr.skip(), gr.skip())
        yield _points(names, {}), fragments.latency(names, {}, load), log("Connecting ...")
        try:
            for courses in run(served, tested, sources.texts, load):
                table = fragments.latency(names, courses, load)
                yield _points(names, courses), table, log("Measuring, in turns of a second ...")
        except BantamError as exc:
            yield *same, log(str(exc), bad=True)
        else:
            yield (
                *same,
                log(f"{load.seconds:g} s for each model, in turns of a second; a text of the test split a request."),
            )

    kind = gr.Radio([CLOSED, OPEN], value=CLOSED, label="Requests come from", elem_id="kind")
    with gr.Row():
        clients = gr.Slider(1, 16, value=1, step=1, label="Clients")
        rate = gr.Slider(5, 500, value=50, step=5, label="Requests per second")
        seconds = gr.Slider(2, 30, value=6, step=1, label="Seconds for each model")
    with gr.Row():
        start, stop = gr.Button("Start", variant="primary", elem_id="start"), gr.Button("Stop", elem_id="stop")
    hint = "Both models are measured in turn, by processes of their own on the machine of this page."
    said = html(fragments.message(hint), "told", spoken=True)
    axes: dict[str, Any] = {"x": "seconds", "y": "median latency, ms", "y_lim": [0, None], "height": 300}
    # Its own legend would not fit; the table has the colours.
    colors: dict[str, Any] = {"color": "model", "color_map": COLORS, "colors_in_legend": []}
    plot = gr.LinePlot(
        _points(names, {}), label="Median latency over the seconds of the test", elem_id="course", **axes, **colors
    )
    table = html(fragments.latency(names, {}, None), "measured")
    running = start.click(test, [kind, clients, rate, seconds], [plot, table, said], concurrency_limit=1, **HIDDEN)
    stopped = stop.click(None, cancels=running, **AT_ONCE)
    # Only then: what the test has said last would come after it.
    stopped.then(lambda: fragments.message("Stopped."), None, said, **AT_ONCE)


def _points(names: Mapping[str, str], courses: Mapping[str, Course]) -> pd.DataFrame:
    """What the plot shows; a row without a latency for each model, so that both have their colour from the start."""
    rows: list[tuple[float, float, str]] = [(0.0, math.nan, what) for what in names.values()]
    rows += [(at, ms, names[name]) for name, course in courses.items() for at, ms in course.points]
    return pd.DataFrame(rows, columns=["seconds", "median latency, ms", "model"])
