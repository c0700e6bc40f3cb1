"""The official VOT toolkit drives this tracker: its entry in a workspace (``trackers.ini``), and a TraX server.

The toolkit and TraX are optional; ``sttrack_deploy.cli.trax_server`` alone imports ``trax``, and only when it runs.
Here the package is known by the shape of its objects only, so that this can be tested without it. A client is
answered frame by frame, with one :class:`Tracker` for each object.

Seen with vot-toolkit 0.9.0, 0.8.1 and 0.7.4: the first two run unsupervised experiments only (supervised,
multistart and realtime ones fail in the toolkit, with any TraX tracker); 0.7.4 runs all of them, but no
sequence with an object that appears after the first frame. attributee 0.1.10, which all of them would
install, cannot be imported on Python 3.11 and later: hence the pin in the extra ``vot``.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

import sttrack_deploy
from sttrack_deploy.errors import UsageError, UserError, one_line
from sttrack_deploy.files import atomic_path
from sttrack_deploy.policy import NO_CHANGES, PolicyChanges
from sttrack_deploy.runtime.tracker import Tracker

__all__ = [
    "CONFIG",
    "IMAGE_FORMATS",
    "TRACKERS",
    "Change",
    "Client",
    "Reply",
    "Request",
    "TrackerEntry",
    "as_identifier",
    "merge",
    "read_image",
    "serve",
    "write_entry",
]


TRACKERS = "trackers.ini"
CONFIG = "config.yaml"
"""What ``vot initialize`` writes: a folder that has it is a workspace."""

ENVIRONMENT_PREFIX = "STTRACK"
"""The server also reads its options from environment variables that begin so."""
SERVER = "sttrack_deploy.cli.trax_server"

_IDENTIFIER = re.compile(
    "[a-zA-Z0-9_][a-zA-Z0-9_-]*"
)  # a hyphen first would be an option on the command line
_HEADER = re.compile(r"\[(.+)\]")


_OPTION_NAMES = {"recovery": "recover"}
"""Of the policy's settings, where the command's option is called otherwise."""


class Change(str, Enum):
    """What happened to a section."""

    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class TrackerEntry:
    """One section of ``trackers.ini``.

    Attributes:
        identifier: the section's name, what is typed after ``vot evaluate``; also the label in reports.
        bundle: absolute, because the toolkit starts trackers in a temporary folder.
        changes: to the bundle's tracking policy.
    """

    identifier: str
    bundle: Path
    engine: str
    threads: int | None = None
    changes: PolicyChanges = NO_CHANGES

    def options(self) -> dict[str, str]:
        """The section's keys and values, not escaped.

        Raises:
            UsageError: the toolkit could not take the identifier, or would not read a path as it is.
        """
        check_identifier(self.identifier)
        # The toolkit replaces PYTHONPATH by ``paths``; a package that is not installed would not be found.
        package = str(Path(sttrack_deploy.__file__).resolve().parents[1])
        options = {
            "label": self.identifier,
            "protocol": "traxpython",
            "command": SERVER,
            # The toolkit's own Python would be taken otherwise; it may live in another environment.
            "python": shlex.quote(sys.executable),
            "paths": package,
        }
        settings = {
            "bundle": str(self.bundle.absolute()),
            "engine": self.engine,
            "threads": self.threads,
            **{_OPTION_NAMES.get(name, name): value for name, value in self.changes.options().items()},
        }
        for name, value in settings.items():
            if value is not None:
                # traxpython passes no arguments; the environment is all that reaches the server.
                text = str(int(value)) if isinstance(value, bool) else str(value)
                options[f"env_{ENVIRONMENT_PREFIX}_{name}".lower()] = text
        _check_path(sys.executable)
        _check_path(package, os.pathsep)  # the toolkit splits it there
        _check_path(str(self.bundle.absolute()), "$")  # it expands $NAME in settings
        return options

    def text(self) -> str:
        """The section as it stands in the file, with a final newline."""
        lines = (f"{name} = {value.replace('%', '%%')}" for name, value in self.options().items())
        return "\n".join([f"[{self.identifier}]", *lines, ""])


def check_identifier(identifier: str) -> None:
    """The toolkit ignores a section with another name, and configparser gives DEFAULT's keys to all.

    Raises:
        UsageError: the toolkit could not take it.
    """
    if not _IDENTIFIER.fullmatch(identifier) or identifier == configparser.DEFAULTSECT:
        raise UsageError(
            f"{identifier!r} cannot name a tracker in the VOT toolkit: use letters without accents, digits, "
            f"- and _ (not {configparser.DEFAULTSECT}), for example --label {as_identifier(identifier)}"
        )


def as_identifier(text: str) -> str:
    """The nearest name that the toolkit takes."""
    name = re.sub("[^a-zA-Z0-9_-]+", "-", text).strip("-")
    return name if name and name != configparser.DEFAULTSECT else "sttrack"


def write_entry(workspace: Path, entry: TrackerEntry, *, force: bool = False) -> Change:
    """Put the entry into the workspace's ``trackers.ini``; the folder is made if there is none.

    Raises:
        UsageError: see :func:`merge` and :meth:`TrackerEntry.options`.
        UserError: the file cannot be read or written.
    """
    path = workspace / TRACKERS
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); save it as UTF-8, or delete it") from error
    after, change = merge(before, entry, str(path), force=force)
    if change is not Change.UNCHANGED:
        with atomic_path(path) as temporary:
            temporary.write_text(after, encoding="utf-8")
    return change


def merge(text: str, entry: TrackerEntry, where: str, *, force: bool = False) -> tuple[str, Change]:
    """``text`` of a ``trackers.ini`` with the entry in it; every other line stays as it is, comments too.

    Args:
        where: the file's name, for errors.
        force: replace a section of that name that says something else.

    Raises:
        UsageError: there is such a section, and ``force`` is off.
        UserError: the text is not what configparser reads.
    """
    before, section = _read(text, where), entry.text()
    wanted = _read(section, where)[entry.identifier]
    found = before.get(entry.identifier)
    if found == wanted:
        return text, Change.UNCHANGED
    if found is None:
        gap = "" if not text.strip() else "\n" if text.endswith("\n") else "\n\n"
        after, change = text + gap + section, Change.ADDED
    elif not force:
        differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise UsageError(
            f"{where} has another tracker [{entry.identifier}] (it differs in {', '.join(differing)}): "
            "choose another name with --label NAME, or overwrite it with --force"
        )
    else:
        after, change = _replaced(text, entry.identifier, section), Change.REPLACED
    try:
        others_kept = _read(after, where) == {**before, entry.identifier: wanted}
    except UserError:
        others_kept = False
    if not others_kept:
        raise UserError(
            f"{where} is laid out in a way that cannot be edited: delete [{entry.identifier}] by hand, run again"
        )
    return after, change


def _replaced(text: str, identifier: str, section: str) -> str:
    lines = text.splitlines(keepends=True)
    headers = [(number, m.group(1)) for number, line in enumerate(lines) if (m := _HEADER.match(line))]
    start = next((number for number, name in headers if name == identifier), len(lines))
    end = next((number for number, _ in headers if number > start), len(lines))
    while end > start and (not lines[end - 1].strip() or lines[end - 1][0] in "#;"):
        end -= 1  # what stands right above the next header belongs to it
    return "".join([*lines[:start], section, *lines[end:]])


def _read(text: str, where: str) -> dict[str, dict[str, str]]:
    """Sections as written: nothing interpolated, and [DEFAULT] like any other."""
    parser = configparser.RawConfigParser(default_section="")
    try:
        parser.read_string(text)
    except configparser.Error as error:
        reason = one_line(error)
        raise UserError(f"{where} cannot be read ({reason}); fix it, or delete it") from error
    return {name: dict(parser[name]) for name in parser.sections()}


def _check_path(path: str, forbidden: str = "") -> None:
    """Refuse a path that would not arrive as it is; configparser splits lines and strips their ends.

    Args:
        forbidden: a character that the toolkit does not leave alone.

    Raises:
        UsageError: the path has one, or a line break, or a space at its end.
    """
    bad = [character for character in ("\n", "\r", forbidden) if character and character in path]
    if bad or path != path.strip():
        what = ", ".join(map(repr, bad)) or "a space at its end"
        raise UsageError(
            f"the path {path!r} holds {what}, which the VOT toolkit does not read as it is; "
            "move the folder to a path without it"
        )


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
        image: ``None``, or a TraX image: a path, an encoded JPEG or PNG, or RGB or gray pixels.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    if image is None:
        raise UserError("the client sent no color image; the tracker needs the channel 'color'")
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
            raise UserError(f"the client sent {pixels.dtype} pixels; only uint8 (RGB or gray) are taken")
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
