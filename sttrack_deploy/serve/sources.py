"""Sources that clients may name: files below the root, uploads, cameras, streams."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from sttrack_deploy.errors import UserError
from sttrack_deploy.serve.frames import FrameReader, open_frames
from sttrack_deploy.serve.settings import Forbidden, NotFound, Refusal, Settings, TooLarge, TooMany
from sttrack_deploy.video.file_types import VIDEO_SUFFIXES

__all__ = ["Source", "SourceStore"]

Kind = Literal["video", "images", "camera", "stream"]
URL_SCHEMES = ("rtsp", "rtsps", "rtmp", "srt", "udp", "http", "https")
LISTED = 500  # entries of a folder


@dataclass(slots=True)
class Source:
    """Something to track in.

    Attributes:
        name: how clients name it.
        title: what people read.
        address: what is opened: a path, a camera's number, a URL. Never shown.
        width, height: of a displayed frame, pixels; 0 until it is known.
        frames: how many there are, as far as known; ``None`` for a live source.
        uploaded: the file is the server's own and is deleted with the source.
        given: named on the command line; it stays.
        reader: gives single frames of what is not live.
    """

    name: str
    kind: Kind
    title: str
    address: str
    width: int = 0
    height: int = 0
    frames: int | None = None
    fps: float | None = None
    uploaded: bool = False
    given: bool = False
    reader: FrameReader | None = None
    touched: float = field(default_factory=time.monotonic)

    @property
    def live(self) -> bool:
        return self.kind in ("camera", "stream")

    def describe(self) -> dict[str, Any]:
        """The source for clients."""
        return {
            "id": self.name,
            "kind": self.kind,
            "title": self.title,
            "live": self.live,
            "width": self.width or None,
            "height": self.height or None,
            "frames": self.frames,
            "fps": self.fps,
        }


class SourceStore:
    """The sources of one server. Uploads lie in a temporary folder that ends with it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sources: dict[str, Source] = {}
        self._lock = threading.Lock()
        self.folder = Path(tempfile.mkdtemp(prefix="sttrack-serve-"))

    def close(self) -> None:
        """Delete the uploads."""
        for source in list(self._sources.values()):
            self._release(source)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __iter__(self) -> Iterator[Source]:
        return iter(list(self._sources.values()))

    def get(self, name: object) -> Source:
        """Raises NotFound where there is none of that name."""
        source = self._sources.get(name) if isinstance(name, str) else None
        if source is None:
            raise NotFound(f"there is no source {_shown(name)}; it was never added, or it was deleted")
        source.touched = time.monotonic()
        return source

    def remove(self, source: Source) -> None:
        """Forget a source and delete it if it was uploaded."""
        with self._lock:
            self._sources.pop(source.name, None)
        self._release(source)

    def stored_bytes(self) -> int:
        """Bytes in the temporary folder."""
        return sum(file.stat().st_size for file in self.folder.iterdir() if file.is_file())

    def has_room(self) -> bool:
        """Whether more may be stored."""
        return self.stored_bytes() < self._settings.limits.stored_bytes

    # --- adding --------------------------------------------------------------------------------------

    def add_given(self, address: str) -> Source:
        """A source from the command line: a path, a camera's number or a URL, allowed by being there."""
        path = Path(address)
        if path.exists():
            return self._add_path(path, path.name or str(path), given=True)
        if address.isascii() and address.isdecimal():
            return self._keep(Source(_name(), "camera", f"Camera {address}", address, given=True))
        if "://" in address:
            return self._keep(Source(_name(), "stream", _address_title(address), address, given=True))
        raise UserError(
            f"there is no file or folder {address}; give a video, a folder of images, a camera's number or a URL"
        )

    def add_file(self, name: object) -> Source:
        """A file or folder of images below the root."""
        return self._add_path(self._below_root(name), str(name))

    def add_camera(self, number: object) -> Source:
        """A camera of this machine."""
        if not self._settings.allow_camera:
            raise Forbidden("this server does not open cameras; start it with --allow-camera")
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 64:
            raise Refusal(f"a camera is a whole number from 0 to 63, not {_shown(number)}")
        return self._keep(Source(_name(), "camera", f"Camera {number}", str(number)))

    def add_url(self, url: object) -> Source:
        """A stream's or a video's address."""
        if not self._settings.allow_url:
            raise Forbidden("this server opens no URLs; start it with --allow-url")
        scheme = urlsplit(url).scheme.lower() if isinstance(url, str) else ""
        if not isinstance(url, str) or scheme not in URL_SCHEMES or len(url) > 2000 or not url.isprintable():
            raise Refusal(f"a URL starts with one of {', '.join(f'{s}://' for s in URL_SCHEMES)}")
        return self._keep(Source(_name(), "stream", _address_title(url), url))

    async def upload(self, title: str, parts: AsyncIterator[bytes], announced: int | None) -> Source:
        """Take a file in.

        Args:
            title: the file's name at the client: shown, and its suffix looked at, never used as a path.
            announced: bytes, if the client says so.
        """
        import anyio.to_thread

        limits = self._settings.limits
        suffix = Path(title).suffix.lower()
        if suffix not in VIDEO_SUFFIXES:
            raise Refusal(
                f"{_shown(title)} is not named like a video; its suffix must be one of {' '.join(VIDEO_SUFFIXES)}"
            )
        self._check_room()
        if announced is not None:
            self._check_size(announced)
        path = self.folder / f"{_name()}{suffix}"
        size = 0
        try:
            with path.open("xb") as file:
                async for part in parts:
                    size += len(part)
                    self._check_size(size)
                    if self.stored_bytes() + len(part) > limits.stored_bytes:
                        raise TooMany(
                            "the server's room for uploads is used up; delete a source, or come back later"
                        )
                    await anyio.to_thread.run_sync(file.write, part)
            source = await anyio.to_thread.run_sync(
                lambda: self._add_path(path, Path(title).name, uploaded=True)
            )
        except OSError as error:  # the disk is full, or smaller than the limit
            path.unlink(missing_ok=True)
            raise TooMany(
                f"the server cannot keep the upload: {error.strerror or error}; delete a source, or come back later"
            ) from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return source

    # --- files below the root ------------------------------------------------------------------------

    def listing(self, name: str) -> dict[str, Any]:
        """The folder of that name below the root: its folders and videos."""
        folder = self._below_root(name)
        if not folder.is_dir():
            raise Refusal(f"{_shown(name)} is not a folder")
        folders, files = [], []
        root = self._settings.root
        assert root is not None
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name.lower()):
            inside = entry.resolve().is_relative_to(root.resolve())
            if entry.name.startswith(".") or not inside:
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.suffix.lower() in VIDEO_SUFFIXES:
                files.append({"name": entry.name, "bytes": entry.stat().st_size})
        return {"path": name, "folders": folders[:LISTED], "files": files[:LISTED]}

    def _below_root(self, name: object) -> Path:
        root = self._settings.root
        if root is None:
            raise Forbidden("this server opens no files by name; start it with --root FOLDER")
        if not isinstance(name, str) or "\0" in name or len(name) > 1000:
            raise Refusal(f"a file's name is text, not {_shown(name)}")
        # Resolved, so that neither .. nor a link leads out.
        path = (root.resolve() / name).resolve()
        if not path.is_relative_to(root.resolve()):
            raise Forbidden("only files below the server's root can be opened")
        if not path.exists():
            raise NotFound(f"there is no {_shown(name)} below the server's root")
        return path

    # --- keeping -------------------------------------------------------------------------------------

    def _add_path(self, path: Path, title: str, *, uploaded: bool = False, given: bool = False) -> Source:
        if not path.is_dir() and path.suffix.lower() not in VIDEO_SUFFIXES and not given:
            raise Refusal(f"{_shown(title)} is not named like a video")
        try:
            reader = open_frames(path, self._settings.limits.pixels)
        except UserError as error:
            # The message names the file as the server knows it, which is not the client's business.
            raise Refusal(str(error).replace(str(path), title)) from error
        kind: Kind = "images" if path.is_dir() else "video"
        source = Source(_name(), kind, title, str(path), uploaded=uploaded, given=given, reader=reader)
        source.width, source.height = reader.width, reader.height
        source.frames, source.fps = reader.frames, reader.fps
        return self._keep(source)

    def _keep(self, source: Source) -> Source:
        with self._lock:
            try:
                self._check_room()
            except TooMany:
                if source.reader is not None:
                    source.reader.close()
                raise
            self._sources[source.name] = source
        return source

    def _check_room(self) -> None:
        limit = self._settings.limits.sources
        if len(self._sources) >= limit:
            raise TooMany(f"the server knows {limit} sources, which is its limit; delete one")

    def _check_size(self, size: int) -> None:
        limit = self._settings.limits.upload_bytes
        if size > limit:
            raise TooLarge(
                f"the file is larger than {limit / 2**20:.0f} MiB, the most that this server takes"
            )

    def _release(self, source: Source) -> None:
        if source.reader is not None:
            source.reader.close()
        if source.uploaded:
            Path(source.address).unlink(missing_ok=True)


def _name() -> str:
    return secrets.token_urlsafe(9)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _address_title(url: str) -> str:
    """A URL without user, password and query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
