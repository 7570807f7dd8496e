"""docs/production.md: each piece of code is run as it stands there, against a server that knows the right answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bantam.artifact import Artifact
from bantam.errors import InvalidInputError
from bantam.label.model import Labeller
from serving.repository import publish
from tests.client.fake_kserve import Fake, Script

PAGE = Path(__file__).parents[2] / "docs" / "production.md"
CODE = dict(re.findall(r"```python (\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL))
HERE = '"localhost:8001", model="minilm"'


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake("grpc", Script())
    yield server
    server.stop()


def run(name: str, fake: Fake, *replaced: tuple[str, str], **given: Any) -> dict[str, Any]:
    """The names that a piece of code defines, once it has run with the address of ``fake`` and other words replaced."""
    code = CODE[name]
    for old, new in ((HERE, f'"{fake.address}", model="fake"'), *replaced):
        assert old in code
        code = code.replace(old, new)
    names = {"__name__": name, **given}
    exec(compile(code, f"{PAGE.name}, {name}", "exec"), names)  # noqa: S102 our own page
    return names


def test_there_is_code_for_each() -> None:
    assert list(CODE) == ["fastapi", "celery", "kafka", "pandas", "engine", "spark"]
    for name, code in CODE.items():
        assert code.count(HERE) == (name != "engine"), "which needs no server"
        assert len([line for line in code.splitlines() if line.strip()]) <= 25, name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Starlette's test client
def test_fastapi(fake: Fake) -> None:
    pytest.importorskip("fastapi", reason="comes with gradio (extra demo)")
    from fastapi.testclient import TestClient

    with TestClient(run("fastapi", fake)["app"]) as client:
        answer = client.post("/classify", json=["12", "12345678"])
        assert (answer.status_code, [each["labels"] for each in answer.json()]) == (200, [["short"], ["long"]])
        assert answer.json()[0]["scores"] == pytest.approx({"short": 0.8, "long": 0.2})
        assert client.post("/classify", json=["a"] * 9).json() == client.post("/classify", json=["a"]).json() * 9
        assert fake.script.configs == 1, "one client for all requests"
        assert client.post("/classify", json=[1]).status_code == 422
        fake.script.faults = ["invalid"]
        answer = client.post("/classify", json=["a"])
        assert (answer.status_code, "told to be invalid" in answer.json()["detail"]) == (422, True)
        fake.script.faults = ["unavailable"] * 6
        assert client.post("/classify", json=["a"]).status_code == 503
        assert client.post("/classify", json=["a"]).status_code == 200


def test_celery(fake: Fake) -> None:
    signals = pytest.importorskip("celery.signals", reason="not installed (extra dev)")
    memory = (
        'broker="redis://localhost", backend="redis://localhost"',
        'broker="memory://", backend="cache+memory://"',
    )
    names = run("celery", fake, memory)
    app, task = names["app"], names["classify"]
    app.conf.task_always_eager = True
    signals.worker_process_init.send(sender=None)
    try:
        assert task.delay(["12", "12345678"]).get() == [["short"], ["long"]]
        fake.script.faults = ["unavailable"] * 6
        assert task.apply(args=[["12"]]).get() == [["short"]], "tried again by Celery, after the client's own retries"
        fake.script.faults = ["invalid"]
        with pytest.raises(InvalidInputError):
            task.apply(args=[["12"]], throw=True)
    finally:
        signals.worker_process_shutdown.send(sender=None)
    with pytest.raises(Exception, match="closed"):
        app.classify("a")
    app.close()


def test_kafka(fake: Fake) -> None:
    confluent_kafka = pytest.importorskip("confluent_kafka", reason="not installed (extra dev)")
    # librdkafka brings a broker of its own for tests, which lives as long as this producer.
    producer = confluent_kafka.Producer({"test.mock.num.brokers": 1})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    address = f"{broker.host}:{broker.port}"
    for key, value in (("a", "12"), ("b", None), ("c", "12345678")):
        producer.produce("texts", key=key, value=value)
    producer.flush(10)
    settings = f'"{address}", "auto.offset.reset": "earliest"'
    handled: list[tuple[bytes, list[str]]] = []

    def handle(key: bytes, labels: list[str]) -> None:
        handled.append((key, labels))
        if len(handled) == 2:
            producer.produce("texts", key="d", value="1")
            producer.flush(10)
        if len(handled) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("kafka", fake, ('"localhost:9092"', settings), print=handle)
    assert handled == [(b"a", ["short"]), (b"c", ["long"]), (b"d", ["short"])]
    looking = confluent_kafka.Consumer({"bootstrap.servers": address, "group.id": "texts"})
    partitions = [confluent_kafka.TopicPartition("texts", number) for number in range(4)]
    committed = [found.offset for found in looking.committed(partitions, timeout=10) if found.offset >= 0]
    looking.close()
    assert sum(committed) in (2, 3), "the two that were handled, with or without the empty one, and not the last"


def test_pandas(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.csv").write_text("id,text\n1,12\n2,\n3,12345678\n", encoding="utf-8")
    run("pandas", fake)
    found = pd.read_csv("scored.csv")
    assert list(found.columns) == ["id", "text", "labels", "score_short", "score_long"]
    assert found["labels"].tolist() == ["short", "short", "long"]
    assert found["score_long"].tolist() == pytest.approx([0.2, 0, 0.8])


class Frame:
    """The part of Spark's DataFrame that the page uses, over tables of pandas as executors get them."""

    def __init__(self, tables: list[pd.DataFrame]) -> None:
        self.tables = tables
        self.write = self

    def select(self, *columns: str) -> Frame:
        return Frame([table[list(columns)] for table in self.tables])

    def mapInPandas(self, function: Any, schema: str) -> Frame:
        made = Frame(list(function(iter(self.tables))))
        for table in made.tables:
            assert list(table.columns) == [column.split()[0] for column in schema.split(", ")]
        return made

    def parquet(self, path: str) -> None:
        pd.concat(self.tables).to_parquet(path)


def test_the_engine_in_spark(tiny_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    version = publish(tiny_artifact, tmp_path / "repository", "tiny", thresholds=[0.3] * 3)
    code = CODE["engine"].replace("/srv/models/minilm/3", str(version.folder))
    assert str(version.folder) in code
    tables = [pd.DataFrame({"id": [7, 8], "text": ["i love it", None]}), pd.DataFrame({"id": [9], "text": ["hate"]})]
    exec(compile(code, f"{PAGE.name}, engine", "exec"), {"frame": Frame(tables)})  # noqa: S102 our own page
    label = Labeller(version.folder)
    said = ["|".join(each.labels) for each in label(["i love it", "", "hate"])]
    assert pd.read_parquet("labelled").to_dict("list") == {"id": [7, 8, 9], "labels": said}
    assert any(said)


def test_spark(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by Spark itself, which is 400 MB and needs Java: the function gets what Spark would give it.
    monkeypatch.chdir(tmp_path)
    tables = [pd.DataFrame({"id": [7, 8], "text": ["12", None]}), pd.DataFrame({"id": [9], "text": ["12345678"]})]
    run("spark", fake, frame=Frame(tables))
    found = pd.read_parquet("scored")
    assert found.to_dict("list") == {"id": [7, 8, 9], "labels": ["short", "short", "long"]}
    assert fake.script.configs == 1, "one client for a partition"
