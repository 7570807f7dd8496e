"""Reads and writes ``report.json``, and writes ``report.html`` beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from bantam.errors import ArtifactError, UserError
from bantam.files import write_text, writing
from bantam.report.schema import SCHEMA, Report

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"


def to_json(report: Report) -> str:
    """The report as indented JSON, lists of numbers on one line; what was not measured is absent."""
    text = report.model_dump_json(indent=1, exclude_none=True)
    # A JSON string holds no raw line break, so a bracket followed by one is never inside a text.
    return re.sub(r"\[\n[\s\d.,eE+-]+\]", lambda match: re.sub(r"\s+", " ", match[0]), text) + "\n"


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` into ``folder``; returns their paths.

    Each appears whole or not at all. Raises :class:`DiskFullError` if there is no space left, :class:`UserError` if
    the folder cannot be written.
    """
    from bantam.report.page import render

    write_files({folder / REPORT_HTML: render(report), folder / REPORT_JSON: to_json(report)})
    return folder / REPORT_JSON, folder / REPORT_HTML


def write_files(files: Mapping[Path, str]) -> None:
    """Write texts to their paths, each whole or not at all, in folders that are made if they are not there.

    Raises :class:`DiskFullError` if there is no space left, :class:`UserError` if a folder cannot be written.
    """
    for path, text in files.items():
        with writing(path, UserError, "Make its folder writable."):
            write_text(path, text)


def reports(build: Path) -> list[Path]:
    """The ``report.json`` of each run in the folder ``build``, the newest first."""
    return sorted(build.glob(f"*/{REPORT_JSON}"), key=lambda path: path.stat().st_mtime, reverse=True)


def newest(build: Path) -> Path:
    """The newest report in the folders of the runs; :class:`UserError` if there is none."""
    for path in reports(build):
        return path
    raise UserError(f"No report in {build}/. `make optimize` makes one; or give a run's folder.")


def read_report(path: Path) -> Report:
    """Read a ``report.json``, or the one in a run's folder.

    Raises :class:`UserError` if there is none, :class:`ArtifactError` if it is damaged or of another schema.
    """
    if path.is_dir():
        path = path / REPORT_JSON
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text)
    except FileNotFoundError as exc:
        raise UserError(f"{path}: no report there, expected one. `make optimize` writes it.") from exc
    except OSError as exc:
        raise UserError(f"{path}: the report cannot be read ({exc.strerror}).") from exc
    except ValueError as exc:
        raise ArtifactError(f"{path}: damaged, expected JSON ({exc}). `make optimize` writes it anew.") from exc
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        got = raw.get("schema", "none") if isinstance(raw, dict) else f"a {type(raw).__name__}"
        raise ArtifactError(
            f"{path}: schema {got}, expected {SCHEMA}. Read it with the Bantam that wrote it, or run `make optimize`."
        )
    try:
        return Report.model_validate_json(text, strict=True)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the report"
        raise ArtifactError(
            f"{path}: not a report of schema {SCHEMA}: {where}: {first['msg']} ({exc.error_count()} in all).\n"
            "`make optimize` writes it anew."
        ) from exc
