"""Schemas of what is not Kubernetes' own, WRITTEN FROM THEIR DOCUMENTATION: theirs are in no package of the index.

They know the fields of these kinds, and refuse others; containers, volumes and selectors are Kubernetes' own. From
prometheus-operator's API reference (ServiceMonitor v1), KServe's types (ServingRuntime v1alpha1, InferenceService
v1beta1), kustomize's reference (Kustomization v1beta1) and prometheus-adapter's docs/config.md. November 2026.
"""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.k8s.kustomize import Resource, definitions

CORE = "https://kubernetes.io/api/_definitions.json#/$defs/io.k8s.api.core.v1."
META = "https://kubernetes.io/api/_definitions.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1."
STRING, BOOLEAN, INTEGER = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h))+$"}
STRINGS = {"type": "object", "additionalProperties": STRING}
PROTOCOL = {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": required.split(),
    }


def _list(items: Any, least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


def _kind(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return _object(
        "apiVersion kind metadata spec",
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata={"$ref": f"{META}ObjectMeta"},
        spec=spec,
    )


def _ref(name: str) -> dict[str, str]:
    return {"$ref": CORE + name}


ENDPOINT = _object(
    "",
    **dict.fromkeys(("port", "path", "scheme"), STRING),
    **dict.fromkeys(("interval", "scrapeTimeout"), DURATION),
    **dict.fromkeys(("honorLabels", "honorTimestamps", "enableHttp2", "followRedirects"), BOOLEAN),
    targetPort={"type": ["string", "integer"]},
    params={"type": "object"},
    relabelings=_list({"type": "object"}),
    metricRelabelings=_list({"type": "object"}),
    tlsConfig={"type": "object"},
)
SERVICE_MONITOR = _object(
    "selector endpoints",
    selector={"$ref": f"{META}LabelSelector"},
    endpoints=_list(ENDPOINT),
    namespaceSelector=_object("", any=BOOLEAN, matchNames=_list(STRING)),
    jobLabel=STRING,
    targetLabels=_list(STRING),
    podTargetLabels=_list(STRING),
    sampleLimit=INTEGER,
)
MODEL_FORMAT = _object(
    "name", name=STRING, version=STRING, autoSelect=BOOLEAN, priority={"type": "integer", "minimum": 1}
)
SERVING_RUNTIME = _object(
    "containers",
    containers=_list(_ref("Container")),
    volumes=_list(_ref("Volume")),
    nodeSelector=STRINGS,
    affinity=_ref("Affinity"),
    tolerations=_list(_ref("Toleration")),
    labels=STRINGS,
    annotations=STRINGS,
    imagePullSecrets=_list(_ref("LocalObjectReference")),
    hostIPC=BOOLEAN,
    supportedModelFormats=_list(MODEL_FORMAT),
    multiModel=BOOLEAN,
    disabled=BOOLEAN,
    protocolVersions=_list(PROTOCOL),
)


def _inference_service() -> dict[str, Any]:
    defs = definitions()["$defs"]
    own = defs["io.k8s.api.core.v1.Container"]["properties"].keys()
    model = _object(
        "modelFormat",
        **{name: {"$ref": f"{CORE}Container/properties/{name}"} for name in own - {"name"}},
        modelFormat=_object("name", name=STRING, version=STRING),
        runtime=STRING,
        runtimeVersion=STRING,
        protocolVersion=PROTOCOL,
        storageUri={"type": "string", "pattern": "^(pvc|s3|gs|https?|hf|hdfs|webhdfs|oci)://"},
    )
    pod = defs["io.k8s.api.core.v1.PodSpec"]["properties"].keys()
    predictor = _object(
        "model",
        **{name: {"$ref": f"{CORE}PodSpec/properties/{name}"} for name in pod},
        **dict.fromkeys(("minReplicas", "maxReplicas", "scaleTarget", "containerConcurrency", "timeout"), INTEGER),
        scaleMetric={"enum": ["cpu", "memory", "concurrency", "rps"]},
        labels=STRINGS,
        annotations=STRINGS,
        model=model,
    )
    return _object("predictor", predictor=predictor)


KUSTOMIZATION = _object(
    "apiVersion kind resources",
    apiVersion={"const": "kustomize.config.k8s.io/v1beta1"},
    kind={"const": "Kustomization"},
    resources=_list(STRING),
    images=_list(_object("name", name=STRING, newName=STRING, newTag=STRING, digest=STRING)),
    patches=_list(_object("", path=STRING, patch=STRING, target={"type": "object"})),
)
ADAPTER_RULE = _object(
    "seriesQuery metricsQuery",
    seriesQuery=STRING,
    seriesFilters=_list({"type": "object"}),
    resources=_object(
        "",
        template=STRING,
        overrides={"type": "object", "additionalProperties": _object("resource", group=STRING, resource=STRING)},
    ),
    name=_object("", matches=STRING, **{"as": STRING}),
    metricsQuery=STRING,
)
ADAPTER = _object("rules", rules=_object("custom", custom=_list(ADAPTER_RULE)))


def schema(resource: Resource) -> dict[str, Any] | None:
    """Of one of these kinds; None for others."""
    match resource["apiVersion"], resource["kind"]:
        case "monitoring.coreos.com/v1" as api, "ServiceMonitor" as kind:
            return _kind(api, kind, SERVICE_MONITOR)
        case "serving.kserve.io/v1alpha1" as api, "ServingRuntime" as kind:
            return _kind(api, kind, SERVING_RUNTIME)
        case "serving.kserve.io/v1beta1" as api, "InferenceService" as kind:
            return _kind(api, kind, _inference_service())
        case "kustomize.config.k8s.io/v1beta1", "Kustomization":
            return KUSTOMIZATION
    return None


def check(document: Resource, against: dict[str, Any]) -> None:
    """Raise jsonschema's ValidationError."""
    registry = Registry().with_resource(definitions()["$id"], DRAFT202012.create_resource(definitions()))
    Draft202012Validator(against, registry=registry).validate(document)
