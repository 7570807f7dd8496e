"""Which model labels: a published one, a version's folder, or a variant of a run; with what decides its labels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bantam.artifact import MANIFEST, Artifact, Text, cache_key
from bantam.client.prediction import Description, Prediction
from bantam.client.transport import ModelConfig, Target
from bantam.errors import BantamError, ModelError, RecipeError, RepositoryError
from bantam.report.file import REPORT_JSON, read_report
from bantam.run.measures import read_thresholds
from serving.mirror import local
from serving.repository import published, verified
from serving.triton_config import CONFIG, config_for, parse_pbtxt


@dataclass(frozen=True)
class LabelModel:
    """A model that can be run in process."""

    name: str
    """For messages: ``minilm, version 3``, or a folder."""
    artifact: Artifact
    description: Description
    """Its labels, thresholds and version."""
    micro_batch: int

    @property
    def digest(self) -> str:
        """Of all that its answers come from."""
        thresholds = self.description.thresholds
        return cache_key(
            artifact=self.artifact.digest,
            thresholds=None if thresholds is None else thresholds.tolist(),
            version=self.description.version,
        )


class Labeller:
    """A model in this process on one core, for who has processes of his own, such as Spark. Close to nothing else.

    ``folder``: a version's, such as ``model_repo/minilm/3``. Raises :class:`RepositoryError` if it is none, or a file
    of it has changed.
    """

    def __init__(self, folder: str | Path, *, threads: int = 1) -> None:
        from serving.backend.engine import Engine

        model = _version(Path(folder), None)
        self.description = model.description
        self._engine = Engine(model.artifact.folder, threads=threads, micro_batch=model.micro_batch)

    def __call__(self, texts: Sequence[Text]) -> list[Prediction]:
        """What the model says of each text; tuples for a model of pairs."""
        return self.description.predictions(self._engine.probabilities(list(texts)))


@contextlib.contextmanager
def find_model(
    model: str, repository: str, digests: Sequence[str], thresholds: str | None, log: Callable[[str], None]
) -> Iterator[LabelModel]:
    """The model, whose files are as they were made.

    ``model``: a name that is published in ``repository``, or a folder of a version or variant. ``thresholds``: in place
    of those it was published with, as :func:`bantam.run.measures.read_thresholds` reads them. Raises
    :class:`RepositoryError`, :class:`ModelError` or :class:`RecipeError` for what cannot be used.
    """
    folder = Path(model).expanduser()
    if (folder / MANIFEST).is_file():
        yield _version(folder, thresholds) if (folder / CONFIG).is_file() else _variant(folder, thresholds)
        return
    if folder.is_dir() and (folder / REPORT_JSON).is_file():
        names = [path.parent.name for path in sorted(folder.glob(f"*/{MANIFEST}"))]
        raise ModelError(f"{model} is a run, expected one of its variants: {', '.join(map(str, names))}.")
    with local(repository, [model], digests, log, follow=False) as root:
        found = published(root, model)
        if found is None:
            raise RepositoryError(
                f"{repository} has no model {model!r}, and there is no folder of that name with a {MANIFEST}. Expected "
                "a published name, or the folder of a version or variant: bantam versions lists those of a name."
            )
        yield _version(found.folder, thresholds)


def _version(folder: Path, thresholds: str | None) -> LabelModel:
    if not (folder / CONFIG).is_file():
        raise RepositoryError(f"{folder}: expected a version's folder, such as model_repo/minilm/3.")
    artifact = verified(folder.resolve())
    config = parse_pbtxt((folder / CONFIG).read_text(encoding="utf-8"))
    said = {key: parameter.string_value for key, parameter in config.parameters.items()}
    number = ",".join(map(str, config.version_policy.specific.versions))
    return _described(f"{config.name}, version {number}", artifact, said, number, thresholds)


def _variant(folder: Path, thresholds: str | None) -> LabelModel:
    artifact = Artifact.load(folder, verify=True)
    if not artifact.servable:
        raise ModelError(
            f"{folder} is a {artifact.manifest.kind} model, which the engine does not run. Expected an exported one."
        )
    known = None
    if artifact.manifest.signature.task == "multi_label" and thresholds is None:
        known = _thresholds_of_run(folder, artifact.manifest.signature.labels)
    config = config_for(artifact.manifest.signature, "variant", known)
    return _described(str(folder), artifact, config.parameters(), "", thresholds)


def _thresholds_of_run(folder: Path, labels: Sequence[str]) -> list[float]:
    """Those that the run has tuned for the variant that it has chosen."""
    with contextlib.suppress(BantamError):
        report = read_report(folder.parent / REPORT_JSON)
        if report.chosen == folder.name and report.thresholds is not None:
            return [report.thresholds.values[label] for label in labels]
    raise ModelError(
        f"{folder} gives several labels, and there are no thresholds for it: a run's report has those of its chosen "
        "variant alone. Give some: --thresholds 0.5, or a JSON file of one a label."
    )


def _described(name: str, artifact: Artifact, said: dict[str, Any], number: str, thresholds: str | None) -> LabelModel:
    description = Description.from_config(ModelConfig(1, said, number), Target("", name, 0.0))
    if thresholds is not None:
        import dataclasses

        import numpy as np

        if description.thresholds is None:
            raise RecipeError(f"Got --thresholds {thresholds}, but {name} is {description.task}. Leave them out.")
        given = np.array(read_thresholds(thresholds, description.labels))
        description = dataclasses.replace(description, thresholds=given)
    return LabelModel(name, artifact, description, int(said.get("micro_batch", "8")))
