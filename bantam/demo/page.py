"""The page: what is on it, and what happens when. Gradio draws it; nothing is loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from bantam.demo import fragments
from bantam.demo.served import ServedPair, Status
from bantam.demo.tabs import AT_ONCE, Sources, file_tab, html, latency_tab, text_tab

CSS = Path(__file__).parents[1] / "templates" / "demo.css"
LOOK_EVERY_S = 2.0
MAX_FILE = "100mb"
KEEP_FILES_S = 24 * 3600
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
ANNOUNCE = "() => document.querySelectorAll('.spoken').forEach(part => part.setAttribute('aria-live', 'polite'))"
"""What changes by itself is read out; Gradio has no argument for it."""


def build(served: ServedPair, sources: Sources) -> gr.Blocks:
    """The page of a model, its texts and its report."""
    title = f"{served.model} beside its baseline"
    expected = _expected(served, sources)
    blocks = gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, KEEP_FILES_S))
    with blocks:
        html(fragments.title(served), "title")
        status = html("", "status", spoken=True)
        seen = gr.State(Status())

        def look(before: Status) -> tuple[Any, Any]:
            found = served.look()
            return (gr.skip(), gr.skip()) if found == before else (fragments.status(served, found), found)

        with gr.Tab("Text"):
            text_tab(served, sources, expected)
        with gr.Tab("File"):
            file_tab(served, sources, expected)
        with gr.Tab("Latency"):
            latency_tab(served, sources)
        with gr.Tab("Quality"):
            quality = html("", "quality")
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


def _expected(served: ServedPair, sources: Sources) -> Status:
    """What the page is laid out for: what is served, or while the server is down, what the report and the data say."""
    found = served.look()
    if found.up:
        return found
    report = sources.report()
    quality = report.variant(report.chosen).quality if report else None
    labels = tuple(entry.label for entry in (quality and quality.per_label) or ())
    return Status(labels, pair=any(isinstance(text, tuple) for text in sources.texts))


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
