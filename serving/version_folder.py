"""The folder of one version of a published model: all that Triton and the engine read to serve it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bantam.artifact import Artifact, cache_key, seal, sha256
from bantam.errors import ArtifactError
from bantam.files import sweep, write_text
from serving.triton_config import CONFIG, GPU_CONFIG, LABELS_FILE, ServedVersion, TritonConfig, on_gpu

EVIDENCE = "evidence.json"
"""What the version was measured to answer, for who measures it again: see bantam/run/evidence.py."""
NOTICE = "NOTICE.txt"
"""Names the licences that count for the model, for who passes the folder on."""
BACKEND = Path(__file__).with_name("backend")
BACKEND_FILES = {
    path.name if path.name == "model.py" else f"backend/{path.name}": path for path in sorted(BACKEND.glob("*.py"))
}
"""Path in a version folder -> source: what Triton loads, and the package beside it that does the work."""


@dataclass(frozen=True)
class Identity:
    """What a published name stands for: the model that all variants come from, and the data that taught it."""

    model: str
    """For messages: the name of the checkpoint."""
    model_digest: str
    data: str
    """For messages: the name of the data set."""
    data_digest: str


def content(artifact: Artifact, config: TritonConfig) -> str:
    """Digest of all that answers come from, and of the licences, whatever the version's number and measured times."""
    options = config.model_dump(mode="json", exclude={"version", "text_threads", "limit_ms"})
    backend = {file: sha256(source) for file, source in BACKEND_FILES.items()}
    licences = [asdict(licence) for licence in artifact.manifest.licences]
    return cache_key(artifact=artifact.digest, options=options, backend=backend, licences=licences)


def content_of(folder: Path) -> str | None:
    """The digest that a version folder was made with, or None if it is damaged."""
    try:
        return str(Artifact.load(folder).manifest.details.get("content"))
    except ArtifactError:
        return None


def write(
    artifact: Artifact, folder: Path, config: TritonConfig, details: Mapping[str, Any], evidence: str, *, link: bool
) -> None:
    """Fill an empty folder: what ships, the backend, labels, licences, config, and a manifest with ``details``.

    ``evidence``: a JSON document that goes along, if it is not empty. ``link``: hard-link what ships instead of copying
    it. All of it is on the disk when this returns.
    """
    for file in artifact.manifest.deployable:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            os.link(artifact.folder / file, target)
        else:
            shutil.copyfile(artifact.folder / file, target)
    (folder / "backend").mkdir()
    for file, source in BACKEND_FILES.items():
        shutil.copyfile(source, folder / file)
    lines = [label_line(label) + "\n" for label in artifact.manifest.signature.labels]
    (folder / LABELS_FILE).write_text("".join(lines), encoding="utf-8", newline="")
    if licences := artifact.manifest.licences:
        lines = ["The model in this folder descends from these, whose licences count for it:\n"]
        lines += [f"- {licence.line}\n" for licence in licences]
        (folder / NOTICE).write_text("".join(lines), encoding="utf-8", newline="\n")
    _finish(artifact, folder, config.to_pbtxt(), details, evidence.encode())


def copy(artifact: Artifact, folder: Path, config: str, details: Mapping[str, Any]) -> None:
    """Fill an empty folder with another version's files, its own backend among them, but with this ``config.pbtxt``.

    ``artifact``: the other version; ``details`` are added to its own. All of it is on the disk when this returns.
    """
    for file in {*artifact.manifest.files} - {CONFIG}:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.folder / file, folder / file)
    _finish(artifact, folder, config, details, evidence_of(artifact))


def gpu_config(folder: Path, config: str) -> str | None:
    """The version's ``config.pbtxt`` on a machine with a GPU; None if it was made for none, or its manifest is damaged:
    then whoever serves it is told so.
    """
    with contextlib.suppress(ArtifactError):
        return on_gpu(config) if "cuda" in Artifact.described(folder).manifest.compute.devices else None
    return None


def put_gpu_config(model: Path, text: str | None) -> None:
    """Have the model's ``configs/gpu.pbtxt`` be this text, or not be there; the caller holds the model's lock."""
    target = model / GPU_CONFIG
    sweep(target.parent)
    if text is None:
        target.unlink(missing_ok=True)
    elif not target.is_file() or target.read_bytes() != text.encode():
        target.parent.mkdir(exist_ok=True)
        write_text(target, text)


def evidence_of(version: Artifact) -> bytes:
    """The evidence in a version's folder; empty if there is none.

    Raises :class:`ArtifactError` if it is not what the version was published with, as far as its manifest says.
    """
    path = version.folder / EVIDENCE
    if not path.is_file():
        return b""
    content, known = path.read_bytes(), version.manifest.details.get("evidence")
    if known is not None and hashlib.sha256(content).hexdigest() != known:
        raise ArtifactError(
            f"{path}: its content has changed since it was written. Bring back what it was, or delete it: then the "
            "version is served all the same, and nobody can say whether it answers as it was measured to."
        )
    return content


def _finish(artifact: Artifact, folder: Path, config: str, details: Mapping[str, Any], evidence: bytes) -> None:
    (folder / CONFIG).write_text(config, encoding="utf-8")
    # Of the evidence the digest alone: it is no part of what is served, and may be removed.
    known = {"evidence": hashlib.sha256(evidence).hexdigest()} if evidence else {}
    # Without the metrics: seconds and the like would make equal models differ.
    seal(folder, replace(artifact.manifest, metrics={}, details={**artifact.manifest.details, **details, **known}))
    if evidence:
        (folder / EVIDENCE).write_bytes(evidence)
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def label_line(label: str) -> str:
    """A label on one line, as Triton's classification extension reads it: a line break is written as JSON does."""
    return label.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def numbers(model: Path) -> list[int]:
    """The versions that a model's folder holds, sorted."""
    return sorted(int(path.name) for path in model.iterdir() if path.name.isdecimal()) if model.is_dir() else []


def outdated(numbers: Sequence[int], served: ServedVersion | None, keep: int) -> list[int]:
    """The old ones of these versions, all but the newest, so that ``keep`` are left in all.

    The served one, the one before it and any newer one are never old; where none is served, none is.
    """
    kept = {number for number in served or () if number is not None}
    old = sorted(number for number in numbers if number < max(kept, default=0) and number not in kept)
    return old[: max(0, len(numbers) - keep)]


def remove(folder: Path) -> None:
    """Remove a version folder, if it is there. Out of its place first, so that nobody ever finds half of it there."""
    outdated = folder.with_name(f"{folder.name}.tmp-old-{os.getpid()}")
    if folder.is_dir():
        folder.rename(outdated)
        shutil.rmtree(outdated)


def sync(path: Path) -> None:
    """Have the system write a file or folder to the disk. Windows has no such thing for folders."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
