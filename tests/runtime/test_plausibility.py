from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from blobs import CROP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sttrack_deploy.bundle import TrackingPolicy
from sttrack_deploy.geometry import Box
from sttrack_deploy.policy import NO_CHANGES, PolicyChanges
from sttrack_deploy.runtime.target import (
    STILL,
    UNMOVED,
    Motion,
    Target,
    TrackResult,
    ahead,
    damped,
    frame_centers,
    motion_between,
    plausibility,
    remember,
    velocity_after,
)

HEIGHT, WIDTH = 480, 640

# A busy machine is no reason to fail.
CALM = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

shares = st.floats(0, 1)
sides = st.floats(10, 5000)
places = st.floats(-5000, 5000)
boxes = st.tuples(places, places, sides, sides)
amounts = st.floats(0, 1000)
motions = st.builds(Motion, st.floats(0, 1e4), st.floats(0, 1e4))
corners = st.tuples(shares, shares, shares, shares).map(
    lambda v: np.array([min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])], np.float32)
)
answers = st.lists(st.tuples(corners, shares), min_size=1, max_size=12)
policies = st.builds(
    TrackingPolicy,
    recovery=st.booleans(),
    hold_below=st.none() | shares,
    max_growth=st.floats(1, 8),
    lead=shares,
    jump_penalty=st.floats(0, 100),
    change_penalty=st.floats(0, 100),
    size_smoothing=st.floats(0, 0.99),
    box_correction=shares,
    reliable_above=shares,
    frame_after=st.integers(0, 4),
)


@CALM
@given(boxes, boxes)
def test_motion_is_finite_and_the_same_both_ways_in_size(before: Box, after: Box) -> None:
    there, back = motion_between(before, after), motion_between(after, before)
    assert all(math.isfinite(v) and v >= 0 for v in there)
    assert there.change == pytest.approx(back.change)
    assert motion_between(before, before) == pytest.approx((0, 0), abs=1e-9)


def test_motion_of_known_boxes() -> None:
    assert motion_between((0, 0, 20, 20), (10, 0, 20, 20)) == pytest.approx((0.5, 0))
    # Twice as large: a = 2, q = 1. Twice as wide: a = sqrt(2), q = 2.
    assert motion_between((0, 0, 20, 20), (-10, -10, 40, 40)) == pytest.approx((0, 1))
    assert motion_between((0, 0, 20, 20), (-10, 0, 40, 20)) == pytest.approx((0, 2 * math.sqrt(2) - 1))


@CALM
@given(motions, motions, amounts, amounts, motions, amounts)
def test_plausibility_falls_with_motion_and_with_the_penalty(
    now: Motion, recent: Motion, jump: float, change: float, more: Motion, extra: float
) -> None:
    value = plausibility(now, recent, jump, change)
    assert 0 <= value <= 1
    further = Motion(now.jump + more.jump, now.change + more.change)
    assert plausibility(further, recent, jump, change) <= value
    assert plausibility(now, recent, jump + extra, change + extra) <= value
    assert (
        plausibility(now, Motion(recent.jump + more.jump, recent.change + more.change), jump, change) >= value
    )
    assert plausibility(STILL, recent, jump, change) == 1
    assert plausibility(now, recent, 0, 0) == 1


@CALM
@given(motions, motions)
def test_the_recent_motion_moves_towards_the_newest(recent: Motion, now: Motion) -> None:
    for old, new, kept in zip(recent, now, remember(recent, now), strict=True):
        assert min(old, new) - 1e-9 <= kept <= max(old, new) + 1e-9


@CALM
@given(boxes, boxes, shares, shares, shares)
def test_a_damped_box_lies_between_the_two(
    before: Box, found: Box, place: float, size: float, less: float
) -> None:
    box = damped(before, found, place, size)
    assert all(map(math.isfinite, box))
    for i in (2, 3):
        assert min(before[i], found[i]) * (1 - 1e-9) <= box[i] <= max(before[i], found[i]) * (1 + 1e-9)
    # Less of the way is never further from where it was.
    held = damped(before, found, place * less, size * less)
    for i in (0, 1):

        def center(b: Box, axis: int = i) -> float:
            return b[axis] + 0.5 * b[axis + 2]

        assert abs(center(held) - center(before)) <= abs(center(box) - center(before)) + 1e-6
        assert abs(math.log(held[i + 2] / before[i + 2])) <= abs(math.log(box[i + 2] / before[i + 2])) + 1e-9
    assert damped(before, found, 1, 1) == found
    assert damped(before, found, 0, 0) == pytest.approx(before, abs=1e-6)


@CALM
@given(st.floats(20, 3000), st.integers(20, 1000), st.integers(20, 1000), shares, shares)
def test_regions_cover_the_frame(side: float, height: int, width: int, u: float, v: float) -> None:
    start = (u * width, v * height)
    centers = frame_centers(side, height, width, start)
    assert len(set(centers)) == len(centers)
    for x in np.linspace(0, width, 9):
        for y in np.linspace(0, height, 9):
            assert any(
                abs(x - cx) <= side / 2 + 1e-6 and abs(y - cy) <= side / 2 + 1e-6 for cx, cy in centers
            )
    far = [math.hypot(cx - start[0], cy - start[1]) for cx, cy in centers]
    assert far == sorted(far)


def run(
    policy: TrackingPolicy, script: list[tuple[np.ndarray, float]], crop: object = CROP
) -> list[TrackResult]:
    """What a target makes of a network's answers."""
    target = Target((300.0, 200.0, 40.0, 60.0), crop, policy)  # type: ignore[arg-type]
    target.search(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    target.learn_correction(script[0][0])
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    results = []
    for box, confidence in script:
        target.search(frame)
        results.append(target.settle(box, confidence, HEIGHT, WIDTH))
    return results


@CALM
@given(policies, answers, st.booleans())
def test_whatever_the_network_says_boxes_are_valid_and_the_same_again(
    policy: TrackingPolicy, script: list[tuple[np.ndarray, float]], snapped: bool
) -> None:
    crop = dataclasses.replace(CROP, search_grid=1 / 64, search_scale_step=0.05) if snapped else CROP
    results = run(policy, script, crop)
    for result, (_, confidence) in zip(results, script, strict=True):
        x, y, w, h = result.box
        assert all(map(math.isfinite, result.box))
        assert w >= 10 - 1e-6
        assert h >= 10 - 1e-6
        assert x < WIDTH
        assert y < HEIGHT
        assert x + w > 0
        assert y + h > 0
        assert 0 <= result.confidence <= confidence
    assert run(policy, script, crop) == results


@CALM
@given(answers, st.booleans())
def test_nothing_is_changed_where_all_priors_are_off(
    script: list[tuple[np.ndarray, float]], recovery: bool
) -> None:
    plain = TrackingPolicy(recovery=recovery)
    results = run(plain, script)
    assert [r.confidence for r in results] == [confidence for _, confidence in script]
    assert plain.override(NO_CHANGES) == plain


def at(cx: float, cy: float, w: float, h: float) -> np.ndarray:
    return np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], np.float32)


# The box of run(): 40 x 60, its search crop is 4 * sqrt(40 * 60) = 196 pixels a side.
SAME = at(0.5, 0.5, 40 / 196, 60 / 196)
ELSEWHERE = at(0.9, 0.5, 40 / 196, 60 / 196)
PART = at(0.5, 0.5, 16 / 196, 24 / 196)


def test_a_jump_is_refused_and_the_box_stays() -> None:
    still = [(SAME, 0.9)] * 5
    free = run(TrackingPolicy(), [*still, (ELSEWHERE, 0.9)])[-1]
    held = run(TrackingPolicy(jump_penalty=3.0), [*still, (ELSEWHERE, 0.9)])[-1]
    assert free.box[0] - 300 == pytest.approx(0.4 * 196, abs=2)
    assert not free.lost
    assert held.lost
    assert held.box[0] - 300 < 0.2 * (free.box[0] - 300)


def test_a_target_that_always_moves_like_that_is_followed() -> None:
    fast = [(at(0.75, 0.5, 40 / 196, 60 / 196), 0.9)] * 6  # a box's size on each frame
    results = run(TrackingPolicy(jump_penalty=1.0), fast)
    assert not any(r.lost for r in results)
    assert results[-1].confidence == pytest.approx(0.9)


def test_a_sudden_change_of_size_is_damped_and_smoothed() -> None:
    plain = run(TrackingPolicy(), [(PART, 0.9)])[0].box
    assert plain[2] == pytest.approx(16, abs=0.5)
    assert run(TrackingPolicy(change_penalty=0.5), [(PART, 0.9)])[0].box[2] > 20
    smooth = run(TrackingPolicy(size_smoothing=0.5), [(PART, 0.9)])[0].box
    assert smooth[2] == pytest.approx(40 * (16 / 40) ** (0.5 * 0.9), rel=0.02)
    less_sure = run(TrackingPolicy(size_smoothing=0.5), [(PART, 0.5)])[0].box
    assert smooth[2] < less_sure[2] < 40


def sides_of(policy: TrackingPolicy, script: list[tuple[np.ndarray, float]]) -> list[tuple[float, float]]:
    """Side and middle column of each search crop."""
    target = Target((300.0, 200.0, 40.0, 60.0), CROP, policy)
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    windows = []
    for box, confidence in script:
        window = target.search(frame).window
        windows.append((float(window.side), window.x1 + window.side / 2))
        target.settle(box, confidence, HEIGHT, WIDTH)
    return windows


def test_recovery_reaches_as_far_as_the_usual_size_asks() -> None:
    script = [(SAME, 0.9)] * 3 + [(PART, 0.5), (PART, 0.1), (PART, 0.1)]
    shrunken = TrackingPolicy(recovery=True, growth=1.0, lost_below=0.25)
    reliable = dataclasses.replace(shrunken, reliable_above=0.7)
    assert sides_of(shrunken, script)[-1][0] == pytest.approx(4 * math.sqrt(16 * 24), rel=0.03)
    assert sides_of(reliable, script)[-1][0] == pytest.approx(196, rel=0.03)


def test_lost_is_said_while_the_box_is_still_followed() -> None:
    policy = TrackingPolicy(recovery=True, lost_below=0.5, found_above=0.6, hold_below=0.2)
    script = [
        (SAME, 0.9),
        (ELSEWHERE, 0.4),
        (SAME, 0.55),
        (SAME, 0.6),
        (ELSEWHERE, 0.1),
        (SAME, 0.25),
        (SAME, 0.3),
    ]
    results = run(policy, script)
    assert [r.lost for r in results] == [False, True, True, False, True, True, True]
    middles = [middle for _, middle in sides_of(policy, script)]
    assert middles[2] > middles[1] + 50  # lost, and followed all the same
    assert middles[5] == middles[4]  # held
    wider = [side for side, _ in sides_of(policy, script)]
    assert wider[6] > wider[5] > wider[4]  # .25 is not enough to be followed again; .3 is

    same = dataclasses.replace(policy, hold_below=0.5)
    assert run(same, script) == run(dataclasses.replace(policy, hold_below=None), script)
    assert run(dataclasses.replace(policy, hold_below=0.9), script) == run(same, script)


def test_where_lost_is_said_does_not_move_the_box() -> None:
    rng = np.random.default_rng(4)
    script = [
        (at(0.5 + x, 0.5, 0.2, 0.3), float(c))
        for x, c in zip(rng.normal(0, 0.1, 60), rng.random(60), strict=True)
    ]
    held = TrackingPolicy(recovery=True, lost_below=0.25, found_above=0.35, hold_below=0.25)
    early = dataclasses.replace(held, lost_below=0.6, found_above=0.7)
    one, other = run(held, script), run(early, script)
    assert [r.box for r in one] == [r.box for r in other]
    assert sum(r.lost for r in other) > sum(r.lost for r in one)


def moving(step: float, lead: float, confidences: list[float]) -> list[float]:
    """How far the search region's middle lies ahead of the last box's, in sizes, for a target that moves steadily."""
    size = math.sqrt(40 * 60)
    target = Target((300.0, 200.0, 40.0, 60.0), CROP, TrackingPolicy(recovery=True, lead=lead))
    frame, offsets, x = np.zeros((HEIGHT, WIDTH, 3), np.uint8), [], 320.0
    for confidence in confidences:
        last = target.box[0] + target.box[2] / 2
        window = target.search(frame).window
        offsets.append((window.x1 + window.side / 2 - last) / size)
        x += step * size
        place = (x - window.x1) / window.side
        target.settle(at(place, 0.5, 40 / window.side, 60 / window.side), confidence, HEIGHT, WIDTH)
    return offsets


def test_the_search_goes_ahead_of_a_fast_target() -> None:
    rest = 1.5 / math.sqrt(40 * 60)  # the crop's window has whole pixels
    assert moving(-0.5, 0.0, [0.9] * 8) == pytest.approx([0.0] * 8, abs=rest)
    led = moving(-0.5, 0.7, [0.9] * 8)
    assert led[0] == pytest.approx(0.0, abs=rest)
    assert led[-1] == pytest.approx(-0.7 * (0.5 - 0.1), abs=0.05)
    assert moving(0.5, 0.7, [0.9] * 8)[-1] == pytest.approx(0.7 * 0.4, abs=0.05)
    assert moving(0.05, 0.7, [0.9] * 8) == pytest.approx([0.0] * 8, abs=rest)


def test_a_held_target_is_looked_for_where_it_was() -> None:
    rest = 1.5 / math.sqrt(40 * 60)
    led = moving(-0.3, 0.7, [0.9] * 4 + [0.1] * 2)
    assert led[4] < -0.08
    assert led[5] == pytest.approx(0.0, abs=rest)


@CALM
@given(boxes, boxes, st.integers(1, 50), shares)
def test_what_is_foreseen_is_finite_and_bounded(before: Box, after: Box, frames: int, lead: float) -> None:
    velocity = velocity_after(UNMOVED, before, after, frames)
    assert all(map(math.isfinite, velocity))
    x, y, w, h = ahead(after, velocity, lead)
    assert (w, h) == after[2:]
    most = 0.8 * math.sqrt(w * h) * (1 + 1e-6) + 1e-6 * (abs(x) + abs(y))
    assert abs(x - after[0]) <= most
    assert abs(y - after[1]) <= most
    assert ahead(after, velocity, 0.0) == after


def test_at_last_the_whole_frame_is_searched() -> None:
    policy = TrackingPolicy(recovery=True, growth=1.0, frame_after=3)
    windows = sides_of(policy, [(SAME, 0.05)] * 60)
    home = windows[0][1]
    assert all(middle == home for _, middle in windows[:3])
    seen = [middle for _, middle in windows[3:]]
    assert seen[1::2] == [home] * len(seen[1::2])  # every second search is where it was last
    assert min(seen) <= 98
    assert max(seen) >= WIDTH - 98


def test_the_users_choice_over_the_bundles() -> None:
    own = TrackingPolicy(lost_below=0.2, found_above=0.5, max_growth=3.0)
    assert own.override(PolicyChanges(lost_below=0.4)) == dataclasses.replace(
        own, lost_below=0.4, found_above=0.7
    )
    assert own.override(PolicyChanges(lost_below=0.9)).found_above == 1.0
    changed = own.override(PolicyChanges(recovery=False, max_growth=4.0, frame_after=0))
    assert changed == dataclasses.replace(own, recovery=False, max_growth=4.0, frame_after=0)
