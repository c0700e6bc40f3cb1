"""Stand-ins for the ``trax`` package: its server, images and regions, as far as they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Bounds = tuple[float, float, float, float]


class TraxException(Exception):
    """What TraX raises for everything."""


@dataclass
class Region:
    x: float
    y: float
    width: float
    height: float
    type: str = "rectangle"

    def bounds(self) -> Bounds:
        return self.x, self.y, self.width, self.height


@dataclass
class Image:
    kind: str
    content: Any

    def type(self) -> str:
        return self.kind

    def path(self) -> str:
        return str(self.content)

    def buffer(self) -> bytes:
        return bytes(self.content)

    def array(self) -> Any:
        return self.content


@dataclass
class Request:
    type: str
    image: dict[str, Image] | None = None
    objects: list[tuple[Region, dict[str, str]]] | None = None


def request(kind: str, path: Path | str, *boxes: Bounds) -> Request:
    """A frame given by its path; new objects are a list on "initialize", absent where there are none."""
    objects: list[tuple[Region, dict[str, str]]] = [(Region(*box), {}) for box in boxes]
    return Request(kind, {"color": Image("path", path)}, objects or None)


@dataclass
class Client:
    """Hands out requests, then quits; keeps the answers."""

    requests: Sequence[Request]
    answers: list[list[tuple[Bounds, float]]] = field(default_factory=list)
    reasons: list[str | None] = field(default_factory=list)

    def wait(self) -> Request:
        index = len(self.answers)
        return self.requests[index] if index < len(self.requests) else Request("quit")

    def status(self, objects: list[tuple[Any, dict[str, str]]]) -> bool:
        assert isinstance(objects, list)
        assert all(set(properties) == {"confidence"} for _, properties in objects)
        self.answers.append([(region.bounds(), float(p["confidence"])) for region, p in objects])
        return True

    def quit(self, reason: str | None = None) -> None:
        self.reasons.append(reason)


class TraxDouble:
    """The module: :attr:`Server` makes one client for each connection, all with the same requests."""

    TraxException = TraxException
    Rectangle = SimpleNamespace(create=Region)

    def __init__(self, *requests: Request) -> None:
        self.requests = requests
        self.clients: list[Client] = []
        self.handshakes: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def Server(self, *arguments: Any, **options: Any) -> Client:
        self.handshakes.append((arguments, options))
        self.clients.append(Client(self.requests))
        return self.clients[-1]
