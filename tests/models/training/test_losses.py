"""The losses, against hand-computed cases and their invariants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sttrack_deploy.models.training.losses import (
    LossWeights,
    corner_targets,
    foreground_cells,
    generalized_iou,
    grade,
)

UNIT = st.floats(0.0, 0.875, width=32)


def test_generalized_iou_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 1, 1], [0.5, 0.5, 0.2, 0.2]])
    b = torch.tensor([[1.0, 1, 3, 3], [0, 0, 1, 1], [2, 0, 3, 1], [0, 0, 1, 1]])
    iou, giou = generalized_iou(a, b)
    assert iou.tolist() == pytest.approx([1 / 7, 1, 0, 0])
    assert giou.tolist()[:3] == pytest.approx([1 / 7 - 2 / 9, 1, -1 / 3])
    assert torch.isfinite(giou).all()  # the last box is degenerate


@given(UNIT, UNIT)
def test_corner_targets_have_the_corner_as_mean(x: float, y: float) -> None:
    cells = 12
    target = corner_targets(torch.tensor([[x, y]]), cells)[0]
    index = torch.arange(cells).float()
    assert float(target.sum()) == pytest.approx(1, abs=1e-5)
    limit = (cells - 1) / cells
    assert float((target.sum(0) * index).sum()) / cells == pytest.approx(min(x, limit), abs=1e-5)
    assert float((target.sum(1) * index).sum()) / cells == pytest.approx(min(y, limit), abs=1e-5)


def test_foreground_cells_are_those_inside() -> None:
    cells = foreground_cells(torch.tensor([[0.25, 0.5, 0.75, 1.0]]), 4).view(4, 4)
    expected = torch.zeros(4, 4)
    expected[2:4, 1:3] = 1
    assert torch.equal(cells, expected)


def graded(peaks: tuple[int, int] | None, present: bool) -> float:
    """The corner term where both maps are flat, or have their peak in the given cells' rows and columns."""
    scores = torch.zeros(2, 1, 8, 8)
    for score, cell in zip(scores, peaks or (), strict=False):
        score[0, cell, cell] = 12.0
    box = torch.tensor([[0.25, 0.25, 0.5, 0.5]])  # corners in cells 2 and 4
    weights = LossWeights(corner=1.0, foreground=1.0)
    similarity = torch.zeros(1, 64)
    return float(grade(box, scores[0], scores[1], similarity, box, torch.tensor([present]), weights).corner)


def test_an_absent_target_asks_for_flat_maps_and_a_present_one_for_sharp_ones() -> None:
    right, wrong, flat = (2, 4), (4, 2), None
    assert graded(flat, present=False) < 1e-5 < graded(right, present=False)
    assert graded(right, present=True) < 0.01 < graded(flat, present=True) < graded(wrong, present=True)


def test_absent_frames_do_not_grade_the_box() -> None:
    truth = torch.tensor([[0.2, 0.2, 0.6, 0.6], [float("nan")] * 4])
    box = torch.tensor([[0.2, 0.2, 0.6, 0.6], [0.9, 0.9, 0.1, 0.1]], requires_grad=True)
    score = torch.zeros(2, 8, 8, requires_grad=True)
    similarity = torch.zeros(2, 64, requires_grad=True)
    present = torch.tensor([True, False])
    terms = grade(box, score, score, similarity, truth, present, LossWeights(corner=1.0, foreground=1.0))
    terms.total.backward()
    assert float(terms.iou) == pytest.approx(1)
    assert torch.isfinite(terms.total)
    assert box.grad is not None
    assert torch.isfinite(box.grad).all()
    assert box.grad[1].abs().sum() == 0
