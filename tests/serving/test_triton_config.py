"""config.pbtxt: what is in it, and what is refused before Triton sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bantam.errors import RepositoryError
from serving.backend.cores import TextThreads
from serving.triton_config import (
    LIMIT_MS,
    TritonConfig,
    following,
    inline,
    limit_ms,
    on_gpu,
    parse_pbtxt,
    renamed,
    served_version,
    written_by_us,
)

ROOT = Path(__file__).parents[2]
BASE: dict[str, Any] = {"name": "tiny", "version": 3, "task": "multi_label", "labels": ("joy", "größe", 'a "b"')}


def test_text_reads_back_as_what_was_asked_for() -> None:
    config = TritonConfig(**BASE, thresholds=(0.1, 0.5, 0.9), max_batch_size=16, micro_batch=4, threads=2)
    message = parse_pbtxt(config.to_pbtxt())
    assert (message.name, message.backend, message.max_batch_size) == ("tiny", "python", 16)
    assert list(message.version_policy.specific.versions) == [3]
    assert list(message.output[0].dims) == [3]
    assert message.output[0].label_filename == "3/labels.txt"
    parameters = {key: value.string_value for key, value in message.parameters.items()}
    assert json.loads(parameters["labels"]) == list(BASE["labels"])
    assert json.loads(parameters["thresholds"]) == [0.1, 0.5, 0.9]
    assert (parameters["task"], parameters["micro_batch"], parameters["threads"]) == ("multi_label", "4", "2")


def test_a_model_of_pairs_takes_two_texts_and_says_so() -> None:
    config = TritonConfig(**{**BASE, "task": "regression", "labels": ("score",)}, pair=True)
    message = parse_pbtxt(config.to_pbtxt())
    assert list(message.input[0].dims) == list(message.model_warmup[0].inputs["TEXT"].dims) == [2]
    assert list(message.output[0].dims) == [1]
    assert message.parameters["pair"].string_value == "true"
    assert message.parameters["task"].string_value == "regression"
    single = parse_pbtxt(TritonConfig(**BASE).to_pbtxt())
    assert list(single.input[0].dims) == list(single.model_warmup[0].inputs["TEXT"].dims) == [1]
    assert "pair" not in single.parameters, "as clients of before know it"


def test_requests_are_batched_without_a_delay_and_without_a_policy_that_makes_the_batcher_miss_them() -> None:
    message = parse_pbtxt(TritonConfig(**BASE).to_pbtxt())
    assert message.HasField("dynamic_batching")
    assert message.dynamic_batching.max_queue_delay_microseconds == 0
    assert not message.dynamic_batching.HasField("default_queue_policy")


def test_the_same_config_is_the_same_text() -> None:
    assert TritonConfig(**BASE).to_pbtxt() == TritonConfig(**BASE).to_pbtxt()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": (0.5,)}, "got 1 thresholds, expected one for each of 3 labels"),
        ({"thresholds": (0.5, 0.5, 0.5), "task": "single_label"}, "thresholds are for multi_label"),
        ({"thresholds": (0.5,), "task": "regression", "labels": ("score",)}, "a regression has no labels to give"),
        ({"task": "regression"}, "got 3 labels, expected one for a regression"),
        ({"task": "translation"}, "task"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"labels": ()}, "labels"),
        ({"limit_ms": 19}, "limit_ms"),
        ({"limit_ms": 25 * 3600 * 1000}, "limit_ms"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_values_cannot_be_made(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TritonConfig(**{**BASE, **change})


def test_text_that_is_no_model_config_is_refused() -> None:
    with pytest.raises(RepositoryError, match="not a Triton model configuration"):
        parse_pbtxt("max_batchsize: 8")


@pytest.mark.parametrize(
    "options",
    [
        {"thresholds": (0.1, 0.5, 0.9), "threads": 2, "limit_ms": 250},
        {"text_threads": TextThreads(threads=4, tokens=24, cores=8)},
        {"task": "single_label", "pair": True, "max_batch_size": 4},
        {"task": "regression", "labels": ("score",), "micro_batch": 1},
    ],
)
def test_what_bantam_wrote_is_read_back_also_once_it_is_served(options: dict[str, Any]) -> None:
    config = TritonConfig(**{**BASE, **options})
    assert written_by_us(config.to_pbtxt()) == config
    assert written_by_us(following(config.to_pbtxt(), 2)) == config


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ('parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/tmp/env.tar.gz" } }', "parameters"),
        ('default_model_filename: "other.py"', "defaultModelFilename"),
        ("model_operations { op_library_filename: 'evil.so' }", "modelOperations"),
        ("version_policy { latest { num_versions: 2 } }", "is not a Triton model configuration"),
    ],
)
def test_a_config_that_would_have_triton_do_more_is_none_of_ours(added: str, said: str) -> None:
    with pytest.raises(RepositoryError, match=said):
        written_by_us(TritonConfig(**BASE).to_pbtxt() + added)


def test_a_config_is_moved_to_another_name_and_number_as_it_is() -> None:
    text = TritonConfig(**BASE).to_pbtxt()
    moved = renamed(following(text, 2), "other", 9)
    assert served_version(moved) == (9, None)
    assert written_by_us(moved) == TritonConfig(**{**BASE, "name": "other", "version": 9})


@pytest.mark.parametrize("first", ["serving.triton_config", "tritonclient.grpc"])
def test_a_config_is_read_without_the_grpc_client_and_beside_it(first: str) -> None:
    """In either order of imports; what the client's messages hold is what ours do."""
    code = f"""
import sys
import {first}
assert ("tritonclient.grpc" in sys.modules) is ({first!r} == "tritonclient.grpc")
from serving.triton_config import parse_pbtxt
from tritonclient.grpc import model_config_pb2, service_pb2
ours = parse_pbtxt('name: "tiny" parameters {{ key: "a" value {{ string_value: "b" }} }}')
theirs = service_pb2.ModelConfigResponse(config=model_config_pb2.ModelConfig.FromString(ours.SerializeToString()))
assert theirs.config.parameters["a"].string_value == "b"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_a_limit_that_was_set_goes_on_with_the_versions_that_follow() -> None:
    plain, limited = TritonConfig(**BASE).to_pbtxt(), TritonConfig(**BASE, limit_ms=250).to_pbtxt()
    own = TritonConfig(**BASE, limit_ms=70).to_pbtxt()
    assert limit_ms(plain) == limit_ms(following(plain, 2)) == limit_ms(following(plain, 2, plain)) == LIMIT_MS
    assert limit_ms(limited) == limit_ms(following(plain, 2, limited)) == 250
    assert written_by_us(following(plain, 2, limited)).limit_ms == 250
    assert limit_ms(following(own, 2, limited, plain)) == 250, "somebody has set it on the version before"
    assert limit_ms(following(own, 2, limited, limited)) == 70, "the version before was published with its own"
    assert limit_ms(following(plain, 2, own, own)) == LIMIT_MS
    assert limit_ms(following(plain, None, limited, plain)) == 250


GROUPS = "instance_group { kind: KIND_CPU count: 3 }"


@pytest.mark.parametrize(
    ("text", "kind", "gpus"),
    [
        (TritonConfig(**BASE).to_pbtxt(), "KIND_CPU", []),
        ('name: "tiny"', "KIND_CPU", []),
        (f"dynamic_batching {{ max_queue_delay_microseconds: 100 }} {GROUPS} {GROUPS}", "KIND_CPU", []),
        (f"{GROUPS} instance_group {{ kind: KIND_GPU count: 2 }}", "KIND_GPU", [0]),
        (f"{GROUPS} instance_group {{ kind: KIND_GPU gpus: [ 0 ] }}", "KIND_GPU", [0]),
    ],
)
def test_inline_a_model_has_one_instance_and_no_batcher(text: str, kind: str, gpus: list[int]) -> None:
    message = parse_pbtxt(inline(text))
    (group,) = message.instance_group
    assert (group.count, group.Kind.Name(group.kind), list(group.gpus)) == (1, kind, gpus)
    assert not message.HasField("dynamic_batching")
    before = parse_pbtxt(text)
    assert (message.name, message.parameters) == (before.name, before.parameters)


@pytest.mark.parametrize("served", [inline, on_gpu])
@pytest.mark.parametrize("gpus", ["[ 1 ]", "[ 0, 1 ]"])
def test_another_gpu_than_the_first_is_refused(served: Callable[[str], str], gpus: str) -> None:
    with pytest.raises(RepositoryError, match=r"of tiny has .* GPU 1; expected gpus: \[ 0 \], .* CUDA_VISIBLE_DEVICES"):
        served(f'name: "tiny" instance_group {{ kind: KIND_GPU gpus: {gpus} }}')


def test_the_inline_backend_has_the_same_limit_where_a_config_says_none() -> None:
    assert f"\nLIMIT_MS = {LIMIT_MS}\n" in (ROOT / "serving/inline/host.py").read_text(encoding="utf-8")
