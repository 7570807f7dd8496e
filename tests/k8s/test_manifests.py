"""What docker/k8s says: valid for Kubernetes, and in agreement with the image, the Compose file and `bantam serve`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from bantam.commands import application
from serving.container import GRACE_S, IMAGE, PORTS
from tests.k8s import crds
from tests.k8s.kustomize import VERSION, Resource, build, containers, load, merged
from tests.plugins.needs import ROOT

K8S = ROOT / "docker/k8s"
OVERLAYS = sorted(path.parent for path in K8S.rglob("kustomization.yaml"))
DOCKERFILE = (ROOT / "docker/cpu.Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))
PREFIX = "registry.example.com/"
each = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: str(path.relative_to(K8S)))


VALID: set[str] = set()
"""What was found to be so: reading Kubernetes' schemas takes half a second each time, and overlays share most of it."""


def checked(resource: Resource) -> None:
    """Raise ValidationError for what Kubernetes, or the maker of a kind, would refuse."""
    text = json.dumps(resource, sort_keys=True)
    if text in VALID:
        return
    own = crds.schema(resource)
    if own is None:
        kubernetes_validate.validate(resource, VERSION, strict=True)
    else:
        crds.check(resource, own)
    VALID.add(text)


def of_kind(resources: list[Resource], kind: str) -> Resource:
    (found,) = [resource for resource in resources if resource["kind"] == kind]
    return found


def pod_of(resources: list[Resource]) -> Resource:
    pod: Resource = of_kind(resources, "Deployment")["spec"]["template"]["spec"]
    return pod


def servers(overlay: Path) -> list[Resource]:
    """The containers of an overlay."""
    found = [container for resource in build(overlay) for container in containers(resource)]
    assert len(found) == 1
    return found


def words(container: Resource) -> list[str]:
    """The whole command line: the image's, and the arguments behind it."""
    (entrypoint,) = re.findall(r"^ENTRYPOINT (\[(?:.|\n)*?\])$", DOCKERFILE.replace("\\\n", ""), re.M)
    return [*json.loads(entrypoint), *container["args"]]


def option(container: Resource, name: str) -> str:
    """The value that counts: the last."""
    line = words(container)
    return line[max(n for n, word in enumerate(line) if word == name) + 1]


def test_all_are_there() -> None:
    names = {str(path.relative_to(K8S)) for path in OVERLAYS}
    overlays = {f"overlays/{name}" for name in ("autoscaled", "baked", "bucket", "cpu", "gpu")}
    assert names == {"base", "kserve", *overlays}


@each
def test_it_is_valid(overlay: Path) -> None:
    resources = build(overlay)
    assert resources
    for resource in resources:
        checked(resource)
    (kustomization,) = load(overlay / "kustomization.yaml")
    checked(kustomization)


def test_every_file_is_used() -> None:
    named: set[Path] = set()
    for overlay in OVERLAYS:
        (found,) = load(overlay / "kustomization.yaml")
        paths = [*found["resources"], *(patch["path"] for patch in found.get("patches", ()))]
        named |= {(overlay / path).resolve() for path in paths} | {overlay / "kustomization.yaml"}
    unused = {path.relative_to(K8S) for path in K8S.rglob("*.yaml") if path not in named}
    assert unused == {Path("overlays/autoscaled/prometheus-adapter.yaml")}


def wrong(change: Callable[[Resource], object]) -> Resource:
    deployment = of_kind(build(K8S / "overlays/baked"), "Deployment")
    change(deployment["spec"]["template"]["spec"])
    return deployment


@pytest.mark.parametrize(
    "change",
    [
        lambda pod: pod.update(terminationGracePeriod=55),
        lambda pod: pod["containers"][0].update(args="--drain-seconds 15"),
        lambda pod: pod["containers"][0]["ports"][0].update(containerPort="8001"),
        lambda pod: pod["containers"][0]["securityContext"]["capabilities"].update(drop="ALL"),
        lambda pod: pod["containers"][0]["livenessProbe"]["httpGet"].pop("port"),
    ],
)
def test_what_is_wrong_is_found(change: Callable[[Resource], object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        checked(wrong(change))


@pytest.mark.parametrize(
    ("folder", "kind", "change"),
    [
        ("overlays/autoscaled", "ServiceMonitor", lambda spec: spec["endpoints"][0].update(interval="15")),
        ("overlays/autoscaled", "ServiceMonitor", lambda spec: spec.update(endpoint=[])),
        ("kserve", "ServingRuntime", lambda spec: spec["containers"][0].update(arg=[])),
        ("kserve", "ServingRuntime", lambda spec: spec.update(terminationGracePeriodSeconds=55)),
        ("kserve", "InferenceService", lambda spec: spec["predictor"]["model"].update(storageURI="pvc://x")),
        ("kserve", "InferenceService", lambda spec: spec["predictor"].update(terminationGracePeriodSeconds="55")),
    ],
)
def test_what_is_wrong_with_others_kinds_is_found(folder: str, kind: str, change: Callable[[Resource], object]) -> None:
    resource = of_kind(build(K8S / folder), kind)
    checked(resource)
    change(resource["spec"])
    with pytest.raises(jsonschema.ValidationError):
        checked(resource)


def test_patches_are_merged_as_kubernetes_merges() -> None:
    pod = pod_of(build(K8S / "overlays/gpu"))
    (container,) = pod["containers"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {
        "/tmp",
        "/models",
        "/dev/shm",
        "/var/cache/bantam",
    }
    assert {volume["name"] for volume in pod["volumes"]} == {"tmp", "models", "shm", "cache"}
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": 1}
    assert container["startupProbe"]["httpGet"] == {"path": "/ready", "port": "watch"}
    assert container["image"] == f"{PREFIX}bantam-gpu:0.1.0"
    assert "replicas" not in of_kind(build(K8S / "overlays/autoscaled"), "Deployment")["spec"]
    schema: dict[str, Any] = {"properties": {"atomic": {"type": "array"}}}
    assert merged({"atomic": [1, 2], "gone": 1}, {"atomic": [3], "gone": None}, schema) == {"atomic": [3]}


@each
def test_it_may_do_nothing_and_is_nobody(overlay: Path) -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.M)
    (container,) = servers(overlay)
    resources = build(overlay)
    pod = pod_of(resources) if overlay.name != "kserve" else of_kind(resources, "InferenceService")["spec"]["predictor"]
    security = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert (security["runAsUser"], security["runAsGroup"]) == tuple(map(int, user))
    assert security["runAsNonRoot"] is True
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False


@each
def test_ports_and_paths_are_those_of_the_image(overlay: Path) -> None:
    (exposed,) = re.findall(r"^EXPOSE (.+)$", DOCKERFILE, re.M)
    (container,) = servers(overlay)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports.get("grpc", ports.get("h2c")) == PORTS["grpc"]
    assert {PORTS["grpc"], PORTS["watch"]} == set(map(int, exposed.split()))
    for name, path in {"startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/live"}.items():
        asked = container[name]["httpGet"]
        assert asked["path"] == path
        assert ports.get(asked["port"], asked["port"]) == PORTS["watch"]
    for resource in build(overlay):
        for port in resource["spec"]["ports"] if resource["kind"] == "Service" else ():
            assert (port["port"], ports[port["targetPort"]]) == (PORTS[port["name"]], PORTS[port["name"]])
        if resource["kind"] == "NetworkPolicy":
            allowed = {port["port"] for rule in resource["spec"]["ingress"] for port in rule["ports"]}
            assert allowed == set(ports.values())


def test_the_watch_answers_on_these_paths() -> None:
    source = (ROOT / "serving/watch.py").read_text(encoding="utf-8")
    assert all(f'"{path}": self.' in source for path in ("/live", "/ready", "/metrics"))


@each
def test_it_is_given_the_time_that_it_needs_to_end(overlay: Path) -> None:
    (container,) = servers(overlay)
    resources = build(overlay)
    pod = pod_of(resources) if overlay.name != "kserve" else of_kind(resources, "InferenceService")["spec"]["predictor"]
    assert pod["terminationGracePeriodSeconds"] == float(option(container, "--drain-seconds")) + GRACE_S
    server = COMPOSE["x-server"]
    command = server["command"]
    assert server["stop_grace_period"] == f"{int(command[command.index('--drain-seconds') + 1]) + GRACE_S}s"


@each
def test_arguments_are_options_of_serve(overlay: Path) -> None:
    shown = CliRunner().invoke(application(), ["serve", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    known = set(re.findall(r"--[a-z][a-z-]+", shown))
    (container,) = servers(overlay)
    used = {word for word in words(container) if word.startswith("--")}
    assert "--drain-seconds" in used
    assert used <= known


@each
def test_what_is_written_to_and_read_is_mounted(overlay: Path) -> None:
    (container,) = servers(overlay)
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert "/tmp" in mounts
    assert re.search(r"^WORKDIR /tmp$", DOCKERFILE, re.M)
    repository = option(container, "--repository")
    assert all(variable["value"] in mounts for variable in container.get("env", ()))
    match overlay.name:
        case "cpu" | "gpu":
            assert mounts[repository]["readOnly"] is True
        case "bucket":
            assert repository.startswith("s3://")
            assert [variable["name"] for variable in container["env"]] == ["BANTAM_CACHE"]
        case "kserve":
            assert repository == "/mnt/models"
        case _:
            assert repository == "/models", "baked in: COPY in docker/model.Dockerfile"
            assert f"COPY . {repository}/" in (ROOT / "docker/model.Dockerfile").read_text(encoding="utf-8")


def test_images_are_named_as_they_are_built() -> None:
    assert IMAGE == "bantam-cpu"
    images = {overlay.name: servers(overlay)[0]["image"] for overlay in OVERLAYS}
    assert images["base"] == IMAGE
    assert images["cpu"] == images["bucket"] == images["kserve"] == f"{PREFIX}{IMAGE}:0.1.0"
    assert images["baked"] == images["autoscaled"] == f"{PREFIX}texts:1"
    defaults = {
        re.findall(r":-([\w-]+)\}", service["image"])[0]
        for service in COMPOSE["services"].values()
        if "BANTAM" in service["image"]
    }
    assert {IMAGE, "bantam-gpu"} <= defaults


@each
def test_selectors_find_the_pods(overlay: Path) -> None:
    resources = build(overlay)
    if overlay.name == "kserve":
        runtime, service = (of_kind(resources, kind) for kind in ("ServingRuntime", "InferenceService"))
        model = service["spec"]["predictor"]["model"]
        assert model["runtime"] == runtime["metadata"]["name"]
        assert model["modelFormat"]["name"] in {known["name"] for known in runtime["spec"]["supportedModelFormats"]}
        assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
        return
    deployment = of_kind(resources, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for resource in resources:
        spec = resource.get("spec", {})
        selectors = {
            "Deployment": lambda spec=spec: spec["selector"]["matchLabels"],
            "Service": lambda spec=spec: spec["selector"],
            "PodDisruptionBudget": lambda spec=spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec=spec: spec["podSelector"]["matchLabels"],
        }
        if resource["kind"] in selectors:
            assert selectors[resource["kind"]]().items() <= labels.items()
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert all(constraint["labelSelector"]["matchLabels"] == labels for constraint in spread)


def test_the_autoscaler_reads_what_the_adapter_gives_of_what_the_server_counts() -> None:
    resources = build(K8S / "overlays/autoscaled")
    (rules,) = load(K8S / "overlays/autoscaled/prometheus-adapter.yaml")
    crds.check(rules, crds.ADAPTER)
    (rule,) = rules["rules"]["custom"]
    scaler = of_kind(resources, "HorizontalPodAutoscaler")["spec"]
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert scaler["scaleTargetRef"]["name"] == of_kind(resources, "Deployment")["metadata"]["name"]
    assert scaler["minReplicas"] == of_kind(build(K8S / "overlays/baked"), "Deployment")["spec"]["replicas"]
    assert "maxUnavailable" in of_kind(resources, "PodDisruptionBudget")["spec"]
    (endpoint,) = of_kind(resources, "ServiceMonitor")["spec"]["endpoints"]
    services = [resource for resource in resources if resource["kind"] == "Service"]
    assert endpoint["port"] in {port["name"] for service in services for port in service["spec"]["ports"]}
    counted = set(re.findall(r"nv_\w+", rule["metricsQuery"]))
    dashboard = (ROOT / "docker/grafana/dashboard.json").read_text(encoding="utf-8")
    assert counted == {"nv_inference_queue_duration_us", "nv_inference_request_success"}
    assert all(name in dashboard for name in counted)
