"""A staged version is asked the texts that travel with it, before anybody else may ask it anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Artifact, Text
from bantam.client.classifier import Classifier
from bantam.errors import UnfaithfulError
from bantam.machine import cpu_kind
from bantam.run.evidence import Evidence, elsewhere, read
from bantam.run.state import SCORE_TOLERANCE
from optimizer.evaluate import apart
from serving.repository import Version
from serving.server import Server
from serving.version_folder import EVIDENCE

EXAMPLE: dict[bool, Text] = {False: "I love it", True: ("A man is asleep", "Somebody sleeps")}
"""Asked of a version that has no texts with it, by whether it reads pairs."""


@dataclass(frozen=True)
class Canary:
    """What a staged version answered, beside what it answered where it was measured."""

    rows: int
    """Texts whose answers are known; 0 if none travel with it."""
    max_score_difference: float | None
    allowed: float | None
    warnings: tuple[str, ...] = ()


def ask(version: Version, repository: str) -> Canary:
    """Serve a staged version and ask it the texts of its evidence. ``repository``: where it will be, for messages.

    Raises :class:`UnfaithfulError` if its scores are further from the recorded ones than they may be on this CPU,
    :class:`ServerError` if it cannot be served here, :class:`RepositoryError` if its evidence or a file is damaged.
    """
    manifest = Artifact.load(version.folder).manifest
    known = read(version.folder) if (version.folder / EVIDENCE).is_file() else None
    texts = list(known.texts) if known else [EXAMPLE[manifest.signature.pair]]  # no tuple: two texts are no pair
    with (
        Server(version.root, staged=[version]) as server,
        Classifier(server.grpc_address, version.name, timeout=60) as client,
    ):
        answers = client.probabilities(texts)
    if known is None:
        return _without_evidence(version, answers)
    # numpy's maximum, of which NaN is part.
    difference = float(np.max(apart(np.array(known.scores, np.float32), answers)))
    here = cpu_kind(manifest.layout)
    same = (known.device, known.cpu) == ("cpu", here)
    allowed = SCORE_TOLERANCE if same else elsewhere(manifest.compute)
    if not difference <= allowed:
        raise UnfaithfulError(
            f"{version.folder}: on the {len(texts)} texts that were published with it, its scores are up to "
            f"{difference:.1e} from those recorded, expected at most {allowed:g} on "
            f"{'this kind of CPU' if same else _here(known, here)}. It is not promoted; what is served stays. Publish "
            "it again from its run, or run `bantam optimize` here."
        )
    warnings = () if same else (_elsewhere(version, known, here, repository),)
    return Canary(len(texts), difference, allowed, warnings)


def _without_evidence(version: Version, answers: NDArray[np.float32]) -> Canary:
    if not np.isfinite(answers).all():
        raise UnfaithfulError(
            f"{version.folder}: asked an ordinary text, it answered {answers.tolist()}, expected numbers. It is not "
            "promoted; what is served stays."
        )
    why = f"{version.folder} has no {EVIDENCE}: it answers, but whether as it was measured to, nobody can say here."
    return Canary(0, None, None, (why,))


def _elsewhere(version: Version, known: Evidence, here: str, repository: str) -> str:
    there = f"{known.machine} ({known.cpu})" if known.cpu else known.machine
    if known.device == "cuda":
        there = f"the GPU of {known.machine}"
    return (
        f"version {version.number} of {version.name} was measured on {there}; this is {_here(known, here)}. "
        "How much faster it is, and whether it keeps its budget, is unproven here. Once it is promoted, prove it: "
        f"bantam measure {version.name} --repository {repository}"
    )


def _here(known: Evidence, here: str) -> str:
    return f"a CPU ({here}), and no GPU" if known.device == "cuda" else f"a CPU of another kind ({here})"
