"""What the client refuses by itself, and what it says when nobody is there. No server runs in these tests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bantam import AsyncClassifier, Classifier
from bantam.errors import InvalidInputError, UnavailableError, UserError

Protocol = Literal["grpc", "http"]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (None, "Got NoneType, expected a str or a list of str"),
        (7, "Got int"),
        (b"bytes", r"Got bytes, .* Decode it first: text\.decode\(\)"),
        ({"a": 1}, r"Got dict, .* Pass its texts: list\(texts\.values\(\)\)"),
        ({"a", "b"}, "Got set, .* no order .* pass a list of it"),
        (pd.DataFrame({"text": ["a"]}), r'Got DataFrame, .* Pass a column: classify\(table\["text"\]\)'),
        (pa.table({"text": ["a"]}), r'Got Table, .* Pass a column: classify\(table\["text"\]\)'),
        (np.array([["a", "b"]]), r"Got an array of 2 dimensions, .* classify\(array\[:, 0\]\); for a model of pairs"),
        (np.array("a"), "Got an array of 0 dimensions"),
        (np.array(["a", b"b"], dtype=object), r"texts\[1\] is bytes \(b'b'\)"),
        (np.array([1.5]), r"texts\[0\] is float64"),
        (pd.Series(["a", np.nan, "b"]), r"texts\[1\] is float \(nan\)"),
        (pd.Series(["a", None], dtype="object"), r"texts\[1\] is NoneType \(None\)"),
        (pd.Series(["a", pd.NA], dtype=pd.StringDtype(na_value=pd.NA)), r"texts\[1\] is NAType \(<NA>\)"),
        (pa.array(["a", None]), r"texts\[1\] is NoneType"),
        ([["a", "b"]], r'texts\[0\] is a list of str, str; a pair is a tuple of two str: \("first", "second"\)'),
        ([("a", 1)], r"texts\[0\] is a tuple of str, int; a pair is a tuple of two str"),
        ([("a", "b"), ("a", "b", "c")], r"texts\[1\] is a tuple of str, str, str; a pair"),
        ([("a", "b"), "c"], r"texts\[1\] is a single text, and texts\[0\] a pair\. Expected one kind"),
        ([("a", "\ud800")], r"texts\[0\]\[1\] has a lone surrogate at character 0"),
        (["a", None], r"texts\[1\] is NoneType \(None\), expected str"),
        (["a", "b", b"c"], r"texts\[2\] is bytes \(b'c'\), expected str"),
        (["a", "\ud800"], r"texts\[1\] has a lone surrogate at character 0"),
    ],
)
def test_what_is_no_text_is_refused_before_anything_is_sent(texts: Any, words: str) -> None:
    # Any request to port 1 would raise UnavailableError.
    with Classifier("127.0.0.1:1", "tiny") as classify, pytest.raises(InvalidInputError, match=words):
        classify(texts)

    async def run() -> None:
        async with AsyncClassifier("127.0.0.1:1", "tiny") as aclassify:
            await aclassify.probabilities(texts)

    with pytest.raises(InvalidInputError, match=words):
        asyncio.run(run())


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_nobody_there(protocol: Protocol) -> None:
    with (
        Classifier("127.0.0.1:1", "tiny", protocol=protocol, retries=1) as classify,
        pytest.raises(UnavailableError, match=r"'tiny' at 127\.0\.0\.1:1 is unavailable.*refused.*Check that"),
    ):
        classify("a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"address": "localhost"}, "address 'localhost', expected host:port"),
        ({"address": "http://localhost:8000"}, "expected host:port without a scheme"),
        ({"address": "localhost:8001/v2"}, "expected host:port"),
        ({"address": ":8001"}, "expected host:port"),
        ({"address": "localhost:x"}, "expected host:port"),
        ({"protocol": "rest"}, "protocol 'rest', expected one of grpc, http"),
        ({"model": ""}, "empty model name"),
        ({"timeout": 0}, "timeout=0"),
        ({"retries": -1}, "retries=-1"),
        ({"in_flight": 0}, "in_flight=0"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], words: str) -> None:
    for make in (Classifier, AsyncClassifier):
        with pytest.raises(UserError, match=words):
            make(**{"address": "localhost:8001", "model": "tiny", **arguments})


def loaded(statement: str, names: str) -> list[str]:
    """Which of these modules a statement loads, in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*sorted(set({names.split()!r}) & sys.modules.keys()))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_client_needs_no_heavy_library() -> None:
    heavy = "optimizer serving torch transformers onnxruntime openvino pydantic typer tritonclient gevent aiohttp grpc"
    names = "TLS, AsyncClassifier, Classifier, Description, InvalidInputError, UnavailableError"
    assert loaded(f"from bantam import {names}", heavy) == ["grpc"]


def test_importing_the_package_and_the_seam_loads_no_library_at_all() -> None:
    assert loaded("import bantam, bantam.artifact, bantam.errors, bantam.checkout", "grpc numpy httpcore2 google") == []
