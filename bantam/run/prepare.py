"""What is found and refused before any work is done: recipe, data, model, metric, names."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

from bantam.artifact import Signature, cache_key
from bantam.errors import RecipeError, RepositoryError
from bantam.report.schema import BASELINE
from bantam.run.adoption import as_they_are, texts_alone
from bantam.run.measures import check_metric, given_thresholds
from bantam.run.request import DEFAULT_DATA, OptimizeRequest
from bantam.run.state import Log, Run
from bantam.run.target import check_stages, check_target
from optimizer.catalog import CATALOG, Checkpoint
from optimizer.config import ExportConfig, QuantizeConfig
from optimizer.data import BUNDLED, Columns, Dataset, load_dataset
from optimizer.data.sample import bounded
from optimizer.load import resolve
from optimizer.load.kind import Kind, kind
from optimizer.metric import parse
from optimizer.recipe import DEFAULTS, Recipe, known_recipes, load_recipe
from serving.listing import check_interface, identity, interface_of
from serving.repository import NAME, baseline_of
from serving.version_folder import Identity


def prepare(request: OptimizeRequest, log: Log) -> Run:
    """Find recipe, data and model before any work is done; raises the UserError that fits if one cannot be had.

    Refused are also: a recipe that cannot end in a published model, a metric of a label that is not there, and a name
    that cannot be published, means another model, or is served with other labels. The run's time counts from here on,
    downloads included.
    """
    started = time.monotonic()
    given, request = request, replace(request, data=request.data or DEFAULT_DATA)
    check_target(request)
    _recipe(request.recipe or default_recipe(request), request)  # refused before anything is downloaded
    name = published_name(request)
    _check_name(name)
    _check_accepted(request)
    data = load_dataset(str(request.data), columns=request.columns)
    checkpoint = resolve(request.model, random_init=request.random_init, accepted=request.accepted, log=log)
    if request.recipe is None:
        request = replace(request, recipe=default_recipe(request, kind(checkpoint)))
        log(f"recipe {request.recipe}: {checkpoint.name} has the architecture of a text {kind(checkpoint)}")
    recipe = _recipe(str(request.recipe), request)
    check_stages(recipe, request)
    if checkpoint.random_weights and data.labelled and request.finetune != "always":
        recipe = recipe.planned()
    data = bounded(data, recipe.measure.dev_rows, recipe.measure.test_rows)
    if given.data is None and request.finetune != "always":
        data = texts_alone(data, checkpoint)
    # The default's texts without its labels are other data than the default.
    what = "-texts" if given.data is None and not data.labelled else ""
    stands_for = _identity(request, data, checkpoint, what)
    if request.name is None:
        _check_meaning(request.repository, name, stands_for)
    checkpoints: dict[str | None, Checkpoint] = {
        name: resolve(name, accepted=request.accepted, log=log) for name in recipe.models
    }
    checkpoints[None] = checkpoint
    recipe, data = as_they_are(recipe.suited_to(checkpoint.training), data, checkpoints, request.finetune, log)
    interface = Signature(data.task, data.labels, (), 0, pair=data.pair)  # what counts of it to clients
    check_interface(name, interface_of(request.repository, name), interface, request.allow_new_labels)
    check_metric(recipe.metric, data)
    thresholds = given_thresholds(request.thresholds, data)
    if not checkpoint.random_weights:
        recipe = recipe.exporting(BASELINE)  # the safe choice
    for note in data.notes:
        log(note)
    if checkpoint.random_weights:
        log("RANDOM WEIGHTS: sizes, times and memory mean something; predictions and quality do not.")
    folder = request.build / f"{run_name(request)}{what}"
    return Run(request, recipe, data, checkpoint, checkpoints, folder, name, stands_for, thresholds, started=started)


def run_name(request: OptimizeRequest) -> str:
    """Name of the run's folder: model, data, recipe and profile, and a hash of what else changes its figures.

    A path, and a name that is not one of Bantam's own, comes with a hash of what it means: two files or two
    organisations' models of one name have folders of their own.
    """
    parts = [
        _told_apart(request.model, CATALOG),
        _told_apart(request.data or DEFAULT_DATA, BUNDLED),
        _told_apart(request.recipe or default_recipe(request), known_recipes()),
        request.profile,
        *(["random"] if request.random_init else []),
    ]
    usual = OptimizeRequest()
    if (request.columns, request.finetune, request.thresholds) != (usual.columns, usual.finetune, usual.thresholds):
        asked = (asdict(request.columns), request.finetune, request.thresholds)
        parts.append(cache_key(asked=asked)[:8])
    return "-".join(parts)


def default_recipe(request: OptimizeRequest, kind: Kind = "encoder") -> str:
    """The recipe of who names none."""
    return "gpu" if (request.target, kind) == ("gpu", "encoder") else DEFAULTS[kind]


def published_name(request: OptimizeRequest) -> str:
    """What the chosen variant is published as."""
    if request.name is not None:
        return request.name
    return slug(re.sub(r"\.gguf$", "", request.model, flags=re.IGNORECASE)) + ("-random" if request.random_init else "")


def slug(text: str) -> str:
    """The last part of a path or hub id, with what a folder's or model's name cannot hold replaced by hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.rstrip("/").rpartition("/")[2].lower()).strip("-.") or "model"


def _told_apart(text: str, known: Collection[str]) -> str:
    if text in known:
        return slug(text)
    plain = Path(text).stem if text.lower().endswith((".toml", ".csv", ".tsv", ".gguf")) else text
    return f"{slug(plain)}-{cache_key(meaning=_meaning(text))[:8]}"


def _meaning(text: str) -> str:
    """The absolute path, if there is something there; else the text, an id on the hub."""
    path = Path(text).expanduser()
    return str(path.resolve()) if path.exists() else text


def _recipe(name: str, request: OptimizeRequest) -> Recipe:
    """The recipe with what the user asked for instead; raises :class:`RecipeError` if it cannot end in a model."""
    update: dict[str, object] = {}
    if request.max_drop is not None:
        update["max_drop_points"] = update["max_disagreement_points"] = request.max_drop
    if request.max_slice_drop is not None:
        update["max_slice_drop_points"] = request.max_slice_drop
    for option, value in (
        ("--max-slice-drop", request.max_slice_drop),
        ("--max-p99-ms", request.max_p99_ms),
        ("--max-size-mb", request.max_size_mb),
    ):
        if value is not None and not 0 < value < float("inf"):
            raise RecipeError(f"Got {option} {value:g}; expected a number above 0, or leave it out for no such limit.")
    if request.metric is not None:
        try:
            update["metric"] = parse(request.metric)
        except ValueError as exc:
            raise RecipeError(f"G{str(exc)[1:]}.") from exc  # capitalize() would change the user's own letters
    recipe = load_recipe(name, request.profile).model_copy(update=update)
    _check_recipe(recipe)
    return recipe


def _check_recipe(recipe: Recipe) -> None:
    measured = [stage for stage in recipe.stages if stage.measure]
    if BASELINE not in (stage.name for stage in measured):
        raise RecipeError(
            f"Recipe {recipe.name!r} measures no stage named {BASELINE!r}; expected one, which all others are compared "
            f"with. Name the stage that fine-tunes the model {BASELINE!r}, without measure = false."
        )
    if not any(isinstance(stage, ExportConfig | QuantizeConfig) for stage in measured):
        raise RecipeError(
            f"Recipe {recipe.name!r} makes nothing that can be served; expected a measured stage that exports or "
            "quantizes. Add one, or leave its measure = false out."
        )


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise RepositoryError(
            f"Got the name {name!r} to publish under; expected lower-case letters, digits, '.', '_' and '-', first a "
            "letter or digit. Choose one with --name (make optimize NAME=...)."
        )


def _check_accepted(request: OptimizeRequest) -> None:
    asked = {entry.licence_to_accept.name: name for name, entry in CATALOG.items() if entry.licence_to_accept}
    for licence in request.accepted:
        if licence not in asked:
            known = ", ".join(f"{one} (which {model} asks for)" for one, model in asked.items())
            raise RecipeError(
                f"Got --accept-licence {licence}; expected one that a model asks for: {known}. Name that one, or none."
            )


def _identity(request: OptimizeRequest, data: Dataset, checkpoint: Checkpoint, what: str) -> Identity:
    """What a name stands for: where model and data come from, not what is in them, which new rows may change."""
    return Identity(
        model=checkpoint.hub_id or checkpoint.name,
        model_digest=cache_key(source=checkpoint.hub_id or checkpoint.source),
        data=data.name,
        data_digest=cache_key(source=_source(request) + what),
    )


def _source(request: OptimizeRequest) -> str:
    """Where the data come from, and which of its columns are meant, if the user says so."""
    data = str(request.data)
    place = data if data in BUNDLED else _meaning(data)
    columns = replace(request.columns, group=None)
    return place if columns == Columns() else f"{place} {columns}"


def _check_meaning(repository: Path, name: str, wanted: Identity) -> None:
    """A name that nobody chose must not come to mean another model."""
    for published in (name, baseline_of(name)):
        found = identity(repository, published)
        if found is not None and found != wanted:
            raise RepositoryError(
                f"{repository / published} is {found.model} on {found.data}; this run would make it {wanted.model} on "
                f"{wanted.data}, from another place. Choose another name (make optimize NAME=..., --name), or name "
                f"{name} yourself if it is to be replaced."
            )
