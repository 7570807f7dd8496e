"""An artifact: a folder of files with a ``manifest.json``. The seam between ``optimizer/`` and ``serving/``.

Standard library only, because everything else builds on it. A folder is written beside its final place and renamed
into it, so that it is either whole or absent, whenever the process is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bantam.errors import ArtifactError

MANIFEST = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Signature:
    """What a classifier takes and gives: enough to run it without the library that made it."""

    task: str
    """``multi_label`` (sigmoid per label) or ``single_label`` (softmax over labels)."""
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    """Names of the model's inputs, all int64 ``[batch, tokens]``: input_ids, attention_mask, token_type_ids."""
    max_length: int
    """Longest input in tokens, special tokens included; longer texts are cut."""
    pad_token_id: int = 0


@dataclass(frozen=True)
class Manifest:
    """What is in an artifact and where it comes from."""

    name: str
    stage: str
    key: str
    """Hash of all that went into it; see :func:`cache_key`."""
    format: str
    """``pytorch`` (a Hugging Face folder), ``onnx``, ``openvino``, or ``scores``."""
    precision: str
    signature: Signature
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Relative path -> ``{"sha256": hex, "bytes": int}``, the manifest itself left out."""
    deployable: tuple[str, ...] = ()
    """The files that production needs: weights, graph, tokenizer. Their sum is the variant's size."""
    lineage: tuple[dict[str, Any], ...] = ()
    """One entry a stage, oldest first: name, stage, key, config."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Measured while it was made (seconds, losses, parity); not part of its identity."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else a reader of this format needs, such as thresholds or the source of the weights."""
    random_weights: bool = False
    """True if the weights are random: sizes and times mean something, predictions do not."""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    folder: Path
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        """Bytes that production must ship for this model."""
        return sum(int(self.manifest.files[name]["bytes"]) for name in self.manifest.deployable)

    @property
    def digest(self) -> str:
        """Hash of the content: equal files, signature and details give an equal digest, whenever they were made."""
        m = self.manifest
        return cache_key(
            files={name: entry["sha256"] for name, entry in m.files.items()},
            signature=asdict(m.signature),
            details=m.details,
            format=m.format,
            precision=m.precision,
        )

    @classmethod
    def load(cls, folder: Path, *, verify: bool = False) -> Artifact:
        """Read the artifact in ``folder``; with ``verify``, hash each file.

        Raises :class:`ArtifactError` if it has no readable manifest, or a file is missing, changed or of another size.
        """
        try:
            raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if raw["schema"] != SCHEMA:
                raise ArtifactError(
                    f"{folder}: manifest schema {raw['schema']}, expected {SCHEMA}. Delete the folder and run again."
                )
            signature: dict[str, Any] = raw["signature"]
            signature |= {"labels": tuple(signature["labels"]), "inputs": tuple(signature["inputs"])}
            raw["signature"] = Signature(**signature)
            raw["deployable"], raw["lineage"] = tuple(raw["deployable"]), tuple(raw["lineage"])
            artifact = cls(folder, Manifest(**raw))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ArtifactError(f"{folder}: no readable {MANIFEST} ({exc}). Delete the folder and run again.") from exc
        for name, entry in artifact.manifest.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise ArtifactError(
                    f"{path}: missing or not {entry['bytes']} bytes long. Delete the folder and run again."
                )
            if verify and sha256(path) != entry["sha256"]:
                raise ArtifactError(f"{path}: its content has changed since it was written. Delete the folder.")
        return artifact


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_key(**parts: Any) -> str:
    """Hash of JSON-serialisable parts; the order of keys does not count. 64 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Give an empty folder beside ``final`` to write into; put it in ``final``'s place if the block ends well.

    ``final`` is replaced as a whole; if the block raises, the half-written folder is removed and ``final`` untouched.
    """
    temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if final.exists():
            # A folder cannot be renamed onto another; killed between the two steps, the stage simply runs again.
            outdated = final.with_name(f"{final.name}.tmp-old-{os.getpid()}")
            shutil.rmtree(outdated, ignore_errors=True)
            final.rename(outdated)
            temporary.rename(final)
            shutil.rmtree(outdated, ignore_errors=True)
        else:
            temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep(folder: Path) -> list[Path]:
    """Remove what killed processes left half-written directly in ``folder``; returns what was removed.

    The caller holds the folder's lock, so that nothing found is in use.
    """
    left = [path for path in folder.glob("*.tmp-*") if path.is_dir() or path.is_file()]
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return left


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hash all files in ``folder``, write its manifest, return it with ``files`` filled in."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    missing = [name for name in manifest.deployable if name not in files]
    if missing:
        raise ArtifactError(f"{folder}: {', '.join(missing)} should ship but was not written.")
    sealed = Manifest(**{**manifest.__dict__, "files": files})
    text = json.dumps(asdict(sealed), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return sealed
