"""The network against the published one's traces, every array, at the tolerances of the reference."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sttrack_deploy.bundle import Bundle, CropSpec, GraphSpec, Manifest, TrackingPolicy
from sttrack_deploy.cropping import crop_patch
from sttrack_deploy.engines.torch.engine import TorchEngine
from sttrack_deploy.geometry import box_from_crop, clip_box
from sttrack_deploy.models.config import MemorySemantics
from sttrack_deploy.models.corner_network import STTrack
from sttrack_deploy.models.published import config_from_yaml, load_published
from sttrack_deploy.runtime.tracker import Tracker

TRACES = ("trace_8f", "trace_border_template_4f")
SCORE, QUERY, BOX = 1e-4, 1e-5, 5e-6
FEATURE = 2e-5  # feature maps reach magnitudes of about 10
CAPACITY = {"test": 64, "train": 8}  # the training trace attends to all 8 frames of its clip


def load(reference: Path, semantics: MemorySemantics, capacity: int) -> STTrack:
    config = config_from_yaml(reference / "tiny.yaml").with_memory(capacity, semantics)
    network = STTrack(config)
    load_published(network, reference / "sttrack_tiny.pth.tar")
    return network.eval()


def worst(actual: torch.Tensor, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual.numpy() - expected).max())


@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("semantics", ["test", "train"])
@torch.no_grad()
def test_network_reproduces_the_trace(reference: Path, trace: str, semantics: MemorySemantics) -> None:
    z = np.load(reference / f"{trace}.npz")
    network = load(reference, semantics, CAPACITY[semantics])
    mask = torch.from_numpy(z["template_mask"][::16, ::16].copy())[None]
    assert np.array_equal(mask[0].flatten().numpy(), z["template_feat_mask"])
    state = network.initial_state(torch.from_numpy(z["template_patch"])[None], mask)
    assert worst(state.target_features[0], z["template_feat"]) < FEATURE
    assert worst(state.target_position[0], z["template_pos"]) < 1e-6
    for i in range(len(z["frame"])):
        search = torch.from_numpy(z["search_patch"][i])[None]
        mask = torch.from_numpy(z["search_mask"][i][::16, ::16].copy())[None]
        assert np.array_equal(mask[0].flatten().numpy(), z["search_feat_mask"][i])
        assert worst(state.query[0], z[f"{semantics}_query_in"][i]) < QUERY
        features, position = network._embed(search, mask, template=False)
        assert worst(features[0], z["search_feat"][i]) < FEATURE
        assert worst(position[0], z["search_pos"][i]) < 1e-6
        pixels = ((search.float() / 255 - network.mean) / network.std).permute(0, 3, 1, 2)
        absmean = float(network.backbone(pixels).abs().mean())
        assert absmean == pytest.approx(float(z["search_backbone_absmean"][i]), rel=1e-5)
        assert worst(network.encode(search, mask, state).tokens[0], z["memory"][i]) < FEATURE
        output, state = network.step(search, mask, state)
        entries = int(state.memory_valid.sum())
        assert entries == i + 1
        assert worst(output.spatial_query[0], z[f"{semantics}_spatial_query"][i]) < QUERY
        assert worst(output.temporal_query[0], z[f"{semantics}_temporal_query"][i]) < QUERY
        assert worst(output.head_input[0], z[f"{semantics}_head_in"][i]) < SCORE
        assert worst(output.corners.score_top_left[0], z[f"{semantics}_score_tl"][i]) < SCORE
        assert worst(output.corners.score_bottom_right[0], z[f"{semantics}_score_br"][i]) < SCORE
        assert worst(output.corners.box[0], z[f"{semantics}_box_xyxy"][i]) < BOX


def frame_of(reference: Path, index: int) -> np.ndarray:
    image = cv2.imread(str(reference / "frames" / f"{index + 1:04d}.jpg"))
    assert image is not None
    return image


@pytest.mark.parametrize("trace", TRACES)
def test_crops_and_boxes_reproduce_the_trace(reference: Path, trace: str) -> None:
    z = np.load(reference / f"{trace}.npz")

    crop = crop_patch(frame_of(reference, int(z["init_frame"])), z["init_box"], 2.0, 128, 16)
    # JPEG decoders differ by a gray level or two between versions.
    assert np.abs(crop.patch.astype(int) - z["template_patch"]).max() <= 3
    assert np.array_equal(crop.mask, z["template_mask"][::16, ::16])
    assert crop.resize_factor == pytest.approx(float(z["template_resize_factor"]))
    for i in range(len(z["frame"])):
        crop = crop_patch(frame_of(reference, int(z["frame"][i])), z["crop_box"][i], 5.0, 320, 16)
        assert np.abs(crop.patch.astype(int) - z["search_patch"][i]).max() <= 3
        assert np.array_equal(crop.mask, z["search_mask"][i][::16, ::16])
        assert crop.resize_factor == pytest.approx(float(z["resize_factor"][i]))
        height, width = z["image_hw"][i]
        box = box_from_crop(z["test_box_xyxy"][i], z["crop_box"][i], 320, float(z["resize_factor"][i]))
        assert np.allclose(clip_box(box, height, width), z["test_target_bbox"][i], atol=2e-3)


@pytest.mark.parametrize("loop", ["closed_loop_60f", "closed_loop_border_30f"])
def test_tracker_reproduces_the_closed_loop(reference: Path, loop: str) -> None:
    z = np.load(reference / f"{loop}.npz")
    network = load(reference, "test", 64)
    empty = GraphSpec("", "", 0, (), ())
    manifest = Manifest("tiny", CropSpec(128, 2.0, 320, 5.0, 16), empty, empty, (), {}, 1, 20)
    tracker = Tracker(Bundle(reference, manifest), TorchEngine(network), TrackingPolicy(recovery=False))
    first = int(z["init_frame"])
    images = [frame_of(reference, first + k) for k in range(len(z["target_bbox"]))]
    tracker.init(images[0], z["target_bbox"][0])
    for k, image in enumerate(images[1:], start=1):
        box = np.array(tracker.update(image).box, np.float64)
        assert np.abs(box - z["target_bbox"][k]).max() < 0.01
