"""Downloads from a hub: one on this machine, which speaks as much of the protocol as a download needs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import torch
from safetensors.torch import load_file

from bantam.errors import ModelError
from optimizer.catalog import Entry
from optimizer.load import resolve
from optimizer.load.weights import shapes

REVISION = "a" * 40
pytestmark = pytest.mark.usefixtures("cache")


def quiet(_: str) -> None:
    """Nothing to say."""


class Hub(BaseHTTPRequestHandler):
    """One model, owner/tiny, from a folder; all else is not found."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlparse(self.path).path
        self.asked.append(path)
        if path == "/":
            self._send(200, b"")
        elif path == "/api/models/owner/tiny/revision/main":
            self._send(200, json.dumps({"id": "owner/tiny", "sha": REVISION, "siblings": []}).encode())
        elif path == f"/api/models/owner/tiny/tree/{REVISION}":
            files = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": self._oid(p)}
                for p in self.folder.iterdir()
            ]
            self._send(200, json.dumps(files).encode())
        elif path.startswith(f"/owner/tiny/resolve/{REVISION}/"):
            file = self.folder / path.rpartition("/")[2]
            self._send(200, file.read_bytes(), {"ETag": f'"{self._oid(file)}"', "X-Repo-Commit": REVISION})
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    @staticmethod
    def _oid(path: Path) -> str:
        return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    handler = type("TinyHub", (Hub,), {"folder": tiny, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_hub_download_takes_no_pickle_and_no_code(hub: type[Hub]) -> None:
    (hub.folder / "pytorch_model.bin").write_bytes(b"pickle")
    (hub.folder / "code.py").write_text("raise SystemExit")
    checkpoint = resolve("owner/tiny", log=quiet)
    assert (checkpoint.name, checkpoint.source, checkpoint.revision) == ("owner/tiny", "hub: owner/tiny", REVISION)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in checkpoint.folder.iterdir()}
    assert not [path for path in hub.asked if path.endswith((".bin", ".py"))]
    assert checkpoint.digest == resolve(str(hub.folder)).digest, "equal files, equal digest"


def test_hub_cache_is_used_when_the_hub_is_gone(hub: type[Hub], request: pytest.FixtureRequest) -> None:
    first = resolve("owner/tiny", log=quiet)
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
        assert resolve("owner/tiny", log=quiet) == first


def test_unknown_on_the_hub(hub: type[Hub]) -> None:
    with pytest.raises(ModelError, match=r"Unknown model 'owner/other'.*\nKnown models: minilm, bert"):
        resolve("owner/other", log=quiet)


@pytest.mark.parametrize(("revision", "said"), [("main", ["toy: not verified."]), (REVISION, [])])
def test_a_known_model_without_a_commit_is_said_to_be_not_verified(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch, revision: str, said: list[str]
) -> None:
    monkeypatch.setattr("optimizer.load.CATALOG", {"toy": Entry("toy", "owner/tiny", revision, "Apache-2.0")})
    lines: list[str] = []
    with contextlib.suppress(ModelError):  # this hub knows no commit by its name
        resolve("toy", log=lines.append)
    assert [line[: len("toy: not verified.")] for line in lines if line.startswith("toy")] == said


def test_hub_model_with_pickle_only_is_converted(hub: type[Hub]) -> None:
    weights = hub.folder / "model.safetensors"
    expected = load_file(weights)
    torch.save(expected, hub.folder / "pytorch_model.bin")
    weights.unlink()
    first = resolve("owner/tiny", log=quiet)
    assert shapes(first.folder) == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
        assert resolve("owner/tiny", log=quiet) == first
