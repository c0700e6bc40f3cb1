"""Answering a TraX client, frame by frame, with one :class:`Tracker` for each object.

Knows the ``trax`` package by the shape of its objects only, so that it can be tested without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from sttrack_deploy.errors import UserError
from sttrack_deploy.runtime.tracker import Tracker

__all__ = ["IMAGE_FORMATS", "Client", "Reply", "Request", "read_image", "serve"]

BgrImage = npt.NDArray[np.uint8]

IMAGE_FORMATS = ("path", "memory", "buffer")
"""What :func:`read_image` takes, by TraX's names."""

Reply = tuple[Any, dict[str, str]]
"""A TraX region and the properties sent with it."""


class Request(Protocol):
    """What the client asks: the fields of ``trax.server.Request`` that are used here.

    Attributes:
        type: ``"initialize"``, ``"frame"`` or ``"quit"``.
        image: TraX images by channel; ``None`` on quit.
        objects: regions of new objects, each with its properties; ``None`` where there are none.
    """

    @property
    def type(self) -> str: ...
    @property
    def image(self) -> Mapping[str, Any] | None: ...
    @property
    def objects(self) -> Sequence[tuple[Any, Mapping[str, str]]] | None: ...


class Client(Protocol):
    """The other end of the line: what is used of ``trax.Server``."""

    def wait(self) -> Request: ...
    def status(self, objects: list[Reply]) -> object: ...


def serve(
    client: Client, new_tracker: Callable[[], Tracker], rectangle: Callable[[float, float, float, float], Any]
) -> None:
    """Answer the client until it quits.

    "initialize" forgets every object (a supervised experiment sends it again after each failure); both it
    and "frame" may bring new ones. Every answer holds one rectangle for each object, in the order in which
    they came, the new ones' as they were given.

    Args:
        new_tracker: makes a tracker for one object; those of a session may share an engine.
        rectangle: makes the TraX region of x, y, w, h in pixels.

    Raises:
        UserError: an image or a region cannot be used.
    """
    trackers: list[Tracker] = []
    while (request := client.wait()).type != "quit":
        if request.type == "initialize":
            trackers.clear()
        frame = read_image((request.image or {}).get("color"))
        replies: list[Reply] = []
        for tracker in trackers:
            result = tracker.update(frame)
            replies.append((rectangle(*result.box), _confidence(result.confidence)))
        for region, _ in request.objects or ():
            # The client is told that only rectangles are taken, and libtrax turns polygons and masks into theirs.
            if region.type != "rectangle":
                raise UserError(f"an object can be given as a rectangle, not as a {region.type} region")
            box = region.bounds()
            tracker = new_tracker()
            tracker.init(frame, box)
            trackers.append(tracker)
            replies.append((rectangle(*box), _confidence(1.0)))
        client.status(replies)


def read_image(image: Any) -> BgrImage:
    """A TraX image as BGR uint8 ``(height, width, 3)``.

    Args:
        image: ``None``, or a TraX image: a path, an encoded JPEG or PNG, or RGB or grey pixels.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    if image is None:
        raise UserError("the client sent no colour image; the tracker needs the channel 'color'")
    kind = image.type()
    if kind == "path":
        try:
            return _decoded(np.fromfile(image.path(), np.uint8), str(image.path()))
        except OSError as error:
            raise UserError(f"cannot read the image {image.path()}: {error.strerror or error}") from error
    if kind == "buffer":
        return _decoded(np.frombuffer(image.buffer(), np.uint8), "the image that the client sent")
    if kind == "memory":
        pixels = image.array()
        if pixels.dtype != np.uint8:
            raise UserError(f"the client sent {pixels.dtype} pixels; only uint8 (RGB or grey) are taken")
        conversion = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_GRAY2BGR
        return np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)
    raise UserError(f"the client sent an image as {kind!r}; images are taken as {', '.join(IMAGE_FORMATS)}")


def _decoded(data: npt.NDArray[np.uint8], name: str) -> BgrImage:
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise UserError(f"{name} cannot be read as an image: it is empty, damaged or not an image")
    return np.asarray(image, np.uint8)


def _confidence(value: float) -> dict[str, str]:
    return {"confidence": f"{value:.6f}"}
