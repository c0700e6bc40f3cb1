"""Frames as JPEG, for many who look at them."""

from __future__ import annotations

import asyncio
import threading

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'sttrack-deploy[serve]'")

from sttrack_deploy.serve import pictures
from sttrack_deploy.serve.pictures import KEPT, Pictures
from sttrack_deploy.video.frames import Frame


def a_frame(index: int = 3) -> Frame:
    return Frame(index, index / 25, np.full((90, 160, 3), 40 + index, np.uint8))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The widths that something was encoded for."""
    widths: list[int | None] = []
    encode = pictures._encode

    def counted(image: np.ndarray, width: int | None) -> bytes:
        widths.append(width)
        return encode(image, width)

    monkeypatch.setattr(pictures, "_encode", counted)
    return widths


def test_viewers_of_one_frame_share_its_picture(encoded: list[int | None]) -> None:
    async def look() -> list[bytes]:
        shared = Pictures()
        answers = await asyncio.gather(*(shared.answer(a_frame(), 80, "a") for _ in range(20)))
        answers.append(await shared.answer(a_frame(), 80, "a"))
        assert answers[0].headers["sttrack-frame"] == "3"
        return [bytes(answer.body) for answer in answers]

    bodies = asyncio.run(look())
    assert len(set(bodies)) == 1
    picture = cv2.imdecode(np.frombuffer(bodies[0], np.uint8), cv2.IMREAD_COLOR)
    assert np.asarray(picture).shape == (45, 80, 3)
    assert encoded == [80]


def test_another_source_size_or_drawing_is_another_picture(encoded: list[int | None]) -> None:
    async def look() -> None:
        shared = Pictures()
        for width, source in [(80, "a"), (None, "a"), (80, "b"), (80, None), (80, None)]:
            await shared.answer(a_frame(), width, source)
        for index in range(KEPT + 4):
            await shared.answer(a_frame(index), 80, "a")
        assert len(shared._made) == KEPT

    asyncio.run(look())
    assert encoded[:5] == [80, None, 80, 80, 80]


def test_a_viewer_who_leaves_does_not_take_the_picture_along(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    encode = pictures._encode

    def slow(image: np.ndarray, width: int | None) -> bytes:
        assert go.wait(30)
        return encode(image, width)

    monkeypatch.setattr(pictures, "_encode", slow)

    async def look() -> None:
        shared = Pictures()
        leaves = asyncio.create_task(shared.answer(a_frame(), 80, "a"))
        stays = asyncio.create_task(shared.answer(a_frame(), 80, "a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaves.cancel()
        go.set()
        assert (await stays).body

    asyncio.run(look())


def test_a_picture_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, failures = pictures._encode, [MemoryError("no room")]

    def once(image: np.ndarray, width: int | None) -> bytes:
        if failures:
            raise failures.pop()
        return encode(image, width)

    monkeypatch.setattr(pictures, "_encode", once)

    async def look() -> None:
        shared = Pictures()
        with pytest.raises(MemoryError):
            await shared.answer(a_frame(), 80, "a")
        assert (await shared.answer(a_frame(), 80, "a")).body

    asyncio.run(look())
