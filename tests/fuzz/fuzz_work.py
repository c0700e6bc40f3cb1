"""The same while there is work to do: command lines that would succeed, with hostile words in them, and manifests.

With a network that takes a millisecond and clips of a few frames. See ``hostile.py``.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from clips import picture, write_clip
from hostile import (
    LONG,
    SECONDS,
    Line,
    answered,
    attack,
    command_of,
    fill_place,
    hostile_values,
    snapshot,
    stop,
    with_options,
)
from hypothesis import strategies as st
from recurrent_bundle import write_recurrent_bundle

from sttrack_deploy.bundle import MANIFEST

BOXES = "8,8,24,20\n9,8,24,20\n10,9,24,20\n10,9,24,20\n"
DETECTIONS = "1,1,8,8,24,20,0.9\n2,1,9,8,24,20,0.8\n"
RECIPE = """
[model]
preset = "sttrack-plain"
plain_channels = [8, 8, 8, 8]
plain_blocks = [0, 0, 0, 0]
template_size = 64
search_size = 128
[data]
frames = 2
clips = 1
[optimizer]
steps = 1
warmup = 1
"""
ONE = ["clip.mp4", "--init-box", "8,8,24,20", "--bundle", "bundle"]
DATA = ["--data", "data", "--bundle", "bundle"]
WORK: dict[str, list[list[str]]] = {
    "run": [
        [*ONE, "--out", "new.mp4"],
        [*ONE, "--no-video", "--boxes", "new.txt", "--json", "new.json", "--tracks", "new.xml"],
        [*ONE, "--init-box", "30,20,20,20", "--tracks", "new.csv", "--no-video"],
        ["clip.mp4", "--start-from", "found.txt", "--bundle", "bundle", "--tracks", "t.json", "--no-video"],
        ["--list", "videos.csv", "--bundle", "bundle"],
        ["half.mp4", *ONE[1:], "--out", "new.avi"],
        ["data/two", *ONE[1:], "--out", "new.webm"],
        ["data/two/%d.png", *ONE[1:], "--out", "new.mkv"],
    ],
    "evaluate": [
        [*DATA, "--out", "new"],
        [*DATA, "--json", "new.json", "--protocol", "all"],
        ["--data", "data", "--results", "old"],
        [*DATA, "--shard", "1/2", "--out", "new"],
        ["merge", "old", "--out", "new"],
        ["pack", "old", "--format", "got10k", "--data", "data"],
        ["vot", "new", "--bundle", "bundle"],
    ],
    "build_engine": [["bundle", "--target", "onnxruntime", "--out", "new", "--no-check"]],
    "calibrate": [
        ["data", "--bundle", "bundle", "--samples", "3", "--out", "new"],
        ["clip.mp4", "--init-box", "8,8,24,20", "--bundle", "bundle", "--samples", "2", "--out", "new"],
    ],
    "parity": [["bundle", "--data", "data", "--replay", "2"]],
    "export": [
        ["--checkpoint", "text.txt", "--model", "sttrack-nano", "--out", "new"],
        ["--checkpoint", "nets.safetensors", "--out", "new", "--no-validate"],
    ],
    "convert": [["bundle", "--precision", "fp16", "--out", "new"]],
    "serve": [["clip.mp4", "--bundle", "bundle", "--port", "0"]],
    "train": [["--recipe", "recipe.toml", "--videos", "data", "--out", "new", "--until", "1"]],
    "export_web": [["bundle", "--out", "new", "--runtime", "folder"]],
    "export_triton": [["bundle", "--out", "new"]],
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    folder = tmp_path_factory.mktemp("material")
    fill_place(folder)
    write_recurrent_bundle(folder / "bundle")
    clip = write_clip(folder / "clip.mp4", [n / 25 for n in range(4)], audio="aac")
    (folder / "half.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size * 3 // 4])
    (folder / "link.mp4").symlink_to("clip.mp4")
    data, old = folder / "data", folder / "old"
    (data / "two").mkdir(parents=True)
    old.mkdir()
    shutil.copy(clip, data / "one.mp4")
    for number in range(4):
        cv2.imwrite(str(data / "two" / f"{number}.png"), picture(number))
    for place in (data, old):
        for name in ("one", "two"):
            (place / f"{name}.txt").write_text(BOXES)
    (folder / "found.txt").write_text(DETECTIONS)
    (folder / "videos.csv").write_text('source,box,output\nclip.mp4,"8,8,24,20",new/a.txt;new/a.mp4\n')
    shutil.copy(tiny_weights, folder / "nets.safetensors")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture
def place() -> Iterator[Path]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="sttrack-fuzz-") as name:
        folder = Path(name, "place")
        folder.mkdir()
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


@st.composite
def working_lines(draw: st.DrawFn) -> Line:
    """A line that would work, with words replaced or left out and options added."""
    name = draw(st.sampled_from(sorted(WORK)))
    command, words = command_of(name), list(draw(st.sampled_from(WORK[name])))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(words) - 1))
        words[at : at + 1] = [draw(hostile_values())] if draw(st.integers(0, 4)) else []
        if not words:
            break
    grouped = name == "evaluate" and words and not words[0].startswith("-")
    return command, words if grouped else draw(with_options(command, words, 3))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What would take long, wait for somebody or fetch something ends at once."""
    monkeypatch.setenv("STTRACK_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setattr("sttrack_deploy.serve.server.Server.run", lambda *_, **__: None)
    monkeypatch.setattr("sttrack_deploy.models.training.trainer.Trainer.run", stop)
    monkeypatch.setattr("sttrack_deploy.models.training.closed_loop.training.train", stop)
    monkeypatch.setattr("sttrack_deploy.engines.onnxruntime_web.package.find_runtime", stop)
    monkeypatch.setattr("sttrack_deploy.export.exporter.export_bundle", stop)
    monkeypatch.setattr("sttrack_deploy.runtime.demo.DemoClip.__init__", stop)


REPLACES = {"--overwrite", "--force", "--restart", "--rebuild", "--write-manifest"}
OURS = "bundle"
"""May be replaced unasked where it is named as what to write: sttrack-deploy wrote it."""


def lost(words: list[str], before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What was there before and is another now, though nobody asked for that."""
    changed = [name for name in before if after.get(name) != before[name]]
    named = [os.path.normpath(part) for word in words for part in (word, word.rpartition("=")[2])]
    allowed = named if REPLACES & set(words) else [OURS] if OURS in named else []
    # Through a link that was named, its target is written.
    allowed += ["clip.mp4"] if "link.mp4" in allowed else []
    return [name for name in changed if not any(name == a or name.startswith(f"{a}/") for a in allowed)]


def restore(place: Path, material: Path, before: dict[str, str]) -> None:
    if snapshot(place) != before:
        for entry in list(place.iterdir()):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        shutil.copytree(material, place, symlinks=True, dirs_exist_ok=True)


@pytest.mark.timeout(0 if LONG else 300)
@pytest.mark.usefixtures("quick")
def test_work_that_goes_wrong_loses_nothing(place: Path, material: Path) -> None:
    before = snapshot(material)
    restore(place, material, before)

    def answer(line: Line) -> None:
        command, words = line
        try:
            answered(command, words, place)
            gone = lost(words, before, snapshot(place))
            assert not gone, f"{command.name} {words} changed {gone}"
        finally:
            restore(place, material, before)

    attack(working_lines(), SECONDS / 4, answer)


VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    7,
    10**30,
    1e308,
    0.5,
    "",
    "x",
    "../x",
    "/",
    "a\n",
    "n" * 300,
    [],
    {},
]
VALUES += [
    [1],
    {"name": "x"},
    "batch",
    "float64",
    "bundle",
    [["a", 1]],
    "\ud800",
    "fp16",
    "bf16",
    "int8",
    1024,
]


def places_in(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a document."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places_in(value, (*path, key))


@st.composite
def altered(draw: st.DrawFn, document: Any) -> Any:
    """The document with one or two of its values replaced, removed or put elsewhere."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 2))):
        *way, last = draw(st.sampled_from(list(places_in(document))))
        holder = document
        for key in way:
            holder = holder[key]
        if draw(st.booleans()) or not isinstance(holder, dict):
            # Copies: a later change inside of one must not change VALUES, nor make a value hold itself.
            holder[last] = copy.deepcopy(draw(st.sampled_from(VALUES) | st.floats() | st.integers()))
        elif draw(st.booleans()):
            del holder[last]
        else:
            holder[draw(st.sampled_from([*map(str, holder), "new"]))] = copy.deepcopy(holder[last])
    return document


@st.composite
def manifests(draw: st.DrawFn, written: str) -> tuple[str, str, list[str]]:
    """A manifest, and a command that opens it."""
    kind = draw(st.integers(0, 5))
    if kind == 0:  # damaged text
        at, most = draw(st.integers(0, len(written))), draw(st.integers(0, 40))
        text = written[:at] + draw(st.sampled_from(["", "[" * 5000, "\0", "NaN", "\ufeff", '"', "9" * 5000]))
        text += written[at + most :]
    else:
        text = json.dumps(draw(altered(json.loads(written))), indent=1)
    name, words = draw(
        st.sampled_from(
            [
                ("run", [*ONE, "--no-video", "--json", "-"]),
                ("evaluate", ["--data", "data", "--sequences", "one", "--bundle", "bundle"]),
                ("build_engine", ["bundle", "--target", "onnxruntime", "--out", "new", "--no-check"]),
                ("export_triton", ["bundle", "--out", "new"]),
                ("calibrate", ["clip.mp4", "--init-box", "8,8,24,20", "--bundle", "bundle", "--out", "new"]),
                ("convert", ["bundle", "--precision", "fp16", "--out", "new"]),
            ]
        )
    )
    return text, name, words


@pytest.mark.timeout(0 if LONG else 300)
@pytest.mark.usefixtures("quick")
def test_no_value_of_a_manifest_is_believed(place: Path, material: Path) -> None:
    before = snapshot(material)
    restore(place, material, before)
    written = (material / "bundle" / MANIFEST).read_text()

    def answer(attempt: tuple[str, str, list[str]]) -> None:
        text, name, words = attempt
        (place / "bundle" / MANIFEST).write_text(text, "utf-8", "surrogatepass")
        try:
            answered(command_of(name), words, place)
        except AssertionError as error:
            raise AssertionError(f"{error}\nmanifest {text}") from None
        finally:
            restore(place, material, before)

    attack(manifests(written), SECONDS / 4, answer)
