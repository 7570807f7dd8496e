"""The catalog: true architectures, pinned revisions."""

from __future__ import annotations

import re

import pytest

from optimizer.catalog import CATALOG, LICENCES
from optimizer.config import FinetuneConfig
from optimizer.load.random_init import CONFIGS

PARAMETERS = {
    # Of the base models, head left out, as their authors and the hub count them.
    "minilm": 22_713_216,
    "bert": 109_482_240,
    "distilbert": 66_362_880,
    "tinyllama": 1_034_512_384,
    "bloomz-3b": 3_002_557_440,
    "gemma3-270m": 268_098_176,
}


def test_the_six_names() -> None:
    assert list(CATALOG) == ["minilm", "bert", "distilbert", "tinyllama", "bloomz-3b", "gemma3-270m"]
    assert all(name == entry.name for name, entry in CATALOG.items())


@pytest.mark.parametrize("name", CATALOG)
def test_revision_is_a_commit_and_licence_is_known(name: str) -> None:
    entry = CATALOG[name]
    assert bool(re.fullmatch(r"[0-9a-f]{40}", entry.revision)) == entry.verified == (name != "bloomz-3b")
    assert entry.licence == {"bloomz-3b": "bigscience-bloom-rail-1.0", "gemma3-270m": "gemma"}.get(name, "Apache-2.0")
    assert re.fullmatch(r"[\w-]+/[\w.-]+", entry.hub_id)


@pytest.mark.parametrize("name", CATALOG)
def test_training_defaults_are_fields_of_the_finetune_config(name: str) -> None:
    training = CATALOG[name].training
    config = FinetuneConfig(stage="finetune", name="baseline", **training)
    assert training
    assert {key: getattr(config, key) for key in training} == training


@pytest.mark.parametrize("name", CATALOG)
def test_packaged_config_has_the_published_number_of_parameters(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.from_pretrained(CONFIGS / name))
    assert model.num_parameters() == PARAMETERS[name]


def test_terms_that_count_for_what_is_distilled_say_so_and_where_to_read_them() -> None:
    counting = {name: LICENCES[entry.licence] for name, entry in CATALOG.items() if entry.licence in LICENCES}
    assert set(counting) == {"bloomz-3b", "gemma3-270m"}
    assert all(licence.outputs and licence.title and licence.url for licence in counting.values())
    asking = {name for name, entry in CATALOG.items() if entry.licence_to_accept}
    assert asking == {"gemma3-270m"}


def test_entries_are_frozen() -> None:
    with pytest.raises(AttributeError):
        CATALOG["minilm"].revision = "main"  # type: ignore[misc]
    with pytest.raises(TypeError):
        CATALOG["minilm"].training["learning_rate"] = 1.0  # type: ignore[index]
