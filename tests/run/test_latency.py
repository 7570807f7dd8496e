"""Measuring in groups: who is open when, in which order, what counts; and what intervals say. No clock is looked at."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from bantam.artifact import Artifact, Compute, Manifest, Signature
from bantam.client.classifier import Classifier
from bantam.errors import StageError
from bantam.memory import MemoryWatch, available_mb
from bantam.run.endpoint import Endpoint
from bantam.run.latency import Anchors, Bench, grouped, measure, server_mb, worker_mb
from bantam.run.noise import Sample
from bantam.run.timing import Compared, Timing, equal
from bantam.run.worker import Borne, Requester, Timed, timed
from optimizer.recipe import MeasureConfig

PARAMETERS = {"task": "single_label", "labels": '["no", "yes"]'}
TEXTS = ["a", "b", "c", "d"]
ANCHORS = Anchors("baseline", "fp32")
SIGNATURE = Signature("single_label", ("no", "yes"), ("input_ids",), 64)


def artifact(name: str, layout: str = "onnx", mb: int = 0) -> Artifact:
    """One of a size that is only said."""
    files = {"weights": {"bytes": mb * 10**6, "sha256": "0"}} if mb else {}
    manifest = Manifest("export", "k", layout, SIGNATURE, Compute(), deployable=tuple(files), files=files)
    return Artifact(Path(name), manifest)


def variants(*names: str) -> dict[str, Artifact]:
    """The anchors and others."""
    return {"baseline": artifact("baseline", "hf"), **{name: artifact(name) for name in ("fp32", *names)}}


class Rig:
    """Fake processes and servers: who is open, what was asked in which order, and how long each claims to take."""

    def __init__(self, **ms: float) -> None:
        self.ms = ms
        self.open: set[str] = set()
        self.together: list[set[str]] = []
        self.asked: list[str] = []
        self.texts: list[list[str]] = []
        self.fails: dict[str, str] = {}
        self.passes = Counter[str]()
        self.timing = False
        self.slower: dict[frozenset[str], float] = {}
        self.heard: dict[frozenset[str], Sample] = {}

    def bench(self) -> Bench:
        return Bench(
            worker=self._worker, endpoint=self._endpoint, served=self._served, quiet=self._quiet, noise=self._noise
        )

    def _noise(self) -> Sample:
        assert self.timing, "nothing else of this process runs meanwhile"
        return self.heard.get(frozenset(self.open), Sample(5.0, 0.0))

    def pass_over(self, name: str, texts: Sequence[str]) -> Timed:
        assert self.timing
        assert name in self.open
        self.asked.append(name)
        self.texts.append(list(texts))
        self.passes[name] += 1
        self.check(name)
        if name in self.fails:
            return Timed(np.full(len(texts), np.nan), Counter({self.fails[name]: len(texts)}))
        # The first pass is slow, as first passes are.
        each = self.ms.get(name.partition(" ")[0], 1.0) * (100 if self.passes[name] == 1 else 1)
        each *= self.slower.get(frozenset(self.open), 1.0)
        return Timed(np.full(len(texts), each))

    def check(self, name: str) -> None:
        """Raise what asking a process raises that has ended."""
        if self.fails.get(name) == "end":
            raise StageError("it has ended")

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        if self.fails.get(name) == "start":
            raise StageError("it does not start")
        self.open.add(name)
        self.together.append(set(self.open))
        try:
            yield Fake(self, name)
        finally:
            self.open.remove(name)

    def _worker(self, name: str) -> Any:
        return self._opened(name)

    def _endpoint(self, name: str) -> Any:
        return self._opened(f"{name} served")

    def _served(self, name: str, endpoint: Endpoint) -> None:
        assert not self.timing
        self.check(f"{name} served")
        self.asked.append(f"{name} answers")

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        self.timing = True
        try:
            yield
        finally:
            self.timing = False


class Fake:
    """A worker or an endpoint of a :class:`Rig`."""

    isolated_because = ""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig, self.name = rig, name

    @property
    def client(self) -> Classifier:
        raise AssertionError("nobody asks for answers here")

    @contextmanager
    def resumed(self) -> Iterator[None]:
        yield

    def timed(self, texts: Sequence[str]) -> Timed:
        return self.rig.pass_over(self.name, texts)

    def max_rate(self, texts: Sequence[str], config: MeasureConfig) -> Borne:
        self.rig.check(self.name)
        self.rig.asked.append(f"{self.name} rate")
        kind = self.rig.fails.get(f"{self.name} rate")
        return Borne(None if kind else 40.0, Counter({kind: 3}) if kind else Counter())

    def peak_rss_mb(self) -> float:
        self.rig.check(self.name)
        return 7.0


def config(memory_mb: float = 1e6, rounds: int = 2) -> MeasureConfig:
    return MeasureConfig(rounds=rounds, memory_mb=memory_mb)


def run(rig: Rig, *names: str, **options: Any) -> dict[str, Timing]:
    return measure(variants(*names), ANCHORS, TEXTS, config(**options), rig.bench())


def room_for(count: int) -> float:
    """MB that the anchors and ``count`` of the smallest variants take."""
    known = variants("a")
    anchors = worker_mb(known["baseline"]) + server_mb(known["fp32"])
    return anchors + count * (worker_mb(known["a"]) + server_mb(known["a"]))


def test_groups_are_as_large_as_the_limit_allows_and_hold_everyone_once() -> None:
    known = variants("a", "b", "c", "d")
    assert grouped(known, ANCHORS, 1e6) == [["fp32", "a", "b", "c", "d"]]
    assert grouped(known, ANCHORS, room_for(2)) == [["fp32", "a"], ["b", "c"], ["d"]]
    assert grouped(known, ANCHORS, 1.0) == [["fp32"], ["a"], ["b"], ["c"], ["d"]]


def test_a_large_variant_has_a_group_of_its_own() -> None:
    known = {**variants("a"), "large": artifact("large", mb=5000), **{name: artifact(name) for name in "bc"}}
    assert grouped(known, ANCHORS, room_for(4)) == [["fp32", "a"], ["large"], ["b", "c"]]


def test_what_is_open_at_a_time_is_one_group_with_the_anchors_in_it() -> None:
    rig = Rig()
    run(rig, "a", "b", "c", memory_mb=room_for(2))
    fullest = [opened for opened, after in zip(rig.together, [*rig.together[1:], set()], strict=True)
               if len(after) < len(opened)]  # fmt: skip
    assert fullest == [
        {"baseline", "fp32", "fp32 served", "a", "a served"},
        {"baseline", "fp32 served", "b", "b served", "c", "c served"},
    ]
    assert not rig.open


def test_rounds_are_interleaved_over_the_same_texts_and_each_server_is_asked_once_for_the_rest() -> None:
    rig = Rig()
    run(rig, "a")
    one_round = ["baseline", "fp32", "fp32 served", "a", "a served"]
    rest = ["fp32 served answers", "fp32 served rate", "a served answers", "a served rate"]
    assert rig.asked == one_round * 3 + [step.replace("served answers", "answers") for step in rest]
    assert all(texts == TEXTS for texts in rig.texts)


def test_an_anchor_in_many_groups_is_asked_for_the_rest_once() -> None:
    rig = Rig()
    run(rig, "a", "b", memory_mb=1.0)
    assert Counter(step for step in rig.asked if "rate" in step) == {f"{n} served rate": 1 for n in ("fp32", "a", "b")}
    assert Counter(step for step in rig.asked if "answers" in step) == {f"{n} answers": 1 for n in ("fp32", "a", "b")}


def test_the_warm_up_is_thrown_away() -> None:
    found = run(Rig(a=3.0, baseline=12.0), "a", rounds=4)["a"]
    assert found.in_process is not None
    assert found.served is not None
    np.testing.assert_array_equal(found.in_process.own_ms, np.full((4, len(TEXTS)), 3.0))
    np.testing.assert_array_equal(found.in_process.anchor_ms, np.full((4, len(TEXTS)), 12.0))
    assert found.in_process.ratio == (0.25, 0.25, 0.25)
    assert (found.served.ratio.value, found.max_rate, found.server_peak_rss_mb) == (3.0, 40.0, 7.0)


def test_served_is_compared_with_served() -> None:
    found = run(Rig(baseline=12.0, fp32=6.0, a=3.0), "a")
    ratios = {name: (t.in_process and t.in_process.ratio.value, t.served and t.served.ratio.value)
              for name, t in found.items()}  # fmt: skip
    assert ratios == {"baseline": (1.0, None), "fp32": (0.5, 1.0), "a": (0.25, 0.5)}


def test_figures_of_groups_are_brought_to_one_machine() -> None:
    """In the second group the machine is twice as slow; the two variants are the same."""
    rig = Rig(baseline=8.0, a=4.0, b=4.0)
    rig.slower[frozenset({"baseline", "fp32 served", "b", "b served"})] = 2.0
    found = measure({**variants("a", "b"), "fp32": artifact("fp32", mb=500)}, ANCHORS, TEXTS, config(1.0), rig.bench())
    a, b = found["a"].in_process, found["b"].in_process
    assert a is not None
    assert b is not None
    assert (a.own_ms[0, 0], b.own_ms[0, 0]) == (4.0, 8.0)
    assert a.group != b.group
    assert a.ratio.value == b.ratio.value == 0.5
    assert a.p50_ms.value == b.p50_ms.value == np.median(b.latencies_ms) == 4.0
    assert equal(found["a"], found["b"])


@pytest.mark.parametrize(("where", "phase"), [("a", "in_process"), ("a served", "served")])
def test_failed_requests_are_counted_the_warm_up_s_too(where: str, phase: str) -> None:
    rig = Rig()
    rig.fails[where] = "UnavailableError"
    found = run(rig, "a", rounds=2)
    assert found["a"].errors == {phase: {"UnavailableError": 3 * len(TEXTS)}}
    assert found["a"].failed == 3 * len(TEXTS)
    assert getattr(found["a"], phase) is None
    assert found["fp32"].failed == 0


def test_requests_that_fail_under_load_are_counted() -> None:
    rig = Rig()
    rig.fails["a served rate"] = "TimeoutExceeded"
    found = run(rig, "a")["a"]
    assert (found.errors, found.max_rate) == ({"rate": {"TimeoutExceeded": 3}}, None)
    assert found.served is not None


@pytest.mark.parametrize(
    ("where", "errors"),
    [
        ("a", {"in_process": {"StageError": 4}}),
        ("a served", {"served": {"StageError": 4}, "rate": {"StageError": 1}}),
    ],
)
def test_a_variant_whose_process_ends_is_a_row_that_failed(where: str, errors: dict[str, dict[str, int]]) -> None:
    rig = Rig()
    rig.fails[where] = "end"
    found = run(rig, "a", "b", rounds=2)
    assert found["a"].errors == errors
    assert [name for name, timing in found.items() if timing.failed] == ["a"]
    assert found["b"].served is not None
    assert not rig.open


@pytest.mark.parametrize(("kind", "error"), [("ServerError", "ServerError"), ("end", "StageError")])
@pytest.mark.parametrize("where", ["baseline", "fp32 served"])
def test_an_anchor_that_does_not_answer_is_an_error(where: str, kind: str, error: str) -> None:
    rig = Rig()
    rig.fails[where] = kind
    with pytest.raises(StageError, match=rf"all others are compared with.*{error}"):
        run(rig, "a")


@pytest.mark.parametrize("where", ["a served", "a"])
def test_all_is_closed_when_one_does_not_start(where: str) -> None:
    rig = Rig()
    rig.fails[where] = "start"
    with pytest.raises(StageError, match="does not start"):
        run(rig, "a", "b")
    assert rig.together
    assert not rig.open


def synthetic(ratio: float, seed: int, *, group: int = 0, slower: float = 1.0, rounds: int = 5) -> Compared:
    """Texts of very different lengths, rounds of different speed, and some noise; the true ratio is ``ratio``."""
    lengths = np.random.default_rng(0).lognormal(1.0, 0.8, size=40)
    rng = np.random.default_rng(seed)
    speed = slower * rng.lognormal(0.0, 0.2, size=(rounds, 1))
    own, anchor = (speed * lengths * rng.lognormal(0.0, 0.05, size=(rounds, 40)) for _ in range(2))
    return Compared(ratio * own, anchor, group, float(np.median(anchor)))


def test_the_interval_of_a_ratio_holds_the_true_one() -> None:
    found = [synthetic(0.7, seed).ratio for seed in range(1, 21)]
    assert sum(each.low <= 0.7 <= each.high for each in found) >= 18
    assert all(each.low < each.value < each.high for each in found)


def test_pairing_cancels_what_rounds_and_texts_have_in_common() -> None:
    compared = synthetic(0.7, 1)
    ratio, p50 = compared.ratio, compared.p50_ms
    assert (ratio.high - ratio.low) / ratio.value < 0.5 * (p50.high - p50.low) / p50.value


def test_figures_are_the_same_each_time() -> None:
    assert synthetic(0.7, 1).ratio == synthetic(0.7, 1).ratio


def as_timing(compared: Compared) -> Timing:
    return Timing(compared, None)


def test_equal_is_what_no_interval_tells_apart() -> None:
    same, other, faster = synthetic(0.7, 1), synthetic(0.7, 2, group=1, slower=2.0), synthetic(0.5, 3, group=2)
    assert equal(as_timing(same), as_timing(other))
    assert not equal(as_timing(same), as_timing(faster))
    assert not equal(as_timing(other), as_timing(faster))
    assert other.versus(faster).value == pytest.approx(1.4, abs=0.1)
    assert not equal(as_timing(same), Timing(None, None))


def test_a_few_failed_requests_leave_the_others_to_be_compared() -> None:
    whole = synthetic(0.7, 1)
    own = whole.own_ms.copy()
    own[2, 3:9] = np.nan
    found = Compared(own, whole.anchor_ms, 0, whole.anchor_p50_ms)
    assert found.ratio.low < 0.7 < found.ratio.high
    assert len(found.latencies_ms) == own.size - 6


def test_an_anchor_that_failed_for_whole_rounds_leaves_intervals() -> None:
    """Some resamples are of these rounds alone: they say nothing, and the others do."""
    whole = synthetic(0.7, 1)
    anchor = whole.anchor_ms.copy()
    anchor[:2] = np.nan
    found = Compared(whole.own_ms, anchor, 0, float(np.nanmedian(anchor)))
    for estimate in (found.ratio, found.p50_ms, found.versus(synthetic(0.5, 2))):
        assert estimate.low < estimate.value < estimate.high


def test_the_loop_counts_what_fails_and_collects_no_garbage() -> None:
    collecting: list[bool] = []

    def send(text: object) -> None:
        collecting.append(gc.isenabled())
        if text == "b":
            raise ValueError

    found = timed(send, TEXTS)
    assert np.isnan(found.latencies_ms).tolist() == [False, True, False, False]
    assert found.errors == {"ValueError": 1}
    assert collecting == [False] * 4
    assert gc.isenabled()


def test_requests_are_sent_once_from_another_process_and_their_errors_come_back() -> None:
    asked: list[str] = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        asked.append(context.peer())
        context.abort(grpc.StatusCode.UNAVAILABLE, "overloaded")
        return b""

    with serving(answer) as address, Requester() as requester:
        found = requester.timed(address, "it", TEXTS)
        sent = len(asked)
        borne = requester.max_rate(address, "it", TEXTS, slo_ms=50.0, seconds=0.1)
    assert sent == 2 * len(TEXTS), "each text once, and once to wake the server up"
    assert found.errors == {"UnavailableError": sent}
    assert np.isnan(found.latencies_ms).all()
    assert (borne.rate, borne.errors["UnavailableError"]) == (None, len(asked) - sent)


@contextmanager
def serving(answer: Any) -> Iterator[str]:
    """A server that describes a model, and answers requests as told."""
    config = service_pb2.ModelConfigResponse()
    config.config.max_batch_size = 8
    for key, value in PARAMETERS.items():
        config.config.parameters[key].string_value = value
    handlers = {
        "ModelConfig": grpc.unary_unary_rpc_method_handler(lambda request, context: config.SerializeToString()),
        "ModelInfer": grpc.unary_unary_rpc_method_handler(answer),
    }
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def test_nobody_looks_at_memory_while_something_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr(MemoryWatch, "_sample", lambda self: looks.append(time.monotonic()))
    with MemoryWatch(interval_s=0.001) as watch:
        with watch.paused():
            before = len(looks)
            time.sleep(0.05)
            assert len(looks) == before
        assert len(looks) > before


def test_a_container_s_limit_is_what_can_be_had(tmp_path: Path) -> None:
    assert available_mb(tmp_path) > 1.0, "no limit: the machine's"
    (tmp_path / "memory.max").write_text("max\n")
    assert available_mb(tmp_path) > 1.0
    (tmp_path / "memory.max").write_text("9000000\n")
    (tmp_path / "memory.current").write_text("8500000\n")
    (tmp_path / "memory.stat").write_text("anon 8000000\nactive_file 1\ninactive_file 400000\n")
    assert available_mb(tmp_path) == pytest.approx(0.9)


def test_the_machine_is_listened_to_before_each_pass_that_counts() -> None:
    found = run(Rig(), "a", rounds=2)
    members = 3  # the baseline, fp32 and a
    for name in ("baseline", "fp32", "a"):
        noise = found[name].noise
        assert noise is not None
        assert [len(heard) for heard in noise.rounds] == [members] * 2
        assert not noise.busy


def test_what_was_timed_while_the_machine_was_busy_is_known() -> None:
    """In the second group something else takes a core."""
    rig = Rig()
    rig.heard[frozenset({"baseline", "fp32 served", "b", "b served"})] = Sample(9.0, 0.4)
    found = measure({**variants("a", "b"), "fp32": artifact("fp32", mb=500)}, ANCHORS, TEXTS, config(1.0), rig.bench())
    busy = {name: timing.noise.busy for name, timing in found.items() if timing.noise}
    assert busy == {"baseline": True, "fp32": True, "a": False, "b": True}, "the anchors are in all groups"
