"""Versions of the tiny classifier with the texts that travel with one, and what it answered them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bantam.artifact import Artifact
from bantam.machine import cpu_kind
from serving.backend.engine import Engine
from serving.repository import Version, stage

TEXTS = ["i love it", "i hate this so much", "fear", "", "you love that !"]


def evidence(artifact: Artifact, **changed: Any) -> str:
    """What a run on this machine would have recorded of it, but for what is ``changed``."""
    scores = Engine(artifact.folder, threads=1).probabilities(TEXTS)
    known = {
        "texts": TEXTS,
        "scores": scores.tolist(),
        "actual": (scores > 0.5).astype(float).tolist(),
        "metric": "macro-f1",
        "max_drop_points": 1.0,
        "in_process_ms": 1.0,
        "served_ms": 2.0,
        "machine": "Some CPU, 2 cores",
        "cpu": cpu_kind(artifact.manifest.layout),
    }
    return json.dumps({**known, **changed})


def staged(artifact: Artifact, root: Path, known: str | None = None, name: str = "tiny") -> Version:
    """A version with evidence: ``known``, or what is true."""
    thresholds = [0.5] * 3 if artifact.manifest.signature.task == "multi_label" else None
    text = evidence(artifact) if known is None else known
    return stage(artifact, root, name, thresholds=thresholds, evidence=text)
