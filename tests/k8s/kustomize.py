"""Builds an overlay as `kustomize build` does, of what docker/k8s uses; anything else is refused.

How lists are merged (by the names of containers, the paths of mounts, ...) is read from Kubernetes' own schemas.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

VERSION = "1.37.0"
"""Of Kubernetes, whose schemas are meant; kubernetes-validate brings those of the older ones too."""
Resource = dict[str, Any]


def build(folder: Path) -> list[Resource]:
    """The resources of an overlay, in the order in which they are named; the caller's own to change."""
    return copy.deepcopy(_build(folder.resolve()))


@functools.cache
def _build(folder: Path) -> list[Resource]:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    unknown = kustomization.keys() - {"apiVersion", "kind", "resources", "images", "patches"}
    assert not unknown, f"{folder}: {unknown} is not known here"
    found: list[Resource] = []
    for name in kustomization["resources"]:
        found += build(folder / name) if (folder / name).is_dir() else load(folder / name)
    for entry in kustomization.get("patches", ()):
        assert entry.keys() == {"path"}
        for patch in load(folder / entry["path"]):
            (place,) = [n for n, resource in enumerate(found) if identity(resource) == identity(patch)]
            found[place] = merged(found[place], patch, definition(patch))
    for image in kustomization.get("images", ()):
        changed = [_renamed(container, image) for resource in found for container in containers(resource)]
        assert any(changed), f"{folder}: no image {image['name']}"
    names = [identity(resource) for resource in found]
    assert len(set(names)) == len(names)
    return found


def load(path: Path) -> list[Resource]:
    """The documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def identity(resource: Resource) -> tuple[str, str, str]:
    """By which a patch finds it."""
    return resource["apiVersion"], resource["kind"], resource["metadata"]["name"]


def containers(resource: Resource) -> list[Resource]:
    """Of a Deployment or a ServingRuntime."""
    spec = resource.get("spec", {})
    found: list[Resource] = spec.get("template", {}).get("spec", spec).get("containers", [])
    return found


def merged(base: Resource, patch: Resource, schema: Mapping[str, Any]) -> Resource:
    """A strategic merge patch: null removes, objects are merged, lists as their schema says."""
    result = copy.deepcopy(base)
    for key, value in patch.items():
        assert not key.startswith("$"), f"{key} is not known here"
        part = schema.get("properties", {}).get(key, {})
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = merged(result.get(key) or {}, value, resolved(part))
        elif isinstance(value, list) and "merge" in part.get("x-kubernetes-patch-strategy", ""):
            items = resolved(part["items"])
            result[key] = _merged_lists(result.get(key) or [], value, part["x-kubernetes-patch-merge-key"], items)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _merged_lists(base: list[Any], patch: list[Any], key: str, items: Mapping[str, Any]) -> list[Any]:
    changed = {entry[key]: entry for entry in patch}
    found = [merged(entry, changed.pop(entry[key], {}), items) for entry in base]
    # As kustomize does: what is new comes first.
    return [*changed.values(), *found]


def _renamed(container: Resource, image: Mapping[str, str]) -> bool:
    name, _, tag = container["image"].partition(":")
    if name != image["name"]:
        return False
    tag = image.get("newTag", tag)
    container["image"] = image.get("newName", name) + (f":{tag}" if tag else "")
    return True


@functools.cache
def definitions() -> dict[str, Any]:
    """Of all that Kubernetes itself knows."""
    schemas = files("kubernetes_validate") / f"kubernetes-json-schema/v{VERSION}-local-strict"
    found: dict[str, Any] = json.loads((schemas / "_definitions.json").read_text(encoding="utf-8"))
    return found


def resolved(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a schema, which may be named elsewhere."""
    if "$ref" in part:
        found: Mapping[str, Any] = definitions()["$defs"][part["$ref"].rpartition("/")[2]]
        return found
    return part


def definition(resource: Resource) -> Mapping[str, Any]:
    """The schema of a kind; empty for one that is not Kubernetes' own."""
    group, _, version = resource["apiVersion"].rpartition("/")
    wanted = {"group": group, "version": version, "kind": resource["kind"]}
    for found in definitions()["$defs"].values():
        if wanted in found.get("x-kubernetes-group-version-kind", ()):
            schema: Mapping[str, Any] = found
            return schema
    return {}
