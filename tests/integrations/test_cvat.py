"""The tracking function, against cvat-sdk's own interface and run by cvat-cli's own agent code."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from sttrack_deploy.errors import UsageError
from sttrack_deploy.integrations import cvat
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.tracker import Tracker

sdk: Any = pytest.importorskip(
    "cvat_sdk.auto_annotation", reason="cvat-sdk is not installed: pip install 'sttrack-deploy[cvat]'"
)

FRAMES = 8


@pytest.fixture(scope="module")
def clip() -> tuple[list[np.ndarray], list[float]]:
    demo = DemoClip()
    x, y, w, h = demo.truth[0]
    return [frame.image for frame in demo.frames(range(FRAMES))], [x, y, x + w, y + h]


def expected(frames: list[np.ndarray], box: list[float]) -> list[list[float]]:
    tracker = Tracker.from_bundle(threads=1)
    tracker.init(frames[0], (box[0], box[1], box[2] - box[0], box[3] - box[1]))
    boxes = [tracker.update(frame).box for frame in frames[1:]]
    return [[x, y, x + w, y + h] for x, y, w, h in boxes]


def picture(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image[..., ::-1])


def test_it_has_the_methods_of_the_protocol_with_its_parameters() -> None:
    function = cvat.create(threads=1)
    assert isinstance(function.spec, sdk.TrackingFunctionSpec)
    assert function.spec.supported_shape_types == frozenset({"rectangle"})
    for name in ("preprocess_image", "init_tracking_state", "track"):
        wanted = list(inspect.signature(getattr(sdk.TrackingFunction, name)).parameters)[1:]
        assert list(inspect.signature(getattr(function, name)).parameters) == wanted


def test_two_shapes_are_followed_apart_and_a_lost_one_is_none(
    clip: tuple[list[np.ndarray], list[float]],
) -> None:
    frames, box = clip
    function = cvat.create(threads=1)
    images = [function.preprocess_image(None, picture(frame)) for frame in frames]
    backwards = [box[2], box[3], box[0], box[1]]
    first, second = (
        function.init_tracking_state(None, images[0], sdk.TrackableShape(type="rectangle", points=points))
        for points in (box, backwards)
    )
    found = [
        (function.track(None, image, first), function.track(None, image, second)) for image in images[1:]
    ]
    for shapes, points in zip(found, expected(frames, box), strict=True):
        for shape in shapes:
            assert isinstance(shape, sdk.TrackableShape)
            assert (shape.type, shape.points) == ("rectangle", points)
    gray = np.full_like(images[0], 120)
    assert [function.track(None, gray, first) for _ in range(3)][-1] is None
    with pytest.raises(UsageError, match="no area"):
        function.init_tracking_state(
            None, images[0], sdk.TrackableShape(type="rectangle", points=[5, 5, 5, 9])
        )


def test_cvat_s_agent_runs_it(clip: tuple[list[np.ndarray], list[float]]) -> None:
    """The code of ``cvat-cli function run-agent`` from loading the module on, without its server."""
    common = pytest.importorskip("cvat_cli._internal.common", reason="cvat-cli is not installed")
    driver = pytest.importorskip("cvat_cli._internal.agent_driver_tracking")
    shared = pytest.importorskip("cvat_cli._internal.agent_driver")
    frames, box = clip
    loader = common.FunctionLoader("sttrack_deploy.integrations.cvat", None, {"threads": 1})
    function = loader.load()
    shared.set_worker_current_function(function)
    driver.AgentTrackingFunctionDriver.init_worker(iter("ab").__next__)
    fields = driver.AgentTrackingFunctionDriver.get_remote_function_fields(function.spec)
    assert fields == {"supported_shape_types": ["rectangle"]}
    shapes = [sdk.TrackableShape(type="rectangle", points=box)]
    states = driver._worker_job_init_tracking(1, picture(frames[0]), shapes)
    found = [driver._worker_job_track(1, picture(frame), states) for frame in frames[1:]]
    assert [shapes[0].points for shapes in found] == expected(frames, box)
