"""Frames as JPEG: everybody who looks at the same one is sent the same bytes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import cv2
import numpy as np
import numpy.typing as npt
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from sttrack_deploy.video.frames import Frame

__all__ = ["Pictures"]

JPEG_QUALITY = 85
KEPT = 16


class Pictures:
    """Encodes each frame once for each width; the last few are kept. One event loop uses it."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[str, int, int | None], asyncio.Future[bytes]] = OrderedDict()

    async def answer(
        self, frame: Frame, width: int | None, source: str | None, *, cache: bool = False
    ) -> Response:
        """A frame as JPEG, its number and time (seconds) in the headers.

        Args:
            width: pixels to scale it down to; ``None`` and more than it has leave it as it is.
            source: whose frame of that number it is; ``None`` where it is one of a kind.
            cache: the client may keep it.
        """
        headers = {
            "cache-control": "private, max-age=3600" if cache else "no-store",
            "sttrack-frame": str(frame.index),
            "sttrack-time": f"{frame.time:.6f}",
        }
        if source is None:
            data = await run_in_threadpool(_encode, frame.image, width)
        else:
            data = await self._shared((source, frame.index, width), frame)
        return Response(data, media_type="image/jpeg", headers=headers)

    async def _shared(self, key: tuple[str, int, int | None], frame: Frame) -> bytes:
        made = self._made.get(key)
        if made is None:
            made = asyncio.ensure_future(run_in_threadpool(_encode, frame.image, key[2]))
            self._made[key] = made
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        try:
            # A client that leaves does not take the picture with it.
            return await asyncio.shield(made)
        except BaseException:
            if made.done() and self._made.get(key) is made:
                del self._made[key]
            raise


def _encode(image: npt.NDArray[np.uint8], width: int | None) -> bytes:
    if width is not None and width < image.shape[1]:
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()
