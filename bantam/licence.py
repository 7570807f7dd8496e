"""The terms under which models may be used. Standard library only: manifests and reports name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Licence:
    """The terms of one model. They go along to all that descends from it, by training or by distillation."""

    name: str
    """Identifier on the hub, such as ``gemma`` or ``apache-2.0``, or what else is known."""
    model: str = ""
    """Whose they are: a short name, a hub id or a folder's name."""
    title: str = ""
    """What the text is called, where that says more than its identifier."""
    url: str = ""
    """Where it can be read."""
    outputs: bool = False
    """Whether it counts, by its own words, for what is distilled from the model's outputs."""

    @property
    def line(self) -> str:
        """One line for a reader."""
        read = f" ({self.url})" if self.url else ""
        bound = "; counts for what is distilled from its outputs" if self.outputs else ""
        return f"{self.model}: {self.title or self.name}{read}{bound}"


def all_licences(*groups: tuple[Licence, ...]) -> tuple[Licence, ...]:
    """Those of several models, each once."""
    return tuple(dict.fromkeys(licence for group in groups for licence in group))


def licences_in(raw: Mapping[str, Any]) -> tuple[Licence, ...]:
    """The licences that a manifest, as JSON has it, names; what a later version says more of one is left out.

    Empty for a manifest from before there were any. Raises ``TypeError`` or ``AttributeError`` for anything else.
    """
    known = {each.name for each in fields(Licence)}
    return tuple(
        Licence(**{key: value for key, value in licence.items() if key in known}) for licence in raw.get("licences", ())
    )
