"""The page for each kind of model: how many boxes it has, and what of an answer it shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bantam.client.texts import Text
from bantam.demo import fragments
from bantam.demo.page import build
from bantam.demo.run import read_upload
from bantam.demo.served import ServedPair, Status
from bantam.demo.tabs import Sources
from tests.client.fake_kserve import PARAMETERS, Fake, Script

if TYPE_CHECKING:
    import gradio as gr  # not before bantam.demo, which says that it is to report nothing

ODD_LABELS = ["a\nb", "<script>alert(1)</script>&amp;"]


class Rows(HTMLParser):
    """The heads of the rows of a table, and all tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.heads: list[str] = []
        self.tags: list[str] = []
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = ("scope", "row") in attrs
        self.heads += [""] if self._inside else []

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.heads[-1] += data


def page(address: str, sources: Sources) -> gr.Blocks:
    """Made while an event loop runs: else Gradio makes one for each page, and leaves it."""

    async def made() -> gr.Blocks:
        return build(ServedPair(address, "fake"), sources)

    return asyncio.run(made())


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake("grpc", Script())
    yield server
    server.stop()


def parts(fake: Fake, examples: Sequence[Text] = ()) -> dict[str, dict[str, Any]]:
    """What is on the page, by id."""
    sources = Sources(examples, examples, read_upload, lambda: None)
    config = page(fake.address, sources).config
    return {part["props"].get("elem_id"): part["props"] for part in config["components"]}


def test_a_model_of_single_texts_has_one_box_and_its_examples(fake: Fake) -> None:
    found = parts(fake, ["one", ("of", "another kind")])
    assert found["text"]["label"] == "Text"
    assert "second" not in found
    assert not found["second-column"]["visible"]


def test_a_model_of_pairs_has_two(fake: Fake) -> None:
    fake.script.parameters = {**PARAMETERS, "pair": "true"}
    found = parts(fake)
    assert (found["text"]["label"], found["second"]["label"]) == ("Text", "Second text")
    assert found["second-column"]["visible"]


def test_what_is_typed_and_uploaded_is_asked_as_pairs(fake: Fake, tmp_path: Path) -> None:
    fake.script.parameters = {**PARAMETERS, "pair": "true"}
    sources = Sources([("a", "b")], [("12", "34")], read_upload, lambda: None)
    called: dict[str, Any] = {str(each.name): each.fn for each in page(fake.address, sources).fns.values()}
    assert "0.700" in called["compare"]("1", "23")
    assert "A text is missing. Type both, and press Enter" in called["compare"]("1", " ")
    (tmp_path / "pairs.csv").write_text("id,premise,hypothesis\n1,a,bcd\n", encoding="utf-8")
    said, table, _ = called["score"](str(tmp_path / "pairs.csv"), "", "", lambda *_, **__: None)
    assert "1 pairs of columns &#39;premise&#39; and &#39;hypothesis&#39;" in said
    assert table["value"] == [["1", "a", "bcd", "short", 0.6, 0.4]]
    said, *_ = called["score"](str(tmp_path / "pairs.csv"), "premise", "", lambda *_, **__: None)
    assert "Name both text columns" in said


def test_while_the_server_is_down_the_data_says_how_many() -> None:
    fake = Fake("grpc", Script())
    fake.stop()
    assert "second" in parts(fake, [("a", "b")])
    assert "second" not in parts(fake, ["a"])


def test_labels_with_markup_are_shown_as_they_are(fake: Fake) -> None:
    fake.script.parameters = {"task": "multi_label", "labels": json.dumps(ODD_LABELS)}
    served = ServedPair(fake.address, "fake")
    for html in (
        fragments.scores(served, served.look()),
        fragments.scores(served, Status(), served.compare("12345")),
        fragments.scores(served, Status(), problem="<script>"),
    ):
        assert Rows(html).heads in (ODD_LABELS, [])
        assert "script" not in Rows(html).tags
    assert Rows(fragments.scores(served, served.look())).heads == ODD_LABELS


def test_a_regression_is_a_number_and_no_bar(fake: Fake) -> None:
    served = ServedPair(fake.address, "fake")
    assert 'class="bar"' in fragments.scores(served, Status(), served.compare("12345"))
    fake.script.parameters = {"task": "regression", "labels": '["relatedness"]', "pair": "true"}
    fake.script.width = 1
    html = fragments.scores(served, Status(), served.compare(("1" * 20, "1" * 27)))
    assert "-3.700" in html
    assert 'class="bar"' not in html


def test_the_page_knows_what_is_served(fake: Fake) -> None:
    fake.script.parameters = {**PARAMETERS, "pair": "true"}
    status = ServedPair(fake.address, "fake").look()
    assert (status.labels, status.task, status.pair) == (("short", "long"), "multi_label", True)
    assert status.baseline
