"""Fp16 on a GPU: is it right, and how fast is it beside PyTorch and the CPU? In at most 10 minutes, and no network.

``python -m benchmarks.gpu --wheels FOLDER --out gpu.json``: makes the variants of recipe ``gpu`` of MiniLM and BERT
base (random weights of the true architectures, or ``--weights`` for checkpoints that are there), and writes for each
the largest difference of a score to PyTorch in fp32, p50 of one text, and texts a second of lists, at 32, 128 and
512 tokens. ``--device cpu --quick`` runs the same code where there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.wheels import install, joined

if TYPE_CHECKING:  # which needs what may have to be brought
    from benchmarks.gpu.measured import Plan

NEEDED = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "onnx_ir", "pydantic", "psutil", "filelock")
MODELS = "minilm,bert"
BROUGHT = "BANTAM_BENCHMARK_WHEELS"
"""Set where the wheels are installed already: to the seconds that this took, which count as time spent."""


def main() -> None:
    """Bring what is lacking, look at what is there, make, measure, write."""
    asked = _parse()
    started = time.monotonic() - float(os.environ.get(BROUGHT, "0"))
    if asked.wheels and not os.environ.get(BROUGHT):
        with tempfile.TemporaryDirectory() as folder:
            install(joined(asked.wheels, Path(folder)), Path(folder, "site"))
            path = os.pathsep.join([str(Path(folder, "site")), *filter(None, [os.environ.get("PYTHONPATH")])])
            # The wheels' own onnxruntime is to be the one that is found, from the start.
            again = [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:]]
            spent = f"{time.monotonic() - started:.1f}"
            sys.exit(subprocess.run(again, env={**os.environ, "PYTHONPATH": path, BROUGHT: spent}).returncode)
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        sys.exit(f"Got a Python without {', '.join(missing)}; expected these. Bring their wheels: --wheels FOLDER.")
    _run(asked, started)


def _run(asked: argparse.Namespace, started: float) -> None:
    import onnxruntime
    import torch

    from bantam.machine import describe_machine, versions
    from benchmarks.gpu.measured import QUICK, Plan

    there = {"cuda": torch.cuda.is_available(), "providers": onnxruntime.get_available_providers()}
    if asked.device == "cuda" and not there["cuda"]:
        sys.exit(f"Got --device cuda, and PyTorch {torch.__version__} sees no GPU; expected one, or --device cpu.")
    plan = Plan(asked.device, started + 60 * asked.minutes, **(QUICK if asked.quick else {}))
    models: dict[str, Any] = {}
    result = {
        "machine": describe_machine().model_dump(exclude_none=True),
        "versions": versions(),
        "there": there,
        "device": asked.device,
        "quick": asked.quick,
        "models": models,
    }

    def write() -> None:
        """What is there, whatever comes."""
        result["seconds"] = round(time.monotonic() - started)
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    for model in asked.models.split(","):
        models[model] = {"left_out": "no time was left"}
        if time.monotonic() < plan.deadline:
            models[model] = {"weights": "own" if asked.weights else "random"}
            _one(model, asked, plan, models[model], write)
        write()
    print(asked.out)


def _one(model: str, asked: argparse.Namespace, plan: Plan, result: dict[str, Any], write: Callable[[], None]) -> None:
    """Make and measure a model's variants, and ``write`` after each; a model that cannot be made says so."""
    from bantam.errors import BantamError
    from bantam.report.schema import BASELINE
    from benchmarks.gpu.measured import make, measure

    def note(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    only = [name for name in asked.variants.split(",") if name]
    try:
        made = make(model, asked.weights, plan, asked.build / f"gpu-{Path(model).name}", only)
    except BantamError as exc:
        note(f"{model}: {exc}")
        result["failed"] = str(exc)
        return
    figures = result["variants"] = {name: {"failed": str(exc)} for name, exc in made.failed.items()}
    wanted = {name: each for name, each in made.artifacts.items() if not only or name in (*only, BASELINE)}
    for name, found in measure(wanted, plan, note):
        figures[name] = found
        write()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--models", default=MODELS, help="names of the catalog, or folders, separated by commas")
    parser.add_argument("--weights", action="store_true", help="the models' own, in place of random ones")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--variants", default="", help="of recipe gpu, separated by commas; all if left out")
    parser.add_argument("--quick", action="store_true", help="short and few texts: to see that it runs")
    parser.add_argument("--minutes", type=float, default=8.5, help="nothing is begun later")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels, large ones in pieces, that are not installed")
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
