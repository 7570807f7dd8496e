"""Models on a GPU: what is asked of Triton, and what is said where there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnxruntime as ort
import pytest
from google.protobuf import text_format
from tritonclient.grpc import InferenceServerClient

from bantam.artifact import Artifact, Compute, Numbers
from bantam.commands.serve_options import ServeOptions
from bantam.errors import ServerError
from serving import tritonserver
from serving.backend.providers import CUDA
from serving.gpu import START_TIMEOUT_S, count
from serving.image.build import copy_published
from serving.mirror import Mirror
from serving.ports import free_ports
from serving.remote import Remote
from serving.repository import Version, promote, prune, publish, rollback, stage, withdraw
from serving.server import Server
from serving.triton_config import CONFIG, GPU_CONFIG, limit_ms, parse_pbtxt, served_version
from serving.view import View
from tests.k8s.kustomize import build
from tests.plugins.needs import ROOT

HALF = Compute(weights=Numbers("float", 16), activations=Numbers("float", 16), devices=("cpu", "cuda"))
PROTOCOLS = ("gRPC", "HTTP", "metrics")

MakeArtifact = Callable[..., Artifact]


@pytest.fixture
def plain(make_artifact: MakeArtifact) -> Artifact:
    """Made for GPUs, of standard operators."""
    return make_artifact(compute=HALF, details={"fused_attention": 0})


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from serving.remote import Remote
from serving.repository import Version, promote

where, until = sys.argv[1], int(sys.argv[2])
written = itertools.count()


def end_after_so_many() -> None:
    if next(written) == until:
        os.kill(os.getpid(), signal.SIGKILL)


if where.startswith("s3://"):
    remote = Remote(where)
    write = remote._fs.pipe_file
    remote._fs.pipe_file = lambda *given: end_after_so_many() or write(*given)
    remote.promote("tiny", 2)
else:
    ours = lambda event, given: event == "os.rename" and str(given[1]).startswith(where)
    sys.addaudithook(lambda event, given: ours(event, given) and end_after_so_many())
    promote(Version("tiny", 2, Path(where, "tiny", "2")))
"""
"""Promotes version 2 in a folder or a bucket, and is killed when so many files are in their places."""


def killed(where: str, written: int) -> None:
    command = [sys.executable, "-c", KILLED, where, str(written)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL


class TestOfARepository:
    """``configs/gpu.pbtxt`` goes where ``config.pbtxt`` goes."""

    @pytest.fixture
    def root(self, plain: Artifact, make_artifact: MakeArtifact, tmp_path: Path) -> Path:
        """Version 1 is for the CPU alone, version 2, which is served, for GPUs too."""
        publish(make_artifact(), tmp_path / "repository", "tiny", thresholds=None)
        publish(plain, tmp_path / "repository", "tiny", thresholds=None, micro_batch=4)
        return tmp_path / "repository"

    def test_it_says_what_a_gpu_changes_and_nothing_else(self, root: Path) -> None:
        config, on = (parse_pbtxt((root / "tiny" / name).read_text()) for name in (CONFIG, GPU_CONFIG))
        (group,) = on.instance_group
        assert (group.Kind.Name(group.kind), group.count, [*group.gpus]) == ("KIND_GPU", 1, [0])
        assert on.parameters["device"].string_value == "cuda"
        assert "micro_batch" not in on.parameters, "the engine knows what a GPU takes"
        for message in (config, on):
            del message.instance_group[:]
            for name in ("device", "micro_batch"):
                message.parameters.pop(name, None)
        assert config == on

    def test_it_comes_and_goes_with_the_version_that_is_served(self, root: Path) -> None:
        on_gpu = root / "tiny" / GPU_CONFIG
        assert served_version(on_gpu.read_text()) == (2, 1)
        rollback(root, "tiny")
        assert not on_gpu.exists()
        rollback(root, "tiny")
        assert served_version(on_gpu.read_text()) == (2, 1)
        assert prune(root, "tiny") == []
        withdraw(root, "tiny")
        assert not on_gpu.exists()

    @pytest.fixture
    def second(self, plain: Artifact, make_artifact: MakeArtifact, tmp_path: Path) -> Version:
        """Staged beside version 1, which is served; both are for GPUs."""
        publish(plain, tmp_path / "both", "tiny", thresholds=None)
        return stage(make_artifact(compute=HALF, details={"seed": 1}), tmp_path / "both", "tiny", thresholds=None)

    @pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
    def test_a_kill_leaves_that_of_the_version_before_and_the_same_promote_mends_it(self, second: Version) -> None:
        config, on_gpu = (second.root / "tiny" / name for name in (CONFIG, GPU_CONFIG))
        for written in (0, 1):
            killed(str(second.root), written)
            assert served_version(config.read_text()) == (1 + written, 1 if written else None)
            assert served_version(on_gpu.read_text()) == (1, None)
        assert promote(second).changed is False
        assert served_version(on_gpu.read_text()) == (2, 1)
        assert [path.name for path in on_gpu.parent.iterdir()] == ["gpu.pbtxt"]

    @pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
    def test_a_kill_in_a_bucket_does_no_more(self, second: Version, bucket: str) -> None:
        remote = Remote(bucket)
        for number in (1, 2):
            remote.upload(Version("tiny", number, second.root / "tiny" / str(number)))
        remote.promote("tiny", 1)
        for written in (0, 1):
            killed(bucket, written)
            assert remote.served("tiny") == (1 + written, 1 if written else None)
            assert served_version(remote._text("tiny", GPU_CONFIG) or "") == (1, None)
        assert remote.promote("tiny", 2) is False
        assert served_version(remote._text("tiny", GPU_CONFIG) or "") == (2, 1)

    def test_it_is_baked_into_an_image(self, root: Path, tmp_path: Path) -> None:
        copy_published(root, "tiny", tmp_path / "baked" / "tiny")
        assert (tmp_path / "baked" / "tiny" / GPU_CONFIG).read_text() == (root / "tiny" / GPU_CONFIG).read_text()

    def test_in_a_bucket_and_back(self, root: Path, bucket: str, tmp_path: Path) -> None:
        remote, mirror = Remote(bucket), Mirror(Remote(bucket), tmp_path / "mirror")
        for number in (1, 2):
            remote.upload(Version("tiny", number, root / "tiny" / str(number)))
            remote.promote("tiny", number)
        mirror.start(["tiny"], print)
        assert remote._text("tiny", GPU_CONFIG) == (root / "tiny" / GPU_CONFIG).read_text()
        assert remote.numbers("tiny", whole=False) == [1, 2]
        assert served_version((mirror.root / "tiny" / GPU_CONFIG).read_text()) == (2, None)
        remote.rollback("tiny")
        assert list(mirror.step(["tiny"])) == []
        assert remote._text("tiny", GPU_CONFIG) is None
        assert not (mirror.root / "tiny" / GPU_CONFIG).exists()

    def test_our_own_server_makes_it_from_the_one_file_that_is_promoted(self, root: Path, tmp_path: Path) -> None:
        first, second = (Version("tiny", number, root / "tiny" / str(number)) for number in (1, 2))
        config, on_gpu = (root / "tiny" / name for name in (CONFIG, GPU_CONFIG))
        view = View(tmp_path, [second], "gpu")
        seen = view.models / "tiny" / CONFIG
        assert seen.read_text() == on_gpu.read_text()
        on_gpu.write_text("nothing that it reads")
        config.write_text(config.read_text() + 'parameters { key: "limit_ms" value { string_value: "70" } }')
        view.show(second)
        assert limit_ms(seen.read_text()) == 70, "an operator's"
        assert 'string_value: "cuda"' in seen.read_text()
        rollback(root, "tiny")
        view.show(first)
        assert "cuda" not in seen.read_text(), "it was not made for a GPU"
        view.show(second)
        assert 'string_value: "cuda"' in seen.read_text(), "also before it is promoted"


@pytest.mark.skipif(count() > 0, reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_before_triton_starts(plain: Artifact, tmp_path: Path) -> None:
    publish(plain, tmp_path / "repository", "tiny", thresholds=None)
    with pytest.raises(ServerError, match=r"Got --target gpu, and CUDA's driver sees 0 GPUs here; expected one\."):
        Server(tmp_path / "repository", settings=ServeOptions(target="gpu").settings()).start()


def test_kubernetes_waits_as_long_as_the_server_does_and_gives_it_its_cache() -> None:
    (deployment,) = [each for each in build(ROOT / "docker/k8s/overlays/gpu") if each["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == START_TIMEOUT_S
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


@pytest.mark.skipif(not tritonserver.serving_python().exists(), reason="no serving environment")
def test_the_user_s_own_libraries_are_found_behind_those_of_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    python = tritonserver.serving_python()
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/cuda/lib64:/opt/tensorrt/lib")
    found = tritonserver.find(python).environment["LD_LIBRARY_PATH"]
    assert found.endswith("/nvidia_pytriton.libs:/opt/cuda/lib64:/opt/tensorrt/lib")
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert tritonserver.find(python).environment["LD_LIBRARY_PATH"].endswith("/nvidia_pytriton.libs")


@pytest.mark.triton
class TestOfTriton:
    """The real one: which config it reads, and what it says where there is no GPU."""

    @pytest.fixture
    def root(self, plain: Artifact, tmp_path: Path) -> Path:
        publish(plain, tmp_path / "repository", "tiny", thresholds=None)
        return tmp_path / "repository"

    @pytest.fixture
    def start(self, root: Path, tmp_path: Path) -> Iterator[Callable[[], str]]:
        """Starts a Triton of its own on the folder, as somebody without Bantam's server would."""
        installation = tritonserver.find()
        backend = tritonserver.lay_out(installation, tmp_path / "backends" / "python", isolated=True)
        ports = free_ports(dict.fromkeys(PROTOCOLS, "127.0.0.1"), dict.fromkeys(PROTOCOLS, 0))
        endpoints = {name: ("127.0.0.1", port) for name, port in ports.items()}
        command = tritonserver.command(installation, backend, root, tmp_path, endpoints, poll=False)
        log = (tmp_path / "log").open("w+")
        started: list[subprocess.Popen[bytes]] = []

        def run() -> str:
            """Its log once it is up."""
            environment = tritonserver.environment(installation)
            options = [*command, "--model-config-name=gpu"]
            started.append(subprocess.Popen(options, env=environment, stdout=log, stderr=log))
            deadline = time.monotonic() + 60
            while "Started HTTPService" not in (said := (tmp_path / "log").read_text()):
                assert time.monotonic() < deadline, said
                assert started[0].poll() is None, said
                time.sleep(0.1)
            return said

        self.address = f"127.0.0.1:{ports['gRPC']}"
        yield run
        for process in started:
            process.terminate()
            process.wait(30)
        log.close()

    def test_the_config_of_the_hardware_is_the_one_that_counts(self, root: Path, start: Callable[[], str]) -> None:
        on_gpu = parse_pbtxt((root / "tiny" / GPU_CONFIG).read_text())
        # There is no GPU: what of it can run here.
        on_gpu.instance_group[0].CopyFrom(parse_pbtxt((root / "tiny" / CONFIG).read_text()).instance_group[0])
        on_gpu.parameters["device"].string_value = "cpu"
        on_gpu.max_batch_size = 3
        (root / "tiny" / GPU_CONFIG).write_text(str(text_format.MessageToString(on_gpu)))
        start()
        with InferenceServerClient(self.address) as client:
            assert client.is_model_ready("tiny")
            assert client.get_model_config("tiny").config.max_batch_size == 3

    @pytest.mark.skipif(count() > 0, reason="there is a GPU")
    def test_a_gpu_that_is_not_there_is_an_error_of_triton(self, start: Callable[[], str]) -> None:
        said = start()
        with InferenceServerClient(self.address) as client:
            assert not client.is_model_ready("tiny")
        (reason,) = tritonserver.reasons(said)
        assert "specifies invalid or unsupported gpu id 0" in reason

    @pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
    @pytest.mark.parametrize("isolated", [False, True])
    def test_an_engine_without_cuda_says_what_it_lacks(self, root: Path, isolated: bool) -> None:
        config = root / "tiny" / CONFIG
        added = 'parameters { key: "device" value { string_value: "cuda" } }'
        config.write_text(config.read_text() + added)
        with pytest.raises(ServerError, match=r"could not load tiny(.|\n)*expected CUDAExecutionProvider\. Install"):
            Server(root, isolated=isolated).start()
