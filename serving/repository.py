"""An artifact becomes a version in a Triton model repository::

    <root>/<name>/config.pbtxt
    <root>/<name>/<version>/{model.py, backend/, manifest.json, labels.txt, tokenizer.json, model files}

A publish is atomic: the version folder is written beside its place and renamed into it; then ``config.pbtxt``, whose
version policy names exactly one version, is replaced. That replace is the single commit point: killed before it, a
publish has not happened, and the previous version stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from bantam.artifact import LAYOUTS, Artifact, cache_key, seal, sha256
from bantam.errors import ArtifactError, RepositoryError
from bantam.files import replacing, sweep, writing
from serving.triton_config import LABELS_FILE, TritonConfig, parse_pbtxt

CONFIG = "config.pbtxt"
BACKEND = Path(__file__).with_name("backend")
BACKEND_FILES = {
    path.name if path.name == "model.py" else f"backend/{path.name}": path for path in sorted(BACKEND.glob("*.py"))
}
"""Path in a version folder -> source: what Triton loads, and the package beside it that does the work."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
LOCK_TIMEOUT_S = 120.0
ADVICE = "Expected a folder that a model can be published to; the version before, if any, stays."


@dataclass(frozen=True)
class Published:
    """The version of a model that is served."""

    name: str
    version: int
    folder: Path
    """The version folder."""
    changed: bool = False
    """False if the same content was published already."""


def publish(
    artifact: Artifact,
    root: Path,
    name: str,
    *,
    thresholds: Sequence[float] | None,
    max_batch_size: int = 64,
    micro_batch: int = 8,
    threads: int | None = None,
    link: bool = False,
) -> Published:
    """Write ``artifact`` as the new version of model ``name``; does nothing if that content is published already.

    ``thresholds``: one per label (multi_label), kept for the clients. ``link``: hard-link the files instead of copying
    them, for a throw-away repository on the same file system. Raises :class:`RepositoryError` for a wrong name, option
    or format and for a folder that cannot be written, :class:`DiskFullError` if the disk is full; the version
    published before stays.
    """
    _check(artifact, name)
    try:
        config = TritonConfig(
            name=name,
            version=1,
            task=artifact.manifest.signature.task,
            labels=artifact.manifest.signature.labels,
            thresholds=None if thresholds is None else tuple(float(value) for value in thresholds),
            max_batch_size=max_batch_size,
            micro_batch=micro_batch,
            threads=threads,
        )
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in exc.errors())
        raise RepositoryError(f"Model {name!r} cannot be served like this: {problems}.") from exc
    with writing(root, RepositoryError, ADVICE), _locked(root, name):
        return _publish(artifact, root / name, config, link)


def withdraw(root: Path, name: str) -> bool:
    """Publish ``name`` no longer; returns whether it was. Its version folders stay.

    Raises :class:`RepositoryError` if it cannot be done.
    """
    if not (root / name / CONFIG).is_file():
        return False
    with writing(root, RepositoryError, ADVICE), _locked(root, name):
        (root / name / CONFIG).unlink(missing_ok=True)
        _sync(root / name)
    return True


def baseline_of(name: str) -> str:
    """The name under which the baseline of the published model ``name`` is published."""
    return f"{name}-baseline"


def published(root: Path, name: str) -> Published | None:
    """The version of ``name`` that is published now, or None. Raises :class:`RepositoryError` if it is damaged."""
    path = root / name / CONFIG
    try:
        message = parse_pbtxt(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise RepositoryError(f"{path} cannot be read: {exc}.") from exc
    versions = list(message.version_policy.specific.versions)
    if len(versions) != 1 or not (root / name / str(versions[0])).is_dir():
        raise RepositoryError(
            f"{path}: names version {versions or 'none'}, expected one that has a folder. Publish the model again."
        )
    return Published(name, versions[0], root / name / str(versions[0]))


def models(root: Path) -> list[str]:
    """Names of the models published in the repository ``root``, sorted."""
    return sorted(path.parent.name for path in root.glob(f"*/{CONFIG}"))


def _check(artifact: Artifact, name: str) -> None:
    if not NAME.fullmatch(name):
        raise RepositoryError(
            f"Got model name {name!r}; expected lower-case letters, digits, '.', '_' and '-', first a letter or digit."
        )
    if not LAYOUTS[artifact.manifest.layout].servable:
        servable = [layout.format for layout in LAYOUTS.values() if layout.servable]
        raise RepositoryError(
            f"{artifact.folder}: got a {artifact.manifest.kind} model, expected {' or '.join(servable)}. "
            "Export it first."
        )


def _publish(artifact: Artifact, folder: Path, config: TritonConfig, link: bool) -> Published:
    """Publish while holding the lock."""
    folder.mkdir(exist_ok=True)
    sweep(folder)
    options = config.model_dump(mode="json", exclude={"version"})
    backend = {file: sha256(source) for file, source in BACKEND_FILES.items()}
    content = cache_key(artifact=artifact.digest, options=options, backend=backend)
    versions = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    # A version with this content may be there without being the published one: after a kill, or a return to it.
    version = next((v for v in reversed(versions) if _content(folder / str(v)) == content), None)
    if version is None:
        version = max(versions, default=0) + 1
        with replacing(folder / str(version)) as staging:
            _write_version(artifact, staging, content, link)
    text = config.model_copy(update={"version": version}).to_pbtxt()
    target = folder / CONFIG
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return Published(config.name, version, folder / str(version), changed=False)
    staged = folder / f"{CONFIG}.tmp-{os.getpid()}"
    staged.write_text(text, encoding="utf-8")
    # On disk before it is named: after a power cut, config.pbtxt must not point at half a model.
    _sync(staged)
    _sync(folder)
    staged.replace(target)
    _sync(folder)
    return Published(config.name, version, folder / str(version), changed=True)


def _write_version(artifact: Artifact, staging: Path, content: str, link: bool) -> None:
    """Fill a version folder: what ships, the backend, the labels, and a manifest of its own."""
    for file in artifact.manifest.deployable:
        target = staging / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            os.link(artifact.folder / file, target)
        else:
            shutil.copyfile(artifact.folder / file, target)
    (staging / "backend").mkdir()
    for file, source in BACKEND_FILES.items():
        shutil.copyfile(source, staging / file)
    (staging / LABELS_FILE).write_text("\n".join(artifact.manifest.signature.labels) + "\n", encoding="utf-8")
    # Without the metrics: seconds and the like would make equal models differ.
    details = {**artifact.manifest.details, "content": content}
    seal(staging, replace(artifact.manifest, metrics={}, details=details))
    for path in staging.rglob("*"):
        _sync(path)
    _sync(staging)


def _content(folder: Path) -> str | None:
    """What a version folder was made from, or None if it is damaged."""
    try:
        return str(Artifact.load(folder).manifest.details.get("content"))
    except ArtifactError:
        return None


def _sync(path: Path) -> None:
    """Have the system write a file or folder to the disk. Windows has no such thing for folders."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(root: Path, name: str) -> Iterator[None]:
    """One publish of a model at a time, in whatever process."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / f".{name}.lock", timeout=LOCK_TIMEOUT_S):
            yield
    except Timeout as exc:
        raise RepositoryError(
            f"{root / name}: another process has been publishing for {LOCK_TIMEOUT_S:.0f} s. Wait for it or end it."
        ) from exc
