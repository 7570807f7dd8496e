"""The messages that the client declares are those of the protocol, as tritonclient carries them."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from bantam.client import messages

WHOLE = {
    "ModelConfigRequest": service_pb2.ModelConfigRequest,
    "ModelConfigResponse": service_pb2.ModelConfigResponse,
    "ModelConfig": model_config_pb2.ModelConfig,
    "ModelVersionPolicy": model_config_pb2.ModelVersionPolicy,
    "Specific": model_config_pb2.ModelVersionPolicy.Specific,
    "ParametersEntry": model_config_pb2.ModelConfig.ParametersEntry,
    "ModelParameter": model_config_pb2.ModelParameter,
    "ModelInferRequest": service_pb2.ModelInferRequest,
    "InferParametersEntry": service_pb2.ModelInferRequest.ParametersEntry,
    "InferParameter": service_pb2.InferParameter,
    "InferInputTensor": service_pb2.ModelInferRequest.InferInputTensor,
    "InferRequestedOutputTensor": service_pb2.ModelInferRequest.InferRequestedOutputTensor,
    "ModelInferResponse": service_pb2.ModelInferResponse,
    "InferOutputTensor": service_pb2.ModelInferResponse.InferOutputTensor,
}


def test_every_message_is_compared() -> None:
    assert WHOLE.keys() == messages.MESSAGES.keys()


@pytest.mark.parametrize("name", messages.MESSAGES)
def test_fields_have_the_numbers_and_types_of_the_protocol(name: str) -> None:
    def described(field: Any) -> tuple[Any, ...]:
        return field.number, field.type, field.is_repeated, field.message_type and field.message_type.full_name

    def of_protocol(field: Any) -> tuple[Any, ...]:
        kind = field.message_type and WHOLE[field.message_type.name].DESCRIPTOR.full_name
        return field.number, field.type, field.is_repeated, kind

    ours = messages._POOL.FindMessageTypeByName(f"inference.{name}").fields_by_name
    whole = WHOLE[name].DESCRIPTOR.fields_by_name
    assert {field: of_protocol(ours[field]) for field in ours} == {field: described(whole[field]) for field in ours}


def test_a_whole_answer_is_read() -> None:
    whole = service_pb2.ModelConfigResponse()
    whole.config.name = "m"
    whole.config.max_batch_size = 8
    whole.config.parameters["task"].string_value = "multi_label"
    whole.config.version_policy.specific.versions.append(3)
    config = messages.ModelConfigResponse.FromString(whole.SerializeToString()).config
    assert {entry.key: entry.value.string_value for entry in config.parameters} == {"task": "multi_label"}
    assert (config.max_batch_size, list(config.version_policy.specific.versions)) == (8, [3])
