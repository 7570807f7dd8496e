"""What comes out of a bucket is data: weights, tokenizers and labels, and no code but the code that is here.

A version in a folder of this machine runs the backend that it was measured with. One from elsewhere could hold
anybody's: so its ``model.py`` and ``backend/`` have to be the installed ones, byte for byte, and its ``config.pbtxt``,
which can have Triton unpack and run other files, has to be one that Bantam writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bantam.artifact import LAYOUTS, MANIFEST, TOKENIZER_FILES, Artifact, sha256
from bantam.errors import ArtifactError, RepositoryError
from serving.triton_config import CONFIG, LABELS_FILE, written_by_us
from serving.version_folder import BACKEND_FILES, NOTICE, evidence_of


def check_digest(folder: Path, digests: Sequence[str], what: str) -> None:
    """Raise :class:`ArtifactError` if there are ``digests`` and the SHA-256 of a folder's manifest is none of them."""
    if digests and (digest := sha256(folder / MANIFEST)) not in digests:
        raise ArtifactError(f"{what} has the digest {digest}, expected {' or '.join(digests)}. It is refused.")


def check_manifest(version: Artifact, what: str) -> None:
    """Refuse a version by what its manifest says, before anything else of it is read. ``what``: for messages.

    Raises :class:`ArtifactError` that names the file that is missing, not ours, or of no known kind.
    """
    files, layout = version.manifest.files, LAYOUTS[version.manifest.layout]
    if not layout.servable:
        raise ArtifactError(f"{what} holds a {version.manifest.kind} model, which cannot be served. It is refused.")
    for file, source in BACKEND_FILES.items():
        if file not in files:
            raise ArtifactError(f"{what} has no {file}, which Triton would run. It is refused.")
        if files[file]["sha256"] != sha256(source):
            raise ArtifactError(
                f"{what}: its {file} is not the one that is installed here, and Triton would run it. It is refused: "
                "publish the model again with the Bantam that is here, or install the one that it was published with."
            )
    known = {*BACKEND_FILES, *layout.weights, *TOKENIZER_FILES, CONFIG, LABELS_FILE, NOTICE}
    if odd := sorted({*files} - known):
        raise ArtifactError(f"{what} holds {', '.join(odd)}, expected files of a model alone. It is refused.")


def check_files(version: Artifact, name: str, number: int, what: str) -> None:
    """Refuse a version whose files are not those of its manifest, or whose config would have Triton do anything else.

    Raises :class:`ArtifactError` that names the file.
    """
    Artifact.load(version.folder, verify=True)
    evidence_of(version)
    try:
        config = written_by_us((Path(version.folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RepositoryError) as exc:
        raise ArtifactError(f"{what}: {exc} It is refused.") from exc
    signature = version.manifest.signature
    found = (config.name, config.version, config.task, config.labels, config.pair)
    expected = (name, number, signature.task, signature.labels, signature.pair)
    if found != expected:
        raise ArtifactError(f"{what}: its {CONFIG} is of {found}, expected {expected}. It is refused.")
