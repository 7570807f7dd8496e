"""From what a load test measured to its records, and what their reader has to know."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bantam.loadtest.histogram import ENOUGH, PERCENTS, Times
from bantam.loadtest.host import Usage
from bantam.loadtest.kserve import ServerSplit
from bantam.loadtest.result import BUSY, LATE_MS, LoadResult
from bantam.loadtest.schema import Limit, Measurement, Moment, Quantile, ServerFigures, Step
from bantam.loadtest.search import SloSearch

DIFFERENT = 0.05
"""Two ways to count latency differ if one of their percentiles does by more than this share."""
MOMENTS = 60
"""Points of latency over time, at most; none is shorter than :data:`SHORTEST_S`."""
SHORTEST_S = 0.2


def describe(result: LoadResult, arrivals: str | None, split: ServerSplit | None, usage: Usage | None) -> Measurement:
    """A test's record; ``arrivals`` of an open loop."""
    is_open = result.rate is not None
    latency = result.percentiles()
    other = result.naive_percentiles() if is_open else result.corrected_percentiles()
    other = other if _differ(latency, other) else []
    return Measurement(
        kind="open" if is_open else "closed",
        arrivals=arrivals if is_open else None,
        rate=result.rate,
        clients=result.clients,
        requests=len(result.due),
        seconds=result.seconds,
        answered_per_s=result.texts_per_s,
        errors=result.errors,
        latency=tuple(latency),
        naive=tuple(other) if other and is_open else None,
        corrected=tuple(other) if other and not is_open else None,
        lag_p99_ms=result.lag_p99_ms,
        client_cores=result.client_cores,
        processes=result.processes,
        client_bound=result.client_bound,
        server=_server(split, usage),
        moments=tuple(_moments(result)),
        hdr=result.histogram.encode().decode("ascii"),
    )


def describe_limit(search: SloSearch) -> Limit:
    """A search's record."""
    steps = [
        Step(
            rate=step.rate or 0.0,
            requests=len(step.due),
            percentile_ms=_or_none(step.percentile_ms(search.slo.percent)),
            p50_ms=_or_none(step.p50_ms),
            within=step.share_within(search.slo.limit_ms),
            met=search.slo.met(step),
            client_bound=step.client_bound,
        )
        for step in search.steps
    ]
    return Limit(slo=str(search.slo), rate=search.rate, failed_rate=search.failed_rate, steps=tuple(steps))


def warnings(tests: Iterable[Measurement], limit: Limit | None) -> list[str]:
    """What a reader has to know before the figures are trusted."""
    found, lucky = [], []
    for test in tests:
        if test.client_bound and test.client_cores >= BUSY:
            found.append(
                f"{test.name}: the client was the bottleneck, with {test.client_cores:.2f} cores in each of its "
                f"{test.processes} processes. Take more --processes, or a lower rate."
            )
        elif test.client_bound:
            found.append(
                f"{test.name}: 1 in 100 requests was sent {test.lag_p99_ms:.1f} ms late or more, which is part of its "
                "latency. The client, its connections or its machine was too busy: take a lower rate, or a free one."
            )
        if not test.latency:
            found.append(f"{test.name}: no request was answered.")
        elif test.latency[-1].beyond < ENOUGH:
            lucky.append(test.name)
    if lucky:
        found.append(
            f"{'; '.join(lucky)}: fewer than {ENOUGH} requests took longer than p{PERCENTS[-1]:g}, so it is a matter "
            "of luck. Test for longer."
        )
    if limit and any(step.client_bound and not step.met for step in limit.steps):
        found.append(f"{limit.slo}: at a rate that failed, the client was too slow; the server may bear more.")
    return found


def _differ(one: list[Quantile], other: list[Quantile]) -> bool:
    return any(
        abs(a.ms - b.ms) > max(DIFFERENT * a.ms, LATE_MS / 10) for a, b in zip(one, other, strict=True)
    )  # a tenth of a millisecond is what any hand-over between threads takes


def _server(split: ServerSplit | None, usage: Usage | None) -> ServerFigures:
    return ServerFigures(
        batch=split.batch if split else None,
        queue_ms=split.queue if split else None,
        compute_input_ms=split.compute_input if split else None,
        compute_infer_ms=split.compute_infer if split else None,
        compute_output_ms=split.compute_output if split else None,
        cores=usage.cores if usage else None,
        peak_rss_mb=usage.peak_mb if usage else None,
    )


def _moments(result: LoadResult) -> Iterable[Moment]:
    """Latency over time, by the intended sending."""
    if not len(result.due):
        return
    width = max(float(result.due.max()) / MOMENTS, SHORTEST_S)
    answered = np.ones(len(result.due), dtype=np.bool_)
    answered[list(result.failed)] = False
    latencies = 1e3 * (result.done - result.due)
    place = (result.due / width).astype(np.intp)
    for number in np.unique(place):
        here = place == number
        values: Times = latencies[here & answered]
        p50, p99 = np.percentile(values, [50, 99]).tolist() if len(values) else (None, None)
        yield Moment(
            start_s=float(number * width),
            requests=int(here.sum()),
            errors=int((here & ~answered).sum()),
            p50_ms=p50,
            p99_ms=p99,
            max_ms=float(values.max()) if len(values) else None,
        )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
