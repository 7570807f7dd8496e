"""What a GGUF file says of itself, and what of it transformers would leave out without a word: that is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bantam.errors import ModelError
from optimizer.load.weights import refuse_pointers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

ADVICE = "Expected a model in one GGUF file, whole, of a kind that transformers knows as a text classifier."
HEAD = ("output.weight", "output.bias")
"""The language modelling head, which a classifier has no use for."""
_SHOWN = 3


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


def read(file: Path) -> Facts:
    """What ``file`` says of itself.

    Raises :class:`ModelError` if it is not one whole GGUF file that can be read, or has rotary embeddings that are
    scaled, which transformers does not read.
    """
    from transformers.integrations.gguf.reader import read_gguf_metadata

    from optimizer.load.model import reading

    refuse_pointers([file])
    with reading(file, "a GGUF file", ADVICE):
        metadata, tensors = read_gguf_metadata(str(file))
    if metadata.get("split.count", 1) > 1:
        raise ModelError(
            f"{file} is one of {metadata['split.count']} parts of a model; expected it in one file.\n"
            "Join them with llama.cpp: llama-gguf-split --merge FIRST-PART JOINED.gguf"
        )
    architecture = str(metadata["general.architecture"])
    known = known_architectures()
    if _plain(architecture) not in {_plain(name) for name in known}:
        raise ModelError(
            f"{file}: its architecture is {architecture!r}, which {_transformers()} does not "
            f"read from GGUF.\nKnown: {', '.join(known)}. Or give the model that it was made of, as save_pretrained "
            "wrote it."
        )
    _refuse(file, [*_scaling(metadata, architecture), *(name for name in tensors if name.startswith("rope_f"))])
    licence = metadata.get("general.license")
    return Facts(architecture, _type(file, metadata), licence if isinstance(licence, str) else None)


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor by llama.cpp's name for it, from the header alone.

    By llama.cpp's own reader: transformers' refuses types of numbers (Q5_0) that its older loader reads.
    """
    from gguf import GGUFReader

    return {tensor.name: tuple(int(size) for size in tensor.shape) for tensor in GGUFReader(file).tensors}


def refuse_unread(file: Path, facts: Facts, model: PreTrainedModel) -> None:
    """Raise :class:`ModelError` for what ``file`` has and ``model``, as transformers makes it of the file, has not.

    That are other rotary embeddings, and tensors that it has no place for, but a language modelling head. ``model`` may
    be on any device, ``meta`` too.
    """
    from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    metadata, tensors = read_gguf_metadata(str(file))
    _refuse(file, other_rotation(metadata, facts.architecture, model.config))
    if facts.architecture in GGUF_ARCHS:
        return  # transformers' newer reader says itself what it has no place for
    processor: Any = TENSOR_PROCESSORS.get(facts.architecture, TensorProcessor)
    places = get_gguf_hf_weights_map(model, processor(config=model.config.to_dict()))
    # Experts' weights are parameters of their own in transformers, without .weight behind their names.
    known = {*places, *(f"{name}.weight" for name in places), *HEAD}
    _refuse(file, [name for name in tensors if name not in known])


def refuse_unexpected(file: Path, names: Iterable[str]) -> None:
    """Raise :class:`ModelError` for tensors that transformers has read, by its names, and found no place for."""
    _refuse(file, sorted(name for name in names if not name.startswith("lm_head.")))


def other_rotation(metadata: Mapping[str, Any], architecture: str, config: PreTrainedConfig) -> list[str]:
    """What a file says of its rotary embeddings and ``config`` has otherwise: of some types, transformers reads it not.

    Base, and the width of what is rotated in a head.
    """
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    by_layer = [each for each in rope.values() if isinstance(each, dict)]
    other = []
    base, bases = metadata.get(key := f"{architecture}.rope.freq_base"), _values([rope, *by_layer], "rope_theta")
    if base is not None and bases and not any(isclose(base, each, rel_tol=1e-6) for each in bases):
        other.append(f"{key} = {base:g}")
    width = metadata.get(key := f"{architecture}.rope.dimension_count")
    if width is not None and rope and not by_layer and not hasattr(config, "rotary_dim"):
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        if width != int(head * rope.get("partial_rotary_factor", 1)):
            other.append(f"{key} = {width}")
    return other


def _values(groups: list[dict[str, Any]], key: str) -> list[float]:
    return [group[key] for group in groups if key in group]


def _refuse(file: Path, unread: list[str]) -> None:
    if unread:
        more = f" and {len(unread) - _SHOWN} more" if len(unread) > _SHOWN else ""
        raise ModelError(
            f"Got {file} with {', '.join(unread[:_SHOWN])}{more}, which {_transformers()} does not read.\n"
            "Expected nothing that changes what the model computes. Give the model that it was made of, as "
            "save_pretrained wrote it."
        )


def _scaling(metadata: Mapping[str, Any], architecture: str) -> list[str]:
    """Keys with which rotary embeddings are not what they would be without them."""
    scaling = {key: value for key, value in metadata.items() if key.startswith(f"{architecture}.rope.scal")}
    kind = scaling.get(f"{architecture}.rope.scaling.type", "linear")  # llama.cpp's default
    factors = [f"{architecture}.rope.scaling.attn_factor"]
    if kind != "none":
        factors += [f"{architecture}.rope.scaling.factor", f"{architecture}.rope.scale_linear"]
    same = all(scaling.get(key, 1) in (0, 1) for key in factors)  # 0: not said
    return [] if same and kind in ("none", "linear") else [f"{key} = {value}" for key, value in sorted(scaling.items())]


def _transformers() -> str:
    import transformers

    return f"transformers {transformers.__version__}"


def _type(file: Path, metadata: Mapping[str, Any]) -> str:
    """As the file says; where it does not, what most of its matrices are in."""
    from gguf import GGUFReader, LlamaFileType

    names = {int(kind): kind.name for kind in LlamaFileType if kind != LlamaFileType.GUESSED}
    said = names.get(metadata.get("general.file_type", -1))
    if said is not None:
        return re.sub(r"^(MOSTLY|ALL)_", "", said)
    kinds = Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors if len(tensor.shape) > 1)
    return kinds.most_common(1)[0][0]


def known_architectures() -> list[str]:
    """The architectures that transformers reads from GGUF."""
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    return sorted({*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS, "t5encoder"} - {"general", "tokenizer"})


def _plain(architecture: str) -> str:
    """llama.cpp and transformers differ in what they put between words."""
    return re.sub(r"[-_]", "", architecture)
