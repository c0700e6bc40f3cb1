"""Miniatures of the published training sets: a magenta target that crosses gray pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sttrack_deploy.models.training.clips.batch import ClipBatch

SIZE = (160, 120)
FRAMES = 24
Box = tuple[int, int, int, int]


def box_at(frame: int) -> Box:
    """Where the target is: x, y, w, h."""
    return (10 + 3 * frame, 20 + 2 * frame, 24, 30)


def paint(path: Path, box: Box | None, level: int = 90, size: tuple[int, int] = SIZE) -> None:
    """A picture without loss, whatever its name says: OpenCV looks at the data."""
    rng = np.random.default_rng(level)
    picture = np.repeat(rng.integers(level - 30, level + 30, (size[1], size[0], 1), np.uint8), 3, axis=2)
    if box is not None:
        x, y, w, h = box
        picture[y : y + h, x : x + w] = (230, 0, 230)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())


def sequence(
    folder: Path, name: Callable[[int], str], hidden: Collection[int] = (), frames: int = FRAMES
) -> str:
    """The images of one sequence, and its boxes as text; those of hidden frames are 0."""
    lines = []
    for frame in range(frames):
        box = None if frame in hidden else box_at(frame)
        paint(folder / name(frame), box)
        lines.append(",".join(map(str, box or (0, 0, 0, 0))))
    return "\n".join(lines) + "\n"


def lasot(root: Path, name: str, hidden: Collection[int] = (), with_class: bool = True) -> Path:
    folder = root / name.rpartition("-")[0] / name if with_class else root / name
    text = sequence(folder / "img", lambda frame: f"{frame + 1:08d}.jpg", hidden)
    (folder / "groundtruth.txt").write_text(text)
    flags = [int(frame in hidden) for frame in range(FRAMES)]
    (folder / "out_of_view.txt").write_text(",".join(map(str, flags)))
    (folder / "full_occlusion.txt").write_text(",".join("0" * FRAMES))
    return folder


def got10k(root: Path, numbers: Collection[int], hidden: Collection[int] = ()) -> Path:
    train = root / "train"
    for number in numbers:
        folder = train / f"GOT-10k_Train_{number:06d}"
        text = sequence(folder, lambda frame: f"{frame + 1:08d}.jpg", hidden)
        (folder / "groundtruth.txt").write_text(text.replace(",", ".0000,").replace("\n", ".0000\n"))
        half = len(hidden) // 2  # flagged in one way or the other
        absent, covered = set(sorted(hidden)[:half]), set(sorted(hidden)[half:])
        (folder / "absence.label").write_text("".join(f"{int(f in absent)}\n" for f in range(FRAMES)))
        (folder / "cover.label").write_text("".join(f"{8 * (f not in covered)}\n" for f in range(FRAMES)))
    (train / "list.txt").write_text("".join(f"GOT-10k_Train_{number:06d}\n" for number in numbers))
    return train


def trackingnet(root: Path, part: int, name: str, frames: int = FRAMES) -> None:
    folder = root / f"TRAIN_{part}"
    text = sequence(folder / "frames" / name, lambda frame: f"{frame}.jpg", frames=frames)
    (folder / "anno").mkdir(exist_ok=True)
    (folder / "anno" / f"{name}.txt").write_text(text)


def coco(root: Path, images: int = 4) -> None:
    """Each image has the target, a crowd, and an object of 4 pixels."""
    pictures: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(images):
        name = f"{number:012d}.jpg"
        box = (20 + 10 * number, 30, 40, 36)
        paint(root / "images" / "train2017" / name, box, 60 + number)
        pictures.append({"id": 7 + number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for crowd, where in ((0, [*box[:3], box[3] + 0.0]), (1, [0, 0, 100, 100]), (0, [3, 3, 4, 4])):
            objects.append({
                "id": len(objects), "image_id": 7 + number, "iscrowd": crowd, "bbox": where,
                "segmentation": [[0, 0, 1, 1]],
            })  # fmt: skip
    folder = root / "annotations"
    folder.mkdir(parents=True)
    text = json.dumps({"images": pictures, "annotations": objects, "categories": []})
    (folder / "instances_train2017.json").write_text(text)


def painted(pixels: np.ndarray) -> tuple[np.ndarray, int] | None:
    """x1 y1 x2 y2 around the magenta of a crop, RGB, and how many pixels it has."""
    signed = pixels.astype(int)
    ys, xs = np.nonzero((signed[..., 0] - signed[..., 1] > 90) & (signed[..., 2] - signed[..., 1] > 90))
    if not len(xs):
        return None
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]), len(xs)


def check_boxes(clip: ClipBatch, tolerance: float) -> int:
    """Every box, cut to its crop, is where the target was painted; how many were looked at."""
    size, seen = clip.search.shape[2], 0
    for i, j in clip.present.nonzero().tolist():
        truth = (clip.box[i, j] * size).numpy().clip(0, size)
        if min(truth[2] - truth[0], truth[3] - truth[1]) < 6:
            continue
        found = painted(clip.search[i, j].numpy())
        assert found is not None
        assert np.abs(found[0] - truth).max() <= tolerance, (found[0], truth)
        seen += 1
    return seen
