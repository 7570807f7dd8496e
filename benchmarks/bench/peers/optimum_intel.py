"""Optimum Intel 2.1.0: export and OVQuantizer, as its documentation shows them; OpenVINO chooses how it computes.

What a user does: install ``optimum-intel[openvino]`` and ``datasets``; export; tokenize calibration texts; quantize.
2.2.0 is the latest, but requires torchvision, whose build on the package index is for CUDA and breaks a CPU torch. On a
CPU with bf16, OpenVINO's default is to compute in bf16 where weights are not int8; the default is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.bench.driver import Job


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Export, and quantize with the calibration texts or without, as the options say."""
    from optimum.intel import (
        OVConfig,
        OVModelForSequenceClassification,
        OVQuantizationConfig,
        OVQuantizer,
        OVWeightQuantizationConfig,
    )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = OVModelForSequenceClassification.from_pretrained(checkpoint, export=True, load_in_8bit=False)
    quantization = job.options.get("quantize")
    if quantization == "weights":
        config = OVConfig(quantization_config=OVWeightQuantizationConfig(bits=8))
        OVQuantizer.from_pretrained(model).quantize(ov_config=config, save_directory=folder)
    elif quantization == "static":
        from datasets import Dataset

        texts = Dataset.from_dict({"text": job.calibration})
        tokens = texts.map(lambda row: tokenizer(row["text"], truncation=True, max_length=job.max_length))
        config = OVConfig(quantization_config=OVQuantizationConfig(num_samples=len(tokens)))
        OVQuantizer.from_pretrained(model).quantize(
            calibration_dataset=tokens.remove_columns("text"), ov_config=config, save_directory=folder
        )
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load(folder: Path, job: Job) -> Callable[[list[str]], NDArray[np.float32]]:
    """The model with as many threads as all contenders have, fed with numpy arrays, which it takes as well."""
    from optimum.intel import OVModelForSequenceClassification
    from transformers import AutoTokenizer

    model = OVModelForSequenceClassification.from_pretrained(
        folder, ov_config={"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": job.threads}
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def scores(texts: list[str]) -> NDArray[np.float32]:
        batch = tokenizer(
            texts, return_tensors="np", padding=len(texts) > 1, truncation=True, max_length=job.max_length
        )
        return np.asarray(1 / (1 + np.exp(-model(**batch).logits)), dtype=np.float32)

    return scores


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    names = ("openvino_model.xml", "openvino_model.bin", "config.json", "tokenizer.json", "tokenizer_config.json")
    return [folder / name for name in names]
