"""Fixtures for all tests: a tiny, real classifier as a finished artifact."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam import telemetry
from bantam.artifact import Artifact, Compute, Manifest, Signature, seal

telemetry.off()

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("i", "you", "love", "hate", "fear", "this", "it", "that", "so", "very", "much", "not", "a", "day", "!", ".")
LABELS = ("joy", "anger", "fear")
MAX_LENGTH = 64
BUCKETS = itertools.count(1)


def write_tokenizer(path: Path) -> None:
    """A word-level tokenizer over ``WORDS`` in the `tokenizers` format, ``[CLS] ... [SEP]`` around each text, and
    ``[SEP]`` between the two of a pair."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {token: i for i, token in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.save(str(path))


def write_onnx(path: Path, labels: int) -> None:
    """Embedding, masked mean over the tokens, linear head: int64 ``[batch, tokens]`` to float32 ``[batch, labels]``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    hidden = 16
    weights: dict[str, np.ndarray] = {
        "embedding": rng.normal(size=(len(SPECIAL + WORDS), hidden)).astype(np.float32),
        "head": rng.normal(size=(hidden, labels)).astype(np.float32),
        "bias": rng.normal(size=(labels,)).astype(np.float32),
        "tokens": np.array([1], dtype=np.int64),
        "last": np.array([2], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["embedded", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens"], ["summed"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "tokens"], ["count"], keepdims=1),
        helper.make_node("Div", ["summed", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "head"], ["projected"]),
        helper.make_node("Add", ["projected", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def write_artifact(
    folder: Path,
    *,
    task: str = "multi_label",
    layout: str = "onnx",
    compute: Compute | None = None,
    labels: tuple[str, ...] = LABELS,
    details: dict[str, Any] | None = None,
    **signature: Any,
) -> Artifact:
    """Write the tiny classifier into ``folder`` (made if absent) and seal it; ``signature``: pair, truncation_side."""
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(folder / "model.onnx", len(labels))
    files: tuple[str, ...] = ("model.onnx",)
    if layout == "openvino":
        import openvino as ov

        ov.save_model(ov.convert_model(str(folder / "model.onnx")), str(folder / "model.xml"), compress_to_fp16=False)
        (folder / "model.onnx").unlink()
        files = ("model.xml", "model.bin")
    write_tokenizer(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": MAX_LENGTH}), encoding="utf-8")
    manifest = Manifest(
        stage="export",
        key="0" * 64,
        layout=layout,
        compute=compute or Compute(),
        signature=Signature(task, labels, ("input_ids", "attention_mask"), max_length=MAX_LENGTH, **signature),
        deployable=(*files, "tokenizer.json", "tokenizer_config.json"),
        details=details or {},
    )
    return Artifact(folder, seal(folder, manifest))


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A multi-label ONNX classifier, three labels, a few kilobytes, random weights from a fixed seed."""
    return write_artifact(tmp_path_factory.mktemp("tiny") / "artifact")


@pytest.fixture(scope="session")
def make_artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """The same classifier with another task, layout (onnx, openvino), compute, labels, details or signature."""

    def make(**options: Any) -> Artifact:
        return write_artifact(tmp_path_factory.mktemp("tiny") / "artifact", **options)

    return make


@pytest.fixture(scope="session")
def _s3() -> Iterator[str]:
    """The address of a server on loopback that does what S3 does."""
    server_of = pytest.importorskip("moto.server", reason="moto is in the extra dev")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(_s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The address of an empty bucket, which this process and those that it starts reach."""
    import s3fs

    bucket = f"models-{next(BUCKETS)}"
    for name, value in {
        "AWS_ENDPOINT_URL": _s3,
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "BANTAM_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(bucket)
    return f"s3://{bucket}"
