"""Where a run's texts and weights come from, and under which terms, as the records of report.json."""

from __future__ import annotations

from dataclasses import asdict

from bantam.report.provenance import DataColumns, DataSource, LicenceRecord, ModelSource
from bantam.run.state import Run
from optimizer.data import Columns
from optimizer.load.made import once_in


def data_source(run: Run) -> DataSource:
    """Where the texts come from."""
    columns = run.request.columns
    return DataSource(
        source=run.data.source,
        licence=run.data.licence,
        digest=run.data.digest,
        hub_id=run.data.hub_id,
        task=run.data.task,
        labelled=None if run.data.labelled else False,
        pair=run.data.pair or None,
        language=run.data.language,
        columns=DataColumns(**asdict(columns)) if columns != Columns() else None,
        about=run.data.about,
        rows={name: len(split.texts) for name, split in run.data.splits.items()},
    )


def model_source(run: Run) -> ModelSource:
    """Where the weights come from."""
    return ModelSource(
        source=run.checkpoint.source,
        revision=run.checkpoint.revision,
        licence=run.checkpoint.licence,
        digest=run.checkpoint.digest,
        hub_id=run.checkpoint.hub_id,
        quantization=run.checkpoint.quantization,
        teachers_quantization=once_in(
            *(checkpoint.quantization for name, checkpoint in run.checkpoints.items() if name is not None)
        ),
    )


def licences(run: Run, name: str) -> tuple[LicenceRecord, ...]:
    """Of all models that a variant descends from, teachers included."""
    return tuple(
        LicenceRecord(**{field: value for field, value in asdict(licence).items() if value})
        for licence in run.artifacts[name].manifest.licences
    )
