"""Watches a server, tells the truth about it, and starts it again when it has died or hangs.

::

    with Watch(Server(Path("model_repo"), follow=True), "127.0.0.1", 8003) as watch:
        watch.start()
        watch.run()

Triton says that it is ready with a dead Python process, and never starts one again. So each model is asked a text of
the watch's own, and it is the whole of Triton that is started again, on the same ports, because that mends all of it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
import time
import traceback
from collections.abc import Callable
from copy import copy
from types import TracebackType
from typing import NamedTuple, Self

from bantam.errors import BantamError, ServerError
from serving import counted, metrics
from serving.health import LATE_S, Probed, Verdict, judge
from serving.metrics import Findings
from serving.probe import Prober
from serving.processes import TRITON, Effort, reap
from serving.server import Server
from serving.triton_log import Journal
from serving.watch_page import Reply, WatchPage, as_json

TICK_S = 0.1
PAUSED_S = 1.0
"""Who has not looked for so long was stopped itself, with its whole machine perhaps, and cannot judge others by it."""
METRICS_TIMEOUT_S = 2.0
ENDS_S = 30.0
"""A killed Triton that is there after so long will not end: the system keeps it."""
REAP_TICKS = 10


class Patience(NamedTuple):
    """How often a server is started again."""

    most: int = 5
    """So many starts in a row, and no more, if none of them led to a server that stayed."""
    steady_s: float = 10.0
    """A server that has answered and lasted so long has stayed."""
    pauses_s: tuple[float, ...] = (0.0, 1.0, 4.0, 8.0, 16.0)
    """Before each of these starts."""


class Watch:
    """Watches ``server``, which it starts, and listens on ``host:port`` from the moment that it is made.

    ``log`` is told what happens. ``entries`` is given the lines of Triton's log, each with its level. Both are called
    from a thread of their own. Raises :class:`ServerError` if the port cannot be used.
    """

    def __init__(
        self,
        server: Server,
        host: str,
        port: int,
        log: Callable[[str], None] = lambda _: None,
        entries: Callable[[str, str], None] | None = None,
        patience: Patience = Patience(),  # noqa: B008  # immutable
    ) -> None:
        self.server = server
        self._journal = Journal(log, entries, lambda: server.log)
        self._log = self._journal.say
        self._patience = patience
        self._probers: dict[str, Prober] = {}
        self._effort: Effort | None = None
        """While Triton runs."""
        self._started_at = self._looked_at = time.monotonic()
        self._killed_at: float | None = None
        self._why_killed = ""
        self._verdicts: dict[str, Verdict] = {}
        self._state = "starting"
        """What is the matter while there is no Triton to judge; empty while there is one."""
        self._has_been_ready = False
        self._failures = 0
        self.restarts = 0
        """How often Triton was started again."""
        self._stopped = threading.Event()
        self._looker = threading.Thread(target=self._look_on, name="watch", daemon=True)
        pages = {"/live": self.live, "/ready": self.ready, "/metrics": self.metrics}
        self._page = WatchPage(host, port, pages, self._log)

    @property
    def address(self) -> str:
        """``host:port`` of ``/live``, ``/ready`` and ``/metrics``."""
        return self._page.address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._state = "stopping"
        self._stopped.set()
        for prober in self._probers.values():
            prober.stop()
        try:
            self.server.stop()
        finally:
            self._journal.close()
            self._page.close()

    def start(self) -> None:
        """Start the server and begin to watch it. Raises :class:`ServerError` if it does not start."""
        self._journal.start()
        try:
            self.server.start()
        except OSError as exc:
            raise ServerError(f"Triton could not be started: {exc}.") from exc
        for name in self.server.models:
            where = self.server.http_address, self.server.grpc_address
            self._probers[name] = Prober(name, *where, self.server.settings, self.server.token)
        self._begin()
        for prober in self._probers.values():
            prober.start()
        self._looker.start()

    def run(self) -> None:
        """Block as long as the server is worth starting again; raises :class:`ServerError` when it is not."""
        while not self._stopped.is_set():
            try:
                self.server.wait(self._log)
                return  # it was told to stop
            except ServerError as exc:
                self._start_again(exc)

    def drain(self, seconds: float) -> None:
        """Say that it is not ready, and go on to answer, so that others can be asked before it stops."""
        self._state = "stopping"
        time.sleep(seconds)

    def live(self) -> Reply:
        """Whether the watch itself works, and can still help."""
        silent = time.monotonic() - self._looked_at if self._effort is not None else 0.0
        stuck = self._killed_at is not None and time.monotonic() - self._killed_at > ENDS_S
        return as_json(silent < ENDS_S and not stuck, {"live": silent < ENDS_S and not stuck})

    def ready(self) -> Reply:
        """Whether all models answer, and why not."""
        status = self.status()
        why = {name: found.reason for name, found in status.verdicts.items() if not found.ready}
        document = {"ready": status.ready, "models": why, "state": self._state, "restarts": status.restarts}
        return as_json(status.ready, document)

    def metrics(self) -> Reply:
        """Triton's and ours."""
        status = self.status()  # first, so that Triton's counts have all of these probes
        counts: list[counted.Counted] = []
        triton = ""
        with contextlib.suppress(ServerError):  # it does not run now
            counts = counted.read(self.server.counts)
            triton = self._tritons()
        return Reply(http.HTTPStatus.OK, metrics.page(triton, status, counts))

    def status(self) -> Findings:
        """What is known now; not ready if nobody has looked for a while."""
        late = time.monotonic() - self._looked_at > PAUSED_S
        ready = not self._state and not late and bool(self._verdicts) and all(v.ready for v in self._verdicts.values())
        probed: dict[str, Probed] = {name: copy(prober.seen) for name, prober in self._probers.items()}
        return Findings(ready, self._verdicts, probed, self.restarts)

    def _begin(self) -> None:
        """A Triton has been started."""
        if self.server.pid is None:
            return  # stopped meanwhile
        for prober in self._probers.values():
            prober.forget()
        isolated = self.server.models if self.server.backend.isolated else ()
        self._has_been_ready, self._killed_at = False, None
        self._started_at = self._looked_at = time.monotonic()
        self._verdicts = {}
        self._effort = Effort(self.server.pid, isolated)
        self._state = ""

    def _look_on(self) -> None:
        ticks, said = 0, ""
        while not self._stopped.wait(TICK_S):
            effort = self._effort
            if effort is None:
                continue
            ticks += 1
            try:
                with contextlib.suppress(ServerError):  # it has ended meanwhile, which run() sees
                    self._look(effort)
                if os.getpid() == 1 and ticks % REAP_TICKS == 0:
                    reap(self.server.children())
            except Exception:  # noqa: BLE001  # a defect; who cannot look says so with /ready and /live
                what = traceback.format_exc()
                if what != said:
                    said = what
                    self._log(f"WARNING: The watch could not look at the server:\n{what}")

    def _look(self, effort: Effort) -> None:
        gone = effort.look()
        now = time.monotonic()
        if now - self._looked_at > PAUSED_S:
            for prober in self._probers.values():
                prober.seen.resume(now)
        self._count(now)
        verdicts = {
            name: judge(prober.seen, now, idle_s=effort.idle_s(name), gone=bool(gone & {name, TRITON}))
            for name, prober in self._probers.items()
        }
        if self._effort is not effort:
            return  # it has ended meanwhile
        self._verdicts, self._looked_at = verdicts, now
        self._has_been_ready = self._has_been_ready or all(found.ready for found in verdicts.values())
        dead = [f"{name}: {found.reason}" for name, found in verdicts.items() if found.restart]
        if dead and self._killed_at is None and TRITON not in gone:
            self._killed_at, self._why_killed = now, f"Triton did not serve {'; '.join(dead)}."
            self.server.kill()  # run() sees that it has ended

    def _count(self, now: float) -> None:
        """Look at what was answered to others while a probe waits: it may be behind them."""
        late = {name: prober.seen for name, prober in self._probers.items() if prober.seen.late_s(now) > LATE_S}
        answered = counted.answered(self.server.counts) if late else {}
        for name in late.keys() & answered.keys():
            late[name].counted(answered[name], now)

    def _start_again(self, error: BantamError | OSError) -> None:
        stayed = self._has_been_ready and time.monotonic() - self._started_at > self._patience.steady_s
        self._failures = 0 if stayed else self._failures
        self._state, self._effort = "restarting", None
        if self._killed_at is not None:
            error, self._killed_at = ServerError(self._why_killed), None
        while True:
            if self._failures >= self._patience.most:
                raise ServerError(
                    f"Triton has been started {self._failures} times in a row and did not stay: the watch gives up. "
                    f"The last time: {error}"
                )
            self._log(f"WARNING: {error}")
            self.server.stop()
            time.sleep(self._patience.pauses_s[min(self._failures, len(self._patience.pauses_s) - 1)])
            self._failures += 1
            self.restarts += 1
            try:
                self.server.start()
            except (BantamError, OSError) as exc:  # such as a full disk, which may have room again
                error = exc
                continue
            self._begin()
            self._log(f"Triton was started again, for the {self._failures}. time in a row; {self.restarts} in all.")
            return

    def _tritons(self) -> str:
        """Triton's own metrics; empty if it does not answer."""
        host, _, port = self.server.metrics_address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=METRICS_TIMEOUT_S)
        try:
            connection.request("GET", "/metrics", headers={"Connection": "close"})
            return connection.getresponse().read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()
