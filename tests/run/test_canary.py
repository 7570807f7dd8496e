"""A staged version is asked what it was measured to answer: on the same kind of CPU, elsewhere, with other weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam import machine
from bantam.artifact import Artifact, Compute, Numbers, seal
from bantam.errors import RepositoryError, ServerError, UnfaithfulError
from bantam.run.canary import ask
from bantam.run.evidence import elsewhere, read
from serving import tritonserver
from serving.repository import Version, take, verified
from serving.version_folder import EVIDENCE
from tests.run.versions import TEXTS, evidence, staged

INT8 = Numbers("int", 8, "asymmetric", "tensor", True)
triton = [
    pytest.mark.triton,
    pytest.mark.skipif(
        not tritonserver.serving_python().exists(), reason=f"no serving environment at {tritonserver.serving_python()}"
    ),
]


def needs_triton(test: Callable[..., None]) -> Callable[..., None]:
    for mark in triton:
        test = mark(test)
    return test


def off(artifact: Artifact, by: float) -> str:
    """Evidence of scores that are so far from what it answers."""
    scores = np.array(json.loads(evidence(artifact))["scores"]) + by
    return evidence(artifact, scores=scores.tolist())


def in_int8(artifact: Artifact) -> Artifact:
    """The same as if it computed in integers."""
    weights = Numbers("int", 8, "symmetric", "channel")
    return replace(artifact, manifest=replace(artifact.manifest, compute=Compute(weights, INT8, batch_invariant=False)))


@needs_triton
@pytest.mark.parametrize("layout", ["onnx", "openvino"])
def test_on_the_same_kind_of_cpu_it_answers_as_it_was_measured(
    make_artifact: Callable[..., Artifact], tmp_path: Path, layout: str
) -> None:
    found = ask(staged(make_artifact(layout=layout), tmp_path), str(tmp_path))
    assert (found.rows, found.allowed, found.warnings) == (len(TEXTS), 1e-3, ())
    assert found.max_score_difference is not None
    assert found.max_score_difference < 1e-5


@needs_triton
@pytest.mark.parametrize("by", [0.01, float("nan")])
def test_scores_that_differ_are_refused(tiny_artifact: Artifact, tmp_path: Path, by: float) -> None:
    version = staged(tiny_artifact, tmp_path, off(tiny_artifact, by))
    with pytest.raises(UnfaithfulError, match=r"tiny/1: on the 5 texts .* expected at most 0\.001 on this kind of CPU"):
        ask(version, str(tmp_path))


@needs_triton
def test_other_weights_are_refused_also_if_the_manifest_was_written_for_them(
    tiny_artifact: Artifact, tmp_path: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    version = staged(tiny_artifact, tmp_path)
    path = version.folder / "model.onnx"
    model = onnx.load(path)
    (head,) = (weights for weights in model.graph.initializer if weights.name == "head")
    head.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(head), "head"))
    onnx.save(model, path)
    with pytest.raises(ServerError, match=r"tiny, version 1, is not as it was published: .*model\.onnx"):
        ask(version, str(tmp_path))
    seal(version.folder, Artifact.described(version.folder).manifest)
    verified(version.folder)
    with pytest.raises(UnfaithfulError, match="It is not promoted; what is served stays"):
        ask(version, str(tmp_path))


@needs_triton
def test_on_another_kind_of_cpu_the_bound_is_wider_and_a_warning_says_what_is_unproven(
    tiny_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    int8 = in_int8(tiny_artifact)
    near = staged(int8, tmp_path, off(int8, 0.05))
    far = staged(int8, tmp_path, off(int8, 0.2), "far")
    fp32 = staged(tiny_artifact, tmp_path, off(tiny_artifact, 0.05), "fp32")
    monkeypatch.setattr(machine, "_linux_processor", lambda: ("Planted CPU", ("avx2", "fma")))
    found = ask(near, str(tmp_path))
    assert found.allowed == 0.1
    (warning,) = found.warnings
    assert "was measured on Some CPU, 2 cores (" in warning
    assert "this is a CPU of another kind (x86_64 avx2 fma)" in warning
    assert warning.endswith(f"prove it: bantam measure tiny --repository {tmp_path}")
    with pytest.raises(UnfaithfulError, match=r"at most 0\.1 on a CPU of another kind \(x86_64 avx2 fma\)"):
        ask(far, str(tmp_path))
    with pytest.raises(UnfaithfulError, match=r"at most 0\.001 on a CPU of another kind"):
        ask(fp32, str(tmp_path))


@needs_triton
def test_what_was_scored_on_a_gpu_is_asked_on_the_cpu_with_the_wider_bound(
    make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    half = make_artifact(compute=Compute(Numbers("float", 16), Numbers("float", 16), devices=("cpu", "cuda")))
    near, far = ({**json.loads(off(half, by)), "device": "cuda"} for by in (0.005, 0.05))
    found = ask(staged(half, tmp_path, json.dumps(near)), str(tmp_path))
    assert found.allowed == 0.01
    (warning,) = found.warnings
    assert "was measured on the GPU of Some CPU, 2 cores; this is a CPU (" in warning
    with pytest.raises(UnfaithfulError, match=r"expected at most 0\.01 on a CPU \(.*\), and no GPU\. It is not"):
        ask(staged(half, tmp_path, json.dumps(far), "far"), str(tmp_path))
    with pytest.raises(UnfaithfulError, match=r"expected at most 0\.001 on this kind of CPU"):
        ask(staged(half, tmp_path, off(half, 0.005), "here"), str(tmp_path))


@needs_triton
def test_a_forced_instruction_set_is_another_kind_of_cpu(
    make_artifact: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = staged(in_int8(make_artifact(layout="openvino")), tmp_path)
    if machine.cpu_kind("openvino").endswith("avx2 fma"):
        pytest.skip("this CPU has no more than AVX2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = ask(version, str(tmp_path))
    assert (found.allowed, len(found.warnings)) == (0.1, 1)


@needs_triton
def test_without_evidence_it_has_to_answer_and_that_is_said(tiny_artifact: Artifact, tmp_path: Path) -> None:
    found = ask(staged(tiny_artifact, tmp_path, ""), str(tmp_path))
    assert (found.rows, found.max_score_difference, found.allowed) == (0, None, None)
    assert found.warnings[0].endswith(
        "tiny/1 has no evidence.json: it answers, but whether as it was measured to, nobody can say here."
    )


def unsealed(version: Version) -> None:
    """As a version was before its manifest had the digest of its evidence."""
    manifest = Artifact.described(version.folder).manifest
    details = {key: value for key, value in manifest.details.items() if key != "evidence"}
    content = (version.folder / EVIDENCE).read_bytes()
    (version.folder / EVIDENCE).unlink()
    seal(version.folder, replace(manifest, details=details))
    (version.folder / EVIDENCE).write_bytes(content)


def test_evidence_from_before_it_was_sealed_and_the_kind_of_cpu_was_recorded_can_be_read(
    tiny_artifact: Artifact, tmp_path: Path
) -> None:
    known = json.loads(evidence(tiny_artifact)) | {"elsewhere": 1e9}
    del known["cpu"]
    version = staged(tiny_artifact, tmp_path, json.dumps(known))
    unsealed(version)
    assert (read(version.folder).cpu, len(read(version.folder).texts)) == ("", len(TEXTS))
    assert read(version.folder).device == "cpu"
    assert take(version.folder, tmp_path / "to", "tiny").changed is True


def test_evidence_that_is_not_what_was_published_is_refused(tiny_artifact: Artifact, tmp_path: Path) -> None:
    version = staged(tiny_artifact, tmp_path / "from")
    with (version.folder / EVIDENCE).open("a") as file:
        file.write(" ")
    with pytest.raises(RepositoryError, match=r"evidence\.json: its content has changed since it was written"):
        read(version.folder)
    with pytest.raises(RepositoryError, match=r"tiny, version 1, is not as it was published: .*evidence\.json"):
        take(version.folder, tmp_path / "to", "tiny")
    (version.folder / EVIDENCE).unlink()
    taken = take(version.folder, tmp_path / "to", "tiny")
    assert verified(taken.folder, evidence=True).manifest == verified(version.folder).manifest, "it may be removed"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"texts": [], "scores": [], "actual": []}, "got no texts, expected at least one"),
        ({"scores": [[0.5, 0.5, 0.5]]}, "got 1 rows of scores, expected 5 of 3 numbers, one a text"),
        ({"scores": [[0.5]] * 5}, "got 5 rows of scores, expected 5 of 3 numbers"),
        ({"actual": []}, "got 0 rows of actual, expected 5 of 3 numbers"),
        ({"colour": "red"}, "colour"),
        ({"texts": 5}, "TypeError"),
    ],
)
def test_evidence_that_says_too_little_is_refused(
    tiny_artifact: Artifact, tmp_path: Path, changed: Any, said: str
) -> None:
    with pytest.raises(RepositoryError, match=rf"evidence\.json cannot be read .*{said}.* publish the model again"):
        read(staged(tiny_artifact, tmp_path, evidence(tiny_artifact, **changed)).folder)


@pytest.mark.parametrize(
    ("compute", "bound"),
    [
        (Compute(), 1e-3),
        (Compute(weights=Numbers("int", 8, "symmetric", "channel")), 1e-3),
        (Compute(Numbers("bfloat", 16), Numbers("bfloat", 16)), 0.01),
        (Compute(Numbers("float", 16), Numbers("float", 16)), 0.01),
        (Compute(Numbers("int", 8, "symmetric", "channel"), INT8, batch_invariant=False), 0.1),
    ],
)
def test_how_far_scores_may_be_apart_elsewhere_follows_from_what_it_computes_in(compute: Compute, bound: float) -> None:
    assert elsewhere(compute) == bound
