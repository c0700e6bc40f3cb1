from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ablation import VARIANTS, ForgetfulEngine
from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.registry import load_engine


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_what_is_named_is_forgotten(tiny_bundle: Bundle, variant: str) -> None:
    forgotten = VARIANTS[variant]
    engine = ForgetfulEngine(load_engine("onnxruntime", tiny_bundle, 1), forgotten)
    crop = tiny_bundle.manifest.crop
    random = np.random.default_rng(0)

    def image(size: int) -> tuple[np.ndarray, np.ndarray]:
        cells = size // crop.stride
        return random.integers(0, 256, (1, size, size, 3), np.uint8), np.zeros((1, cells, cells), np.bool_)

    first = engine.initial_state(*image(crop.template_size))
    _, after = engine.step(*image(crop.search_size), first)
    changed = {name for name in first if not np.array_equal(first[name], after[name])}
    assert changed == {"query_in", "memory_in", "memory_valid_in"} - set(forgotten)
