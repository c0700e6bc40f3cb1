"""Where crops are cut."""

from __future__ import annotations

import torch

from sttrack_deploy.models.training.clips.augmentation import Drift, Published, search_guess, template_guess
from sttrack_deploy.models.training.clips.batch import Draws, seeded

BOX = torch.tensor([100.0, 60.0, 140.0, 150.0]).expand(4000, 3, 4)
SIZE = (40 * 90) ** 0.5
MIDDLE = torch.tensor([120.0, 105.0])
LIMIT = torch.tensor([[320.0, 240.0]]).expand(4000, 2)


def draws() -> Draws:
    return Draws(seeded(1), torch.device("cpu"))


def test_published_numbers() -> None:
    rule = Published()
    template = rule.template(draws(), BOX, 2.0)
    assert template.shape == (4000, 1, 3)
    assert torch.allclose(template, torch.tensor([120.0, 105.0, 2 * SIZE]))
    search = rule.search(draws(), BOX, 5.0, LIMIT)
    assert search.shape == (4000, 2, 3)
    unit = search[..., 2:] / 5
    offset = (search[..., :2] - MIDDLE) / unit
    # Uniform to 4.5 / 2 of the jittered size on both axes, so that the center stays in the crop.
    assert offset.abs().max() <= 2.2501
    assert offset.abs().max() > 2.2
    assert abs(offset.std() - 4.5 / 12**0.5) < 0.03
    spread = (unit / SIZE).log()
    # The mean of two independent normals of 0.5: width and height.
    assert abs(spread.std() - 0.5 / 2**0.5) < 0.01
    assert abs(spread.mean()) < 0.02


def test_published_template_jitter() -> None:
    template = Published(template_center=1.0, template_scale=0.2).template(draws(), BOX, 2.0)
    assert 0.45 < ((template[..., :2] - MIDDLE) / template[..., 2:] * 2).abs().max() <= 0.5001
    assert template[..., 2].std() > 5


def test_drift_is_the_rule_of_the_synthetic_clips() -> None:
    assert torch.equal(Drift().template(draws(), BOX, 2.0), template_guess(draws(), BOX, 2.0))
    assert torch.equal(Drift().search(draws(), BOX, 4.0, LIMIT), search_guess(draws(), BOX, 4.0, LIMIT))
