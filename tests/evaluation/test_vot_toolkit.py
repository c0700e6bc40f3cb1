"""The real thing: the official toolkit starts our server and tracks the shipped bundle's way."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from sttrack_deploy.cli.evaluate_commands import vot_command
from sttrack_deploy.geometry import iou
from sttrack_deploy.runtime.tracker import Tracker

INSTALL = 'the official toolkit is not installed: pip install "sttrack-deploy[vot]"'
trax = pytest.importorskip("trax", reason=INSTALL)
# Not "vot": this very folder would pass for it.
pytest.importorskip("vot.tracker", reason=INSTALL)

FRAMES = 12
STACK = """
title: local
experiments:
  baseline:
    type: unsupervised
    repetitions: 1
    analyses:
      - type: average_accuracy
        name: accuracy
        burnin: 0
"""


def vot(*arguments: object, folder: Path) -> str:
    """Run the toolkit's command; its dummy sequences go to ``folder`` / tmp."""
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "vot", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with a space in its name, and the shipped bundle entered as "nano"."""
    folder = tmp_path / "my workspace"
    result = CliRunner().invoke(vot_command, [str(folder), "--label", "nano", "--threads", "1"])
    assert result.exit_code == 0, result.output
    return folder


def truth_of(sequence: Path) -> npt.NDArray[np.float64]:
    """Ground truth of every object, ``(objects, frames, 4)`` x, y, w, h."""
    return np.array([np.loadtxt(file, delimiter=",") for file in sorted(sequence.glob("groundtruth*.txt"))])


def test_vot_test_follows_the_three_objects_of_its_dummy_sequence(workspace: Path, tmp_path: Path) -> None:
    output = vot("--registry", workspace, "test", "nano", folder=tmp_path)
    assert "Test concluded successfuly" in output
    states = re.findall(r'@@TRAX:state "([^"]*)" "confidence=([^"]*)"', output)
    truth = truth_of(tmp_path / "tmp" / "vot_dummy_50_640_480_3")
    boxes = np.array([box.split(",") for box, _ in states], np.float64).reshape(50, 3, 4)
    np.testing.assert_allclose(boxes[0], truth[:, 0])
    overlap = iou(boxes.transpose(1, 0, 2), truth)
    assert overlap.min() > 0.7
    assert overlap.mean() > 0.85
    assert min(float(confidence) for _, confidence in states) > 0.5


def test_a_missing_bundle_is_said_by_the_toolkit(workspace: Path, tmp_path: Path) -> None:
    file = workspace / "trackers.ini"
    file.write_text(re.sub("env_sttrack_bundle = .*", "env_sttrack_bundle = /nowhere", file.read_text()))
    output = vot("--registry", workspace, "test", "nano", folder=tmp_path)
    assert "Server terminated the session: /nowhere is not a bundle" in output


def test_evaluate_and_analysis_of_a_local_data_set(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vot.region.io import read_trajectory

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the toolkit makes its dummies
    stack = workspace / "stack.yaml"
    stack.write_text(STACK)
    vot("initialize", stack, "--nodownload", "--workspace", workspace, folder=tmp_path)
    sequence = dummy_sequence(workspace / "sequences")
    assert "concluded successfuly" in vot("evaluate", "--workspace", workspace, "nano", folder=tmp_path)
    with (workspace / "results/nano/baseline/cow/cow_001.bin").open("rb") as file:
        regions = read_trajectory(file)[1:]  # the first frame is marked as the start
    boxes = np.array([[r.x, r.y, r.width, r.height] for r in regions])
    results = tracked(sequence)
    np.testing.assert_allclose(boxes, [result.box for result in results], atol=1e-3)
    lines = (workspace / "results/nano/baseline/cow/cow_001_confidence.value").read_text().splitlines()
    confidences = [float(line) for line in lines[1:]]
    np.testing.assert_allclose(confidences, [result.confidence for result in results], atol=1e-5)
    vot("analysis", "--workspace", workspace, "--name", "it", "nano", folder=tmp_path)
    analysis = json.loads((workspace / "analysis" / "it.json").read_text())
    [[[accuracy]]] = analysis["results"]["baseline"]["results"]
    assert accuracy > 0.8


def dummy_sequence(folder: Path) -> Path:
    """The toolkit's own sequence of a moving cow, as a local data set."""
    from vot.dataset.dummy import generate_dummy

    sequence = folder / "cow"
    shutil.copytree(generate_dummy(FRAMES).metadata("root"), sequence)
    (folder / "list.txt").write_text("cow\n")
    return sequence


def tracked(sequence: Path) -> list[Any]:
    frames = [np.asarray(cv2.imread(str(file))) for file in sorted((sequence / "color").glob("*.jpg"))]
    tracker = Tracker.from_bundle(threads=1)
    tracker.init(frames[0], truth_of(sequence)[0, 0])
    return [tracker.update(frame) for frame in frames[1:]]


# --- libtrax on both ends ----------------------------------------------------------------------------


@pytest.fixture
def client() -> Iterator[Any]:
    """A TraX client with our server behind it."""
    from trax.client import Client

    process = subprocess.Popen(
        [sys.executable, "-m", "sttrack_deploy.cli.trax_server", "--threads", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        client = Client((process.stdin.fileno(), process.stdout.fileno()), log=lambda _: None)
        yield client
        client.quit()
        process.wait(30)


def scene() -> npt.NDArray[np.uint8]:
    image = np.random.default_rng(1).integers(60, 120, (240, 320, 3), np.uint8)
    cv2.circle(image, (120, 100), 25, (40, 200, 240), -1)
    return image


def ways_to_send(image: npt.NDArray[np.uint8], folder: Path) -> dict[str, Any]:
    from trax.image import BufferImage, FileImage, MemoryImage

    path = folder / "a frame.png"
    cv2.imwrite(str(path), image)
    return {
        "path": FileImage.create(str(path)),
        "buffer": BufferImage.create(path.read_bytes()),
        "memory": MemoryImage.create(np.ascontiguousarray(image[..., ::-1])),
    }


def test_paths_buffers_and_pixels_give_the_same_boxes(client: Any, tmp_path: Path) -> None:
    answers = {}
    for name, image in ways_to_send(scene(), tmp_path).items():
        client.initialize({"color": image}, [(trax.Rectangle.create(95, 75, 50, 50), {})], {})
        [(region, properties)], _ = client.frame({"color": image}, {}, [])
        answers[name] = (*region.bounds(), float(properties["confidence"]))
    assert len(answers) == 3
    assert len(set(answers.values())) == 1
    assert iou(answers["path"][:4], (95, 75, 50, 50)) > 0.6


def test_polygons_and_masks_start_as_their_bounding_boxes(client: Any, tmp_path: Path) -> None:
    image = {"color": ways_to_send(scene(), tmp_path)["path"]}
    mask = np.zeros((240, 320), np.uint8)
    mask[75:125, 95:145] = 1
    polygon = [(120.0, 75.0), (145.0, 100.5), (120.0, 125.0), (95.0, 100.0)]
    started, _ = client.initialize(
        image, [(trax.Polygon.create(polygon), {}), (trax.Mask.create(mask), {})], {}
    )
    assert [region.bounds() for region, _ in started] == [(95, 75, 50, 50), (95, 75, 50, 50)]


def test_an_unreadable_frame_ends_the_session_with_the_reason(client: Any, tmp_path: Path) -> None:
    from trax.image import FileImage

    image = ways_to_send(scene(), tmp_path)["path"]
    client.initialize({"color": image}, [(trax.Rectangle.create(95, 75, 50, 50), {})], {})
    with pytest.raises(trax.TraxException, match=r"cannot read the image .*gone\.png: No such file"):
        client.frame({"color": FileImage.create(str(tmp_path / "gone.png"))}, {}, [])
