"""Recipes are read strictly, with one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.config import PRESETS
from sttrack_deploy.models.training.recipe import Recipe, read_recipe

MODELS = Path(__file__).resolve().parents[3] / "models"


def read(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def test_an_empty_recipe_is_the_default_one(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Recipe(PRESETS["sttrack-plain"])


def test_all_tables_are_read(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        """
        seed = 7
        autocast = "fp16"
        [model]
        preset = "sttrack-r50"
        dropout = 0
        memory_semantics = "train"
        [data]
        frames = 5
        [optimizer]
        samples = 1000
        accumulate = 2
        schedule = "step"
        learning_rate = 1
        rates = { backbone = 0.1, "backbone.layer3" = 0.5 }
        freeze = ["backbone.conv1"]
        [losses]
        l1 = 3
        over_frames = "sum"
        """,
    )
    assert (recipe.seed, recipe.autocast, recipe.data.frames) == (7, "fp16", 5)
    assert (recipe.model.backbone, recipe.model.dropout) == ("resnet50", 0.0)
    assert recipe.optimizer.rates == {"backbone": 0.1, "backbone.layer3": 0.5}
    assert recipe.optimizer.freeze == ("backbone.conv1",)
    assert (recipe.losses.l1, recipe.losses.over_frames) == (3.0, "sum")
    # 1000 clips, in steps of two batches of each of two processes.
    assert recipe.optimizer.steps == 0
    assert recipe.length(shares=2) == -(-1000 // (recipe.data.clips * 2 * 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model", "is not a TOML file"),
        ("[model]\npreset = 'huge'", "there is no preset 'huge'"),
        ("[optimizer]\nspeed = 3", "[optimizer] has unknown keys ['speed']"),
        ("[extra]\na = 1", "unknown keys ['extra']"),
        ("bfloat16 = true", "unknown keys ['bfloat16']"),
        ("autocast = 'int8'", "autocast is one of none, bf16, fp16, not 'int8'"),
        ("seed = 1.5", "seed must be a whole number, not 1.5"),
        ("data = 3", "data is a table [data], not 3"),
        ("[data]\nclips = 0", "clips"),
        ("[data]\nclips = 1000000000", "clips must be 10000 or less"),
        ("[data]\nframes = 1000000", "frames must be 1000 or less, not 1000000"),
        ("[data]\nworkers = 3000", "workers must be 256 or less"),
        ("[model]\nhidden_dim = 'wide'", "[model]: hidden_dim must be a whole number, not 'wide'"),
        ("[model]\nencoder_layers = -1", "[model]: encoder_layers is from 1 to 256, not -1"),
        ("[model]\ndropout = 1.5", "dropout is from 0 to 0.99, not 1.5"),
        ("[model]\nmean = [0.5, 0.5]", "mean must be a list of 3"),
        ("[model]\nmemory_semantics = 'other'", "'other'"),
        ("[model]\nheads = 7", "must be divisible"),
        ("[optimizer]\nsteps = 'many'", "steps must be a whole number, not 'many'"),
        ("[optimizer]\nsteps = 99999999999999999999999", "steps"),
        ("[data]\nframes = " + "9" * 5000, "is not a TOML file"),
        ("[optimizer]\nsteps = true", "steps must be a whole number, not True"),
        ("[optimizer]\nsteps = 0", "one of steps and samples"),
        ("[optimizer]\nsteps = 5\nsamples = 5", "one of steps and samples"),
        ("[optimizer]\nlearning_rate = 0", "learning_rate is above 0 and at most 1, not 0"),
        ("[optimizer]\nlearning_rate = nan", "learning_rate"),
        ("[optimizer]\nclip_norm = inf", "clip_norm"),
        ("[optimizer]\nema = 1", "ema is from 0 to below 1"),
        ("[optimizer]\naccumulate = 0", "accumulate is from 1 to 10000"),
        ("[optimizer]\nschedule = 'linear'", "schedule is one of cosine, step"),
        ("[optimizer]\nfreeze = 'backbone'", "freeze must be a list, not 'backbone'"),
        ("[optimizer]\nfreeze = [3]", "freeze must be a text in quotes, not 3"),
        ("[optimizer]\nrates = 3", "rates must be a table, not 3"),
        ("[optimizer]\nrates = { backbone = 0 }", "rates.backbone is above 0"),
        ("[optimizer]\nrates = { backbone = 'low' }", "rates.backbone must be a number, not 'low'"),
        ("[losses]\ngiou = -1", "[losses]: giou is 0 or more, not -1"),
        ("[losses]\ngiou = 0\nl1 = 0", "nothing to learn"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the recipe"):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("folder", "name"), [("sttrack-nano", "sttrack-plain"), ("sttrack-r50", "sttrack-r50")]
)
def test_the_folders_hold_recipes_of_the_presets(folder: str, name: str) -> None:
    assert read_recipe(MODELS / folder / "recipe.toml").model.backbone == PRESETS[name].backbone


def test_the_published_recipe_is_the_published_one() -> None:
    """experiments/sttrack/baseline.yaml and lib/train of the published code."""
    recipe = read_recipe(MODELS / "sttrack-r50" / "recipe.toml")
    o, losses = recipe.optimizer, recipe.losses
    assert (o.learning_rate, o.rates, o.weight_decay, o.decay_on) == (1e-4, {"backbone": 0.1}, 1e-4, "all")
    assert (o.clip_norm, o.warmup, o.schedule, o.drop_at, o.drop_factor) == (0.1, 0, "step", 0.8, 0.1)
    assert o.freeze == ("backbone.conv1", "backbone.layer1")
    assert (losses.giou, losses.l1, losses.corner, losses.foreground) == (5, 2, 0, 0)
    assert losses.over_frames == "sum"
    assert (recipe.data.clips, recipe.data.frames) == (16, 6)
    assert o.samples == 200 * 60_000
    assert recipe.model.memory_semantics == "train"
