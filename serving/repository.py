"""An artifact becomes a version of a model in a Triton model repository::

    <root>/<name>/{config.pbtxt, configs/gpu.pbtxt}
    <root>/<name>/<version>/{config.pbtxt, model.py, backend/, manifest.json, labels.txt, tokenizer.json, model files}

``stage`` writes a version folder beside its place and renames it into it; nobody serves it yet. ``promote`` replaces
the model's ``config.pbtxt``, whose version policy names exactly one version, by the version's own. That replace is the
single commit point: killed before it, nothing has happened, and the version before stays. ``config.pbtxt`` also says
which version it followed, so that ``rollback`` is a promote too. ``publish`` is stage and promote, unchecked.
``configs/gpu.pbtxt`` is made of it afterwards, for a Triton that is not ``bantam serve``'s (:mod:`serving.view`): after
a kill between the two it is still of the version before, and the same promote, asked for again, makes it anew.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bantam.artifact import LAYOUTS, Artifact, cache_key
from bantam.errors import ArtifactError, BantamError, RepositoryError
from bantam.files import replacing, replacing_file, sweep, write_text, writing
from serving import version_folder
from serving.backend.cores import TextThreads
from serving.triton_config import CONFIG, ServedVersion, config_for, following, parse_pbtxt, renamed, served_version
from serving.version_folder import Identity

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
LOCK_TIMEOUT_S = 120.0
ADVICE = "Expected a folder that a model can be published to; the version before, if any, stays."


@dataclass(frozen=True)
class Version:
    """A version of a model in a repository."""

    name: str
    number: int
    folder: Path
    """The version folder, ``<root>/<name>/<number>``."""
    changed: bool = False
    """Whether the call that returned it has written it (``stage``), or made it the served one (the others)."""

    @property
    def root(self) -> Path:
        """The repository."""
        return self.folder.parents[1]


def stage(
    artifact: Artifact,
    root: Path,
    name: str,
    *,
    thresholds: Sequence[float] | None,
    identity: Identity | None = None,
    evidence: str = "",
    link: bool = False,
    **options: int | TextThreads | None,
) -> Version:
    """Write ``artifact`` as a version of model ``name`` that is not served yet; one of that content may be there.

    ``thresholds``: one per label (multi_label), kept for the clients. ``evidence``: a JSON document of what it was
    measured to answer. ``link``: hard-link the files, for a throw-away repository on the same file system. ``options``:
    other fields of ``TritonConfig``. Raises :class:`RepositoryError` for a wrong name, option or format and for a
    folder that cannot be written, :class:`DiskFullError` if the disk is full.
    """
    _check(artifact, name)
    config = config_for(artifact.manifest.signature, name, thresholds, **options)
    details = {"identity": asdict(identity)} if identity else {}

    def write(folder: Path, number: int, content: Mapping[str, str]) -> None:
        numbered = config.model_copy(update={"version": number})
        version_folder.write(artifact, folder, numbered, {**content, **details}, evidence, link=link)

    return _stage(root, name, version_folder.content(artifact, config), write)


def take(folder: Path, root: Path, name: str, *, number: int | None = None) -> Version:
    """Stage a copy of a version folder, of this repository or of another one, with the backend that is in it.

    ``number``: the lowest that it may get. Raises :class:`RepositoryError` if the folder is no version's or one of its
    files is missing or changed, and what :func:`stage` raises.
    """
    version = verified(folder, evidence=True)
    content = version.manifest.details.get("content")
    if content is None or not (folder / CONFIG).is_file():
        raise RepositoryError(f"{folder}: expected a version's folder, such as model_repo/minilm/3.")
    _check(version, name)
    text = (folder / CONFIG).read_text(encoding="utf-8")
    if parse_pbtxt(text).name != name:
        content = cache_key(content=content, name=name)

    def write(target: Path, number: int, content: Mapping[str, str]) -> None:
        version_folder.copy(version, target, renamed(text, name, number), content)

    return _stage(root, name, str(content), write, number or 1)


def verified(folder: Path, otherwise: type[BantamError] = RepositoryError, *, evidence: bool = False) -> Artifact:
    """A version whose files, and if asked ``evidence``, are as published; else raises ``otherwise``, naming one."""
    try:
        version = Artifact.load(folder, verify=True)
        if evidence:
            version_folder.evidence_of(version)
    except ArtifactError as exc:
        raise otherwise(f"{folder.parent.name}, version {folder.name}, is not as it was published: {exc}") from exc
    return version


def promote(version: Version) -> Version:
    """Make a staged version the served one, if it is not. A server that runs takes it within seconds.

    Raises :class:`RepositoryError` if it is not there; what is served stays.
    """
    with locked(version.root, version.name):
        return _promote(version)


def rollback(root: Path, name: str) -> Version:
    """Make the version that was served before the served one; called again, it goes back again.

    Raises :class:`RepositoryError` if there is none or its files are damaged; what is served stays.
    """
    with locked(root, name):
        served = served_in(root, name)
        if served is None or served.previous is None:
            held = f"version {served.number} is the only one" if served else "no version"
            raise RepositoryError(f"{root / name}: {held} that was served, expected one before it to return to.")
        before = Version(name, served.previous, root / name / str(served.previous))
        try:
            verified(before.folder)
        except RepositoryError as exc:
            raise RepositoryError(f"{name} stays at version {served.number}: {exc}") from exc
        return _promote(before)


def _stage(
    root: Path, name: str, content: str, write: Callable[[Path, int, Mapping[str, str]], None], lowest: int = 1
) -> Version:
    """Have ``write`` fill the folder of a new version, unless one of that content is there."""
    with writing(root, RepositoryError, ADVICE):
        (root / name).mkdir(parents=True, exist_ok=True)
    with locked(root, name):
        folder = root / name
        sweep(folder)
        numbers = version_folder.numbers(folder)
        # After a kill, or on a return to what was served before, it is there already.
        found = next((v for v in reversed(numbers) if version_folder.content_of(folder / str(v)) == content), None)
        number = found or max(max(numbers, default=0) + 1, lowest)
        if not found:
            with replacing(folder / str(number)) as staging:
                write(staging, number, {"content": content})
            version_folder.sync(folder)
        return Version(name, number, folder / str(number), changed=not found)


def discard(version: Version) -> bool:
    """Remove a staged version; returns whether it did. The served one and the one before it are never removed."""
    with locked(version.root, version.name):
        if version.number in _kept(version.root, version.name):
            return False
        version_folder.remove(version.folder)
        return True


def prune(root: Path, name: str, keep: int = 0) -> list[int]:
    """Remove old versions, all but the newest, so that ``keep`` are left in all; returns those removed.

    The served one, the one before it and any newer one, which may just be staged, always stay.
    """
    with locked(root, name):
        sweep(root / name)
        outdated = version_folder.outdated(version_folder.numbers(root / name), served_in(root, name), keep)
        for number in outdated:
            version_folder.remove(root / name / str(number))
        return outdated


def publish(
    artifact: Artifact, root: Path, name: str, *, thresholds: Sequence[float] | None, **options: Any
) -> Version:
    """Stage and promote, with the options and errors of :func:`stage`: for what needs no check of its answers."""
    return promote(stage(artifact, root, name, thresholds=thresholds, **options))


def withdraw(root: Path, name: str) -> bool:
    """Publish ``name`` no longer; returns whether it was. Its version folders stay. Raises :class:`RepositoryError`."""
    if not (root / name / CONFIG).is_file():
        return False
    with locked(root, name):
        version_folder.put_gpu_config(root / name, None)
        (root / name / CONFIG).unlink(missing_ok=True)
        version_folder.sync(root / name)
    return True


def baseline_of(name: str) -> str:
    """The name under which the baseline of the published model ``name`` is published."""
    return f"{name}-baseline"


def published(root: Path, name: str) -> Version | None:
    """The version of ``name`` that is served, or None. Raises :class:`RepositoryError` if it is damaged."""
    served = served_in(root, name)
    return served and Version(name, served.number, root / name / str(served.number))


def models(root: Path) -> list[str]:
    """Names of the models published in the repository ``root``, sorted."""
    return sorted(path.parent.name for path in root.glob(f"*/{CONFIG}"))


def _check(artifact: Artifact, name: str) -> None:
    if not NAME.fullmatch(name):
        raise RepositoryError(
            f"Got model name {name!r}; expected lower-case letters, digits, '.', '_' and '-', first a letter or digit."
        )
    if not artifact.servable:
        servable = [layout.format for layout in LAYOUTS.values() if layout.servable]
        raise RepositoryError(
            f"{artifact.folder}: got a {artifact.manifest.kind} model, expected {' or '.join(servable)}. "
            "Export it first."
        )


def served_in(root: Path, name: str) -> ServedVersion | None:
    """What the model's config.pbtxt says is served, and was before; :class:`RepositoryError` if it is damaged."""
    path = root / name / CONFIG
    try:
        served = served_version(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise RepositoryError(f"{path} cannot be read: {exc}.") from exc
    if served is None or not (root / name / str(served.number)).is_dir():
        raise RepositoryError(
            f"{path}: names version {served.number if served else 'none'}, expected one that has a folder. "
            "Publish the model again."
        )
    return served


def _promote(version: Version) -> Version:
    """Promote while holding the lock."""
    model = version.folder.parent
    try:
        text = (version.folder / CONFIG).read_text(encoding="utf-8")
    except OSError as exc:
        raise RepositoryError(
            f"{version.folder} cannot be served: its {CONFIG} cannot be read ({exc.strerror}). Publish the model again."
        ) from exc
    served: ServedVersion | None = None
    with contextlib.suppress(RepositoryError):  # nobody can serve from a damaged config.pbtxt: a promote mends it
        served = served_in(version.root, version.name)
    target = model / CONFIG
    before = target.read_text(encoding="utf-8") if served else ""
    if served:
        replaced = model / str(served.number) / CONFIG
        if not replaced.is_file():  # the version that is replaced is to hold its own; older ones do not
            write_text(replaced, before)
        previous = served.number if served.number != version.number else served.previous
        text = following(text, previous, before, replaced.read_text(encoding="utf-8"))
    changed = not (target.is_file() and target.read_bytes() == text.encode())  # bytes: what is damaged may be no text
    if changed:
        # On disk before it is named: after a power cut, config.pbtxt must not point at half a model.
        with replacing_file(target) as temporary:
            temporary.write_bytes(text.encode())
            version_folder.sync(temporary)
        version_folder.sync(model)
    version_folder.put_gpu_config(model, version_folder.gpu_config(version.folder, text))
    return replace(version, changed=changed)


def _kept(root: Path, name: str) -> set[int]:
    """The versions that must stay: the served one and the one before it."""
    served = served_in(root, name)
    return {number for number in served or () if number is not None}


@contextlib.contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """One change of a model at a time, in whatever process; errors of the file system are translated."""
    if not root.is_dir():
        raise RepositoryError(f"{root}: no such folder, expected a model repository.")
    try:
        with writing(root, RepositoryError, ADVICE), FileLock(root / f".{name}.lock", timeout=LOCK_TIMEOUT_S):
            yield
    except Timeout as exc:
        raise RepositoryError(
            f"{root / name}: another process has been changing it for {LOCK_TIMEOUT_S:.0f} s. Wait for it or end it."
        ) from exc
