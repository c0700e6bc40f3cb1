"""The folder of photographs: what is read, what is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sttrack_deploy.errors import UserError
from sttrack_deploy.models.training.clips.synthetic.image_bank import ImageBank, load_image_bank
from sttrack_deploy.models.training.clips.synthetic.sprites import KIND_BOX, KIND_MASK, KIND_REGION

SHARED = Path(__file__).parents[6] / "shared" / "images"


def test_contents(bank: ImageBank) -> None:
    count, sprites = len(bank.images), len(bank.texture)
    assert bank.images.shape == (count, 3, 208, 208)
    assert bank.images.dtype == bank.texture.dtype == torch.uint8
    assert bank.texture.shape == (sprites, 4, 64, 64)
    assert {KIND_MASK, KIND_BOX, KIND_REGION} <= set(bank.kind.tolist())
    assert bank.boxes.shape[1] == 5
    assert bank.owner.max() < count
    assert bank.outline.abs().max() <= 1
    # All that lies outside the texture is transparent: nothing is cut off by it.
    assert bank.texture[:, 3, 0].max() == 0
    assert bank.texture[:, 3, :, -1].max() == 0


def test_outline_is_the_edge_of_the_alpha(bank: ImageBank) -> None:
    low, high = bank.outline.amin(1), bank.outline.amax(1)
    for i in range(0, len(bank.texture), 5):
        ys, xs = torch.nonzero(bank.texture[i, 3] > 127).unbind(-1)
        found = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 32 - 1
        assert torch.allclose(found, torch.cat([low[i], high[i]]), atol=1.2 / 32)


def test_splits_are_disjoint_and_complete(image_folder: Path) -> None:
    train, val = (load_image_bank(image_folder, split, side=208) for split in ("train", "val"))
    assert len(train.images) + len(val.images) == 40
    assert 0 < len(val.images) < 8


def test_large_images_are_shrunk_with_their_boxes(image_folder: Path, bank: ImageBank) -> None:
    small = load_image_bank(image_folder, "train", side=100)
    assert small.images.shape[-1] == 100
    assert small.sizes.max() == 100
    ratio = small.boxes[:, 1:] / bank.boxes[:, 1:]
    assert torch.allclose(
        ratio, (small.sizes / bank.sizes)[bank.boxes[:, 0].long()].amin(-1)[:, None], atol=0.01
    )


@pytest.mark.parametrize("name", ["bank.npz", "bank"])
def test_cache(
    name: str, image_folder: Path, bank: ImageBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "deep" / name
    load_image_bank(image_folder, "train", side=208, cache=cache)
    monkeypatch.setattr(cv2, "imread", lambda *_: pytest.fail("the cache was not used"))
    again = load_image_bank(image_folder, "train", side=208, cache=cache)
    for f in fields(ImageBank):
        one, two = getattr(bank, f.name), getattr(again, f.name)
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two, f.name
    monkeypatch.undo()
    assert load_image_bank(image_folder, "train", side=96, cache=cache).images.shape[-1] == 96


@pytest.mark.parametrize("content", [b"torn", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00"])
def test_a_damaged_cache_is_made_anew(
    image_folder: Path, bank: ImageBank, tmp_path: Path, content: bytes
) -> None:
    cache = tmp_path / "bank.npz"
    cache.write_bytes(content)
    again = load_image_bank(image_folder, "train", side=208, cache=cache)
    assert torch.equal(again.images, bank.images)
    assert cache.stat().st_size > 10_000


def test_limit(image_folder: Path) -> None:
    assert len(load_image_bank(image_folder, "train", side=96, limit=6).images) == 6


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "has no index.csv"),
        ("path,set,width,height,boxes\n", "lacks the column 'mask'"),
        ("path,set,width,height,boxes,mask\n", "no photograph for the split"),
        ("path,set,width,height,boxes,mask\ngone.png,a,9,9,,\n", r"gone\.png.*cannot be read"),
        (
            "path,set,width,height,boxes,mask\nflat.png,a,64,64,1 2 3,\n",
            "'1 2 3' of flat.png is not four numbers",
        ),
        (
            "path,set,width,height,boxes,mask\nflat.png,a,64,64,,none.png\n",
            r"mask .*none\.png.*cannot be read",
        ),
        ("path,set,width,height,boxes,mask\nflat.png,a,64,64,,\n", "holds an object or a textured region"),
        (
            "\ufeffpath,set,width,height,boxes,mask\r\nflat.png,a,64,64,,\r\n",
            "holds an object or a textured region",
        ),
        (
            "path,set,width,height,boxes,mask\nflat.png,a,64\n",
            "index.csv, line 2 has not the columns path,set",
        ),
        ("path,set,width,height,boxes,mask\nflat.png,a,1,2,,,,\n", "index.csv, line 2 has not the columns"),
        (
            "path,set,width,height,boxes,mask\nflat.png,a,64,64,1 2 nan 4,\n",
            "'1 2 nan 4' of flat.png is not four numbers",
        ),
        ("path,set,width,height,boxes,mask\n" + "x" * 200_000, "index.csv, after line 1: field larger"),
    ],
)
def test_errors_are_one_clear_line(tmp_path: Path, index: str | None, message: str) -> None:
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((64, 64, 3), 90, np.uint8))
    if index is not None:
        (tmp_path / "index.csv").write_text(index, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load_image_bank(tmp_path, "train", side=96)
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_image_bank(tmp_path / "nowhere")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the photographs of ../shared/images are not here")
def test_real_photographs() -> None:
    bank = load_image_bank(SHARED, "train", limit=60)
    assert bank.images.shape == (60, 3, 288, 288)
    assert len(bank.texture) > 60
