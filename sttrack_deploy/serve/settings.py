"""What a server allows and how much of it, and its refusals."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field
from pathlib import Path

from sttrack_deploy.errors import UserError
from sttrack_deploy.geometry import Box, validate_box

__all__ = [
    "Conflict",
    "Forbidden",
    "Gone",
    "Limits",
    "NotFound",
    "Refusal",
    "Settings",
    "TooLarge",
    "TooMany",
    "checked_box",
    "is_loopback",
    "whole",
]

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one server does at once; what is over it is refused with status 429 or 413.

    Attributes:
        tracks: tracks that exist, running or done.
        targets: boxes in one track.
        streams: sources that are read at once.
        sources: sources that are known.
        viewers: event streams and waiting snapshots that are open at once.
        upload_bytes: one uploaded file.
        stored_bytes: all uploads and rendered videos together.
        idle_seconds: a running track that nobody watches for so long is stopped.
        keep_seconds: a track that is done, and an uploaded video, are deleted when nobody asked for so long.
        results: frames of a live source that are kept for each target.
        pixels: of a frame.
        body_bytes: of a request other than an upload.
    """

    tracks: int = 16
    targets: int = 16
    streams: int = 4
    sources: int = 64
    viewers: int = 64
    upload_bytes: int = GIB
    stored_bytes: int = 8 * GIB
    idle_seconds: float = 30.0
    keep_seconds: float = 3600.0
    results: int = 200_000
    pixels: int = 8192 * 4320
    body_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """Who may ask for what.

    Attributes:
        host: address that the server listens on.
        token: secret that every request must show; ``None`` on the loopback address.
        hosts: further names that the server is reached by (behind a proxy).
        root: folder below which files may be named; ``None``: no file may.
        allow_url: sources may be named by URL.
        allow_camera: sources may be cameras of this machine.
    """

    host: str = "127.0.0.1"
    token: str | None = None
    hosts: tuple[str, ...] = ()
    root: Path | None = None
    allow_url: bool = False
    allow_camera: bool = True
    limits: Limits = field(default_factory=Limits)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Refusal(UserError):
    """A request that is answered with an error; ``str(error)`` goes to the client."""

    status = 400


class Forbidden(Refusal):
    """Not allowed on this server."""

    status = 403


class NotFound(Refusal):
    """There is nothing of that name."""

    status = 404


class Conflict(Refusal):
    """Not possible in the state that it is in."""

    status = 409


class Gone(Refusal):
    """It was there and is no longer kept."""

    status = 410


class TooLarge(Refusal):
    """More bytes than are taken."""

    status = 413


class TooMany(Refusal):
    """A limit is reached; the client may ask again later."""

    status = 429


def whole(value: object, name: str) -> int:
    """Raises Refusal where ``value`` is no whole number from 0 on."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise Refusal(f"{name} is a whole number from 0 on, not {str(value)[:40]!r}")
    return value


def checked_box(box: object, height: int, width: int) -> Box:
    """Raises Refusal where ``box`` is not four usable numbers on a frame of that size."""
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in box)
    ):
        raise Refusal("a box is a list of four numbers, [x, y, w, h] in pixels")
    try:
        return validate_box([float(value) for value in box], height, width)
    except UserError as error:
        raise Refusal(str(error)) from error
