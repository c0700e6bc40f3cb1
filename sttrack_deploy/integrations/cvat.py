"""CVAT: a tracking function for its agents, to follow a rectangle that an annotator drew.

cvat-cli function create-native sttrack --function-module sttrack_deploy.integrations.cvat
cvat-cli function run-agent ID --function-module sttrack_deploy.integrations.cvat
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from sttrack_deploy.engines.registry import DEFAULT_BACKEND
from sttrack_deploy.errors import MissingDependencyError
from sttrack_deploy.runtime.multi_tracker import MultiTracker

__all__ = ["TrackingFunction", "create"]

Image = npt.NDArray[np.uint8]


class TrackingFunction:
    """Implements ``cvat_sdk.auto_annotation.TrackingFunction``; each shape's state is a tracker on one shared engine.

    Attributes:
        spec: says that rectangles can be tracked.
    """

    def __init__(self, tracker: MultiTracker) -> None:
        """Raises MissingDependencyError where cvat-sdk is not installed."""
        try:
            self._sdk: Any = importlib.import_module("cvat_sdk.auto_annotation")
        except ImportError as error:
            raise MissingDependencyError(
                "cvat-sdk", "the tracking function", "pip install 'sttrack-deploy[cvat]'"
            ) from error
        self.spec: Any = self._sdk.TrackingFunctionSpec(supported_shape_types={"rectangle"})
        self._tracker = tracker

    def preprocess_image(self, context: Any, image: Any) -> Image:
        """BGR uint8 ``(height, width, 3)`` of a ``PIL.Image``."""
        del context
        return np.ascontiguousarray(np.asarray(image.convert("RGB"), np.uint8)[..., ::-1])

    def init_tracking_state(self, context: Any, pp_image: Image, shape: Any) -> MultiTracker:
        """A tracker that starts on ``shape``, a rectangle of the points x1, y1, x2, y2 in pixels.

        Raises:
            UsageError: the rectangle has no area in the image.
        """
        del context
        (x1, x2), (y1, y2) = (sorted(map(float, shape.points[axis::2])) for axis in (0, 1))
        tracker = MultiTracker(self._tracker.bundle, self._tracker.engine, self._tracker.policy)
        tracker.init(pp_image, [(x1, y1, x2 - x1, y2 - y1)])
        return tracker

    def track(self, context: Any, pp_image: Image, state: MultiTracker) -> Any:
        """The rectangle on the next image, as a ``TrackableShape``; ``None`` where the target is lost."""
        del context
        (result,) = state.update(pp_image)
        if result.lost:
            return None
        x, y, w, h = result.box
        return self._sdk.TrackableShape(type="rectangle", points=[x, y, x + w, y + h])


def create(
    bundle: str = "",
    engine: str = DEFAULT_BACKEND,
    threads: int = 0,
) -> TrackingFunction:
    """What ``cvat-cli`` makes the function with; parameters by ``-p bundle=str:DIR``.

    Args:
        bundle: folder; empty for the shipped one.
        threads: CPU threads; 0 for all.

    Raises:
        UserError: bundle or engine cannot be used, or cvat-sdk is not installed.
    """
    return TrackingFunction(MultiTracker.from_bundle(bundle or None, engine, threads or None))
