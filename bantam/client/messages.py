"""The messages of KServe v2 and Triton that the client sends and reads, with the fields that it uses.

Protobuf skips fields that a message does not declare, so these are all that it takes. They come from Triton's
``grpc_service.proto`` and ``model_config.proto``; a test holds names, numbers and types against tritonclient's, which
carries them whole, and with them 40 MB of packages that a client has no use for.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["METHOD", "ModelConfigRequest", "ModelConfigResponse", "ModelInferRequest", "ModelInferResponse"]

METHOD = "/inference.GRPCInferenceService/"
"""What comes before a method's name on the wire."""

MESSAGES = {
    "ModelConfigRequest": ("string name = 1", "string version = 2"),
    "ModelConfigResponse": ("ModelConfig config = 1",),
    "ModelConfig": (
        "ModelVersionPolicy version_policy = 3",
        "int32 max_batch_size = 4",
        "repeated ParametersEntry parameters = 14",
    ),
    "ModelVersionPolicy": ("Specific specific = 3",),
    "Specific": ("repeated int64 versions = 1",),
    "ParametersEntry": ("string key = 1", "ModelParameter value = 2"),  # on the wire, a map is a list of its entries
    "ModelParameter": ("string string_value = 1",),
    "ModelInferRequest": (
        "string model_name = 1",
        "repeated InferParametersEntry parameters = 4",
        "repeated InferInputTensor inputs = 5",
        "repeated InferRequestedOutputTensor outputs = 6",
        "repeated bytes raw_input_contents = 7",
    ),
    "InferParametersEntry": ("string key = 1", "InferParameter value = 2"),
    "InferParameter": ("int64 int64_param = 2",),
    "InferInputTensor": ("string name = 1", "string datatype = 2", "repeated int64 shape = 3"),
    "InferRequestedOutputTensor": ("string name = 1",),
    "ModelInferResponse": (
        "string model_version = 2",
        "repeated InferOutputTensor outputs = 5",
        "repeated bytes raw_output_contents = 6",
    ),
    "InferOutputTensor": ("string name = 1", "string datatype = 2", "repeated int64 shape = 3"),
}
"""Message -> fields, as a .proto file has them."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="bantam/kserve.proto", package="inference", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for line in fields:
            *repeated, kind, field, _, number = line.split()
            declared = message.field.add(name=field, number=int(number))
            declared.label = declared.LABEL_REPEATED if repeated else declared.LABEL_OPTIONAL
            if kind in MESSAGES:
                declared.type, declared.type_name = declared.TYPE_MESSAGE, f".inference.{kind}"
            else:
                declared.type = getattr(declared, f"TYPE_{kind.upper()}")
    return file


# A pool of our own: in the default one, the names would clash with tritonclient's where both are imported.
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


ModelConfigRequest = _class("ModelConfigRequest")
ModelConfigResponse = _class("ModelConfigResponse")
ModelInferRequest = _class("ModelInferRequest")
ModelInferResponse = _class("ModelInferResponse")
