"""A new version under the same name: each text is decided by the version that scored it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from bantam.client import Prediction
from bantam.errors import ClientError, InvalidInputError, UnavailableError
from tests.client.fake_kserve import PARAMETERS, Fake, Script

TURNED = {"task": "multi_label", "labels": '["long", "short"]', "thresholds": "[0.9, 0.1]"}
"""Of "12345", version 1 says short and long (0.5 each, thresholds of 0.5); this one says short alone."""
OTHER = {"task": "multi_label", "labels": '["brief", "wordy"]', "thresholds": "[0.5, 0.5]"}
TEXT = "12345"


@pytest.fixture(params=["grpc", "http"])
def fake(request: pytest.FixtureRequest) -> Iterator[Fake]:
    server = Fake(request.param, Script())
    server.script.version = "1"
    yield server
    server.stop()


def test_an_answer_of_a_new_version_is_decided_by_that_version(fake: Fake) -> None:
    with fake.client() as classify:
        assert classify(TEXT).labels == ["short", "long"]
        fake.script.publish("2", TURNED)
        assert classify(TEXT).labels == ["short"]
        assert classify(TEXT).scores == {"short": 0.5, "long": 0.5}
        assert classify(TEXT).version == "2"
        described = classify.describe()
        assert (described.version, described.labels) == ("2", ("short", "long")), (
            "in the order that it was first read in"
        )
        assert described.thresholds == pytest.approx([0.1, 0.9])
        fake.script.publish("1", PARAMETERS)
        assert classify(TEXT).labels == ["short", "long"]
    assert fake.script.configs == 2, "once a version"


def test_the_asyncio_client_does_the_same(fake: Fake) -> None:
    async def run() -> tuple[list[str], list[str]]:
        async with fake.async_client() as classify:
            before = await classify(TEXT)
            fake.script.publish("2", TURNED)
            return before.labels, (await classify(TEXT)).labels

    assert asyncio.run(run()) == (["short", "long"], ["short"])


def test_one_list_answered_by_two_versions(fake: Fake) -> None:
    fake.script.versions = {"2": TURNED}
    with fake.client(in_flight=1) as classify:
        classify(TEXT)
        fake.script.answering = ["1", "2", "1"]
        labels = [prediction.labels for prediction in classify([TEXT] * 12)]
        assert labels == [["short", "long"]] * 4 + [["short"]] * 4 + [["short", "long"]] * 4
        fake.script.answering = ["1", "2", "1"]
        assert [prediction.version for prediction in classify([TEXT] * 12)] == ["1"] * 4 + ["2"] * 4 + ["1"] * 4
        fake.script.answering = ["1", "2", "1"]
        columns = classify.describe().labels
        scores = classify.probabilities(["1"] * 12)
        assert columns == ("short", "long")
        assert scores == pytest.approx(np.array([[0.9, 0.1]] * 12), abs=1e-6), "one order of columns for all"


def test_single_label_after_multi_label(fake: Fake) -> None:
    with fake.client() as classify:
        assert classify("123").labels == ["short"]
        fake.script.publish("2", {"task": "single_label", "labels": '["long", "short"]'})
        assert classify(["123", "1234567"]) == [
            Prediction(["short"], pytest.approx({"short": 0.7, "long": 0.3})),  # type: ignore[arg-type]
            Prediction(["long"], pytest.approx({"short": 0.3, "long": 0.7})),  # type: ignore[arg-type]
        ]
        assert classify.describe().thresholds is None


def test_a_version_with_other_labels_answers_with_them_but_is_no_column_of_the_old_ones(fake: Fake) -> None:
    with fake.client() as classify:
        assert classify.probabilities([TEXT]).tolist() == [[0.5, 0.5]]
        fake.script.publish("2", OTHER)
        assert classify("1").labels == ["brief"]
        with pytest.raises(ClientError, match=r"labels brief, wordy; the columns .* short, long\. Make a new client"):
            classify.probabilities([TEXT])
    with fake.client() as fresh:
        assert fresh.probabilities([TEXT]).tolist() == [[0.5, 0.5]]


def test_a_version_that_is_gone_before_its_labels_were_read_is_not_believed(fake: Fake) -> None:
    with fake.client() as classify:
        classify(TEXT)
        fake.script.publish("3", TURNED)
        fake.script.answering = ["2", "2"]
        asked = fake.script.requests
        assert classify(TEXT).labels == ["short"], "asked again, until a version answered whose labels are known"
        assert fake.script.requests == asked + 3
    with fake.client(retries=1) as classify:
        fake.script.answering = ["2"] * 9
        with pytest.raises(UnavailableError, match=r"version 2 answered, and was gone.*Ask again"):
            classify(TEXT)


def test_a_config_of_another_version_is_not_believed(fake: Fake) -> None:
    with fake.client(retries=1) as classify:
        classify(TEXT)
        fake.script.versions = {"2": TURNED}
        fake.script.claimed = "3"
        fake.script.answering = ["2", "2"]
        with pytest.raises(UnavailableError, match="version 2 answered, and was gone"):
            classify(TEXT)


def test_the_answer_says_its_version_also_where_the_config_does_not(fake: Fake) -> None:
    fake.script.claimed = "untold"
    with fake.client() as classify:
        assert classify(TEXT).version == "1"
        fake.script.publish("2", TURNED)
        assert [(each.version, each.labels) for each in classify([TEXT] * 2)] == [("2", ["short"])] * 2


def test_a_new_version_that_takes_fewer_texts_at_a_time(fake: Fake) -> None:
    with fake.client() as classify:
        classify(TEXT)
        fake.script.max_batch_size = 3
        fake.script.publish("2", TURNED)
        fake.script.batches.clear()
        assert [each.labels for each in classify([TEXT] * 9)] == [["short"]] * 9
        assert max(fake.script.batches) <= 3
        fake.script.faults = ["invalid"]
        with pytest.raises(InvalidInputError, match="told to be invalid"):
            classify([TEXT] * 2)
