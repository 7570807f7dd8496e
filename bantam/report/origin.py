"""What a report says of where the weights come from: licences, and what they had lost before."""

from __future__ import annotations

from bantam.report.schema import Report


def licences(report: Report) -> list[str]:
    """One line for each model that the chosen variant descends from."""
    return [licence.line for licence in report.licences]


def quantized_once(report: Report) -> str | None:
    """That the baseline's weights were in fewer bits once; None if they were not."""
    kind = report.model_source.quantization if report.model_source else None
    if kind is None:
        return None
    return (
        f"The baseline is from {kind}: its weights were quantized once. What that cost is in no figure here, and what "
        "quantizing them again costs may be less than it would cost the original's."
    )


def filed_under(report: Report) -> str | None:
    """The licence to file the model under: those that count for what is distilled, else the base model's."""
    bound = dict.fromkeys(licence.name for licence in report.licences if licence.outputs)
    if bound:
        return " and ".join(bound)
    if report.licences:
        return report.licences[0].name
    return report.model_source.licence if report.model_source else None
