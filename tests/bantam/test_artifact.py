"""Artifacts: whole or absent, and known by their content."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bantam.artifact import (
    LAYOUTS,
    MANIFEST,
    Artifact,
    Compute,
    Manifest,
    Numbers,
    Signature,
    deployable_files,
    seal,
)
from bantam.errors import ArtifactError
from bantam.files import replacing, sweep
from bantam.licence import Licence

SIGNATURE = Signature("single_label", ("ham", "spam"), ("input_ids",), 8)


def make(folder: Path, content: str = "weights", **changes: object) -> Artifact:
    with replacing(folder) as temporary:
        (temporary / "model.bin").write_text(content)
        (temporary / "notes.txt").write_text("not shipped")
        manifest = Manifest("test", "k", "onnx", SIGNATURE, deployable=("model.bin",))
        seal(temporary, replace(manifest, **changes))  # type: ignore[arg-type]
    return Artifact.load(folder, verify=True)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    artifact = make(tmp_path / "a", lineage=({"stage": "test", "config": {"x": 1}},), metrics={"train_s": 1.5})
    assert artifact.manifest.signature == SIGNATURE
    assert artifact.manifest.lineage == ({"stage": "test", "config": {"x": 1}},)
    assert artifact.size_bytes == len("weights")
    assert set(artifact.manifest.files) == {"model.bin", "notes.txt"}


def test_the_digest_tells_contents_apart_and_leaves_measurements_out(tmp_path: Path) -> None:
    first = make(tmp_path / "a", metrics={"train_s": 1.0})
    assert make(tmp_path / "b", metrics={"train_s": 2.0}).digest == first.digest
    assert make(tmp_path / "c", content="other!!").digest != first.digest
    assert make(tmp_path / "d", details={"threshold": 1}).digest != first.digest


def test_licences_are_read_back_and_are_no_content(tmp_path: Path) -> None:
    gemma = Licence("gemma", "gemma3-270m", "Gemma Terms of Use", "https://example.org/terms", outputs=True)
    named = make(tmp_path / "a", licences=(gemma, Licence("mit", "other")))
    assert named.manifest.licences == (gemma, Licence("mit", "other"))
    assert gemma.line == (
        "gemma3-270m: Gemma Terms of Use (https://example.org/terms); counts for what is distilled from its outputs"
    )
    assert Licence("mit", "other").line == "other: mit"
    assert make(tmp_path / "b").digest == named.digest
    raw = json.loads((tmp_path / "a" / MANIFEST).read_text())
    raw["licences"][0]["since"] = "a later version"
    (tmp_path / "a" / MANIFEST).write_text(json.dumps(raw))
    assert Artifact.load(tmp_path / "a").manifest.licences[0] == gemma, "what it does not know is left out"


def test_what_weights_were_stored_in_once_is_no_content(tmp_path: Path) -> None:
    marked = make(tmp_path / "a", quantization="Q4_K_M")
    assert Artifact.load(tmp_path / "a").manifest.quantization == "Q4_K_M"
    assert make(tmp_path / "b").digest == marked.digest


def test_a_manifest_from_before_licences_names_none(tmp_path: Path) -> None:
    make(tmp_path / "a", licences=(Licence("mit", "other"),))
    raw = json.loads((tmp_path / "a" / MANIFEST).read_text())
    del raw["licences"]
    (tmp_path / "a" / MANIFEST).write_text(json.dumps(raw))
    assert Artifact.load(tmp_path / "a").manifest.licences == ()


def test_a_failed_write_leaves_the_old_artifact_and_no_rest(tmp_path: Path) -> None:
    before = make(tmp_path / "a")

    def fail() -> None:
        with replacing(tmp_path / "a") as temporary:
            (temporary / "model.bin").write_text("half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert Artifact.load(tmp_path / "a", verify=True).digest == before.digest
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_replacing_puts_the_new_in_place_of_the_old(tmp_path: Path) -> None:
    make(tmp_path / "a")
    assert make(tmp_path / "a", content="newer").size_bytes == 5
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_sweep_removes_only_what_was_left_half_written(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "b.tmp-123").mkdir()
    (tmp_path / "report.json.tmp-9").write_text("{")
    assert len(sweep(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.bin").unlink(), "missing or not 7 bytes"),
        (lambda folder: (folder / "model.bin").write_text("wei"), "missing or not 7 bytes"),
        (lambda folder: (folder / "model.bin").write_text("WEIGHTS"), "has changed since"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "no readable manifest.json"),
        (lambda folder: (folder / MANIFEST).write_text('{"schema": 99}'), "schema 99, expected 2"),
        (lambda folder: (folder / MANIFEST).unlink(), "no readable manifest.json"),
    ],
)
def test_damage_is_found(tmp_path: Path, damage: object, message: str) -> None:
    make(tmp_path / "a")
    damage(tmp_path / "a")  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=message):
        Artifact.load(tmp_path / "a", verify=True)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "absent.bin"])
@pytest.mark.parametrize("where", ["files", "deployable"])
def test_a_manifest_names_files_of_its_own_folder_alone(tmp_path: Path, where: str, name: str) -> None:
    manifest = make(tmp_path / "a").folder / MANIFEST
    raw = json.loads(manifest.read_text())
    if where == "files":
        raw["files"][name] = raw["files"]["model.bin"]
    else:
        raw["deployable"] = [name]
    manifest.write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match=re.escape(name)):
        Artifact.load(tmp_path / "a")


def test_an_artifact_without_a_file_that_should_ship_is_not_sealed(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.xml should ship but was not written"):
        make(tmp_path / "a", deployable=("model.bin", "model.xml"))


def test_a_name_is_what_a_run_says_and_no_part_of_the_content(tmp_path: Path) -> None:
    artifact = make(tmp_path / "a")
    assert artifact.name == "a"
    named = replace(artifact, name="onnx-int8")
    assert (named.name, named.digest) == ("onnx-int8", artifact.digest)


def test_numbers_are_called_by_their_kind_and_bits() -> None:
    kinds = [Numbers(), Numbers("bfloat", 16), Numbers("normal", 4, "symmetric", "block"), Numbers("int", 8)]
    assert [numbers.label for numbers in kinds] == ["fp32", "bf16", "nf4", "int8"]
    assert Compute(weights=kinds[2], activations=kinds[1]).precision == "nf4"


def test_of_a_checkpoint_all_files_are_shipped_and_of_a_graph_those_of_its_layout(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "model.onnx"):
        (tmp_path / name).touch()
    assert deployable_files(tmp_path, "onnx") == ("model.onnx", "tokenizer.json", "tokenizer_config.json")
    checkpoints = [name for name, layout in LAYOUTS.items() if layout.format == "pytorch"]
    assert {"hf", "hf-quantized"} <= {*checkpoints}
    for name in checkpoints:
        assert deployable_files(tmp_path, name) == tuple(sorted(path.name for path in tmp_path.iterdir()))
