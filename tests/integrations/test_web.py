"""The tracker in a browser: crops, states, the closed loop and the page, in a real Chromium."""

from __future__ import annotations

import base64
import dataclasses
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from sttrack_deploy.bundle import Bundle, CropSpec, open_bundle
from sttrack_deploy.cli.export_web import main as export_web
from sttrack_deploy.cli.parity import main as parity
from sttrack_deploy.cropping import search_crop, template_crop
from sttrack_deploy.engines.onnxruntime_web.engine import (
    Browser,
    FileServer,
    OnnxRuntimeWebEngine,
    find_chromium,
)
from sttrack_deploy.engines.onnxruntime_web.package import FILES, VERSION, find_runtime
from sttrack_deploy.errors import MissingDependencyError, UserError
from sttrack_deploy.geometry import iou
from sttrack_deploy.integrations.web.export import check_understood, export_site
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.tracker import Tracker

TRACK = """
const s = window.sttrack, tracker = new s.Tracker(s.network(), args[4]), results = [];
for (let i = 0; i < args[2]; i++) {
  const bytes = new Uint8ClampedArray(await (await fetch(`frames/${i}`)).arrayBuffer());
  const frame = { width: args[0], height: args[1], data: bytes };
  results.push(i ? await tracker.update(frame) : await tracker.init(frame, args[3]));
}
return results;
"""
CROPS = """
const s = window.sttrack, [width, height, pixels, spec, boxes] = args;
const frame = { width, height, data: new Uint8ClampedArray(s.decode(pixels).buffer) };
const shown = (crop) => [s.encode(crop.patch), s.encode(crop.mask), crop.window.x1, crop.window.y1, crop.window.side];
const both = ([box, growth]) => [s.searchCrop(frame, box, spec, growth), s.templateCrop(frame, box, spec)];
return boxes.map((box) => both(box).map(shown));
"""


@pytest.fixture(scope="module")
def runtime() -> Path:
    try:
        find_chromium()
        return find_runtime()
    except UserError as error:
        pytest.skip(f"no browser engine here: {error}")


@pytest.fixture(scope="module")
def engine(runtime: Path) -> Iterator[OnnxRuntimeWebEngine]:
    made = OnnxRuntimeWebEngine(open_bundle(), runtime=runtime)
    yield made
    made.browser.close()


def _rgba(frame: Any) -> bytes:
    return bytes(cv2.cvtColor(frame, cv2.COLOR_BGR2RGBA).tobytes())


@pytest.mark.parametrize(("grid", "context"), [(0.0, 0.0), (1 / 64, 0.0), (1 / 64, 0.5)])
def test_crops_are_those_of_python(engine: OnnxRuntimeWebEngine, grid: float, context: float) -> None:
    random = np.random.default_rng(5)
    frame = random.integers(0, 256, (180, 260, 3), dtype=np.uint8)
    spec = dataclasses.replace(open_bundle().manifest.crop, search_grid=grid, context=context)
    boxes = [((60.0, 50.0, s, s), 1.0) for s in (0.5, 0.25, 1.0, 48.0, 47.5, 96.0, 192.0)]
    boxes += [((5000.0, 10.0, 20.0, 20.0), 1.0), ((-900.0, 10.0, 20.0, 20.0), 1.0)]
    for _ in range(60):
        w, h = np.exp(random.uniform(0, np.log(220), 2)).tolist()
        x, y = random.uniform(-60, 270), random.uniform(-60, 190)
        boxes.append(((x, y, w, h), float(random.choice([1.0, 1.05, 1.7, 2.0]))))
    pixels = base64.b64encode(_rgba(frame)).decode()
    answers = engine.browser.run(CROPS, 260, 180, pixels, dataclasses.asdict(spec), boxes)
    for (box, growth), both in zip(boxes, answers, strict=True):
        for crop, seen in zip(
            (search_crop(frame, box, spec, growth), template_crop(frame, box, spec)), both, strict=True
        ):
            patch, mask, *window = seen
            assert window == [crop.window.x1, crop.window.y1, crop.window.side], box
            assert base64.b64decode(patch) == crop.patch.tobytes(), box
            assert base64.b64decode(mask) == crop.mask.tobytes(), box


@pytest.mark.parametrize("priors", [False, True])
def test_closed_loop_in_javascript_gives_the_boxes_of_python(
    engine: OnnxRuntimeWebEngine, tmp_path: Path, priors: bool
) -> None:
    """Over the frames that hide the target: it is lost, looked for in a growing region, and found again."""
    clip = DemoClip()
    frames = [clip.frame(index) for index in range(106, 134)]
    box = clip.truth[106]
    for index, frame in enumerate(frames):
        (tmp_path / str(index)).write_bytes(_rgba(frame))
    policy = open_bundle().manifest.tracking
    if priors:
        policy = dataclasses.replace(
            policy,
            reliable_above=0.5,
            jump_penalty=1.0,
            change_penalty=0.5,
            size_smoothing=0.3,
            box_correction=0.9,
            frame_after=2,
            lost_below=0.5,
            found_above=0.6,
            hold_below=0.25,
            lead=0.7,
        )
    tracker = Tracker.from_bundle(threads=1, policy=policy)
    tracker.init(frames[0], box)
    expected = [tracker.update(frame) for frame in frames[1:]]
    assert any(result.lost for result in expected)
    # The page may fetch from its own address only, so its own server gets the frames.
    engine.server.add({"frames": tmp_path})
    seen = engine.browser.run(TRACK, 640, 360, len(frames), list(box), dataclasses.asdict(policy))[1:]
    for here, there in zip(expected, seen, strict=True):
        assert there["box"] == pytest.approx(here.box, abs=0.01)
        assert there["confidence"] == pytest.approx(here.confidence, abs=1e-4)
        assert there["lost"] == here.lost


def test_a_state_leaves_the_page_and_comes_back(engine: OnnxRuntimeWebEngine) -> None:
    random = np.random.default_rng(2)
    spec = open_bundle().manifest.crop
    template = random.integers(0, 256, (2, spec.template_size, spec.template_size, 3), dtype=np.uint8)
    search = random.integers(0, 256, (2, spec.search_size, spec.search_size, 3), dtype=np.uint8)
    masks = [
        np.zeros((2, size // spec.stride, size // spec.stride), np.bool_)
        for size in (spec.template_size, spec.search_size)
    ]
    _, state = engine.step(search, masks[1], engine.initial_state(template, masks[0]))
    again = engine.import_state(engine.export_state(state))
    first, second = engine.step(search, masks[1], state)[0], engine.step(search, masks[1], again)[0]
    np.testing.assert_array_equal(first.box, second.box)
    np.testing.assert_array_equal(first.confidence, second.confidence)


def test_parity_gates_it_like_any_other_engine(runtime: Path) -> None:
    pytest.importorskip("torch")
    done = CliRunner().invoke(
        parity, ["--engine", "onnxruntime-web", "--frames", "4", "--replay", "2", "--json", "-"]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert "onnxruntime-web" in json.dumps(report)


def test_the_page_tracks_a_local_video(runtime: Path, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    clip, frames = DemoClip(), 10
    _encode(tmp_path / "clip.mp4", clip, frames)
    done = CliRunner().invoke(export_web, ["--out", str(tmp_path / "site"), "--runtime", str(runtime)])
    assert done.exit_code == 0, done.output
    server, browser = FileServer({"": tmp_path / "site"}), Browser()
    driver = browser.driver

    def find(name: str) -> Any:
        return driver.find_element(By.ID, name)

    try:
        driver.get(server.url + "index.html")
        _until(lambda: driver.execute_script("return document.body.dataset.ready === 'yes'"))
        find("file").send_keys(str(tmp_path / "clip.mp4"))
        _until(lambda: "clip.mp4" in find("status").text)
        view = find("view")
        scale, (x, y, w, h) = view.rect["width"] / 640, clip.truth[0]
        middle = view.rect["width"] / 2, view.rect["height"] / 2
        corners = [
            (round(a * scale - middle[0]), round(b * scale - middle[1])) for a, b in ((x, y), (x + w, y + h))
        ]
        chain = ActionChains(driver).move_to_element_with_offset(view, *corners[0]).click_and_hold()
        chain.move_to_element_with_offset(view, *corners[1]).release().perform()
        assert iou([float(v) for v in find("box").get_attribute("value").split(",")], clip.truth[0]) > 0.9
        find("track").click()
        _until(lambda: "Done" in find("status").text)
        results = driver.execute_script("return window.results()")
        assert [result["frame"] for result in results] == list(range(frames))
        assert min(float(iou(r["box"], clip.truth[r["frame"]])) for r in results) > 0.6
        assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        browser.close()
        server.close()


def _encode(path: Path, clip: DemoClip, frames: int) -> None:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for index in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(clip.frame(index), "bgr24")))
        file.mux(stream.encode())


def _until(done: Any) -> None:
    deadline = time.monotonic() + 90
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _package(folder: Path, version: str = VERSION) -> Path:
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text("x")
    (folder / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": version}))
    return folder


def test_the_graphs_are_copied_unchanged_and_nothing_else_is_overwritten(tmp_path: Path) -> None:
    bundle, package = open_bundle(), _package(tmp_path / "package")
    site = export_site(bundle, tmp_path / "site", package)
    assert (site.path / "bundle/search.onnx").read_bytes() == bundle.search_path.read_bytes()
    assert "MIT License" in (site.path / "onnxruntime-web/LICENSE").read_text()
    assert export_site(bundle, tmp_path / "site", package).files == site.files  # again, over itself
    (site.path / "other.html").write_text("mine")
    with pytest.raises(UserError, match=r"other\.html in it is not part of it"):
        export_site(bundle, site.path, package)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not such a site"):
        export_site(bundle, tmp_path / "mine", package)
    assert (tmp_path / "mine/thesis.txt").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "\xff"])
def test_a_description_that_is_none(text: str, tmp_path: Path) -> None:
    package = _package(tmp_path / "package")
    (package / "package.json").write_text(text, "latin-1")
    with pytest.raises(UserError, match=r"package\.json"):
        find_runtime(package)


def test_an_archive_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(_package(tmp_path / "package"), "package")
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match="is not the npm package"):
        find_runtime(path)


def test_another_version_and_no_npm_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"npm pack onnxruntime-web@{VERSION}"):
        find_runtime(_package(tmp_path / "old", "1.0.0"))
    monkeypatch.setenv("STTRACK_ENGINES", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="--runtime"):
        find_runtime()
    with pytest.raises(MissingDependencyError, match="chromium"):
        find_chromium()


def test_a_setting_that_the_page_does_not_follow_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Later(CropSpec):
        border: str = "black"

    bundle = open_bundle()

    def having(border: str) -> Bundle:
        crop = Later(**dataclasses.asdict(bundle.manifest.crop), border=border)
        return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, crop=crop))

    check_understood(having("black"))
    with pytest.raises(UserError, match=r"crop\.border = 'mirror'"):
        check_understood(having("mirror"))
