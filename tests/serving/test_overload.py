"""A real Triton that is asked for more than it can do, with a model that answers when a test lets it."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc
import httpcore2
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bantam.artifact import Artifact, seal
from bantam.client.classifier import Classifier
from bantam.client.transport import encode
from bantam.errors import ClientError, UnavailableError
from serving import counted, metrics
from serving.metrics import Findings
from serving.probe import infer
from serving.repository import Version, promote, publish, rollback, stage
from serving.server import Server
from serving.triton_config import CONFIG, limit_ms

pytestmark = pytest.mark.triton
MODEL = "tiny"
SECONDS = 60
LONG_MS = 120_000
"""A limit that no test waits for."""
GATED = '''
_execute = TritonPythonModel.execute


def _gated(self, requests):
    """Answer when the file `gate` is gone, warm up in {warm_s} s; write the texts of each other request down."""
    import time

    texts = [[value.decode() for value in request.input("TEXT").as_numpy().reshape(-1)] for request in requests]
    if texts == [[""]]:
        time.sleep({warm_s})
    else:
        with open({log!r}, "a") as log:
            log.write("".join(json.dumps(each) + "\\n" for each in texts))
        while Path({gate!r}).exists():
            time.sleep(0.005)
    return _execute(self, requests)


TritonPythonModel.execute = _gated
'''


class Gate:
    """Shut, the model answers nobody; its ``log`` has the texts that were begun."""

    def __init__(self, folder: Path, warm_s: float = 0) -> None:
        """``warm_s``: what the model takes for the one text that it is warmed up with."""
        self.path, self.log, self._warm_s = folder / "gate", folder / "log", warm_s

    def into(self, version: Version) -> Version:
        """The version as it is served with the gate before it."""
        manifest = Artifact.load(version.folder).manifest
        model = version.folder / "model.py"
        gated = GATED.format(log=str(self.log), gate=str(self.path), warm_s=self._warm_s)
        model.write_text(model.read_text(encoding="utf-8") + gated, encoding="utf-8")
        seal(version.folder, manifest)
        return version

    def shut(self) -> None:
        self.path.touch()
        self.log.write_text("")

    def open(self) -> None:
        self.path.unlink(missing_ok=True)

    def begun(self) -> list[list[str]]:
        """The texts of each request that was computed, in their order."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


class Running(NamedTuple):
    """A server whose model waits for the gate."""

    server: Server
    gate: Gate
    root: Path

    def counts(self) -> dict[str, int]:
        """Of the one version."""
        return counted.read(self.server.counts)[0].values

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def hold(self, asked: Asked) -> grpc.Future:
        """Have the model begin a request that it does not answer yet."""
        self.gate.shut()
        answer = asked("held")
        self.until(lambda: self.gate.begun() == [["held"]])
        return answer


class Asked:
    """Sends requests without waiting for their answers."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def __call__(self, *texts: str, **parameters: str | int) -> grpc.Future:
        request = service_pb2.ModelInferRequest(model_name=MODEL)
        request.inputs.add(name="TEXT", datatype="BYTES", shape=[len(texts), 1])
        request.raw_input_contents.append(encode(text.encode() for text in texts))
        for name, value in parameters.items():
            setattr(request.parameters[name], "int64_param" if isinstance(value, int) else "string_param", value)
        return self._stub.ModelInfer.future(request, timeout=SECONDS)


@contextlib.contextmanager
def running(artifact: Artifact, folder: Path, *, warm_s: float = 0, **options: int) -> Iterator[tuple[Running, Asked]]:
    root = folder / "repository"
    root.mkdir()
    gate = Gate(folder, warm_s)
    gate.into(publish(artifact, root, MODEL, thresholds=None, **options))
    with Server(root, follow=True) as server:
        assert not server.backend.isolated, server.backend.reason
        asked = Asked(server.grpc_address)
        try:
            yield Running(server, gate, root), asked
        finally:
            gate.open()
            asked.channel.close()


def refusals(here: Running, asked: Asked) -> tuple[list[grpc.Future], grpc.Future]:
    """Send requests until one is refused, while nothing is answered."""
    waiting: list[grpc.Future] = []
    while True:
        sent = asked(*["wait"] * 4)
        here.until(lambda: sent.done() or here.counts()["waiting_texts"] == 4 * (len(waiting) + 1))  # noqa: B023
        if sent.done():
            return waiting, sent
        waiting.append(sent)


def test_who_would_wait_too_long_is_told_at_once_over_both_protocols(tiny_artifact: Artifact, tmp_path: Path) -> None:
    with running(tiny_artifact, tmp_path, warm_s=2, limit_ms=LONG_MS) as (here, asked):
        held = here.hold(asked)
        waiting, refused = refusals(here, asked)
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        assert f"expected at most half of the model's limit_ms, which is {LONG_MS}" in refused.details()
        url = f"http://{here.server.http_address}/v2/models/{MODEL}/infer"
        tensor = {"name": "TEXT", "shape": [4, 1], "datatype": "BYTES", "data": ["late"] * 4}
        answer = httpcore2.request("POST", url, content=json.dumps({"inputs": [tensor]}).encode())
        assert answer.status == 503
        told = pytest.raises(UnavailableError, match=r"is overloaded: this request would wait \d+ ms.*Send less")
        with Classifier(here.server.grpc_address, MODEL, retries=0) as classify, told:
            classify(["late"] * 4)
        assert here.counts()["waiting_texts"] == 4 * len(waiting)
        assert here.counts()["refused_foreseen"] >= 3
        page = metrics.page("", Findings(True, {}, {}, 0), counted.read(here.server.counts))
        assert f'bantam_waiting_texts{{model="{MODEL}",version="1"}} {4 * len(waiting)}\n' in page
        assert f'bantam_refused_total{{model="{MODEL}",version="1",reason="late"}} 0\n' in page
        # The watch's own text is let in, and nobody else's by another word.
        with ThreadPoolExecutor() as threads:
            probe = threads.submit(infer, here.server.http_address, MODEL, "probe", 1, here.server.token)
            here.until(lambda: here.counts()["waiting_texts"] == 4 * len(waiting) + 1)
            assert asked("posing", bantam_watch="0" * 32).exception(SECONDS) is not None
            assert asked("listing", "two", bantam_watch=here.server.token).exception(SECONDS) is not None
            here.gate.open()
            assert probe.result(SECONDS) == "1"
        assert held.exception(SECONDS) is None
        assert [each.exception(SECONDS) for each in waiting] == [None] * len(waiting)
        assert here.counts()["waiting_texts"] == 0


def test_who_has_waited_for_the_limit_is_told(tiny_artifact: Artifact, tmp_path: Path) -> None:
    with running(tiny_artifact, tmp_path, limit_ms=300) as (here, asked):
        held = here.hold(asked)
        late = asked("late")
        here.until(lambda: here.counts()["waiting_texts"] == 1)
        others: list[grpc.Future] = []

        def is_told() -> bool:
            others.append(asked("another"))
            return bool(late.done())

        here.until(is_told)
        assert late.code() is grpc.StatusCode.UNAVAILABLE
        assert re.search(r"has waited for \d+ ms, .* the model's limit_ms is 300", late.details())
        here.gate.open()
        assert held.exception(SECONDS) is None, "what was begun is answered"
        assert here.counts()["refused_late"] >= 1


def test_a_model_that_is_slower_than_its_limit_answers_one_after_the_other(
    tiny_artifact: Artifact, tmp_path: Path
) -> None:
    with running(tiny_artifact, tmp_path, warm_s=0.5, limit_ms=20) as (here, asked):
        here.gate.open()
        for texts in (["one"], ["list"] * 64):
            assert asked(*texts, timeout=30_000_000).exception(SECONDS) is None
        assert not any(count for name, count in here.counts().items() if name.startswith("refused"))


def test_nothing_is_computed_for_whom_it_is_too_late_or_who_has_gone(tiny_artifact: Artifact, tmp_path: Path) -> None:
    with running(tiny_artifact, tmp_path, limit_ms=LONG_MS) as (here, asked):
        held = here.hold(asked)
        hurried = asked("hurried", timeout=3_000_000)
        here.until(lambda: here.counts()["waiting_texts"] == 1)
        gone = asked("gone")
        patient = asked("patient", timeout=1 << 62)
        here.until(lambda: here.counts()["waiting_texts"] == 3)
        gone.cancel()
        time.sleep(3.0)  # until Triton has seen it, and the other's time is over
        here.gate.open()
        assert held.exception(SECONDS) is None
        assert patient.exception(SECONDS) is None
        assert hurried.code() is grpc.StatusCode.UNAVAILABLE
        assert "within the time-out that it has" in hurried.details()
        assert here.gate.begun() == [["held"], ["patient"]]
        assert (here.counts()["refused_deadline"], here.counts()["refused_cancelled"]) == (1, 1)
        assert here.counts()["waiting_texts"] == 0


def test_the_client_says_how_long_it_waits(tiny_artifact: Artifact, tmp_path: Path) -> None:
    with running(tiny_artifact, tmp_path, limit_ms=LONG_MS) as (here, asked):
        here.gate.open()
        for refused, (protocol, address) in enumerate(
            (("grpc", here.server.grpc_address), ("http", here.server.http_address)), 1
        ):
            with Classifier(address, MODEL, protocol=protocol, timeout=2.0, retries=0) as classify:  # type: ignore[arg-type]
                classify("first")
                held = here.hold(asked)
                with pytest.raises(ClientError, match=r"within 2 s|overloaded"):
                    classify(protocol)
                time.sleep(1.0)  # the server's two seconds begin later
                here.gate.open()
                assert held.exception(SECONDS) is None
                here.until(lambda: here.counts()["waiting_texts"] == 0)
                assert here.gate.begun() == [["held"]], f"not the text that was sent over {protocol}"
                assert here.counts()["refused_deadline"] == refused


def test_single_texts_go_before_lists(tiny_artifact: Artifact, tmp_path: Path) -> None:
    with running(tiny_artifact, tmp_path, limit_ms=LONG_MS, max_batch_size=8) as (here, asked):
        held = here.hold(asked)
        lists = [asked(*[f"list {number}"] * 8) for number in range(3)]
        here.until(lambda: here.counts()["waiting_texts"] == 24)
        single = asked("single")
        here.until(lambda: here.counts()["waiting_texts"] == 25)
        here.gate.open()
        assert [each.exception(SECONDS) for each in (held, single, *lists)] == [None] * 5
        begun = [texts[0] for texts in here.gate.begun()]
        assert begun[:2] == ["held", "single"]
        assert sorted(begun[2:]) == ["list 0", "list 1", "list 2"]


def test_a_version_that_is_replaced_or_stopped_answers_what_waits_for_it(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    with running(tiny_artifact, tmp_path, limit_ms=LONG_MS) as (here, asked):
        said: list[str] = []
        following = threading.Thread(target=here.server.wait, args=(said.append,))
        following.start()
        waiting = [here.hold(asked), *(asked(*["wait"] * 4) for _ in range(4))]
        here.until(lambda: here.counts()["waiting_texts"] == 16)
        second = stage(make_artifact(details={"other": True}), here.root, MODEL, thresholds=None)
        promote(here.gate.into(second))
        here.until(lambda: bool(said))
        assert said == [f"{MODEL}: version 2 is served; before, 1 was."]
        assert not any(each.done() for each in waiting)
        # The limit goes on with what follows, and there are two queues.
        waiting += [here.hold(asked), *(asked(*["wait"] * 4) for _ in range(4))]
        here.until(lambda: [each.values["waiting_texts"] for each in counted.read(here.server.counts)] == [16, 16])
        here.gate.open()
        versions = [each.result(SECONDS).model_version for each in waiting]
        assert versions == ["1"] * 5 + ["2"] * 5
        assert [each.values["waiting_texts"] for each in counted.read(here.server.counts)] == [0, 0]
        # Told to stop, it answers what it has.
        waiting = [here.hold(asked), *(asked(*["wait"] * 4) for _ in range(4))]
        here.until(lambda: [each.values["waiting_texts"] for each in counted.read(here.server.counts)] == [0, 16])
        stopping = threading.Thread(target=here.server.stop)
        stopping.start()
        time.sleep(0.5)
        here.gate.open()
        assert [each.exception(SECONDS) for each in waiting] == [None] * 5
        stopping.join()
        following.join()


def test_a_limit_that_an_operator_has_set_survives_promotions_and_rollbacks(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    def limit() -> int:
        return limit_ms((tmp_path / MODEL / CONFIG).read_text())

    publish(tiny_artifact, tmp_path, MODEL, thresholds=None)
    assert limit() == 2000
    config = tmp_path / MODEL / CONFIG
    config.write_text(config.read_text() + 'parameters { key: "limit_ms" value { string_value: "250" } }\n')
    publish(make_artifact(details={"other": True}), tmp_path, MODEL, thresholds=None)
    assert limit() == 250
    assert rollback(tmp_path, MODEL).number == 1
    assert limit() == 250
    publish(make_artifact(details={"third": True}), tmp_path, MODEL, thresholds=None, limit_ms=70)
    assert limit() == 250, "it wins over what a version was published with"
    config.write_text(config.read_text().replace('"250"', '"300"'))
    publish(make_artifact(details={"third": True}), tmp_path, MODEL, thresholds=None, limit_ms=70)
    assert limit() == 300, "also where the version is served already"
    rollback(tmp_path, MODEL)
    assert limit() == 300


def test_a_limit_that_is_none_is_told_at_the_start(tiny_artifact: Artifact, tmp_path: Path) -> None:
    publish(tiny_artifact, tmp_path, MODEL, thresholds=None)
    config = tmp_path / MODEL / CONFIG
    config.write_text(config.read_text() + 'parameters { key: "limit_ms" value { string_value: "soon" } }\n')
    with pytest.raises(Exception, match="limit_ms is 'soon', expected milliseconds, from 1 to 86,400,000"):
        Server(tmp_path).start()
