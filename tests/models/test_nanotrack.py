"""Our port of NanoTrack v3 against its published ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from sttrack_deploy.models.nanotrack import NanoBackbone, NanoHead, depthwise_correlation, read_nanotrack

PEER = Path(__file__).resolve().parents[3] / "shared" / "peers" / "nanotrack"


@pytest.mark.skipif(not PEER.is_dir(), reason="../shared/peers/nanotrack is not here")
def test_equals_the_published_graphs() -> None:
    backbone, head = NanoBackbone().eval(), NanoHead().eval()
    weights = read_nanotrack(PEER / "nanotrackv3.pth")
    backbone.load_state_dict(weights["backbone"])
    head.load_state_dict(weights["head"])
    model = onnx.load(str(PEER / "nanotrackv3_backbone.onnx"))
    search_graph = ort.InferenceSession(model.SerializeToString())
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 127
    template_graph = ort.InferenceSession(model.SerializeToString())
    head_graph = ort.InferenceSession(str(PEER / "nanotrackv3_head.onnx"))
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (1, 3, 24, 24)).astype(np.float32)
    search, template = (
        torch.nn.functional.interpolate(torch.from_numpy(small), size=(n, n), mode="bilinear")
        for n in (255, 127)
    )
    theirs = [
        graph.run(None, {"input": pixels.numpy()})[0]
        for graph, pixels in ((template_graph, template), (search_graph, search))
    ]
    logits, distances = head_graph.run(None, {"input1": theirs[0], "input2": theirs[1]})
    with torch.no_grad():
        # Published crops are BGR, ours RGB.
        maps = head(backbone(search.flip(1)), head.kernels(backbone(template.flip(1))))
    assert np.abs(logits[0, 1] - logits[0, 0] - maps.margin[0].numpy()).max() < 1e-3
    assert np.abs(np.log(distances) - np.log(maps.distances.numpy())).max() < 1e-4


def test_depthwise_correlation_is_a_grouped_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    search = torch.randn(2, 6, 9, 9, generator=generator)
    kernel = torch.randn(2, 6, 4, 4, generator=generator)
    grouped = torch.nn.functional.conv2d(
        search.reshape(1, 12, 9, 9), kernel.reshape(12, 1, 4, 4), padding=1, groups=12
    ).reshape(2, 6, 8, 8)
    assert torch.allclose(depthwise_correlation(search, kernel), grouped, atol=1e-5)
