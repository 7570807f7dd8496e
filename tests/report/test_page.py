"""report.html: every figure from report.json, all texts escaped, one file, readable in both themes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from bantam.report import svg
from bantam.report.file import read_report
from bantam.report.page import render, seconds
from bantam.report.ranking import on_front
from bantam.report.schema import Report, Variant
from tests.plugins.reports import EXAMPLE, changed, licensed

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Tables as rows of cells, ids, tags and text; raises on a tag that is closed out of order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[tuple[str, dict[str, str | None]]]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], "a tag is left open"
        self.tables = [[[(text.strip(), attrs) for text, attrs in row] for row in table] for table in self.tables]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(("", dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and {"td", "th"} & set(self.open):
            text, attributes = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (re.sub(r"\s+", " ", text + data), attributes)


@pytest.fixture(scope="module")
def report() -> Report:
    return read_report(EXAMPLE)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render(report)


def figures(variant: Variant) -> list[tuple[float, ...] | None]:
    """A row's figures, read from the report by hand: not through the page's own list of columns."""
    quality, inside, served = variant.quality, variant.in_process, variant.served
    found: list[tuple[float, ...] | None] = [
        (quality.macro_f1,) if quality and quality.macro_f1 is not None else None,
        (quality.drop_points,) if quality and quality.drop_points is not None else None,
        quality.drop_ci95 if quality else None,
    ]
    for latency in (inside, served):
        found += [(latency.p50_ms,), (latency.p95_ms,), (latency.p99_ms,)] if latency else [None] * 3
    return found


def test_every_figure_of_the_table_is_the_reports(report: Report, html: str) -> None:
    rows = Page(html).tables[0]
    assert len(rows) == 2 + len(report.variants)
    baseline = report.variant("baseline").in_process
    assert baseline is not None
    for row, variant in zip(rows[2:], report.ordered, strict=True):
        assert row[0][0].startswith(variant.name)
        assert variant.in_process is not None
        speed = (baseline.p50_ms / variant.in_process.p50_ms,)
        expected = [*figures(variant), speed, (variant.size_mb,), (variant.peak_rss_mb,)]
        assert len(row) == 1 + len(expected)
        for (text, attributes), values in zip(row[1:], expected, strict=True):
            if values is None:
                assert text == "–"  # noqa: RUF001
                assert "data-values" not in attributes
                continue
            exact = [float(value) for value in (attributes["data-values"] or "").split()]
            assert exact == list(values)
            shown = re.findall(r"-?[\d.]+", text.replace(",", ""))
            assert shown == [
                f"{value:.{len(number.partition('.')[2])}f}" for number, value in zip(shown, exact, strict=True)
            ]
            assert all(sum(map(str.isdigit, number)) >= 2 for number in shown), "too few digits to compare by"


def test_labels_and_slices_are_the_reports_with_the_worst_first(report: Report, html: str) -> None:
    labels, slices = Page(html).tables[1:3]
    quality = report.variant(report.chosen).quality
    before = report.variant("baseline").quality
    assert quality is not None
    assert before is not None
    expected = {entry.label: (entry.support, entry.f1 or 0) for entry in quality.per_label or ()}
    old = {entry.label: entry.f1 or 0 for entry in before.per_label or ()}
    assert len(labels) == 1 + len(expected)
    for row in labels[1:]:
        support, f1 = expected[row[0][0]]
        assert row[1][0] == f"{support:,}"
        assert [row[2][0], row[3][0]] == [f"{old[row[0][0]]:.3f}", f"{f1:.3f}"]
        assert float(row[5][1]["data-values"] or "nan") == pytest.approx(100 * (old[row[0][0]] - f1))
    for rows in (labels, slices):
        drops = [float(row[5][0]) for row in rows[1:]]
        assert drops == sorted(drops, reverse=True)
    assert slices[1][0][0].endswith("worst")
    for row in slices[1:]:
        part = (quality.slices or {})[row[0][0].removesuffix(" worst")]
        assert row[1][0] == f"{part.rows:,}"
        assert [row[3][0], row[4][0]] == [f"{part.macro_f1:.3f}", f"{part.accuracy:.3f}"]
        assert float(row[5][1]["data-values"] or "nan") == part.drop_points


def test_texts_of_the_user_are_escaped(report: Report) -> None:
    evil = "<script>alert(1)</script>\"'&<b>"
    dump = report.model_dump(mode="json")
    for variant in dump["variants"]:
        variant["quality"]["per_label"][0]["label"] = evil
        variant["quality"]["slices"] = {evil: {"rows": 5, "macro_f1": 0.5}}
        variant["stages"][0]["config"] = {evil: evil}
    dump |= {"model": evil, "data": evil, "notes": [evil], "command": evil, "chosen_reason": evil, "published": None}
    dump["dropped"] = [{"name": evil, "reason": evil}]
    dump["machine"]["cpu"] = dump["created"] = evil
    dump["versions"] = {evil: evil}
    html = render(Report.model_validate(dump))
    page = Page(html)
    assert evil not in html
    assert not {"script", "b>"} & {tag for tag, _ in page.tags}
    assert "".join(page.text).count(evil) > 15, "it is shown as the text that it is"


def test_the_page_is_one_file_without_script_or_network(html: str) -> None:
    assert len(html.encode()) < 300_000
    assert "default-src 'none'" in html
    for tag, attributes in Page(html).tags:
        assert tag not in ("script", "link", "img", "iframe", "object")
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert (attributes.get("href") or "#").startswith("#")
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_the_page_is_accessible(html: str) -> None:
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        assert set((attributes.get("aria-labelledby") or "").split()) <= set(ids)
        if attributes.get("href"):
            assert (attributes["href"] or "")[1:] in ids, "a part of a plot refers to a part that is not there"
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") == len(page.tables)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert tags.count("h1") == 1
    assert [dict(attributes)["role"] for tag, attributes in page.tags if tag == "svg"] == ["img", "img"]
    assert tags.count("desc") == 2
    assert dict(page.tags[1][1]) == {"lang": "en"} or page.tags[0] == ("html", {"lang": "en"})


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it, of ``#rrggbb``."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_have_enough_contrast(theme: int) -> None:
    css = files("bantam").joinpath("templates/report.css").read_text(encoding="utf-8")
    colors = dict(re.findall(r"--([\w-]+): (#\w{6});", re.findall(r":root \{(.*?)\}", css, re.DOTALL)[theme]))
    pairs = [(text, back) for text in ("ink", "muted", "accent", "bad", "good") for back in ("surface", "page", "tint")]
    for text, back in [*pairs, ("ink", "code"), ("warn", "warn-tint"), ("surface", "accent")]:
        assert contrast(colors[text], colors[back]) >= 4.5, f"{text} on {back}"
    for name in (name for name in svg.VARIABLES if name.startswith("series")):
        assert contrast(colors[name], colors["surface"]) >= 3, name
    assert set(svg.VARIABLES) <= colors.keys(), "a plot uses a colour that the page does not define"


def test_the_page_names_licences_and_weights_that_were_quantized_once(report: Report) -> None:
    page = render(licensed(report))
    assert "<dd>minilm: Apache-2.0; gemma3-270m: Gemma Terms of Use (https://example.org/terms); counts for" in page
    assert "The baseline is from Q4_K_M" in page
    assert "Quantized once" not in render(report)


def test_the_table_marks_the_front(report: Report, html: str) -> None:
    rows = Page(html).tables[0][2:]
    marked = {variant.name for row, variant in zip(rows, report.ordered, strict=True) if " front" in row[0][0]}
    assert marked == on_front(report.variants)
    assert marked
    assert "badge edge" not in render(changed(report, random_weights=True))


def test_the_lineage_of_the_chosen_variant_comes_first(report: Report, html: str) -> None:
    own, others = Page(html).tables[3:5]
    chosen = report.variant(report.chosen)
    assert [row[0][0].split()[0] for row in own[1:]] == [step.name + step.stage for step in chosen.stages]
    names = {step.name + step.stage for variant in report.variants for step in variant.stages}
    assert {row[0][0].split()[0] for row in (*own[1:], *others[1:])} == names


# --- Little was measured ----------------------------------------------------------------------------------------------
def test_a_report_of_sizes_only(report: Report) -> None:
    bare = {"quality": None, "in_process": None, "served": None, "peak_rss_mb": None, "stages": ()}
    dump = report.model_dump() | {
        "variants": [{**variant.model_dump(), **bare} for variant in report.variants],
        "speedup": None,
        "machine": {},
        "versions": {},
        "budget": {"max_drop_points": 1.0},
        "dropped": (),
        "notes": (),
        **dict.fromkeys(("chosen_reason", "created", "command", "published", "conditions", "optimize", "data_source")),
        **dict.fromkeys(("model_source", "serving_versions")),
    }
    html = render(Report.model_validate(dump))
    page = Page(html)
    assert len(page.tables) == 1
    assert html.count("Not drawn") == 2
    assert "None" not in html
    assert [text for text, _ in page.tables[0][2][1:]] == [*["–"] * 10, "91.6", "–"]  # noqa: RUF001


def test_random_weights_are_marked(report: Report, html: str) -> None:
    marked = render(changed(report, random_weights=True))
    assert "RANDOM WEIGHTS" not in html
    assert marked.index("RANDOM WEIGHTS") < marked.index("<table")
    assert "Not drawn" in marked, "quality is not plotted"


def test_a_broken_budget_stands_out(report: Report) -> None:
    page = render(changed(report, budget={"max_drop_points": 0.3, "met": False}))
    assert '<p class="broken">Macro-F1' in page


def test_durations() -> None:
    assert [seconds(value) for value in (0.04, 9.96, 59.6, 61, 3600)] == [
        "0.0 s",
        "10.0 s",
        "1 min 00 s",
        "1 min 01 s",
        "60 min 00 s",
    ]
