"""Infinity's ``/classify``, with its engine for ONNX Runtime and Optimum's int8 model.

As its documentation has it: ``pip install "infinity-emb[torch,optimum,server]"``, ``infinity_emb v2 --engine optimum
--model-id FOLDER``. On a CPU it takes the ONNX file that has "quantize" in its name, as Optimum's quantizer names it,
and puts transformers' pipeline with ``top_k=None`` around it. What a user has to see to, with release 0.0.78:

- It takes typer below 0.13, so click below 8.2, and Optimum's transformers below 4.58.
- A folder is found only as ``.``, from inside it: Optimum ONNX 0.1.0 takes the names of files below a folder, and it
  hands over whole paths ("Could not find any ONNX files with target file name").
- By default it lets Optimum's optimizer work on the file that it found, and keeps what comes out in the hub's cache
  under the model's name, which is ``.`` for each folder: the next model would get the last one's file. So this is
  switched off. ONNX Runtime does its own fusions when it loads the file, here as in the other peers with this file.
- Its pipeline is not told to cut texts off: one of more tokens than the model has positions is an error. Its own
  warm-up sends such ones, of 514 tokens to a BERT of 512 ("Attempting to broadcast ... 512 by 514"), and it does not
  start unless it is told not to warm up. The bench warms up all its contenders itself.
- Usage statistics are sent unless ``DO_NOT_TRACK`` is set, where posthog is installed.

Threads: as many as there are cores, ONNX Runtime's own choice, for its options cannot be passed on. At most 32 texts
in a batch, its default; the cache of answers is off, which is its default too, but not in its documentation.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.bench.driver import Job

MODEL = "classifier"


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Export and quantize as Optimum's documentation shows it: int8, activations at run time."""
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    ORTModelForSequenceClassification.from_pretrained(checkpoint, export=True).save_pretrained(folder)
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    ORTQuantizer.from_pretrained(folder).quantize(save_dir=folder, quantization_config=config)
    (folder / "model.onnx").unlink()


def serve(folder: Path, job: Job, port: int) -> None:
    """``infinity_emb v2`` on one port of the loopback until SIGTERM, which uvicorn takes."""
    os.environ["DO_NOT_TRACK"] = "1"
    os.chdir(folder)
    from infinity_emb.cli import cli

    sys.argv = [
        "infinity_emb", "v2",
        "--model-id", ".", "--served-model-name", MODEL,
        "--engine", "optimum", "--device", "cpu", "--onnx-disable-optimize", "--no-vector-disk-cache",
        "--no-model-warmup",
        "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning",
    ]  # fmt: skip
    cli()


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    return sorted(path for path in folder.iterdir() if path.is_file())
