"""The page in a real Chromium: upload, draw, track, correct, download."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from served import Served, eventually, running

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.serve.settings import Settings
from sttrack_deploy.video.reader import open_video
from sttrack_deploy.video.writer import VideoWriter

pytest.importorskip("selenium", reason="selenium is not installed: pip install 'sttrack-deploy[dev]'")

from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"
    ),
    pytest.mark.timeout(900),  # a browser that shares two cores with other work is slow, not wrong
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1000,760",
]
FRAMES = 24
SIZE = (640, 360)


class Page:
    """What a user does on it."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def __getitem__(self, name: str) -> Any:
        return self.browser.find_element(By.ID, name)

    def until(self, name: str, text: str, seconds: float = 240) -> None:
        eventually(lambda: text in self[name].text, seconds)

    def at(self, x: float, y: float) -> tuple[int, int]:
        """A point of the frame, in pixels from the middle of its element."""
        stage = self["stage"].size
        scale = min(stage["width"] / SIZE[0], stage["height"] / SIZE[1])
        return round((x - SIZE[0] / 2) * scale), round((y - SIZE[1] / 2) * scale)

    def drag(self, box: Any) -> None:
        x, y, w, h = box
        stage, chain = self["stage"], ActionChains(self.browser, duration=30)
        chain.move_to_element_with_offset(stage, *self.at(x, y)).click_and_hold()
        chain.move_to_element_with_offset(stage, *self.at(x + w / 2, y + h / 2))
        chain.move_to_element_with_offset(stage, *self.at(x + w, y + h)).release().perform()

    def seek(self, frame: int) -> None:
        chart = self["chart"]
        across = (frame / (FRAMES - 1) - 0.5) * (chart.size["width"] - 12)
        ActionChains(self.browser).move_to_element_with_offset(chart, round(across), 0).click().perform()
        self.until("clock", f"frame {frame} of")

    def keys(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "reef.mp4"
    with VideoWriter(path, 30) as writer:
        for frame in DemoClip().frames(range(FRAMES)):
            writer.write(frame.image)
    return path


@pytest.fixture
def served() -> Iterator[Served]:
    with running(Settings(), None, lambda bundle: load_engine("onnxruntime", bundle, 1)) as served:
        yield served


@pytest.fixture
def page(served: Served, tmp_path: Path) -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Driver(str(DRIVER)))
    with contextlib.ExitStack() as stack:
        stack.callback(browser.quit)
        behavior = {"behavior": "allow", "downloadPath": str(tmp_path / "downloads")}
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", behavior)
        browser.get(served.url)
        yield Page(browser)
        # No error in the console, blocked by the content policy or otherwise.
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def expected(video: Path, start: int, box: Any) -> np.ndarray:
    """Boxes from ``start`` on, as sttrack-run gives them."""
    bundle = open_bundle()
    tracker = Tracker(bundle, load_engine("onnxruntime", bundle, 1))
    with open_video(video, start=start) as frames:
        first, *rest = frames
    tracker.init(first.image, box)
    return np.array([box, *(tracker.update(frame.image).box for frame in rest)])


def track_of(served: Served) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (track,) = served.get("/api/tracks").json()
    lines = served.get(f"/api/tracks/{track['id']}/results").text.splitlines()
    return track, [json.loads(line) for line in lines]


def test_upload_draw_track_correct_download(served: Served, page: Page, demo: Path, tmp_path: Path) -> None:
    truth = DemoClip().truth
    page["file"].send_keys(str(demo))
    page.until("clock", f"frame 0 of {FRAMES - 1}")
    page.drag(truth[0])
    page["go"].click()
    page.until("state", "Done")
    track, lines = track_of(served)
    given = track["targets"][0]["given"][0]["box"]
    assert np.allclose(given, truth[0], atol=1.5)  # pixels of the screen
    boxes = np.array([line["box"] for line in lines])
    assert np.allclose(boxes, expected(demo, 0, given), atol=1e-3)

    page.seek(14)
    page.drag(truth[14])
    page["go"].click()

    def corrected_and_done() -> bool:  # the page still says Done until the server has answered
        track, _ = track_of(served)
        return track["state"] == "done" and len(track["targets"][0]["given"]) == 2

    eventually(corrected_and_done, 240)
    page.until("state", "Done")
    track, lines = track_of(served)
    given = track["targets"][0]["given"][1]["box"]
    assert track["targets"][0]["given"][1]["frame"] == 14
    assert np.allclose(given, truth[14], atol=1.5)
    corrected = np.array([line["box"] for line in lines])
    assert np.allclose(corrected[:14], boxes[:14])
    assert np.allclose(corrected[14:], expected(demo, 14, given), atol=1e-3)

    links = page.browser.find_elements(By.CSS_SELECTOR, "#downloads a")
    assert len(links) == 6
    for link in links:
        link.click()
    page["video"].click()
    downloads = tmp_path / "downloads"
    eventually(
        lambda: (
            len(done := list(downloads.glob("reef*.*"))) == 7 and all(f.suffix != ".crdownload" for f in done)
        )
    )
    assert np.allclose(np.loadtxt(downloads / "reef_boxes.txt", delimiter=","), corrected, atol=0.01)
    assert [json.loads(line) for line in (downloads / "reef.jsonl").read_text().splitlines()] == lines
    assert len((downloads / "reef_mot.txt").read_text().splitlines()) >= 1
    assert len(list(ElementTree.parse(downloads / "reef_cvat.xml").iter("box"))) >= FRAMES
    assert len(json.loads((downloads / "reef_coco.json").read_text())["annotations"]) == FRAMES
    assert len((downloads / "reef.csv").read_text().splitlines()) == FRAMES + 1
    with open_video(downloads / "reef_tracked.mp4") as video:
        assert len(list(video)) == FRAMES


def test_with_the_keyboard_alone(served: Served, page: Page, demo: Path) -> None:
    page["file"].send_keys(str(demo))
    page.until("clock", "frame 0 of")
    page.keys("n")
    page.keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_DOWN)
    ActionChains(page.browser).key_down(Keys.SHIFT).send_keys(Keys.ARROW_LEFT).key_up(Keys.SHIFT).perform()
    page.keys("n")  # a second one
    page.until("go", "Track 2 targets")
    page.keys("t")
    page.until("state", "Done")
    track, lines = track_of(served)
    first, second = (target["given"][0]["box"] for target in track["targets"])
    assert second == [256, 144, 128, 72]
    assert first == [256 - 12, 144 + 6, 128 - 6, 72]
    assert len(lines) == 2 * FRAMES
    page.until("clock", f"frame {FRAMES - 1} of")  # the picture comes after the word
    page.keys(",")
    page.until("clock", f"frame {FRAMES - 2} of")
    page.keys("2", "c", Keys.ARROW_UP, "t")
    eventually(lambda: len(track_of(served)[0]["targets"][1]["given"]) == 2)
    page.until("state", "Done")
    track, _ = track_of(served)
    assert track["targets"][1]["given"][1]["frame"] == FRAMES - 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(served: Served, page: Page, demo: Path, scheme: str) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def width() -> int:
        found: int = page.browser.execute_script("return document.documentElement.scrollWidth")
        return found

    assert width() == 360
    page["file"].send_keys(str(demo))
    page.until("clock", "frame 0 of")
    assert width() == 360
    back = page.browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, back[4:-1].split(","))) < 200) == (scheme == "dark")
