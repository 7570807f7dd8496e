"""What kind of transformer a checkpoint is, by its architecture."""

from __future__ import annotations

from typing import Literal

from optimizer.catalog import Checkpoint
from optimizer.load.folder import read_config

Kind = Literal["encoder", "decoder"]

# fmt: off
_DECODERS = frozenset(
    {
        "arcee", "axk1", "axk2", "biogpt", "bloom", "cohere_compass_text", "ctrl", "deepseek_v2", "deepseek_v3",
        "diffllama", "doge", "exaone4", "falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "glm", "glm4",
        "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "helium", "hunyuan_v1_dense",
        "hunyuan_v1_moe", "jamba", "jetmoe", "llama", "minicpm3", "minimax", "ministral", "ministral3", "mistral",
        "mixtral", "modernbert-decoder", "mpt", "nemotron", "olmo", "olmo2", "olmo3", "openai-gpt", "opt",
        "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_5", "qwen3_5_text", "qwen3_moe",
        "qwen3_next", "seed_oss", "smollm3", "stablelm", "starcoder2", "zamba", "zamba2",
    }
)
# fmt: on
"""Model types that transformers has as text classifiers and as causal, not as masked, language models.

Written down, because asking transformers takes seconds; a test asks it.
"""


def kind(checkpoint: Checkpoint) -> Kind:
    """``decoder`` if each token sees those before it alone, and a text is read at its last; else ``encoder``.

    Raises :class:`ModelError` if the checkpoint's config cannot be read.
    """
    config = read_config(checkpoint.folder)
    # EmbeddingGemma has a decoder's type and lets tokens see those behind them; "vision" lets an image's alone.
    both_ways = config.get("use_bidirectional_attention") in (True, "all")
    return "decoder" if config["model_type"] in _DECODERS and not both_ways else "encoder"
