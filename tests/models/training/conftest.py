"""Small stand-ins for the real material: photographs and a video, drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sttrack_deploy.models.training.clips.synthetic.image_bank import ImageBank, load_image_bank

HEADER = "path,set,width,height,boxes,mask\n"


def gray_texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A gray picture with detail at several scales, BGR uint8."""
    total = np.zeros((height, width), np.float32)
    for cell in (4, 12, 40):
        noise = rng.random((height // cell + 2, width // cell + 2)).astype(np.float32)
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    gray = (20 + (total - low) * (215 / (high - low))).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 gray photographs; every fourth shows a magenta object with its mask, every fourth has boxes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    lines = [HEADER]
    for i in range(40):
        height, width = (150, 200) if i % 2 else (200, 160)
        image = gray_texture(rng, height, width)
        boxes, mask_name = "", ""
        if i % 4 == 0:
            mask = np.zeros((height, width), np.uint8)
            cv2.ellipse(mask, (80, 100), (22, 14), 20 * i, 0, 360, 255, -1)
            cv2.circle(mask, (95, 92), 10, 255, -1)
            image[mask > 0] = (230, 0, 230)
            mask_name = f"mask{i}.png"
            cv2.imwrite(str(folder / mask_name), mask)
            x, y, w, h = cv2.boundingRect(mask)
            boxes = f"{x} {y} {w} {h}"
        elif i % 4 == 1:
            boxes = "30 40 50 40;100.5 20 40.25 60"
        cv2.imwrite(str(folder / f"{i}.png"), image)
        lines.append(f"{i}.png,set{i % 2},{width},{height},{boxes},{mask_name}\n")
    (folder / "index.csv").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def bank(image_folder: Path) -> ImageBank:
    return load_image_bank(image_folder, "train", side=208)


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of a magenta square that crosses a gray picture; one has the square cut at the edge."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(1)
    for name, start in (("one", 30), ("two", 90)):
        writer = cv2.VideoWriter(str(folder / f"{name}.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (320, 240))
        background = gray_texture(rng, 240, 320) // 2
        lines = []
        for i in range(24):
            frame = background.copy()
            x, y = start + 4 * i, 60 + 3 * i
            frame[y : y + 36, x : x + 30] = (230, 0, 230)
            writer.write(frame)
            lines.append("nan,nan,nan,nan" if i in (5, 6) else f"{x},{y},30,36")
        writer.release()
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder
