"""What reads the templates of the pages and of the model card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

Filter = Callable[..., Any]


def html(**filters: Filter) -> Environment:
    """For pages: all that is put in is escaped, and a name that is not known is an error."""
    return _environment(autoescape=True, filters=filters)  # Jinja guesses it from names that end in .html, not in .j2


def markdown(escape: Callable[[object], object], **filters: Filter) -> Environment:
    """For Markdown: ``escape`` goes over all that is put in; HTML's escapes would be shown in code."""
    return _environment(autoescape=False, filters=filters, finalize=escape)


def _environment(*, autoescape: bool, filters: dict[str, Filter], **options: Any) -> Environment:
    found = Environment(
        loader=PackageLoader("bantam"),
        autoescape=autoescape,  # noqa: S701 False only with an escape of its own
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    found.filters.update(filters)
    return found
