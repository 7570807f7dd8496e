"""``bantam load-test``: one client in a closed loop, then a fixed rate, against a server that is running."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

from rich.table import Table

from optimizer.data import load_dataset
from serving.client import Classifier
from serving.loadtest import LoadResult, closed_loop, open_loop


def run(
    model: str,
    address: str,
    protocol: str,
    data: str,
    *,
    seconds: float,
    rate: float | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Results of both tests by name, in milliseconds and texts per second, JSON-serialisable.

    Raises :class:`ClientError` if the server cannot be reached or does not have the model.
    """
    texts = load_dataset(data).splits["test"].texts
    # Retries would hide what the server refuses.
    with Classifier(address, model, protocol=cast(Literal["grpc", "http"], protocol), retries=0) as client:
        client.describe()

        def send(text: str) -> object:
            return client.scores([text])

        say(f"one client, {seconds:g} s")
        closed = closed_loop(send, texts, seconds=seconds)
        rate = rate or max(1.0, closed.texts_per_s / 2)
        say(f"{rate:.0f} requests per second, {seconds:g} s")
        fixed = open_loop(send, texts, rate=rate, seconds=seconds)
    return {"one client": _figures(closed), f"{rate:.0f} requests/s": {"rate": rate, **_figures(fixed)}}


def table(results: dict[str, Any]) -> Table:
    """The results as a table for the terminal."""
    shown = Table(
        "",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "texts/s",
        "sender's lag p99 ms",
        "errors",
        title="Latency from the intended send time",
    )
    for name, r in results.items():
        errors = ", ".join(f"{kind} {count}" for kind, count in r["errors"].items()) or "0"
        figures = (r["p50_ms"], r["p95_ms"], r["p99_ms"], r["texts_per_s"], r["lag_p99_ms"])
        shown.add_row(name, *(f"{value:.2f}" for value in figures), errors)
    return shown


def _figures(result: LoadResult) -> dict[str, Any]:
    return {
        "requests": len(result.lags_ms),
        "p50_ms": result.p50_ms,
        "p95_ms": result.p95_ms,
        "p99_ms": result.p99_ms,
        "texts_per_s": result.texts_per_s,
        "lag_p99_ms": result.lag_p99_ms,
        "errors": result.errors,
    }
