"""The image of the server, built and run: what is in it, what it may do, what it does, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from docker.errors import APIError

from bantam.artifact import Artifact
from bantam.client.classifier import Classifier
from serving.backend.engine import Engine
from serving.container import GRACE_S, RESTRICTED, Container
from serving.docker_engine import engine
from serving.image import build
from serving.ports import free_ports
from serving.remote import Remote
from serving.repository import stage
from tests.docker.balancer import Balancer, is_ready
from tests.docker.conftest import Inside, inside_of
from tests.plugins.images import PLANTED, TAG, base_image, contained, planted

pytestmark = [pytest.mark.docker, pytest.mark.index, pytest.mark.slow]
MOST_MB = 700
INTERRUPTED = 130
DOCUMENTS = "/usr/share/doc/bantam"


def status(address: str, path: str) -> int:
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse().status
    connection.close()
    return answer


@pytest.mark.parametrize("model", ["tiny", "tiny.ov"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_answers_as_the_engine_does(container: Container, repository: Path, model: str, protocol: Any) -> None:
    address = container.grpc_address if protocol == "grpc" else container.http_address
    texts = ["i love it", "", "so much fear"]
    with Classifier(address, model, protocol=protocol) as classify:
        found = classify.probabilities(texts)
    np.testing.assert_allclose(found, Engine(repository / model / "1", threads=1).probabilities(texts), atol=1e-6)


def test_it_is_small(server_image: str) -> None:
    with contextlib.closing(engine()) as client:
        assert client.images.get(server_image).attrs["Size"] / 1e6 < MOST_MB


def test_its_watch_is_published_and_docker_says_that_it_is_healthy(container: Container) -> None:
    assert status(container.watch_address, "/live") == 200
    deadline = time.monotonic() + 60
    while (
        health := container.container.attrs["State"]["Health"]["Status"]
    ) != "healthy" and time.monotonic() < deadline:
        time.sleep(0.5)
        container.container.reload()
    assert health == "healthy", container.container.attrs["State"]["Health"]


def test_models_run_inside_tritons_process(inside: Inside) -> None:
    names = inside(
        "import json, psutil; print(json.dumps([p.name() for p in psutil.process_iter()]))",
    )
    assert "tritonserver" in names
    assert not [name for name in names if "stub" in name], "the inline backend was compiled at the build"


def test_every_process_is_nobodys_and_may_nothing(inside: Inside) -> None:
    found = inside(
        "import glob, json; print(json.dumps([open(path).read() for path in glob.glob('/proc/[0-9]*/status')]))"
    )
    assert len(found) >= 3
    for text in found:
        fields = dict(line.split(":\t", 1) for line in text.splitlines())
        expected = {"10001"} if os.geteuid() == 0 else {str(os.geteuid())}
        assert set(fields["Uid"].split()) == expected
        assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert fields["NoNewPrivs"] == "1"


def test_nothing_can_be_written_but_temporary_files_and_these_not_run(inside: Inside) -> None:
    code = """
import json, os, subprocess
found = {}
for folder in ("/", "/opt/bantam", "/models", "/etc", "/usr/bin", "/tmp"):
    try:
        open(os.path.join(folder, "x"), "w").close()
        found[folder] = "written"
    except OSError as exc:
        found[folder] = type(exc).__name__
os.chmod("/tmp/x", 0o755)
try:
    subprocess.run(["/tmp/x"])
except OSError as exc:
    found["run"] = type(exc).__name__
os.remove("/tmp/x")
print(json.dumps(found))
"""
    found = inside(code)
    assert found.pop("/tmp") == "written"
    assert found.pop("run") == "PermissionError"
    assert set(found.values()) <= {"OSError", "PermissionError"}, found


def test_there_is_nothing_to_build_or_fetch_with(inside: Inside) -> None:
    code = """
import importlib.util, json, os, shutil, stat
tools = "sh bash dash cc gcc c++ ld as make apt apt-get dpkg pip pip3 perl curl wget git mount su".split()
packages = [name for name in ("pip", "setuptools", "torch", "transformers") if importlib.util.find_spec(name)]
setuid = [os.path.join(folder, file) for top in ("/usr", "/opt", "/etc", "/var") for folder, _, files in os.walk(top)
          for file in files if os.lstat(os.path.join(folder, file)).st_mode & (stat.S_ISUID | stat.S_ISGID)]
path = "/bin:/sbin:/usr/bin:/usr/sbin:/usr/local/bin:/opt/bantam/bin"
print(json.dumps([[tool for tool in tools if shutil.which(tool, path=path)], packages, setuid]))
"""
    assert inside(code) == [[], [], []]


def test_nobody_is_called_from_inside(server_image: str, repository: Path) -> None:
    code = """
import json, psutil
print(json.dumps([[c.status, c.laddr.ip, c.raddr.ip if c.raddr else ""] for c in psutil.net_connections("inet")]))
"""
    found: list[list[str]] = []
    with contained(repository, server_image, begin=False) as running, ThreadPoolExecutor(1) as pool:
        starts = pool.submit(running.start)
        while not starts.done():  # also while it starts
            with contextlib.suppress(APIError, AttributeError, ValueError):  # not there yet, or no word from it
                found += inside_of(running, code)
        starts.result()
        assert found
        with Classifier(running.grpc_address, "tiny") as classify:
            for _ in range(20):
                classify("i love it")
                found += inside_of(running, code)
        networks = running.container.attrs["NetworkSettings"]["Networks"].values()
    local = {"", "127.0.0.1", "::1", *(network["Gateway"] for network in networks)}
    assert "LISTEN" in {status for status, *_ in found}
    assert {remote.removeprefix("::ffff:") for _, _, remote in found} <= local


def test_the_bill_of_materials_is_valid_and_complete(inside: Inside) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = inside(f"import json; print(json.dumps(open('{DOCUMENTS}/sbom.cdx.json').read()))")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = json.loads(text)["components"]
    named = {unquote(component["purl"]).split("/")[-1].split("@")[0]: component for component in components}
    installed = inside(
        "import json; from importlib.metadata import distributions as d; print(json.dumps([p.name for p in d()]))"
    )
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in installed} <= named.keys()
    assert {"libc6", "libpython3.11", "libstdc++6"} <= named.keys()
    assert any(file["name"].startswith("libtritonserver") for file in named["nvidia-pytriton"]["components"])
    assert [
        component["name"]
        for component in components
        if component["purl"].startswith("pkg:pypi") and not component.get("licenses")
    ] == []


def test_licences_are_named_and_their_texts_are_there(inside: Inside) -> None:
    code = f"""
import json, os
lines = open("{DOCUMENTS}/licences.txt").read().splitlines()[1:]
texts = [line.strip() for line in lines if line.startswith(" ")]
print(json.dumps([[line for line in lines if not line.startswith(" ")], [t for t in texts if not os.path.isfile(t)]]))
"""
    packages, missing = inside(code)
    assert missing == []
    assert any(line.startswith("libc6 ") for line in packages)
    assert any(line.startswith("nvidia-pytriton 0.7.0: ") for line in packages)


def files_of(image: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file in every layer, and what is written of the image and its history."""
    subprocess.run([build.client(), "save", f"--output={folder}/image.tar", image], check=True)
    with tarfile.open(folder / "image.tar") as saved:
        for part in saved.getmembers():
            if (stream := saved.extractfile(part)) is None:
                continue
            try:
                layer = tarfile.open(fileobj=stream)  # noqa: SIM115  # closed below
            except tarfile.ReadError:
                stream.seek(0)
                yield part.name, stream.read()
                continue
            with layer:
                for member in layer:
                    file = layer.extractfile(member) if member.isfile() else None
                    if file is not None:
                        yield member.name, file.read()


def test_where_packages_came_from_is_not_in_the_image(server_image: str, inside: Inside, tmp_path: Path) -> None:
    settings = build.read_pip_settings(
        subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    )
    secrets = [
        word for name, value in settings.items() if name not in ("cert", "default-timeout") for word in value.split()
    ]
    with contextlib.closing(engine()) as client:
        image = client.images.get(server_image)
        said = json.dumps([image.attrs, image.history()])
    assert [secret for secret in [*secrets, "/run/secrets"] if secret in said] == []
    found = {name: PLANTED.encode() in content for name, content in files_of(server_image, tmp_path)}
    assert "opt/bantam/lib/python3.11/site-packages/bantam/__main__.py" in found
    assert any(name.endswith(".json") for name in found), "what is written of the image"
    assert [name for name, has in found.items() if has] == []
    assert inside("import glob, json; print(json.dumps(glob.glob('/run/secrets/*') + glob.glob('/etc/pip*')))") == []


def test_a_model_can_be_baked_in(server_image: str, repository: Path) -> None:
    tag = f"{TAG}-baked"
    build.bake(["tiny"], repository, tag, server=server_image)
    try:
        with Container(None, image=tag, models=["tiny"]) as served, Classifier(served.grpc_address, "tiny") as classify:
            assert classify("i love it").scores
    finally:
        with contextlib.closing(engine()) as client:
            client.images.remove(tag)


def test_it_serves_a_bucket(server_image: str, bucket: str, tiny_artifact: Artifact, tmp_path: Path) -> None:
    remote = Remote(bucket)
    remote.upload(stage(tiny_artifact, tmp_path, "tiny", thresholds=[0.5] * 3))
    remote.promote("tiny", 1)
    ports = free_ports("127.0.0.1", {"grpc": 0, "http": 0, "watch": 0})
    asked = ["tiny", "--repository", bucket, "--host", "127.0.0.1", "--watch-host", "127.0.0.1"]
    asked += [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    known = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with contextlib.closing(engine()) as client:
        # The network of this machine, whose loopback has the bucket.
        running = client.containers.create(server_image, asked, environment=known, network_mode="host", **RESTRICTED)
        try:
            running.start()
            deadline = time.monotonic() + 120
            while not is_ready(f"127.0.0.1:{ports['watch']}"):
                running.reload()
                assert running.status in ("created", "running"), running.logs().decode()
                assert time.monotonic() < deadline, running.logs().decode()
                time.sleep(0.2)
            with Classifier(f"127.0.0.1:{ports['grpc']}", "tiny") as classify:
                assert classify("i love it").scores
            health = running.exec_run(["/opt/bantam/bin/python", "-I", "-m", "serving.image.healthcheck"])
            assert health.exit_code == 0, "it finds the port by itself"
            running.stop(timeout=GRACE_S)
        finally:
            running.remove(force=True)


def test_it_ends_in_order_when_it_is_told_to(server_image: str, repository: Path) -> None:
    with contained(repository, server_image) as running:
        begun = time.monotonic()
        running.container.stop(timeout=GRACE_S)
        assert running.exit_code() == INTERRUPTED
        assert time.monotonic() - begun < GRACE_S


def test_no_request_fails_while_one_of_two_ends(server_image: str, repository: Path) -> None:
    with (
        contained(repository, server_image, drain_s=3) as one,
        contained(repository, server_image, drain_s=3) as other,
        Balancer([(server.grpc_address, server.watch_address) for server in (one, other)]) as balancer,
        Classifier(balancer.address, "tiny", timeout=30) as classify,
        ThreadPoolExecutor(9) as pool,
    ):
        expected = classify.probabilities(["i love it"])
        ends = pool.submit(one.container.stop, timeout=GRACE_S)
        asked: list[Future[Any]] = []
        while not ends.done() or len(asked) < 500:
            asked += [pool.submit(classify.probabilities, ["i love it"]) for _ in range(40)]
            asked[-1].result()
        for answer in asked:
            np.testing.assert_allclose(answer.result(), expected, atol=1e-6)
        assert one.exit_code() == INTERRUPTED


def test_it_ends_when_it_is_told_to_before_it_serves(server_image: str) -> None:
    """What has no handler, the first process of a container ignores: Bantam has one before all else."""
    code = "import bantam.__main__, time; print('imported', flush=True); time.sleep(300)"
    with contextlib.closing(engine()) as client:
        first = client.containers.create(server_image, entrypoint=["/opt/bantam/bin/python", "-I", "-c", code])
        try:
            first.start()
            while b"imported" not in first.logs():
                first.reload()
                assert first.status in ("created", "running"), first.logs().decode()
                time.sleep(0.1)
            first.stop(timeout=GRACE_S)
            assert first.wait()["StatusCode"] == INTERRUPTED
        finally:
            first.remove(force=True)


def test_of_the_image_for_gpus_what_needs_none_builds() -> None:
    code = "import onnxruntime, serving.server; print(onnxruntime.get_available_providers())"
    docker, tag = build.client(), f"{TAG}-gpu"
    with planted() as secrets:
        build.build("gpu", tag, secrets, arguments=build.arguments_of("gpu", base=base_image()), target="environment")
    try:
        command = [docker, "run", "--rm", "--user=10001:10001", tag, "/opt/bantam/bin/python", "-I", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True)
    finally:
        subprocess.run([docker, "image", "rm", tag], check=True, capture_output=True)
    assert "CUDAExecutionProvider" in done.stdout, done.stderr


def test_a_model_that_does_not_load_is_said(
    server_image: str, make_artifact: Callable[..., Any], tmp_path: Path
) -> None:
    from bantam.artifact import Artifact, seal
    from bantam.errors import ContainerError
    from serving.repository import publish

    broken = publish(make_artifact(), tmp_path, "broken", thresholds=None)
    (broken.folder / "model.onnx").write_bytes(b"not a model")
    seal(broken.folder, Artifact.described(broken.folder).manifest)
    with pytest.raises(ContainerError, match=r"ended(.|\n)*broken"), contained(tmp_path, server_image):
        pass
