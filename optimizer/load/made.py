"""What the manifest of a folder that Bantam has made says of where its weights come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bantam.artifact import MANIFEST
from bantam.errors import ArtifactError
from bantam.licence import Licence, licences_in


@dataclass(frozen=True)
class Origin:
    """As in :class:`bantam.artifact.Manifest`; nothing for a folder without one."""

    licences: tuple[Licence, ...] = ()
    quantization: str | None = None
    random_weights: bool = False


def origin_of(folder: Path) -> Origin:
    """By the manifest in ``folder``, whether or not its files have changed since.

    Raises :class:`ArtifactError` for a manifest that cannot be read: terms that count would be lost without a word.
    """
    path = folder / MANIFEST
    if not path.exists():
        return Origin()
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        quantization = raw.get("quantization")
        if not isinstance(quantization, str | None):
            raise TypeError(f"quantization is {quantization!r}")
        return Origin(licences_in(raw), quantization, bool(raw.get("random_weights")))
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise ArtifactError(
            f"{path} cannot be read ({exc}); expected the manifest that Bantam wrote, which names the licences of the "
            "model.\nCopy the folder again from where it was made; if the file is another tool's, move it elsewhere."
        ) from exc


def once_in(*marks: str | None) -> str | None:
    """The marks of several models as one, each once: ``Q4_K_M and Q8_0``."""
    each = dict.fromkeys(part for mark in marks if mark for part in mark.split(" and "))
    return " and ".join(each) or None
