"""What a client could send, right, nearly right and wrong: strategies for hypothesis."""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

KNOWN = "i love it"
MODEL = "tiny"
DATATYPES = ("BYTES", "FP32", "INT64", "UINT8", "BOOL", "FP16", "BF16", "", "bytes", "STRING", "\x00")
PARAMETERS = (
    *("binary_data_size", "binary_data", "binary_data_output", "classification", "sequence_id", "sequence_start"),
    *("sequence_end", "priority", "timeout", "shared_memory_region", "shared_memory_offset", "headers"),
    *("shared_memory_byte_size", "triton_enable_empty_final_response", "x"),
)


def _long(parts: tuple[str, int]) -> str:
    return parts[0] * parts[1]


any_text = st.one_of(
    st.text(max_size=80),
    st.sampled_from(["", "\x00", " ", "\ufeff", "\u202e", KNOWN, "love\x00hate", "x" * 600]),
    st.tuples(st.text(min_size=1, max_size=4), st.integers(1, 20_000)).map(_long),
)
"""Of all of Unicode that UTF-8 can say."""

any_bytes = st.one_of(
    any_text.map(str.encode),
    st.binary(max_size=80),
    # Lone surrogates, and what else is no UTF-8: too long a form, too large a character, cut in the middle.
    st.text(st.characters(categories=["Cs"]), min_size=1, max_size=9).map(lambda t: t.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xed\xa0\x80", b"\xff" * 100]),
)

numbers = st.one_of(
    st.integers(-3, 70), st.sampled_from([2**31 - 1, -(2**31), 2**31, 2**32 + 1, 2**62, 2**63 - 1, -(2**63)])
)
shapes = st.one_of(
    st.sampled_from([[1, 1], [2, 1], [64, 1], [65, 1], [1, 2], [1], [], [0, 1], [1, 0], [-1, 1], [1, -1], [1, 1, 1]]),
    st.lists(numbers, max_size=5),
)


def tensor(elements: list[bytes]) -> bytes:
    """A BYTES tensor as it travels."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


contents = st.one_of(
    any_text.map(lambda text: tensor([text.encode()])),
    st.lists(any_bytes, max_size=3).map(tensor),
    # Cut at the end, or with a length that is not there.
    st.tuples(st.lists(any_bytes, min_size=1, max_size=3).map(tensor), st.integers(0, 12)).map(
        lambda p: p[0][: -p[1] or None]
    ),
    st.tuples(st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1]), st.binary(max_size=9)).map(
        lambda p: struct.pack("<I", p[0]) + p[1]
    ),
    st.binary(max_size=60),
)


names = st.sampled_from(["", "SCORES", "TEXT", "\x00"]) | st.text(max_size=9)
GRPC_CHANGES = (
    *("model", "version", "id", "name", "datatype", "shape", "contents", "parameters", "typed", "again", "none"),
    *("output", "more", "output parameters", "input parameters", "no contents", "shape and contents"),
)


@st.composite
def grpc_requests(draw: st.DrawFn) -> Any:
    """A ModelInferRequest: one that is right, with at most three changes."""
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="TEXT", datatype="BYTES", shape=[1, 1])
    request.outputs.add(name="SCORES")
    request.raw_input_contents.append(tensor([draw(any_bytes)]))
    for change in draw(st.lists(st.sampled_from(GRPC_CHANGES), max_size=3, unique=True)):
        _change(draw, request, change)
    return request


def _change(draw: st.DrawFn, request: Any, change: str) -> None:
    given = request.inputs[0] if request.inputs else request.inputs.add()
    match change:
        case "model":
            request.model_name = draw(names)
        case "version":
            request.model_version = draw(st.sampled_from(["1", "2", "-1", "x", "9" * 30]))
        case "id":
            request.id = draw(st.text(max_size=9))
        case "name":
            given.name = draw(names)
        case "datatype":
            given.datatype = draw(st.sampled_from(DATATYPES))
        case "shape" | "shape and contents":
            given.shape[:] = draw(shapes)
            if change != "shape":
                request.raw_input_contents[:] = [draw(contents)]
        case "contents":
            request.raw_input_contents[:] = draw(st.lists(contents, min_size=1, max_size=2))
        case "no contents":
            del request.raw_input_contents[:]
        case "typed":
            del request.raw_input_contents[draw(st.integers(0, 1)) :]
            given.contents.bytes_contents.extend(draw(st.lists(any_bytes, max_size=3)))
            given.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=2)))
        case "again":
            request.inputs.add().CopyFrom(given)
        case "none":
            del request.inputs[:]
        case "output":
            del request.outputs[:]
            request.outputs.add(name=draw(names))
        case "more":
            request.outputs.add(name=draw(names))
        case "parameters":
            _set_parameters(draw, request.parameters)
        case "input parameters":
            _set_parameters(draw, given.parameters)
        case "output parameters":
            _set_parameters(draw, request.outputs.add(name="SCORES").parameters)
        case _:
            raise AssertionError(change)


def _set_parameters(draw: st.DrawFn, parameters: Any) -> None:
    for _ in range(draw(st.integers(1, 2))):
        parameter = parameters[draw(st.sampled_from(PARAMETERS) | st.text(max_size=9))]
        match draw(st.sampled_from(["bool", "int64", "string", "double", "uint64", "none"])):
            case "bool":
                parameter.bool_param = draw(st.booleans())
            case "int64":
                parameter.int64_param = draw(numbers)
            case "string":
                parameter.string_param = draw(st.text(max_size=9))
            case "double":
                parameter.double_param = draw(st.floats())
            case "uint64":
                parameter.uint64_param = draw(st.integers(0, 2**64 - 1))


any_json = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
small_shapes = st.lists(st.integers(-3, 70), max_size=4)
"""Not of any size: see the finding in docs/production.md."""


class Posted(NamedTuple):
    """Of a request over HTTP."""

    body: bytes
    headers: dict[str, str]


HTTP_CHANGES = (
    *("id", "parameters", "inputs", "outputs", "input", "output", "output parameters", "data", "nested data"),
    *("name", "shape", "datatype", "input parameters", "anything", "missing"),
)
LENGTHS = ("", "x", "1e3", "0x10", " 5", "+5", "5 5", "0", "1", "-1", "2147483648", "9223372036854775808", "9" * 30)


@st.composite
def http_requests(draw: st.DrawFn) -> Posted:
    """A request to ``/infer``: a document that is right but for three changes at most; often a binary tensor behind."""
    text = draw(any_text)
    given: dict[str, Any] = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES"}
    document: dict[str, Any] = {"inputs": [given], "outputs": [{"name": "SCORES"}]}
    binary = draw(st.booleans())
    raw = tensor([text.encode()]) if binary else b""
    if binary:
        given["parameters"] = {"binary_data_size": len(raw)}
    else:
        given["data"] = [text]
    for change in draw(st.lists(st.sampled_from(HTTP_CHANGES), max_size=3, unique=True)):
        _change_document(draw, document, given, change)
    header = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))} if binary else {}
    match draw(st.integers(0, 15)):
        case 0:
            headers["Inference-Header-Content-Length"] = draw(st.sampled_from(LENGTHS))
        case 1:
            raw = draw(contents)
        case 2:
            header = header[: draw(st.integers(0, len(header)))]
        case 3:
            header = draw(st.binary(max_size=60))
        case 4:
            headers["Content-Encoding"] = draw(st.sampled_from(["gzip", "deflate", "br", "x"]))
        case 5:
            headers["Accept-Encoding"] = draw(st.sampled_from(["gzip", "deflate", "br", "x"]))
        case 6:
            headers["Content-Type"] = draw(st.sampled_from(["application/octet-stream", "text/plain", "x"]))
        case _:
            pass
    return Posted(header + raw, headers)


def _change_document(draw: st.DrawFn, document: dict[str, Any], given: dict[str, Any], change: str) -> None:
    parameters = st.dictionaries(st.sampled_from(PARAMETERS), st.booleans() | numbers | st.text(max_size=9), max_size=2)
    rows = st.lists(any_text, max_size=3)
    match change:
        case "id" | "parameters" | "inputs" | "outputs":
            document[change] = draw(parameters if change == "parameters" else any_json)
        case "input" | "output":
            document[f"{change}s"] = draw(st.lists(st.just(given) | any_json, max_size=2))
        case "output parameters":
            document["outputs"] = [{"name": draw(st.just("SCORES") | names), "parameters": draw(parameters)}]
        case "data" | "nested data":
            given["data"] = draw(rows if change == "data" else st.lists(rows, max_size=3))
        case "name":
            given["name"] = draw(names)
        case "shape":
            given["shape"] = draw(small_shapes)
        case "datatype":
            given["datatype"] = draw(st.sampled_from(DATATYPES))
        case "input parameters":
            given["parameters"] = draw(parameters)
        case "anything":
            given[draw(st.sampled_from(["name", "datatype", "data", "parameters"]))] = draw(any_json)
        case "missing":
            part = draw(st.sampled_from([given, document]))
            part.pop(draw(st.sampled_from(sorted(part))), None) if part else None
        case _:
            raise AssertionError(change)
