"""What zeros in weights were worth, in words."""

from __future__ import annotations

from bantam.report.ranking import waiting_ms
from bantam.report.schema import Variant
from bantam.run.state import Run


def sparsity_notes(run: Run, records: list[Variant]) -> list[str]:
    """What zeros in weights were worth: a variant with zeros next to the same one, in size and format, without."""
    notes = []
    records = [record for record in records if waiting_ms(record)]  # the others have failed
    zeros = {record.name: run.behind(record.name, "details", "sparsity")[-1:] for record in records}
    for sparse in (record for record in records if zeros[record.name]):
        share = 1 - zeros[sparse.name][0]["ratio"]
        kind = (sparse.format, sparse.precision, sparse.parameters)
        dense = [r for r in records if (r.format, r.precision, r.parameters) == kind and not zeros[r.name]]
        own = _p50(sparse)
        for other in dense[:1]:
            gain = "faster than" if own < SPARSE_GAIN * _p50(other) else "NOT faster than"
            notes.append(
                f"{sparse.name}: {share:.0%} of its blocks' weights are zero; it is {gain} {other.name}, the same "
                f"without zeros ({own:.2f} against {_p50(other):.2f} ms)."
            )
        if not dense:
            notes.append(f"{sparse.name}: {share:.0%} of its blocks' weights are zero; no dense twin was measured.")
    return notes


SPARSE_GAIN = 0.97
"""Two variants that do the same work differ by less than this from run to run."""


def _p50(record: Variant) -> float:
    """What a user will feel is the served time; the baseline has none, so it is compared in process."""
    p50 = waiting_ms(record)
    assert p50  # noqa: S101 others are not looked at
    return p50
