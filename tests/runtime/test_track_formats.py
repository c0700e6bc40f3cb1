"""Track formats, read back by rules written down by their authors."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from sttrack_deploy.errors import UsageError
from sttrack_deploy.runtime.results import FrameResult
from sttrack_deploy.runtime.track_formats import open_tracks, track_format

BOXES = {
    1: [(10.0, 20.0, 30.0, 40.0), (11.5, 21.0, 30.0, 40.0), (12.0, 22.0, 30.0, 40.0)],
    2: [(50.0, 5.0, 8.0, 9.0), (51.0, 5.0, 8.0, 9.0), (52.0, 5.0, 8.0, 9.0)],
}
LOST = {(1, 2)}  # target 1 on the last frame


def results(frame: int, start: int) -> list[FrameResult]:
    return [
        FrameResult(start + frame, (start + frame) / 25, boxes[frame], 0.9, (number, frame) in LOST, number)
        for number, boxes in BOXES.items()
    ]


def written(path: Path, chosen: str | None = None, start: int = 0) -> str:
    with open_tracks(path, 'a <"clip">\x01.mp4', chosen) as tracks:
        tracks.begin(160, 96)
        for frame in range(3):
            tracks.write(results(frame, start))
    assert tracks.kept
    assert tracks.frames == 3
    return path.read_text(encoding="utf-8")


def test_motchallenge(tmp_path: Path) -> None:
    """Ten columns; frames, ids and pixels from 1; no line without a target."""
    rows = [line.split(",") for line in written(tmp_path / "a.txt").splitlines()]
    assert rows[0] == ["1", "1", "11.00", "21.00", "30.00", "40.00", "0.9000", "-1", "-1", "-1"]
    assert [(int(row[0]), int(row[1])) for row in rows] == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)]


def test_csv(tmp_path: Path) -> None:
    rows = list(csv.DictReader(written(tmp_path / "a.csv", start=5).splitlines()))
    assert len(rows) == 6
    assert rows[2] == {
        "frame": "6", "time": "0.240000", "id": "1", "x": "11.50", "y": "21.00", "width": "30.00", "height": "40.00",
        "confidence": "0.9000", "lost": "0",
    }  # fmt: skip
    assert [row["lost"] for row in rows] == ["0", "0", "0", "0", "1", "0"]


def test_cvat_for_video(tmp_path: Path) -> None:
    root = ET.fromstring(written(tmp_path / "a.xml", start=5))
    assert root.findtext("version") == "1.1"
    task = root.find("meta/task")
    assert task is not None
    assert task.findtext("name") == 'a <"clip">.mp4'
    assert (task.findtext("size"), task.findtext("stop_frame")) == ("8", "7")
    assert task.findtext("original_size/width") == "160"
    assert [label.text for label in task.findall("labels/label/name")] == ["object"]
    tracks = root.findall("track")
    assert [track.get("id") for track in tracks] == ["0", "1"]
    boxes = tracks[0].findall("box")
    assert [box.get("frame") for box in boxes] == ["5", "6", "7"]
    assert [box.get("outside") for box in boxes] == ["0", "0", "1"]
    assert [boxes[1].get(name) for name in ("xtl", "ytl", "xbr", "ybr")] == [
        "11.50",
        "21.00",
        "41.50",
        "61.00",
    ]


def test_coco(tmp_path: Path) -> None:
    data = json.loads(written(tmp_path / "a.json", start=5))
    assert [image["id"] for image in data["images"]] == [6, 7, 8]
    assert data["images"][0]["file_name"] == "frame_000005.jpg"
    assert (data["images"][0]["width"], data["images"][0]["height"]) == (160, 96)
    annotations = data["annotations"]
    assert len({annotation["id"] for annotation in annotations}) == len(annotations) == 5
    assert {annotation["image_id"] for annotation in annotations} <= {6, 7, 8}
    assert annotations[1]["bbox"] == [11.5, 21.0, 30.0, 40.0]
    assert annotations[1]["area"] == 1200
    assert [annotation["track_id"] for annotation in annotations] == [1, 1, 2, 2, 2]
    assert [category["id"] for category in data["categories"]] == [1]


def test_the_suffix_decides_unless_told(tmp_path: Path) -> None:
    assert [track_format(Path(name), None) for name in ("a.txt", "b.XML", "c.json", "d.csv")] == [
        "mot",
        "cvat",
        "coco",
        "csv",
    ]
    assert track_format(Path("mot.csv"), "mot") == "mot"
    with pytest.raises(UsageError, match="--tracks-format"):
        track_format(Path("a.dat"), None)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".xml", ".json"])
def test_no_frame_is_no_file(suffix: str, tmp_path: Path) -> None:
    with open_tracks(tmp_path / f"a{suffix}", "clip") as tracks:
        pass
    assert not tracks.kept
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("suffix", "chosen"), [(".xml", "cvat"), (".json", "coco"), (".txt", "mot")])
def test_datumaro_reads_it(suffix: str, chosen: str, tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    names = {"cvat": "a.xml", "coco": "annotations/instances_default.json", "mot": "gt/gt.txt"}
    path = tmp_path / names[chosen]
    written(path, chosen)
    if chosen == "coco":
        (tmp_path / "images" / "default").mkdir(parents=True)  # it asks for the images' folder
    if chosen == "mot":
        (path.parent / "labels.txt").write_text("object\n")
    formats = {"cvat": "cvat", "coco": "coco_instances", "mot": "mot_seq"}
    target = {"cvat": path, "coco": path, "mot": path}[chosen]
    dataset = datumaro.Dataset.import_from(
        str(target if chosen != "mot" else path.parent.parent), formats[chosen]
    )
    found = [annotation for item in dataset for annotation in item.annotations]
    visible = [annotation for annotation in found if not annotation.attributes.get("outside")]
    assert len(visible) == 5
