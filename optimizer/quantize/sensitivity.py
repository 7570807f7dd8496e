"""What a model loses when single weights are rounded: the table that bits per layer are allocated by.

Malinovskii et al. 2024, "Pushing the Limits of Large Language Model Quantization via the Linearity Theorem", theorem 1:
for small errors the loss grows by ``sum over l of alpha_l t_l^2``, where ``t_l^2 = |Q(W_l) - W_l|^2 / |W_l|^2`` is the
relative squared error of weight l and alpha_l a coefficient of the model alone. Loss is here the mean squared
difference of the logits to the parent's, in units of their variance over the texts: of one scale for every task.

The paper finds alpha_l by Gaussian noise. Here a weight is rounded as one of its choices would have it, and what that
loses is divided by its error: on MiniLM that foretells the loss of whole assignments better (docs/quantization.md), and
a table of which the texts look up few rows, as of positions, has another alpha than the noise of all of them says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bantam.errors import StageError
from optimizer.logits import Batch
from optimizer.onnx_session import session
from optimizer.quantize.formats import WeightFormat

TOKENS = 2048
"""Most in a batch of texts, padding included: what is computed on the way is small beside the weights."""

WORK, FEWEST, SHORTEST = 2e12, 8, 16
"""Most multiplications of all passes, and texts that there are in any case, and tokens that these have: larger models
get fewer texts than asked for, and these are cut. One of 1e9 weights in 155 matrices takes ten times as many then."""
A_SECOND = 1.4e10
"""Multiplications: MiniLM on 64 short texts took 6e11, and 43 seconds on 2 busy cores."""

TYPICAL, TINY = 1e-2, 1e-12
"""The relative squared error at which coefficients are measured, as nearly as a choice has it: that of 4 bits."""


class FormatChoice(NamedTuple):
    """What one weight may be kept in, and what that costs."""

    format: str
    size: int
    """Bytes, scales included."""
    error: float
    """Relative squared error of the weight."""


class Unit(NamedTuple):
    """A weight that is chosen for."""

    weight: str
    """Name of the initializer; several products may share it, as ALBERT's layers do."""
    shape: tuple[int, ...]
    is_table: bool
    """Of embeddings, looked up by rows; else it is multiplied with."""
    formats: Mapping[str, WeightFormat]
    uses: int
    """Products with it; 0 for a table."""


Table = dict[str, dict[FormatChoice, float]]
"""Layer -> choice -> the loss that it is predicted to add."""


def sensitivity(
    model: onnx.ModelProto,
    units: Mapping[str, Unit],
    batches: Sequence[Batch],
    *,
    padding: Mapping[str, int],
    folder: Path,
    threads: int,
    log: Callable[[str], None] = lambda line: None,
) -> Table:
    """What each choice of each unit is predicted to lose: by one pass over the texts a unit.

    ``batches``: one text each; ``padding``: input -> its value for padding, 0 if absent; ``folder``: where the file
    beside the graph is, if there is one. Formats that cannot hold a weight (fp16 above 65,504) are no choice; raises
    :class:`StageError` if that leaves none.
    """
    per_token = len(units) * sum(math.prod(unit.shape) * unit.uses for unit in units.values())
    few = few_enough(batches, per_token)
    minutes = per_token * sum(map(_tokens, few)) / A_SECOND / 60
    log(f"{len(units)} passes over {len(few)} of {len(batches)} texts: about {minutes:.1f} minutes on 2 cores")
    texts = padded(few, padding)
    probe = Probe(model, [unit.weight for unit in units.values()], texts, folder=folder, threads=threads)
    weights = {weight.name: weight for weight in model.graph.initializer}
    table: Table = {}
    for name, unit in units.items():
        values = numpy_helper.to_array(weights[unit.weight], str(folder))
        errors = {kind: relative_error(values, form.restored(values)) for kind, form in unit.formats.items()}
        finite = {kind: error for kind, error in errors.items() if math.isfinite(error)}
        if not finite:
            raise StageError(f"No choice can hold the weights of {name}. Allow more choices, or exclude it.")
        typical = min(finite, key=lambda kind: abs(math.log10(max(finite[kind], TINY) / TYPICAL)))
        loss = probe.loss({unit.weight: unit.formats[typical].restored(values)})
        coefficient = loss / max(finite[typical], TINY)
        table[name] = {
            FormatChoice(kind, unit.formats[kind].size(unit.shape), error): coefficient * error
            for kind, error in finite.items()
        }
    return table


class Probe:
    """A graph whose weights can be replaced for one pass over the texts, in one session."""

    def __init__(
        self,
        model: onnx.ModelProto,
        weights: Iterable[str],
        batches: Sequence[Batch],
        *,
        folder: Path,
        threads: int,
    ) -> None:
        """Initializers that are inputs of the graph, too, have their values as defaults (ONNX, "overridable")."""
        known = {weight.name: weight for weight in model.graph.initializer}
        inputs = [
            helper.make_tensor_value_info(name, known[name].data_type, list(known[name].dims)) for name in weights
        ]
        self._session = session(model, folder, threads=threads, more=onnx.GraphProto(input=inputs))
        self._batches = batches
        self._logits = self._answers({})
        # Of a text alone, or of texts that all have the same answer, nothing is in units of its spread.
        self._variance = float(self._logits.var(axis=0).mean()) or 1.0

    def loss(self, replaced: Mapping[str, NDArray[np.float32]]) -> float:
        """Mean squared difference of the logits with these weights, in units of the variance of the parent's."""
        difference = self._answers(replaced) - self._logits
        return float(np.square(difference).mean()) / self._variance

    def _answers(self, replaced: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        made = [self._session.run(["logits"], {**batch, **replaced})[0] for batch in self._batches]
        return np.concatenate(made).astype(np.float64)


def few_enough(batches: Sequence[Batch], per_token: float) -> Sequence[Batch]:
    """As many of these texts, from the first on, as keep all passes within :data:`WORK`, one text a batch.

    Where not even :data:`FEWEST` do, as many, cut to as many tokens as do, but at least :data:`SHORTEST`: parent and
    child see the same. ``per_token``: multiplications that a token takes in all passes together.
    """
    enough = int((per_token * np.cumsum([_tokens(batch) for batch in batches]) <= WORK).sum())
    if enough >= min(FEWEST, len(batches)):
        return batches[:enough]
    longest = max(SHORTEST, int(WORK / (per_token * FEWEST)))
    return [{name: values[:, :longest] for name, values in batch.items()} for batch in batches[:FEWEST]]


def _tokens(batch: Batch) -> int:
    """Of each text in it."""
    return int(batch[next(iter(batch))].shape[1])


def padded(batches: Sequence[Batch], padding: Mapping[str, int]) -> list[dict[str, NDArray[np.int64]]]:
    """Texts of one a batch, together in batches of like lengths, of at most :data:`TOKENS` tokens, padded on the right.

    Parent and child see the same, so that it need not be what a text gives alone.
    """
    ordered = sorted(batches, key=_tokens)
    groups: list[list[Batch]] = []
    for batch in ordered:
        width = _tokens(batch)
        if not groups or width * (len(groups[-1]) + 1) > TOKENS:
            groups.append([])
        groups[-1].append(batch)
    return [
        {name: _together([each[name] for each in group], padding.get(name, 0)) for name in group[0]} for group in groups
    ]


def _together(rows: list[NDArray[np.int64]], fill: int) -> NDArray[np.int64]:
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1])), constant_values=fill) for row in rows])


def relative_error(values: NDArray[np.float32], restored: NDArray[np.float32]) -> float:
    """``t^2``: the squared error in units of the weight's own squares."""
    return float(
        np.square(restored - values, dtype=np.float64).sum()
        / max(np.square(values, dtype=np.float64).sum(), np.finfo(float).tiny)
    )
