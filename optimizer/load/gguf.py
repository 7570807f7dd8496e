"""GGUF files, llama.cpp's own format, as Hugging Face folders: converted once, into Bantam's cache.

transformers knows how tensors, numbers and tokens are called there, for the architectures that it lists. Only what a
classifier has is taken: the model without its language modelling head, which is trained with a new one.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bantam.artifact import sha256
from bantam.errors import ModelError
from optimizer.catalog import CATALOG
from optimizer.load.folder import CONFIG, cache_folder, made_once
from optimizer.load.weights import has_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENDING = ".gguf"
FACTS = "gguf.json"
"""What the folder keeps of the file that is in no other file of it."""
_SHOWN = 3
_ADVICE = "Expected a model in one GGUF file, whole, of a kind that transformers knows as a text classifier."


@dataclass(frozen=True)
class Facts:
    """What a GGUF file says of itself."""

    architecture: str
    type: str
    """llama.cpp's name for the numbers that most of the weights are in: Q4_K_M, F16 ..."""
    licence: str | None

    @property
    def quantization(self) -> str | None:
        """The type, if it is a quantized one."""
        return None if self.type in ("F32", "F16", "BF16") else self.type


def gguf_file(model: str) -> Path | None:
    """The GGUF file that ``model`` names, by its own path or that of a folder with it; None if it names none.

    Raises :class:`ModelError` for a folder with several.
    """
    path = Path(model).expanduser()
    if path.is_file() and path.suffix == ENDING:
        return path.resolve()
    if model in CATALOG or not path.is_dir() or has_weights(path):
        return None
    found = sorted(path.glob(f"*{ENDING}"))
    if len(found) > 1:
        raise ModelError(
            f"{model} holds {len(found)} GGUF files ({', '.join(file.name for file in found[:_SHOWN])}"
            f"{' ...' * (len(found) > _SHOWN)}); expected one. Give the path of one of them."
        )
    return found[0].resolve() if found else None


def converted(file: Path, log: Callable[[str], None]) -> Path:
    """The Hugging Face folder of a GGUF file in Bantam's cache; made on the first call. See :func:`convert`."""
    target = cache_folder() / "converted" / f"{file.stem}-{sha256(file)[:12]}"
    return made_once(target, lambda folder: convert(file, folder, log))


def facts_in(folder: Path) -> Facts | None:
    """What the GGUF file said that ``folder`` was converted from; None if it was not."""
    try:
        return Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def convert(file: Path, target: Path, log: Callable[[str], None]) -> None:
    """Write the model in ``file`` into the empty folder ``target``: config, weights in safetensors, tokenizer.

    Weights are stored in the 16 or 32 bits that hold them: fp16 has three bits more than bf16, which would round a
    weight in 8 bits by as much as half its step. Raises :class:`ModelError` if transformers cannot read it.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from optimizer.load.model import reading

    facts = read(file)
    log(
        f"{file.name}: {facts.architecture} in {facts.type} becomes a Hugging Face folder, once. A large vocabulary "
        "takes a minute or two"
    )
    with reading(file, f"a model ({facts.architecture})", _ADVICE), tempfile.TemporaryDirectory() as alone:
        # By itself: transformers would also read what lies beside it, such as an adapter.
        (Path(alone) / file.name).symlink_to(file.resolve())
        at: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(alone, **at)
        weights = _loaded(file, Path(alone), facts)
        with torch.device("meta"):
            model = AutoModel.from_config(config, dtype=weights.dtype)
        # Into a model of its own: one that comes from GGUF cannot be saved.
        model.load_state_dict(weights.state_dict(), assign=True)
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(alone, **at).save_pretrained(target)
    # Stored in 16 bits, computed in 32: Gemma's activations are beyond what fp16 can hold.
    saved = json.loads((target / CONFIG).read_text(encoding="utf-8"))
    (target / CONFIG).write_text(json.dumps(saved | {"dtype": "float32"}, indent=2), encoding="utf-8")
    (target / FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")


def read(file: Path) -> Facts:
    """What ``file`` says of itself; raises :class:`ModelError` if it is not one whole GGUF file that can be read."""
    from transformers.integrations.gguf.reader import read_gguf_metadata

    from optimizer.load.model import reading

    with reading(file, "a GGUF file", _ADVICE):
        metadata, _ = read_gguf_metadata(str(file))
    if metadata.get("split.count", 1) > 1:
        raise ModelError(
            f"{file} is one of {metadata['split.count']} parts of a model; expected it in one file.\n"
            "Join them with llama.cpp: llama-gguf-split --merge FIRST-PART JOINED.gguf"
        )
    architecture = str(metadata["general.architecture"])
    known = known_architectures()
    if _plain(architecture) not in {_plain(name) for name in known}:
        import transformers

        raise ModelError(
            f"{file}: its architecture is {architecture!r}, which transformers {transformers.__version__} does not "
            f"read from GGUF.\nKnown: {', '.join(known)}. Or give the model that it was made of, as save_pretrained "
            "wrote it."
        )
    licence = metadata.get("general.license")
    return Facts(architecture, _type(file, metadata), licence if isinstance(licence, str) else None)


def _type(file: Path, metadata: Mapping[str, Any]) -> str:
    """As the file says; where it does not, what most of its matrices are in."""
    from gguf import GGMLQuantizationType, LlamaFileType
    from transformers.integrations.gguf.reader import GgufHeader

    names = {int(kind): kind.name for kind in LlamaFileType if kind != LlamaFileType.GUESSED}
    said = names.get(metadata.get("general.file_type", -1))
    if said is not None:
        return re.sub(r"^(MOSTLY|ALL)_", "", said)
    kinds = Counter(tensor.ggml_type for tensor in GgufHeader.from_file(str(file)).tensors if len(tensor.shape) > 1)
    return GGMLQuantizationType(kinds.most_common(1)[0][0]).name


def known_architectures() -> list[str]:
    """The architectures that transformers reads from GGUF."""
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    return sorted({*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS, "t5encoder"} - {"general", "tokenizer"})


def _plain(architecture: str) -> str:
    """llama.cpp and transformers differ in what they put between words."""
    return re.sub(r"[-_]", "", architecture)


def _loaded(file: Path, folder: Path, facts: Facts) -> PreTrainedModel:
    """The model in ``file`` without its head, each weight a finite number; ``folder`` has that file alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, GgufConfig

    from optimizer.load import guard

    first = {"F32": torch.float32, "BF16": torch.bfloat16}.get(facts.type, torch.float16)
    for dtype in dict.fromkeys((first, torch.bfloat16)):  # what is beyond fp16
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            gguf_file=file.name,
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            trust_remote_code=False,
        )
        guard.check(model, info, {}, file, new=True)
        base: PreTrainedModel = model.base_model
        if _finite(base.parameters()):
            return base
    raise ModelError(f"{file} has weights that are no numbers, or infinite: it is damaged. Copy it again.")


def _finite(parameters: Any) -> bool:
    import torch

    return all(bool(torch.isfinite(part).all()) for part in parameters)
