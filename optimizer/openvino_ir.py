"""Models in OpenVINO: read from ONNX or IR, and saved so that equal models give equal files."""

from __future__ import annotations

from pathlib import Path

import openvino

from bantam.artifact import LAYOUTS, Artifact


def read(artifact: Artifact) -> openvino.Model:
    """The model of an artifact in layout ``onnx`` or ``openvino``.

    Weights in a file beside the graph (``model.onnx.data``, ``model.bin``) are mapped, not copied; those in
    ``model.onnx`` itself are read into memory.
    """
    source = artifact.folder / LAYOUTS[artifact.manifest.layout].weights[0]
    model = openvino.convert_model(source) if artifact.manifest.layout == "onnx" else openvino.Core().read_model(source)
    _name_by_place(model)  # NNCF notes names in what it makes
    return model


def save(model: openvino.Model, folder: Path) -> None:
    """Write ``model.xml`` and ``model.bin``, not compressed to fp16: fp32 means fp32."""
    _name_by_place(model)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


def _name_by_place(model: openvino.Model) -> None:
    """Name all nodes but the inputs by their place.

    Nodes without a name of their own are named by a counter of the process (``Constant_22273``), so that a resumed run
    would write other files. Tensors, which are what a runtime asks for, keep their names.
    """
    for position, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() != "Parameter":
            node.set_friendly_name(f"{node.get_type_name()}_{position}")
