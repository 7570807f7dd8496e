"""From a corpus to its labels: read, score, write, a shard at a time; what is done stays done."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bantam.artifact import Text
from bantam.client.prediction import Prediction
from bantam.errors import DataError
from bantam.label.corpus import Block, Corpus, Scan, checked_kind, open_corpus
from bantam.label.model import LabelModel, find_model
from bantam.label.output import KINDS, Output
from bantam.label.place import Place, place
from bantam.label.pool import Pool, local_pool
from bantam.label.progress import progress
from bantam.label.request import LabelRequest
from bantam.label.state import Ledger
from optimizer.data.dataset import Columns

SHARD_CHARACTERS = 8_000_000
"""A shard of long texts has fewer rows: so much text is in memory for each that is under way."""
LIST_TEXTS, LIST_CHARACTERS = 256, 200_000
"""A worker gets so many texts at a time, which its engine sorts by length: enough for little padding, and few enough
that all workers end at nearly the same time."""
AHEAD = 3
"""Lists that are under way for each worker."""
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Labelled:
    """What became of a corpus."""

    input: str
    output: str
    model: str
    version: str
    """Empty for a variant of a run."""
    rows: int
    labelled: int
    without_text: int
    """Rows with nothing to read: they are in the output, without labels and scores."""
    labels: dict[str, int]
    """How many rows have each label."""
    resumed_rows: int
    """Rows that earlier runs of the command had done."""
    replaced_columns: tuple[str, ...]
    seconds: float
    texts_per_second: float | None
    """Of the rows of this run."""


@dataclass
class Shard:
    """Rows that are written together, and their scores as they come."""

    blocks: list[Block]
    scores: list[Future[Scores]]

    @property
    def texts(self) -> list[Text | None]:
        """Of all rows."""
        return [text for block in self.blocks for text in block.texts]


def label(request: LabelRequest, console: Console, log: Callable[[str], None]) -> Labelled:
    """Label a corpus, or what is left of it; each row is in the output once, in the corpus's order.

    Raises :class:`DataError`, :class:`ModelError`, :class:`RepositoryError` or :class:`UserError` before anything is
    labelled for what cannot be read, found or written, and what a worker raises. What is done stays: the same call goes
    on.
    """
    began = time.perf_counter()
    source, target = place(request.source), place(request.target)
    if request.source == request.target:
        raise DataError(f"{source} is both input and output. Expected another file for the output.")
    checked_kind(target)
    with find_model(request.model, request.repository, request.digest or (), request.thresholds, log) as model:
        corpus = _corpus(source, request, model)
        ledger = Ledger(target)
        with ledger.locked():
            scan = corpus.scan()
            output = KINDS[checked_kind(target)](corpus, scan, target, model.description)
            ledger.begin(_asked(request, corpus, scan, model), overwrite=request.overwrite)
            if output.replaced:
                log(f"Columns of {source} that are replaced by the model's: {', '.join(output.replaced)}.")
            resumed = ledger.done.rows
            if resumed:
                log(f"{resumed:,} of {scan.rows:,} rows are labelled already")
            worked = _label_rest(request, model, corpus, scan, output, ledger, console, log)
            if not ledger.done.finished:
                with target.writing() as file:
                    output.put_together(ledger.parts(), file)
            done = ledger.done
            ledger.finish()
    return Labelled(
        input=str(source),
        output=str(target),
        model=model.name,
        version=model.description.version,
        rows=done.rows,
        labelled=done.rows - done.without_text,
        without_text=done.without_text,
        labels=done.labels,
        resumed_rows=resumed,
        replaced_columns=output.replaced,
        seconds=round(time.perf_counter() - began, 2),
        texts_per_second=round((done.rows - resumed) / worked, 1) if done.rows > resumed else None,
    )


def _corpus(source: Place, request: LabelRequest, model: LabelModel) -> Corpus:
    corpus = open_corpus(source, Columns(text=request.text_column, pair=request.text_pair_column))
    if model.description.pair and corpus.pair is None:
        raise DataError(
            f"{model.name} reads pairs of texts, and in {source} only {corpus.text!r} was found. Expected two columns: "
            "--text-column and --text-pair-column name them."
        )
    if not model.description.pair and corpus.pair is not None:
        raise DataError(
            f"{model.name} reads single texts, and {source} has two columns of them, {corpus.text!r} and "
            f"{corpus.pair!r}. Expected one: --text-column names it."
        )
    return corpus


def _asked(request: LabelRequest, corpus: Corpus, scan: Scan, model: LabelModel) -> dict[str, dict[str, Any]]:
    return {
        "input": {"rows": scan.rows, "sha256": scan.sha256},
        "model": {"a name": model.name, "digest": model.digest},
        "text column": {"columns": list(corpus.text_columns)},
        "--shard-rows": {"rows": request.shard_rows},
    }


def _label_rest(
    request: LabelRequest,
    model: LabelModel,
    corpus: Corpus,
    scan: Scan,
    output: Output,
    ledger: Ledger,
    console: Console,
    log: Callable[[str], None],
) -> float:
    """Label what is not done; returns the seconds that it took once the workers were there."""
    done = ledger.done
    if done.rows >= scan.rows:
        return 0.0
    log(f"labelling {scan.rows - done.rows:,} rows of {corpus.place} with {model.name}")
    with _pool(request, model) as pool, progress(console, scan.rows, done.rows, log) as advance:
        began = time.perf_counter()
        for shard in scored(shards(corpus.read(done.rows), request.shard_rows), pool):
            texts = shard.texts
            said = _predictions(shard, texts, model)
            content = output.part([block.rows for block in shard.blocks], said)
            found = Counter(name for each in said if each is not None for name in each.labels)
            ledger.add(content, found, len(texts), texts.count(None))
            advance(ledger.done.rows)
        if ledger.done.rows != scan.rows:
            raise DataError(
                f"{corpus.place} had {scan.rows:,} rows when it was looked through, and {ledger.done.rows:,} now: it "
                f"has changed meanwhile. Remove {request.target}.parts and label it anew."
            )
        return time.perf_counter() - began


def _pool(request: LabelRequest, model: LabelModel) -> contextlib.AbstractContextManager[Pool]:
    if request.ray is None:
        return local_pool(model, request.workers)
    from bantam.label.cluster import ray_pool

    return ray_pool(model, request.ray, request.workers)


def shards(blocks: Iterable[Block], rows: int, characters: int = SHARD_CHARACTERS) -> Iterator[list[Block]]:
    """Blocks of at most so many rows, and so much text, together; cut where need be, and always at the same rows."""
    shard: list[Block] = []
    room, left = rows, characters
    for block in blocks:
        start = 0
        for stop, text in enumerate(block.texts, start=1):
            room, left = room - 1, left - _size(text)
            if room <= 0 or left <= 0:
                yield [*shard, block.cut(start, stop)]
                shard, start, room, left = [], stop, rows, characters
        if start < len(block.texts):
            shard.append(block.cut(start, len(block.texts)))
    if shard:
        yield shard


def scored(shards: Iterable[list[Block]], pool: Pool) -> Iterator[Shard]:
    """The shards in their order, all with their scores under way; as many at a time as keep the pool busy."""
    waiting: deque[Shard] = deque()
    under_way = 0
    for blocks in shards:
        shard = Shard(blocks, [])
        texts = [text for text in shard.texts if text is not None]
        shard.scores = [pool.submit(several) for several in _lists(texts)]
        waiting.append(shard)
        under_way += len(shard.scores)
        while len(waiting) > 1 and under_way - len(waiting[0].scores) >= AHEAD * pool.size:
            first = waiting.popleft()
            under_way -= len(first.scores)
            yield first
    yield from waiting


def _predictions(shard: Shard, texts: list[Text | None], model: LabelModel) -> list[Prediction | None]:
    """What the model says of each row; None where there was nothing to read."""
    said = (each for scores in shard.scores for each in model.description.predictions(scores.result()))
    return [None if text is None else next(said) for text in texts]


def _lists(texts: list[Text]) -> Iterator[list[Text]]:
    """The texts, as many at a time as a worker gets."""
    start, size = 0, 0
    for i, text in enumerate(texts):
        size += _size(text)
        if i + 1 - start == LIST_TEXTS or size >= LIST_CHARACTERS:
            yield texts[start : i + 1]
            start, size = i + 1, 0
    if start < len(texts):
        yield texts[start:]


def _size(text: Text | None) -> int:
    return 0 if text is None else len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
