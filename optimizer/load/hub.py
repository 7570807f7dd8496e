"""Files from the Hugging Face hub, through its own cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bantam.errors import ModelError
from optimizer.hub import TIMEOUT_S, HubError, hub_answers, require_hub
from optimizer.load.folder import CONFIG, FILES, known_models
from optimizer.load.pickled import PICKLED, pickled
from optimizer.load.weights import SINGLE, has_weights


class GatedError(ModelError):
    """The hub has the model, and gives it to those alone who have accepted its terms there."""


def fetch(hub_id: str, revision: str, *, files: Sequence[str] = FILES, log: Callable[[str], None] = print) -> Path:
    """The folder of ``hub_id`` at ``revision`` in the hub's cache; downloaded if it is not whole there.

    Never downloads code, and pickle files only where ``files`` names them. Raises :class:`HubError` if the hub is out
    of reach and the files are not in the cache, :class:`GatedError` if it asks for terms to be accepted,
    :class:`ModelError` if it has no such model or revision.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = list(files)
    try:
        cached = _cached(hub_id, revision, patterns)
        if cached is not None and (len(revision) == 40 or not hub_answers()):
            return cached
        require_hub()
        log(f"Downloading {hub_id} ({revision[:12]}) from the Hugging Face hub")
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, etag_timeout=TIMEOUT_S))
    except GatedRepoError as exc:
        raise GatedError(
            f"{hub_id} asks for its terms to be accepted. Accept them on its page, then log in with: hf auth login."
        ) from exc
    except (RepositoryNotFoundError, HFValidationError) as exc:
        raise ModelError(
            f"Unknown model {hub_id!r}: no local folder, and the hub has none of that name (or it is private).\n"
            f"Known models: {known_models()}; or a hub id such as google-bert/bert-base-cased, or a local folder."
        ) from exc
    except RevisionNotFoundError as exc:
        raise ModelError(f"{hub_id} has no revision {revision} on the hub.") from exc
    except (HfHubHTTPError, OSError) as exc:
        raise HubError(f"The Hugging Face hub failed: {type(exc).__name__}: {str(exc).splitlines()[0]}.") from exc


def _cached(hub_id: str, revision: str, patterns: list[str]) -> Path | None:
    """The snapshot in the hub's cache, if it is whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_files_only=True))
    except (LocalEntryNotFoundError, IncompleteSnapshotError):
        return None
    # A cache that an older library filled has no list of its files, and may lack some.
    wanted = {SINGLE, *PICKLED} & {*patterns}
    whole = (folder / CONFIG).is_file() and (not wanted or has_weights(folder) or pickled(folder))
    return folder if whole else None
