"""What a report says of where the weights come from: licences, and what they had lost before."""

from __future__ import annotations

from bantam.report.schema import Report


def licences(report: Report) -> list[str]:
    """One line for each model that the chosen variant descends from."""
    return [licence.line for licence in report.licences]


def quantized_once(report: Report) -> str | None:
    """That weights of the baseline, or of teachers, were in fewer bits once; None if they were not."""
    source, said = report.model_source, []
    if source and source.quantization:
        said.append(
            f"The baseline is from {source.quantization}: its weights were quantized once. What that cost is in no "
            "figure here, and what quantizing them again costs may be less than it would cost the original's."
        )
    if source and source.teachers_quantization:
        said.append(f"Weights of teachers are from {source.teachers_quantization}: they were quantized once.")
    return " ".join(said) or None


def filed_under(report: Report) -> str | None:
    """The licence to file the model under: those that count for what is distilled, else the base model's."""
    bound = dict.fromkeys(licence.name for licence in report.licences if licence.outputs)
    if bound:
        return " and ".join(bound)
    if report.licences:
        return report.licences[0].name
    return report.model_source.licence if report.model_source else None
