"""Inputs of the tiny network's graphs, its state among them, recorded on random pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tiny import TINY, search_input, template_input

from sttrack_deploy.bundle import SEARCH_IMAGE, SEARCH_MASK, TEMPLATE_IMAGE, TEMPLATE_MASK, Bundle
from sttrack_deploy.engines.onnxruntime.engine import OnnxRuntimeEngine
from sttrack_deploy.export.precision.job import Samples


def recorded(bundle: Bundle, count: int = 6, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    engine = OnnxRuntimeEngine(bundle, threads=1)
    image, mask = (t.numpy() for t in template_input(TINY, 1, generator))
    templates = [{TEMPLATE_IMAGE: image, TEMPLATE_MASK: mask}]
    state = engine.initial_state(image, mask)
    searches: list[dict[str, Any]] = []
    for _ in range(count):
        search, padded = (t.numpy() for t in search_input(TINY, 1, generator))
        searches.append({SEARCH_IMAGE: search, SEARCH_MASK: padded, **state})
        _, state = engine.step(search, padded, state)
    facts = {"set": "random pictures", "samples": count}
    return Samples(searches.__getitem__, count, templates.__getitem__, 1, facts)


def outputs(session: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))
