"""The [data] table of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.recipe import DataRecipe, read_recipe
from sttrack_deploy.records import fill

MODELS = Path(__file__).parents[4] / "models"


def test_nothing_said_is_the_project_s_own_way() -> None:
    recipe = fill(DataRecipe, {}, "here")
    assert recipe == DataRecipe()
    assert recipe.mixture == {"images": 0.8, "videos": 0.2}
    assert (recipe.sampling.order, recipe.jitter.rule, recipe.augmentation.rule) == (
        "paced",
        "drift",
        "camera",
    )


def test_tables_are_read() -> None:
    recipe = fill(
        DataRecipe,
        {
            "frames": 6,
            "mixture": {"lasot": 1, "coco": 0.5, "images": 0},
            "sampling": {"order": "causal", "max_gap": 200},
            "jitter": {"rule": "published", "center": 3},
            "sets": {"trackingnet_parts": [0, 3]},
        },
        "here",
    )
    assert recipe.frames == 6
    assert (recipe.share("lasot"), recipe.share("coco"), recipe.share("got10k")) == (1, 0.5, 0)
    assert recipe.sampling.max_gap == 200
    assert recipe.jitter.center == 3
    assert recipe.sets.trackingnet_parts == (0, 3)
    assert recipe.negatives.absent == 0


def test_what_is_held_out() -> None:
    def held_out(**table: Any) -> object:
        return fill(DataRecipe, table, "here").validation()

    assert held_out(mixture={"images": 2, "lasot": 1, "got10k": 3}) == {"images": 2, "got10k": 3}
    assert held_out(mixture={"lasot": 1, "coco": 1}) == {"lasot": 1, "coco": 1}
    assert held_out(mixture={"lasot": 1}, held_out={"got10k": 1}) == {"got10k": 1}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"synthetic": 1}, r"here has unknown keys \['synthetic'\]; known keys are \['augmentation', 'clips'"),
        ({"sampling": {"gap": 1}}, r"here sampling has unknown keys \['gap'\]; known keys are \['max_gap', 'order'"),
        ({"mixture": {"lasott": 1}}, r"mixture has unknown sources \['lasott'\]; known are images, videos"),
        ({"mixture": {"lasot": -1}}, r"mixture\.lasot must be 0 or more, not -1"),
        ({"mixture": {"lasot": 0}}, "mixture gives no source a share"),
        ({"mixture": 1}, "mixture must be a table, not 1"),
        ({"mixture": {"lasot": "1"}}, "mixture.lasot must be a number"),
        ({"jitter": "published"}, "here jitter must be a table"),
        ({"jitter": {"rule": "none"}}, "here jitter: rule is one of drift, published, not 'none'"),
        ({"jitter": {"scale": True}}, "scale must be a number, not True"),
        ({"frames": 2.5}, "frames must be a whole number, not 2.5"),
        ({"frames": 0}, "here: frames must be 1 or more, not 0"),
        ({"partial": 1}, "partial must be true or false"),
        ({"sampling": {"order": 3}}, "order is one of paced, causal, trident, not 3"),
        ({"sampling": {"order": "random"}}, "order is one of paced, causal, trident"),
        ({"negatives": {"absent": 1.5}}, "absent is a share from 0 to 1, not 1.5"),
        ({"sets": {"got10k_split": "test"}}, "got10k_split is one of vottrain"),
        ({"sets": {"trackingnet_parts": [12]}}, r"different numbers from 0 to 11, not \[12\]"),
        ({"sets": {"trackingnet_parts": 3}}, "trackingnet_parts must be a list, not 3"),
        ({"jitter": {"scale": float("nan")}}, "scale must be a number, not nan"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fill(DataRecipe, table, "here")


def test_the_recipes_that_come_with_it() -> None:
    nano = read_recipe(MODELS / "sttrack-nano" / "recipe.toml").data
    assert nano.mixture == {"images": 0.85, "videos": 0.15}
    path = MODELS / "sttrack-r50" / "recipe.toml"
    if path.exists():
        published = read_recipe(path).data
        assert set(published.mixture) == {"lasot", "got10k", "trackingnet", "coco"}
        assert (published.jitter.center, published.jitter.scale, published.sampling.max_gap) == (
            4.5,
            0.5,
            200,
        )
