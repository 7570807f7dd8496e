"""The results as tables: in the terminal, and as Markdown for docs and README. Both hold the figures of bench.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.bench.results import BUDGET_POINTS, Figures, Results, Row, baseline

NOT_MEASURED = ""


@dataclass(frozen=True)
class BenchColumn:
    """A heading, and the cell of a row."""

    head: str
    cell: Callable[[Row], str]


def _in_process(write: Callable[[Figures], str]) -> Callable[[Row], str]:
    return lambda row: write(row.in_process) if row.in_process else NOT_MEASURED


def _served(write: Callable[[Figures], str]) -> Callable[[Row], str]:
    return lambda row: write(row.served) if row.served else NOT_MEASURED


def _f1(row: Row) -> str:
    return f"{row.quality.macro_f1:.3f}" if row.quality else NOT_MEASURED


def _drop(row: Row) -> str:
    if row.quality is None:
        return NOT_MEASURED
    if row.quality.same_on:
        return f"as PyTorch on {row.quality.same_on:,} texts"
    low, high = row.quality.drop_ci95
    return f"{row.quality.drop_points:.2f} ({low:.2f} to {high:.2f})"


def _memory(found: Figures) -> str:
    return NOT_MEASURED if found.peak_rss_mb is None else f"{found.peak_rss_mb:.0f}"


def _load(found: Figures) -> str:
    return NOT_MEASURED if found.load_s is None else f"{found.load_s:.1f}"


def _p50(found: Figures) -> str:
    return f"{found.p50_ms:.2f} / {found.p99_ms:.2f}"


def _rate(found: Figures) -> str:
    return f"{found.texts_per_s:.0f}"


MACRO_F1, SIZE = (
    BenchColumn("macro-F1", _f1),
    BenchColumn("size MB", lambda row: f"{row.size_mb:.1f}" if row.size_mb else ""),
)
DROP = BenchColumn("drop in points (95% interval)", _drop)
COLUMNS = {
    "In process": (
        MACRO_F1,
        DROP,
        BenchColumn("p50 / p99 ms", _in_process(_p50)),
        BenchColumn("texts/s, batches of 32", _in_process(_rate)),
        SIZE,
        BenchColumn("peak memory MB", _in_process(_memory)),
        BenchColumn("loads in s", _in_process(_load)),
        BenchColumn("limit ms", lambda row: f"{row.limit['limit_ms']:.2f}" if row.limit else NOT_MEASURED),
        BenchColumn("times the limit", lambda row: f"{row.limit['times']:.1f}" if row.limit else NOT_MEASURED),
    ),
    "Served": (
        MACRO_F1,
        DROP,
        BenchColumn("p50 / p99 ms", _served(_p50)),
        BenchColumn("texts/s, 16 clients", _served(_rate)),
        SIZE,
        BenchColumn("memory of the server MB", _served(_memory)),
        BenchColumn("starts in s", _served(_load)),
        BenchColumn("protocol", lambda row: row.protocol),
    ),
}


def rows_of(results: Results, title: str) -> list[Row]:
    """The rows of one of the two tables, fastest first."""
    where = "in_process" if title == "In process" else "served"
    found = [row for row in results.rows if getattr(row, where)]
    return sorted(found, key=lambda row: float(getattr(row, where).p50_ms))


def longer(results: Results) -> list[tuple[list[str], list[list[str]]]]:
    """Heads and lines of a table in process and one served: texts of more tokens, the fastest at the longest first."""
    base, tables = baseline(results.rows), []
    for where, title, batch in (("in_process", "In process", "batches of 16"), ("served", "Served", "16 clients")):
        found = [(row, {tokens: each[where] for tokens, each in row.longer.items() if where in each})
                 for row in results.rows]  # fmt: skip
        lengths = sorted({tokens for _, figures in found for tokens in figures})
        known = base.longer if base else {}
        heads = [f"{title}, longer texts"]
        for tokens in lengths:
            heads += [f"{tokens} tokens: p50 ms", f"texts/s, {batch}", "times PyTorch fp32 in process"]
        lines = [
            [row.name, *(cell for tokens in lengths for cell in _longer(figures.get(tokens), known.get(tokens, {})))]
            for row, figures in sorted(found, key=lambda each: _p50_of_longest(each[1], lengths)) if figures
        ]  # fmt: skip
        if lines:
            tables.append((heads, lines))
    return tables


def _p50_of_longest(figures: dict[int, Figures], lengths: list[int]) -> tuple[float, ...]:
    return tuple(figures[tokens].p50_ms if tokens in figures else float("inf") for tokens in reversed(lengths))


def _longer(found: Figures | None, base: dict[str, Figures]) -> list[str]:
    if found is None:
        return [NOT_MEASURED] * 3
    times = f"{base['in_process'].p50_ms / found.p50_ms:.2f}" if "in_process" in base else NOT_MEASURED
    return [f"{found.p50_ms:.2f}", _rate(found), times]


def further(results: Results) -> list[tuple[list[str], list[list[str]]]]:
    """Heads and lines of all tables but the two of texts as they are."""
    lines = witnessed(results)
    return longer(results) + ([(WITNESS, lines)] if lines else [])


WITNESS = ["Second witness", "p50 / p99 ms, here", "there", "answers/s of 16 clients, here", "there"]


def witnessed(results: Results) -> list[list[str]]:
    """What the bench saw of a server beside what another tester did."""
    served = {row.name: row.served for row in results.rows}
    lines = []
    for each in results.witness:
        mine = served[each.name]
        if mine is not None and each.p50_ms is not None:
            there = f"{each.p50_ms:.2f} / {each.p99_ms:.2f}"
            rate = f"{each.answers_per_s:.0f}"
            lines.append([f"{each.tester}, {each.name}", _p50(mine), there, _rate(mine), rate])
    return lines


def show(results: Results, console: Console) -> None:
    """All tables, what failed, and the verdict."""
    for title, columns in COLUMNS.items():
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("contender", no_wrap=True)
        for column in columns:
            table.add_column(column.head, justify="right", overflow="fold")
        best = {found.ours for found in results.verdict.values()}
        for row in rows_of(results, title):
            style = "bold green" if row.name in best else "" if row.within_budget else "dim"
            table.add_row(Text(row.name), *(Text(column.cell(row)) for column in columns), style=style)
        console.print(table)
    for heads, found in further(results):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, head in enumerate(heads):
            table.add_column(head, no_wrap=not number, justify="right" if number else "left", overflow="fold")
        for cells in found:
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)
    for line in [*remarks(results), *verdicts(results)]:
        console.print(line, markup=False, highlight=False)


def markdown(results: Results) -> str:
    """Tables, set-up steps, failures, rates and verdict, as docs have them."""
    best = {found.ours for found in results.verdict.values()}
    parts = [conditions(results)]
    for title, columns in COLUMNS.items():
        lines = (
            [f"**{row.name}**" if row.name in best else row.name, *(column.cell(row) for column in columns)]
            for row in rows_of(results, title)
        )
        parts.append(_markdown([title, *(column.head for column in columns)], lines))
    parts += [_markdown(heads, found) for heads, found in further(results)]
    parts.append("\n".join(f"- {line}" for line in remarks(results)))
    parts.append("\n".join(verdicts(results)))
    set_up = ([row.name, row.steps, _versions(row), f"{row.prepare_s:.0f}" if row.prepare_s else ""]
              for row in results.rows)  # fmt: skip
    parts.append(_markdown(["contender", "set-up", "versions", "prepared in s"], set_up))
    work = (
        [row.name, f"{row.limit['macs'] / 1e6:.0f}", f"{row.limit['weight_bytes'] / 1e6:.1f}",
         f"{row.limit['macs_ms']:.2f}", f"{row.limit['bytes_ms']:.2f}", "yes" if row.limit["cached"] else "no"]
        for row in rows_of(results, "In process") if row.limit
    )  # fmt: skip
    parts.append(rates(results))
    heads = ["contender", "10^6 multiply-adds", "weights MB", "ms at the product's rate", "ms at the copy's rate"]
    parts.append(_markdown([*heads, "weights fit the cache"], work))
    return "\n\n".join(part for part in parts if part) + "\n"


def conditions(results: Results) -> str:
    """Where, when and how it was measured."""
    machine = results.machine
    isa = ", ".join(machine.get("isa") or ())
    return (
        f"{results.model} on {results.data}, profile {results.profile}; {machine.get('cpu')}, {results.threads} threads"
        f"{f' ({isa})' if isa else ''}; {results.created[:10]}; {results.rounds} interleaved rounds of {results.texts} "
        f"test texts, one by one, tokenization included; the median text has {results.tokens} tokens."
    )


def rates(results: Results) -> str:
    """What the machine reaches."""
    if not results.rates:
        return ""
    products = "; ".join(
        f"{name} {found['square']:.0f} (large square), {found['own']:.0f} (the model's shapes)"
        for name, found in results.rates["gmacs"].items()
    )
    cache = results.rates["last_cache_mb"]
    return (
        f"This machine reaches, in 10^9 multiply-adds a second: {products}. Copy: {results.rates['copy_gb_s']:.0f} GB/s"
        f" read and written{f'; largest cache {cache:.0f} MB' if cache else ''}."
    )


def remarks(results: Results) -> list[str]:
    """Failures and notes, one line each."""
    failures = [
        f"{row.name}: FAILED at {failure.stage}: {failure.reason}" for row in results.rows for failure in row.failures
    ]
    silent = [f"{each.name}: not seen by {each.tester}: {each.reason}" for each in results.witness if each.reason]
    return failures + silent + [f"{row.name}: {note}" for row in results.rows for note in row.notes]


def verdicts(results: Results) -> list[str]:
    """Our best against the best peer within the budget."""
    lines = []
    for where, label in (("in_process", "in process"), ("served", "served")):
        found = results.verdict.get(where)
        if found is None:
            lines.append(f"Best within {BUDGET_POINTS:g} point, {label}: nothing to compare.")
            continue
        lines.append(
            f"Best within {BUDGET_POINTS:g} point, {label}: {found.ours} {found.ours_ms:.2f} ms, {found.peer} "
            f"{found.peer_ms:.2f} ms: {found.ratio:.2f} times faster, bar {found.bar:g}: "
            f"{'met' if found.met else 'MISSED'}."
        )
    return lines


def _versions(row: Row) -> str:
    return ", ".join(f"{name} {version}" for name, version in row.packages.items())


def _markdown(heads: list[str], lines: Iterable[list[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
