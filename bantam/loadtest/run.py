"""``bantam load-test``: a closed loop, a fixed rate and a search for the limit, against a server that is running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bantam.artifact import Text
from bantam.client.transport import Target
from bantam.errors import UserError
from bantam.loadtest.describe import describe, describe_limit, warnings
from bantam.loadtest.host import HostWatch
from bantam.loadtest.kserve import ENDPOINTS, KserveEndpoint, find_input, parts
from bantam.loadtest.plan import Closed, Open, Plan
from bantam.loadtest.processes import Clients, Subject, Underway, client_processes
from bantam.loadtest.request import LoadTestRequest
from bantam.loadtest.result import LoadResult
from bantam.loadtest.schema import LoadTestReport, Measurement, Texts
from bantam.loadtest.search import Slo, SloSearch, highest_rate
from bantam.machine import describe_machine, versions
from optimizer.data import load_dataset
from optimizer.data.files import read_texts

Log = Callable[[str], None]
CAPACITY_S = 2.0
"""How long the closed loop runs from which the search takes its first rate."""


def run(request: LoadTestRequest, log: Log, console: Console) -> LoadTestReport:
    """Test as asked; ``console`` shows how it goes.

    Raises :class:`ClientError` if the server cannot be reached or does not have the model, :class:`UserError` for an
    option that makes no sense.
    """
    slo = Slo.parse(request.slo) if request.slo else None
    count = _processes(request.processes)
    texts = _texts(request)
    target = Target.checked(request.address, request.model, request.timeout)
    if "," in request.address:
        raise UserError(f"Got addresses {request.address!r}, expected one: what is measured is one server.")
    with ExitStack() as stack:
        endpoint = ENDPOINTS[request.protocol](target)
        stack.callback(endpoint.close)
        tensor = find_input(endpoint.inputs(), target, request.input)
        subject = Subject(target, request.protocol, tensor, texts, request.warmup)
        tester = stack.enter_context(Tester(subject, endpoint, count, log, console))
        closed = tester.test(Closed(request.clients, request.seconds))
        rate = request.rate or max(1.0, closed.texts_per_s / 2)
        tester.test(Open(rate, request.seconds, request.arrivals, request.seed))
        found = _limit(tester, request, slo, log) if slo else None
    limit = describe_limit(found) if found else None
    return LoadTestReport(
        model=request.model,
        address=request.address,
        protocol=request.protocol,
        texts=Texts(
            source=request.data,
            count=len(texts),
            words_p50=median(sum(len(part.split()) for part in parts(text)) for text in texts),
            words=request.words,
        ),
        tests=tuple(tester.tests),
        limit=limit,
        notes=(*warnings(tester.tests, limit), *tester.notes),
        machine=describe_machine(),
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=request.command or None,
    )


@dataclass
class Tester:
    """Runs plans, and looks at the server meanwhile. A context manager: it ends its processes.

    With ``count`` absent it starts one process, and doubles them up to the machine's cores as long as the client is the
    bottleneck; then it tests again.
    """

    subject: Subject
    endpoint: KserveEndpoint
    count: int | None
    log: Log
    console: Console
    tests: list[Measurement] = field(default_factory=list)
    """What :meth:`test` measured."""

    def __post_init__(self) -> None:
        self._watch = HostWatch(self.subject.target.address)
        self._stack = ExitStack()
        self._running = self.count or 1
        self._most = self.count or describe_machine().cores or 1
        self._clients = self._start()
        self._statistics = self.endpoint.statistics() is not None

    @property
    def notes(self) -> list[str]:
        """What could not be measured, and why."""
        found = []
        if not self._statistics:
            found.append("The server gives no statistics, so where its time goes is not known.")
        if self._watch.reason:
            found.append(f"The server's CPU and memory are not known: {self._watch.reason}.")
        return found

    def test(self, plan: Plan) -> LoadResult:
        """Run a plan with the server's own account beside it, and keep what was measured."""
        arrivals = plan.arrivals if isinstance(plan, Open) else None
        while True:
            before = self.endpoint.statistics()
            self._watch.start()
            result = self._run(plan)
            usage, after = self._watch.stop(result.seconds), self.endpoint.statistics()
            if not self._spread(result):
                break
        self.tests.append(describe(result, arrivals, after.since(before) if after and before else None, usage))
        return result

    def step(self, plan: Plan) -> LoadResult:
        """Run a plan, no more."""
        while True:
            result = self._run(plan)
            if not self._spread(result):
                return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> Clients:
        return self._stack.enter_context(client_processes(self.subject, self._running))

    def _spread(self, result: LoadResult) -> bool:
        """Take more processes if they are needed and to be had; whether that was so."""
        more = min(2 * self._running, self._most)
        if not result.client_bound or more == self._running or (result.clients or more) < more:
            return False
        self.log(f"  the client was too slow or too late: again with {more} processes")
        self._stack.close()
        self._running = more
        self._clients = self._start()
        return True

    def _run(self, plan: Plan) -> LoadResult:
        with _shown(plan, self.console) as show:

            def look(state: Underway) -> None:
                self._watch.sample()
                show(state)

            return self._clients.run(plan, look)


@contextmanager
def _shown(plan: Plan, console: Console) -> Iterator[Callable[[Underway], None]]:
    """A line in the terminal that tells how a test goes, and disappears with it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task: TaskID = progress.add_task(_name(plan), total=plan.seconds, state="")

        def show(state: Underway) -> None:
            text = f"{state.answered:,} answered, {state.sent - state.answered:,} under way, {state.failed:,} errors"
            if len(state.recent_ms):
                recent = sorted(state.recent_ms.tolist())
                text += f"; now: median {recent[len(recent) // 2]:.2f} ms, longest {recent[-1]:.2f} ms"
            progress.update(task, completed=min(state.seconds, plan.seconds), state=text)

        yield show


def _name(plan: Plan) -> str:
    if isinstance(plan, Open):
        return f"open loop, {plan.rate:.4g}/s, {plan.arrivals}"
    return f"closed loop, {plan.clients} client{'' if plan.clients == 1 else 's'}"


def _limit(tester: Tester, request: LoadTestRequest, slo: Slo, log: Log) -> SloSearch:
    """Search from what many clients get; a line for each step."""
    log(f"the highest rate with {slo}:")

    def run(plan: Plan) -> LoadResult:
        if isinstance(plan, Closed):
            return tester.test(plan)
        result = tester.step(plan)
        state = "kept" if slo.met(result) else "missed"
        within, tail = 100 * result.share_within(slo.limit_ms), result.percentile_ms(slo.percent)
        log(
            f"  {plan.rate:9.1f}/s  p{slo.percent:g} {tail:8.2f} ms  {within:6.2f}% within {slo.limit_ms:g} ms  {state}"
        )
        return result

    return highest_rate(
        run, slo, capacity_s=CAPACITY_S, step_s=request.seconds, arrivals=request.arrivals, seed=request.seed
    )


def _processes(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not int(text):
        raise UserError(f"Got --processes {text!r}, expected auto or a number of at least 1.")
    return int(text)


def _texts(request: LoadTestRequest) -> tuple[Text, ...]:
    """The texts of a file, or of a data set's test split, at their own length or at ``words`` words each."""
    path = Path(request.data).expanduser()
    found = tuple(read_texts(path)) if path.is_file() else load_dataset(request.data).splits["test"].texts
    words = request.words
    return found if words is None else tuple(_of_length(t, words) for t in found if all(p.split() for p in parts(t)))


def _of_length(text: Text, words: int) -> Text:
    """So many words of a text that has some, and of each text of a pair; over again if it has fewer."""
    if isinstance(text, tuple):
        return " ".join(islice(cycle(text[0].split()), words)), " ".join(islice(cycle(text[1].split()), words))
    return " ".join(islice(cycle(text.split()), words))
