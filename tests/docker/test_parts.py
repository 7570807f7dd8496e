"""What makes and runs the image, as far as it takes no engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bantam.artifact import Artifact
from bantam.commands.announce import warn_of_http
from bantam.commands.container import as_arguments
from bantam.commands.serve_options import ServeOptions
from bantam.errors import ContainerError, RepositoryError
from serving import container, docker_engine
from serving.image import build, lock, rootfs, sbom, slim
from serving.image.healthcheck import is_ready, watch_of
from serving.repository import publish
from serving.version_folder import EVIDENCE
from tests.plugins.needs import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
STATUS = """Package: python3.11
Status: install ok installed
Architecture: amd64
Version: 3.11.2-6
Depends: libc6 (>= 2.34), media-types | mime-support, libexpat1 (>= 2.1~beta3) | expat-of-old
Pre-Depends: zlib1g:any
Description: interpreter
 of two lines

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9
Provides: libc6-virtual (= 1)

Package: libexpat1
Status: install ok installed
Architecture: amd64
Version: 2.5.0-1
Depends: libc6-virtual

Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.2.13
Depends: libc6

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: gcc
Status: install ok installed
Architecture: amd64
Version: 12
"""


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_are_clean(path: Path) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert hadolint, "the extra dev has it"
    done = subprocess.run([hadolint, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_is_valid_and_publishes_on_loopback_only() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*checker, ROOT / "docker/compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    services = YAML(typ="safe").load(ROOT / "docker/compose.yaml")["services"]
    published = {name: service.get("ports", []) for name, service in services.items()}
    assert set(published) == {"server", "server-gpu", "demo", "prometheus", "grafana"}
    for name, ports in published.items():
        assert ports, name
        assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(port))] == [], name
        assert "network_mode" not in services[name]


def test_the_images_packages_are_those_that_are_tested() -> None:
    pins: dict[str, dict[str, str]] = {}
    for constraints, files in lock.CONSTRAINTS.items():
        text = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in constraints)
        found = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.M))
        pins |= dict.fromkeys(files, found)
    for file, (packages, _) in lock.FILES.items():
        lines = (ROOT / "docker" / f"{file}.txt").read_text(encoding="utf-8").splitlines()[1:]
        found = {line.split("==")[0]: line.split("==")[1].split()[0] for line in lines}
        assert found == {name: pins[file][name] for name in packages}, f"{file}.txt: run python -m serving.image.lock"
        assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", line) for line in lines)


def test_debian_packages_are_those_wanted_with_what_they_depend_on() -> None:
    packages = rootfs.read_status(STATUS)
    assert rootfs.closure(packages, ["python3.11"]) == ["libc6", "libexpat1", "python3.11", "zlib1g"]
    with pytest.raises(KeyError, match="gone"):
        rootfs.closure(packages, ["gone"])


def test_a_copied_file_has_no_setuid_bit(tmp_path: Path) -> None:
    source = tmp_path / "su"
    source.write_text("x")
    source.chmod(0o4755)
    rootfs.copy(source, tmp_path / "root")
    mode = (tmp_path / "root" / source.relative_to("/")).stat().st_mode
    assert stat.S_IMODE(mode) == 0o755


def test_what_is_never_read_is_removed_and_licences_stay(tmp_path: Path) -> None:
    site = tmp_path / "lib/python3.11/site-packages"
    gone = [
        *("numpy/core/tests/test_x.py", "numpy/f2py/x.py", "onnxruntime/capi/libonnxruntime.so.1", "openvino/x.pyi"),
        *("openvino/libs/libopenvino_intel_gpu_plugin.so", "pytriton/triton.py", "pytriton/client/x.py"),
        *("pytriton/tritonserver/python_backend_stubs/3.12/stub", "botocore/data/ec2/x.json.gz", "aiohttp/x.c"),
    ]
    kept = [
        *("numpy/core/x.py", "onnxruntime/capi/state.so", "openvino/libs/libopenvino_intel_cpu_plugin.so"),
        *("openvino/libs/libopenvino_ir_frontend.so", "pytriton/tritonserver/bin/tritonserver"),
        *("pytriton/tritonserver/python_backend_stubs/3.11/stub", "numpy-1.dist-info/LICENSE.txt"),
        *("botocore/data/s3/2006-03-01/x.json.gz", "botocore/data/endpoints.json"),
    ]
    for name in gone + kept:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).touch()
    slim.slim(tmp_path)
    assert sorted(str(p.relative_to(site)) for p in site.rglob("*") if p.is_file()) == sorted(kept)


@pytest.fixture
def answers() -> Iterator[dict[str, int]]:
    """A server of one answer, which is in it with its port."""
    found = {"status": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(found["status"] if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    found["port"] = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


def test_the_health_check_asks_the_watch(answers: dict[str, int]) -> None:
    assert is_ready("127.0.0.1", answers["port"])
    answers["status"] = 503
    assert not is_ready("127.0.0.1", answers["port"])
    assert not is_ready("127.0.0.1", 9)


@pytest.mark.parametrize(
    ("options", "watch"),
    [
        ([], ("127.0.0.1", 8003)),
        (["tiny", "--watch-port", "9003", "--cache", "1MB"], ("127.0.0.1", 9003)),
        (["--watch-port", "9003", "--watch-port=9004"], ("127.0.0.1", 9004)),
        (["--watch-host", "192.0.2.1", "--http-port", "1"], ("192.0.2.1", 8003)),
        (["--watch-host=::"], ("::1", 8003)),
    ],
)
def test_the_health_check_asks_where_the_watch_was_told_to_listen(options: list[str], watch: tuple[str, int]) -> None:
    image = ["/opt/bantam/bin/python", "-m", "bantam", "serve", "--watch-host", container.EVERYWHERE]
    assert watch_of(b"".join(word.encode() + b"\0" for word in [*image, *options])) == watch


def test_a_bill_of_materials_is_valid_and_the_same_each_time() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    environment = Path(sys.prefix)
    components = sbom.python_packages(environment)
    assert {"numpy", "onnxruntime"} <= {component.name for component in components}
    assert all(Path(text).is_file() for component in components for text in component.texts)
    texts = {component.name: " ".join(component.texts) for component in components}
    assert "ThirdPartyNotices.txt" in texts["onnxruntime"]
    assert "third-party-programs" in texts["openvino"]
    assert not [text for found in texts.values() for text in found.split() if text.endswith(".py")]
    bills = [json.dumps(sbom.bill(components, "1")) for _ in range(2)]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bills[0]) is None
    assert bills[0] == bills[1]
    assert "numpy 2" in sbom.table(components)


def test_of_pips_configuration_what_holds_elsewhere_goes_along() -> None:
    listed = r"""
:env:.cert='/env/ca.pem'
:env:.find-links='/opt/wheels'
global.cert='/etc/ca.pem'
global.index-url='https://user:secret@mirror.example.com/simple'
global.extra-index-url='file:///opt/pypi\nhttps://other.example.com/simple'
global.constraint='/etc/constraints.txt'
install.no-binary=':none:'
"""
    assert build.read_pip_settings(listed) == {
        "cert": "/env/ca.pem",
        "index-url": "https://user:secret@mirror.example.com/simple",
        "extra-index-url": "https://other.example.com/simple",
    }
    assert build.read_pip_settings("") == {}


def test_a_secret_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContainerError, match=r"nowhere: no such file, expected one for the build's secret 'pip'"):
        build.Secrets(pip=tmp_path / "nowhere").options()


def fake_docker(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Path:
    """A docker that can build, and does what the script says."""
    path = folder / "docker"
    path.write_text(f'#!/bin/sh\n[ "$1" = buildx ] && echo 1 && exit 0\n{script}\n', encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("DOCKER", str(path))
    return path


def test_a_docker_that_cannot_build_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "docker"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Docker version 28.2.2, build e6534b4"\nexit $?\n')
    old.chmod(0o755)
    monkeypatch.setenv("DOCKER", str(old))
    with pytest.raises(ContainerError, match=r"docker without BuildKit, expected Docker with its plugin buildx"):
        build.client()
    old.write_text('#!/bin/sh\necho "Docker version 20.10.24+dfsg1, build 297e128"\n[ "$1" = --version ]\n')
    assert build.client() == str(old)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ContainerError, match="Got the engines tensorrt, expected of onnxruntime, openvino"):
        build.arguments_of("cpu", engines="tensorrt")


def test_another_triton_is_for_gpus_alone() -> None:
    assert build.arguments_of("gpu", triton="mirror/triton:1") == {"TRITON": "mirror/triton:1"}
    with pytest.raises(ContainerError, match=r"Got mirror/triton:1 for the image for cpu.*expected kind gpu"):
        build.arguments_of("cpu", triton="mirror/triton:1")


@pytest.mark.parametrize(("digests", "pulls"), [("0", False), ("1", True)])
def test_a_fresh_build_takes_nothing_from_a_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digests: str, pulls: bool
) -> None:
    docker = fake_docker(monkeypatch, tmp_path, f'[ "$1" = image ] && echo {digests} || echo "$@" >> {tmp_path}/asked')
    build.build("cpu", "x", build.Secrets(), arguments={"BASE": "base"}, fresh=True)
    asked = docker.with_name("asked").read_text(encoding="utf-8").split()
    assert "--no-cache" in asked
    assert ("--pull" in asked) == pulls


def test_the_address_of_pytorchs_index_is_neither_typed_nor_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    docker = fake_docker(monkeypatch, tmp_path, f'echo "$@" > {tmp_path}/asked; exit 1')
    with build.pips_own("https://user:PLANTED@example.com") as secrets:
        assert secrets.torch is not None
        assert secrets.torch.read_text(encoding="utf-8") == "https://user:PLANTED@example.com"
        with pytest.raises(ContainerError) as caught:
            build.build("optimizer", "x", secrets, arguments=build.arguments_of("optimizer"))
    assert str(caught.value) == "The image x could not be built; Docker's own words are above."
    asked = docker.with_name("asked").read_text(encoding="utf-8")
    assert "--secret=id=torch,src=" in asked
    assert "PLANTED" not in asked


def test_a_baked_model_has_the_served_version_alone(tiny_artifact: Artifact, tmp_path: Path) -> None:
    version = publish(tiny_artifact, tmp_path / "repository", "tiny", thresholds=None, evidence='{"texts": []}')
    assert (version.folder / EVIDENCE).is_file()
    (version.folder.parent / "7").mkdir()
    build.copy_published(tmp_path / "repository", "tiny", tmp_path / "context/tiny")
    assert sorted(path.name for path in (tmp_path / "context/tiny").iterdir()) == ["1", "config.pbtxt"]
    assert stat.S_IMODE((tmp_path / "context/tiny/1/model.onnx").stat().st_mode) == 0o644
    assert not (tmp_path / "context/tiny/1" / EVIDENCE).exists()  # texts of the data are not handed on
    with pytest.raises(RepositoryError, match="no model 'huge', expected a published one"):
        build.copy_published(tmp_path / "repository", "huge", tmp_path / "context/huge")


def test_where_no_engine_answers_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(ContainerError, match=r"No Docker engine answers \(.+\)\. Start it") as caught:
        docker_engine.engine()
    assert len(str(caught.value).splitlines()) == 1


def test_what_docker_refuses_is_no_defect_of_ours() -> None:
    from docker.errors import APIError, DockerException
    from requests import ConnectionError

    for exc in (APIError("409", explanation="name in use"), DockerException("odd"), ConnectionError("it went away")):
        with (
            pytest.raises(ContainerError, match=r"^It was not started: (name in use|odd|it went away)\."),
            docker_engine.translated("It was not started"),
        ):
            raise exc


def test_each_port_is_published_where_it_was_asked_for() -> None:
    asked = container.Container(None, models=["tiny"], host=container.EVERYWHERE, grpc_port=8001, drain_s=60)
    assert asked._publish() == {
        "8001/tcp": (container.EVERYWHERE, 8001),
        "8000/tcp": ("127.0.0.1", None),
        "8003/tcp": ("127.0.0.1", None),
    }
    asked = container.Container(
        None, models=["tiny"], http_host="192.0.2.1", watch_host=container.EVERYWHERE, network="host"
    )
    assert asked._arguments()[:7] == [
        *("tiny", "--host", "127.0.0.1"),
        *("--http-host", "192.0.2.1", "--watch-host", container.EVERYWHERE),
    ]


def test_what_drains_for_long_may_take_longer_to_end() -> None:
    asked = container.Container(None, models=["tiny"], drain_s=60.5)
    assert asked._arguments()[-2:] == ["--drain-seconds", "60.5"]
    assert asked._run_options()["labels"][container.STOP_LABEL] == "101"


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", 0), (container.EVERYWHERE, 1)])
def test_http_that_others_can_reach_is_said(host: str, warned: int) -> None:
    said: list[str] = []
    warn_of_http(host, f"{host}:8000", said.append)
    assert len([line for line in said if line.startswith("WARNING: other machines can reach HTTP")]) == warned


@pytest.mark.parametrize("machine", ["arm64", "aarch64", "x86_64", "AMD64"])
def test_what_arm_lacks_is_said_there_alone(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    said = container.what_arm_lacks()
    assert said.startswith(f"This is {machine}: nvidia-pytriton") if machine.startswith("a") else said == ""


def test_what_was_asked_for_reaches_the_server_inside() -> None:
    assert as_arguments(ServeOptions()) == ["--log-format", "text"]
    options = ServeOptions(watch_port=9003, cache="100MB", drain_seconds=5, log_format="json")
    assert as_arguments(options) == ["--log-format", "json", "--cache", "100MB"]  # the rest is the container's
    with pytest.raises(ContainerError, match=r"Got the file key\.pem, which is not in the container"):
        as_arguments(ServeOptions(tls_key=Path("key.pem")))
    with pytest.raises(ContainerError, match=r"Got --target gpu .* no GPU; expected cpu.* `make image KIND=gpu`"):
        as_arguments(ServeOptions(target="gpu"))
