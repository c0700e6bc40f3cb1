"""Kinds of files by suffix: what is read as an image or a video, and what videos can be written as."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CODECS", "CONTAINERS", "IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "Container"]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg"),
    *(".flv", ".wmv", ".ogv", ".3gp", ".gif"),
)
"""Files that a folder is searched for; a file that is named is read whatever its suffix is."""


class Container(NamedTuple):
    """A format that videos are written in.

    Attributes:
        format: FFmpeg's name of it.
        codecs: what can be in it; the first is its default.
    """

    format: str
    codecs: tuple[str, ...]


CONTAINERS = {
    ".mp4": Container("mp4", ("h264", "av1", "mpeg4")),
    ".m4v": Container("mp4", ("h264", "av1", "mpeg4")),
    ".mov": Container("mov", ("h264", "mpeg4")),
    ".mkv": Container("matroska", ("h264", "av1", "mpeg4")),
    ".webm": Container("webm", ("av1",)),
    ".avi": Container("avi", ("mpeg4", "h264")),
}
"""What a video is written as, by its suffix."""

CODECS = tuple(dict.fromkeys(codec for container in CONTAINERS.values() for codec in container.codecs))
