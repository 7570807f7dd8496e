"""What ``bantam serve`` says when its server is ready."""

from __future__ import annotations

import json
from collections.abc import Callable

from bantam.artifact import EXAMPLES, Artifact
from serving.ports import is_loopback
from serving.repository import published
from serving.server import Server
from serving.triton_config import limit_ms
from serving.view import config_of


def announce(server: Server, watch: str, as_json: bool, log: Callable[[str], None]) -> None:
    """Where the models and their ``watch`` are and how to call them: for people, and with ``as_json`` for scripts on
    standard output.
    """
    example = EXAMPLES[_reads_pairs(server)]
    grpc, http, names = server.grpc_address, server.http_address, ", ".join(server.models)
    if as_json:
        print(json.dumps({"grpc": grpc, "http": http, "watch": watch, "models": server.models}), flush=True)
    if server.backend.reason:
        log(f"Each model runs in a process of its own, which costs a request some time: {server.backend.reason}.")
    warn_of_http(server.http_host, http, log)
    if server.settings.target == "gpu" and (left := [name for name in server.models if not _is_for_gpus(server, name)]):
        log(f"On the CPU, because they were not made for a GPU: {', '.join(left)}. Recipe gpu makes one that is.")
    log(f"Serving {names} on {grpc} (gRPC) and {http} (HTTP). Ctrl-C stops it.")
    for name, limit in _limits_ms(server).items():
        log(f"{name} refuses what would wait longer than {limit / 2000:g} s, half of its limit_ms.")
    log(f"Its watch is on http://{watch}: /live, /ready, /metrics. From Python:")
    log("  from bantam import Classifier")
    log(f'  Classifier("{grpc}", model="{server.models[0]}")([{example}])')


def warn_of_http(host: str, address: str, log: Callable[[str], None]) -> None:
    """Say what is wrong with HTTP on ``address`` if ``host`` can be reached from elsewhere."""
    if not is_loopback(host):
        log(
            f"WARNING: other machines can reach HTTP on {address} and the metrics. Triton's HTTP has known holes in "
            "2.51: leave --http-host out and have clients use gRPC, or put a proxy in front."
        )


def _is_for_gpus(server: Server, name: str) -> bool:
    version = published(server.repository, name)
    return version is not None and "cuda" in Artifact.load(version.folder).manifest.compute.devices


def _limits_ms(server: Server) -> dict[str, int]:
    """Of each model that has a queue of ours before it."""
    found = {} if server.backend.isolated else {name: published(server.repository, name) for name in server.models}
    target = server.settings.target
    return {name: limit_ms(config_of(version, target)) for name, version in found.items() if version is not None}


def _reads_pairs(server: Server) -> bool:
    """Whether the first model does."""
    version = published(server.repository, server.models[0])
    return version is not None and Artifact.load(version.folder).manifest.signature.pair
