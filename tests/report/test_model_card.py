"""The model card: metadata that the hub's own library reads back, figures of the report, nothing private."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from bantam.errors import UserError
from bantam.report.file import read_report
from bantam.report.model_card import CARD, licence, public, render, write_card
from bantam.report.schema import Report
from bantam.report.text import client_code, columns
from tests.plugins.reports import EXAMPLE, changed, licensed


@pytest.fixture(scope="module")
def report() -> Report:
    return read_report(EXAMPLE)


def load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The card as the hub's library reads it, without a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return ModelCard.load(folder / CARD)


def metadata_of(text: str) -> Any:
    """The card's metadata, read back."""
    return ModelCard(text).data


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables as rows of cells, the line under the head left out."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    rows = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()] for table in found]
    return [[[cell.strip() for cell in row] for row in table if set("".join(row)) - {"-"}] for table in rows]


def test_the_hubs_library_reads_back_the_test_metrics(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert write_card(report, tmp_path) == tmp_path / "card" / "README.md"
    data = load(tmp_path, monkeypatch).data
    quality = report.variant(report.chosen).quality
    assert quality is not None
    found = {result.metric_name: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {
        "Macro-F1": quality.macro_f1,
        "Micro-F1": quality.micro_f1,
        "Accuracy": quality.accuracy,
    }
    for result in found.values():
        assert (result.task_type, result.dataset_split) == ("text-classification", quality.split)
        assert (result.dataset_type, result.dataset_name) == ("example/emotions", "goemotions-ekman")
    assert found["Macro-F1"].metric_type == found["Micro-F1"].metric_type == "f1"
    assert data.model_name == "minilm"


def test_the_rest_of_the_metadata_is_the_reports(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_card(report, tmp_path)
    data = load(tmp_path, monkeypatch).data
    assert (data.license, data.language, data.library_name) == ("apache-2.0", "en", "onnx")
    assert (data.pipeline_tag, data.base_model, data.datasets) == (
        "text-classification",
        "example/minilm",
        ["example/emotions"],
    )
    assert data.tags == ["bantam", "triton", "onnx", "int8", "quantization"]


def test_what_is_not_known_is_absent(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_card(changed(report, data_source=None, model_source=None, licences=()), tmp_path)
    card = load(tmp_path, monkeypatch)
    assert {"language", "datasets", "base_model", "base_model_relation"}.isdisjoint(card.data.to_dict())
    assert card.data.license == "unknown"
    assert "whoever publishes it should say" in card.text


def test_every_figure_of_the_table_is_the_reports(report: Report) -> None:
    on_dev = [each.quality and each.quality.model_copy(update={"macro_f1": 0.123}) for each in report.variants]
    both = zip(report.variants, on_dev, strict=True)
    report = changed(report, variants=[each.model_copy(update={"quality_dev": dev}) for each, dev in both])
    measured, by_label = tables(render(report))
    assert measured[0] == ["", "PyTorch fp32, the baseline", "ONNX int8, this model"]
    # Quality on test, of which the card says that it is; other tables have dev, which all variants have.
    baseline, chosen = (
        report.variant(name).model_copy(update={"quality_dev": None}) for name in ("baseline", report.chosen)
    )
    assert "0.123" not in render(report)
    assert len(measured) == 1 + len(columns(report))
    for row, column in zip(measured[1:], columns(report), strict=True):
        assert row == [f"{column.group}: {column.title}", column.text(report, baseline), column.text(report, chosen)]
    assert chosen.quality is not None
    assert baseline.quality is not None
    before = {entry.label: entry.f1 or 0 for entry in baseline.quality.per_label or ()}
    expected = {
        entry.label: [
            f"{entry.support:,}",
            f"{before[entry.label]:.3f}",
            f"{entry.f1:.3f}",
            f"{100 * (before[entry.label] - (entry.f1 or 0)):.2f}",
        ]
        for entry in chosen.quality.per_label or ()
    }
    assert {row[0]: row[1:] for row in by_label[1:]} == expected


def test_the_card_says_how_to_use_it_where_it_was_made_and_what_it_cannot_do(report: Report) -> None:
    text = render(report)
    (code,) = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    assert code == client_code(report)
    assert len(code.splitlines()) <= 10
    assert "make serve NAME=minilm" in text
    for step in report.variant(report.chosen).stages:
        assert f"**{step.name}** ({step.stage}" in text
    assert "Made-up texts by one hand." in text
    assert "63 texts occur in more than one split." in text
    assert "Example CPU, 2 cores" in text
    assert report.command is not None
    assert report.command in text


def test_nothing_private_is_published(report: Report) -> None:
    private = "/home/someone/clients"
    dump = report.model_dump(mode="json")
    chosen = next(variant for variant in dump["variants"] if variant["name"] == report.chosen)
    chosen["stages"][0]["config"] = {"model": f"{private}/model", "unlabelled": [f"{private}/more.csv"]}
    dump |= {
        "model": f"{private}/model",
        "data": f"{private}/reviews.csv",
        "command": f"bantam optimize {private}/model --data={private}/a.csv --build ../{private} DATA={private}/x",
        "notes": ["2 texts of test are also in train, for example 'my bank account is 1234'."],
        "data_source": {"source": f"{private}/reviews.csv"},
        "model_source": {"source": f"{private}/model"},
    }
    text = render(Report.model_validate(dump))
    assert "someone" not in text
    assert "clients/" not in text
    assert "1234" not in text
    assert "made from model on reviews.csv" in text
    assert "bantam optimize model --data=a.csv --build clients DATA=x" in text
    assert "model model, unlabelled more.csv" in text


def test_texts_of_the_user_are_shown_as_they_are(report: Report) -> None:
    evil = "a|b`c*d_e[f](g)<script>\n# h"
    shown = r"a\|b\`c\*d\_e\[f\](g)&lt;script> # h"
    dump = report.model_dump(mode="json")
    for variant in dump["variants"]:
        variant["quality"]["per_label"][0]["label"] = evil
        variant["quality"]["slices"] = {evil: {"rows": 5, "macro_f1": 0.5, "drop_points": 1.0}}
        variant["stages"][0]["config"] = {evil: evil}
    dump |= {"chosen_reason": evil, "notes": [evil], "versions": {evil: evil}, "command": f"make 'x\n```\n{evil}'"}
    dump["machine"]["cpu"] = evil
    text = render(Report.model_validate(dump))
    assert text.count(shown) >= 8
    assert "<script>" not in text.replace(" ".join(evil.split()), "", 1), "in the command, a block of code, it is text"
    assert not re.search(r"^# h", text, re.MULTILINE)
    assert text.count("\n```") == 6, "nothing ends a block of code, or begins one"
    assert [len(row) for row in tables(text)[1]] == [5] * 8, "a bar in a label makes no column"
    assert metadata_of(text).model_name == "minilm"


def test_random_weights_are_said_to_be_random_and_claim_no_quality(report: Report) -> None:
    variants = [variant.model_dump() | {"quality": None} for variant in report.variants]
    text = render(changed(report, random_weights=True, variants=variants, budget={"max_drop_points": 1.0}))
    assert text.index("RANDOM WEIGHTS") < text.index("## Measured")
    data = metadata_of(text)
    assert data.eval_results is None
    assert "random-weights" in data.tags
    assert "Macro-F1" not in text
    assert "In process, ms: p50" in text


def test_a_baseline_that_stays_has_one_column(report: Report) -> None:
    kept = changed(report, chosen="baseline", published=None, speedup=None, size_ratio=None)
    text = render(kept)
    assert {len(row) for row in tables(text)[0]} == {2}
    assert {len(row) for row in tables(text)[1]} == {3}
    assert metadata_of(text).library_name == "transformers"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Apache-2.0", ("apache-2.0", None)),
        ("unknown: see the model's own page", ("unknown", None)),
        (None, ("unknown", None)),
        ("My Own Terms (v2)", ("other", "my-own-terms-v2")),
    ],
)
def test_licences_are_those_that_the_hub_knows(said: str | None, expected: tuple[str, str | None]) -> None:
    assert licence(said) == expected


def test_a_licence_that_counts_for_what_is_distilled_is_the_cards(report: Report) -> None:
    text = render(licensed(report))
    assert metadata_of(text).license == "gemma"
    assert "- minilm: Apache-2.0" in text
    assert "- gemma3-270m: Gemma Terms of Use (https://example.org/terms); counts for what is distilled" in text
    assert "- The baseline is from Q4\\_K\\_M: its weights were quantized once." in text
    own = changed(report, licences=[{"name": "mit", "model": "mine"}])
    assert metadata_of(render(own)).license == "mit"
    both = changed(
        report, licences=[{"name": name, "model": name, "outputs": True} for name in ("gemma", "llama2", "gemma")]
    )
    assert (metadata_of(render(both)).license, metadata_of(render(both)).license_name) == ("other", "gemma-and-llama2")


def test_names_stay_and_folders_go() -> None:
    assert [public(name) for name in ("minilm", "nyu-mll/glue:sst2", "reviews.csv", "--data", "0.5")] == [
        "minilm",
        "nyu-mll/glue:sst2",
        "reviews.csv",
        "--data",
        "0.5",
    ]
    assert [public(name) for name in ("/a/b", "./b", "~/a/b", "../a/b/", "C:\\a\\b", "\\\\host\\a\\b")] == ["b"] * 6


def test_a_folder_that_cannot_be_written(report: Report, tmp_path: Path) -> None:
    (tmp_path / "card").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match=r"README\.md cannot be written"):
        write_card(report, tmp_path)
