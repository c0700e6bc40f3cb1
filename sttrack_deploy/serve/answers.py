"""Reading requests and writing answers: JSON, pictures, event streams."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sttrack_deploy.records import parse_integer
from sttrack_deploy.serve.downloads import result_line
from sttrack_deploy.serve.settings import Refusal, TooLarge, TooMany
from sttrack_deploy.serve.track import Event, Track, Waiters
from sttrack_deploy.video.frames import Frame

__all__ = [
    "asked_after",
    "asked_width",
    "attachment",
    "event",
    "event_lines",
    "flag",
    "http_error",
    "json_answer",
    "json_body",
    "newer",
    "refused",
    "stem",
]

WAIT_SECONDS = 15.0  # that a snapshot waits for a newer frame
MOST_WIDTH = 4096


async def json_body(request: Request, most_bytes: int, fields: set[str]) -> dict[str, Any]:
    """A JSON object of known fields; no body is an empty one.

    Raises:
        Refusal: anything else.
    """
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most_bytes:
            raise TooLarge(f"a request has at most {most_bytes} bytes")
    # Another site's form cannot send this type.
    if data and request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refusal("send application/json")
    try:
        body = json.loads(data or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refusal("the body is not JSON") from error
    if not isinstance(body, dict):
        raise Refusal("the body is a JSON object")
    unknown = sorted(set(body) - fields)
    if unknown:
        known = ", ".join(sorted(fields)) or "none"
        raise Refusal(f"unknown field {unknown[0][:40]!r}; fields are: {known}")
    return body


def flag(body: dict[str, Any], name: str, default: bool = False) -> bool:
    """A boolean field."""
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise Refusal(f"{name} is true or false")
    return value


def asked_width(request: Request) -> int | None:
    """``width``: pixels that a picture is scaled down to."""
    return _parameter(request, "width", 16, MOST_WIDTH)


def asked_after(request: Request) -> int | None:
    """``after``: the frame that the client has."""
    return _parameter(request, "after", -1, 2**53)


def _parameter(request: Request, name: str, least: int, most: int) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value = parse_integer(text)
    except ValueError:
        value = most + 1
    if not least <= value <= most:
        raise Refusal(f"{name} is a whole number from {least} to {most}")
    return value


def json_answer(value: object, status: int = 200) -> Response:
    """JSON that is never cached."""
    return JSONResponse(value, status_code=status, headers={"cache-control": "no-store"})


async def newer(
    waiters: Waiters, newest: Callable[[], Frame | None], after: int | None, more: Callable[[], bool]
) -> Frame | None:
    """The newest frame, once there is one that is newer than ``after`` or no more will come."""
    for _ in range(1000):
        with waiters.ticket() as ticket:
            frame = newest()
            if frame is not None and (after is None or frame.index != after):
                return frame
            if not more() or not await ticket.wait(WAIT_SECONDS):
                break
    return newest()


def event(kind: str, number: int | None, data: object) -> str:
    """One server-sent event."""
    name = "" if kind == "results" else f"event: {kind}\n"
    return f"{name}{'' if number is None else f'id: {number}{chr(10)}'}data: {json.dumps(data)}\n\n"


def event_lines(events: Sequence[Event]) -> Iterator[str]:
    """Events of a track's log; a result is a line of the JSON lines format."""
    for one in events:
        if one.kind == "results":
            lines = "".join(f"data: {result_line(found)}\n" for found in one.data)
            yield f"id: {one.sequence}\n{lines}\n"
        else:
            yield event(one.kind, one.sequence, one.data)


def attachment(data: bytes, media_type: str, name: str) -> Response:
    """A file to save."""
    disposition = f"attachment; filename*=UTF-8''{quote(name)}"
    headers = {"content-disposition": disposition, "cache-control": "no-store"}
    return Response(data, media_type=media_type, headers=headers)


def stem(track: Track) -> str:
    """What a track's files are named after."""
    title = track.source.title
    if track.source.live:  # an address or "Camera 0": no suffix to take off
        return re.sub(r"[^\w.-]+", "_", title).strip("_.") or "track"
    name = title.rpartition("/")[2]
    return name.rpartition(".")[0] or name or "track"


async def refused(_: Request, error: Exception) -> Response:
    """What a UserError becomes."""
    status = error.status if isinstance(error, Refusal) else 400
    headers = {"cache-control": "no-store"}
    if status == TooMany.status:
        headers["retry-after"] = "5"
    return JSONResponse({"error": str(error)}, status_code=status, headers=headers)


async def http_error(_: Request, error: Exception) -> Response:
    """What Starlette raises, as JSON like every other answer."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
