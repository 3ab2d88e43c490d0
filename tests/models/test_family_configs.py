"""Each family's shipped recipe runs, with tiny weights in place of the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffdpo.config import ImageConfig, load_config
from diffdpo.training.image.runner import run_images

CONFIGS = Path(__file__).parents[2] / "configs"
FAMILIES = {"shapes": "sd15", **{name: name for name in ("sd15", "sd21", "sdxl", "sd3", "flux")}}
RECIPES = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem.split("_")[0] in FAMILIES)
PUBLISHED = [path for path in RECIPES if not path.stem.startswith("shapes")]
SMALL = ("data.size=16", "data.held_out_share=0", "training.steps=1", "training.batch_size=2")
PLAIN = ("training.accumulation=1", "training.pairs_per_step=2", "training.precision=fp32")


def test_every_key_of_a_recipe_says_what_it_is():
    lines = [(path.name, line) for path in PUBLISHED for line in path.read_text(encoding="utf-8").splitlines()]
    keys = [(name, line) for name, line in lines if not line.startswith("#") and not line.endswith(":")]
    assert len(keys) > 20 * len(PUBLISHED)
    assert [line for line in keys if " # " not in line[1]] == []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs_with_tiny_weights(recipe, sample, make_store, tmp_path):
    model = sample(FAMILIES[recipe.stem.split("_")[0]])
    own = (f"model.path={model}", f"data.path={make_store(4)}", f"output={tmp_path / 'run'}")
    config = load_config(recipe, [*own, *SMALL, *PLAIN])
    assert isinstance(config, ImageConfig)
    results = run_images(config)
    if config.method == "dpo":
        assert results["figures"]["loss"] == pytest.approx(0.69314718, abs=1e-8)
    assert results["exported"] == ("lora" if config.lora.rank else "model")
