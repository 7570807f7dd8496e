"""A run's model card: a README.md for the Hugging Face hub, made from report.json alone.

A card is read by strangers: of files and folders of the user's it shows the last part of the name only, and it quotes
the report's notes, which quote texts, only if the data are public.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from markupsafe import Markup

from bantam.report.file import write_files
from bantam.report.origin import filed_under, licences, quantized_once
from bantam.report.page import QualityRow, labels, seconds, slices
from bantam.report.provenance import DataSource, ModelSource, StageStep
from bantam.report.schema import BASELINE, Report, Variant
from bantam.report.templates import markdown
from bantam.report.text import (
    FORMATS,
    RANDOM_WEIGHTS,
    client_code,
    columns,
    cut,
    headline,
    interval,
    kind,
    lost,
    metric,
    points,
    serve_command,
    share,
    thresholds,
)

CARD = Path("card", "README.md")
"""Where the card is in a run's folder: by itself, so that the folder can be uploaded as it is."""

LICENCES = frozenset(
    [
        *("afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigscience-bloom-rail-1.0", "bigscience-openrail-m"),
        *("bsd-2-clause", "bsd-3-clause", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0"),
        *("cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "creativeml-openrail-m"),
        *("gemma", "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0", "llama2", "llama3", "llama3.1", "llama3.2"),
        *("llama3.3", "mit", "mpl-2.0", "odbl", "openrail", "openrail++", "unlicense", "wtfpl", "zlib"),
    ]
)
"""Licences that the hub knows (huggingface.co/docs/hub/repositories-licenses); any other is ``other``, with a name."""

TAGS = {"distill": "distillation", "prune": "pruning", "quantize": "quantization"}
METRICS = (
    ("macro_f1", "f1", "Macro-F1", {"average": "macro"}),
    ("micro_f1", "f1", "Micro-F1", {"average": "micro"}),
    ("accuracy", "accuracy", "Accuracy", None),
    ("spearman", "spearmanr", "Spearman", None),
    ("pearson", "pearsonr", "Pearson", None),
)
"""Field of :class:`~bantam.report.schema.Quality`, the hub's metric, its name and its arguments."""
HIDDEN = ("name", "stage", "parent", "measure")
"""Settings of a stage that say nothing of how the weights were made."""


def write_card(report: Report, folder: Path) -> Path:
    """Write the card into a run's ``folder``; returns its path.

    Raises :class:`~bantam.errors.DiskFullError` if there is no space left, :class:`~bantam.errors.UserError` if
    the folder cannot be written.
    """
    path = folder / CARD
    write_files({path: render(report)})
    return path


def render(report: Report) -> str:
    """The card: metadata in YAML, then the text in Markdown. Every figure in it is the report's."""
    from huggingface_hub import ModelCard

    return str(ModelCard(f"---\n{metadata(report).to_yaml()}\n---\n\n{_text(report)}"))


def metadata(report: Report) -> Any:
    """The card's ``ModelCardData``: what the hub filters and shows; unknown fields are absent."""
    from huggingface_hub import ModelCardData

    chosen, random = report.variant(report.chosen), bool(report.random_weights)
    data, model = report.data_source or DataSource(), report.model_source or ModelSource()
    made_by = [TAGS[step.stage] for step in chosen.stages if step.stage in TAGS]
    tags = ["bantam", "triton", chosen.format, chosen.precision, *made_by, *(["random-weights"] if random else [])]
    results, (identifier, name) = _results(report, chosen), licence(filed_under(report))
    return ModelCardData(
        language=data.language,
        license=identifier,
        license_name=name,
        library_name=FORMATS[chosen.format].library,
        pipeline_tag="text-classification",
        tags=tags,
        datasets=[data.hub_id] if data.hub_id else None,
        base_model=model.hub_id,
        base_model_relation="finetune" if model.hub_id else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=title(report) if results else None,
        eval_results=results or None,
    )


def licence(said: str | None) -> tuple[str, str | None]:
    """The hub's identifier of a licence and, for one that it does not know, the licence's name."""
    if said is None or said.startswith("unknown"):
        return "unknown", None
    if said.lower() in LICENCES:
        return said.lower(), None
    return "other", re.sub(r"[^a-z0-9.]+", "-", said.lower()).strip("-")


def title(report: Report) -> str:
    """The model's name: as published, or as asked for without the folders."""
    return report.published.name if report.published else public(report.model)


def _results(report: Report, chosen: Variant) -> list[Any]:
    """The test metrics as the hub's ``model-index`` has them; none for random weights, and none without labels."""
    from huggingface_hub import EvalResult

    quality, data = chosen.quality, report.data_source
    if quality is None or report.random_weights or report.unlabelled:
        return []
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=(data and data.hub_id) or public(report.data),
            dataset_name=public(report.data),
            dataset_split=quality.split,
            metric_type=metric,
            metric_name=name,
            metric_value=value,
            metric_args=arguments,
        )
        for field, metric, name, arguments in METRICS
        if (value := getattr(quality, field)) is not None
    ]


def _text(report: Report) -> str:
    environment = markdown(
        _escape,
        count="{:,}".format,
        seconds=seconds,
        share=share,
        points=points,
        interval=interval,
        kind=kind,
        settings=settings,
        public=public,
    )
    chosen, baseline = (_on_test(report.variant(name)) for name in (report.chosen, BASELINE))
    parts = slices(baseline.quality, chosen.quality)
    return environment.get_template("card.md.j2").render(
        report=report,
        title=title(report),
        chosen=chosen,
        baseline=None if report.chosen == BASELINE else baseline,
        data=report.data_source or DataSource(),
        model=report.model_source or ModelSource(),
        licences=licences(report),
        quantized_once=quantized_once(report),
        headline=headline(report),
        random_weights=RANDOM_WEIGHTS if report.random_weights else None,
        columns=[column for column in columns(report) if column.values(report, chosen)],
        labels=labels(baseline.quality, chosen.quality),
        weakest=_weakest(labels(baseline.quality, chosen.quality)),
        groups=[part for part in parts if part.kind == "group"],
        worst=parts[0] if parts else None,
        lost=lost(report),
        metric=metric(report),
        thresholds=thresholds(report),
        cut=cut(report) if report.texts and any((report.texts.cut or {}).values()) else None,
        serve=_one_line(serve_command(report)),
        client=Markup(client_code(report)),  # noqa: S704 - names in it are written as JSON: one line each
        command=_one_line(_command(report.command)) if report.command else None,
    )


def _on_test(variant: Variant) -> Variant:
    """The variant with the quality on test alone, which both that a card shows have."""
    return variant.model_copy(update={"quality_dev": None})


def _weakest(found: Sequence[QualityRow]) -> QualityRow | None:
    """The label with the lowest F1, of those that have one."""
    known = [row for row in found if row.chosen is not None]
    return min(known, key=lambda row: row.chosen or 0.0, default=None)


def settings(step: StageStep) -> str:
    """What a stage was told, in one line."""
    return ", ".join(
        f"{key} {_plain(value)}"
        for key, value in step.config.items()
        if key not in HIDDEN and value is not None and value not in ([], (), {})
    )


def public(value: str) -> str:
    """A name as it is; of a file or folder of the user's the last part only."""
    local = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute() or value.startswith((".", "~"))
    name = PureWindowsPath(value).name if "\\" in value else PurePath(value).name
    return name or value if local else value


def _plain(value: Any) -> str:
    """A setting's value; zeros in a table of weights say that a part is not used, and are left out."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items() if part not in (None, 0, False))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(_plain(part) for part in value)
    return public(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def _command(command: str) -> str:
    """The command without the user's folders, in ``--data FILE``, ``--data=FILE`` and ``DATA=FILE`` alike."""
    words = []
    for word in shlex.split(command):
        option, equals, value = word.partition("=")
        words.append(f"{option}={public(value)}" if equals else public(word))
    return shlex.join(words)


def _one_line(command: str) -> Markup:
    # In a block of code nothing is escaped, and nothing needs to be that cannot end the block.
    return Markup(" ".join(command.split()))  # noqa: S704


def _escape(value: object) -> object:
    """Text that Markdown shows as it is; :class:`Markup` is Markdown already."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", value).replace("<", "&lt;").replace("\n", " ")
