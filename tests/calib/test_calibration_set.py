"""Opening a set: what is given back, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import clips, record_clips, same

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.calib.calibration_set import CalibrationSet, open_calibration
from sttrack_deploy.errors import UserError
from sttrack_deploy.files import sha256_of


@pytest.fixture(scope="module")
def recorded(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    folder = tmp_path_factory.mktemp("calib")
    return record_clips(tiny_bundle, clips(folder / "videos", (8,)), folder / "set", samples=4)


@pytest.fixture
def copy(recorded: CalibrationSet, tmp_path: Path) -> Path:
    """A set that may be broken."""
    return Path(shutil.copytree(recorded.path, tmp_path / "set"))


def refusal(path: Path, bundle: Bundle | None = None) -> str:
    with pytest.raises(UserError) as caught:
        open_calibration(path, bundle)
    assert "\n" not in str(caught.value)
    assert "sttrack-calibrate" in str(caught.value)
    return str(caught.value)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((path / "manifest.json").read_text())
    change(data)
    (path / "manifest.json").write_text(json.dumps(data))


def test_opened_again_it_is_the_same(recorded: CalibrationSet, tiny_bundle: Bundle) -> None:
    opened = open_calibration(recorded.path, tiny_bundle)
    assert opened == recorded
    assert len(opened) == 4
    assert opened.sha256 == sha256_of(recorded.path / "manifest.json")
    wanted = {t.name: (t.dtype, tuple(t.shape)) for t in tiny_bundle.manifest.search.inputs}
    feeds = opened.search_feeds(0)
    assert {name: (a.dtype.name, a.shape) for name, a in feeds.items()} == wanted
    wanted = {t.name: (t.dtype, tuple(t.shape)) for t in tiny_bundle.manifest.template.inputs}
    assert {name: (a.dtype.name, a.shape) for name, a in opened.template_feeds(0).items()} == wanted


def test_numpy_reads_the_files(recorded: CalibrationSet) -> None:
    with np.load(recorded.path / recorded.manifest.samples[1].file) as file:
        assert same(dict(file), recorded.search_feeds(1))


def test_a_fixed_batch_repeats_the_row(copy: Path) -> None:
    one = open_calibration(copy, None).search_feeds(2)
    edit(copy, lambda data: data.update(batch=3))
    three = open_calibration(copy, None).search_feeds(2)
    assert same(three, {name: np.concatenate([array] * 3) for name, array in one.items()})


@pytest.mark.parametrize("graph", ["search", "template"])
def test_another_bundle_is_refused_with_the_command(
    recorded: CalibrationSet, tiny_bundle: Bundle, graph: str
) -> None:
    spec = dataclasses.replace(getattr(tiny_bundle.manifest, graph), sha256="f" * 64)
    other = Bundle(Path("other bundle"), dataclasses.replace(tiny_bundle.manifest, **{graph: spec}))
    text = refusal(recorded.path, other)
    assert f"{graph} graph" in text
    assert text.endswith(f"sttrack-calibrate videos --bundle 'other bundle' --out {recorded.path}")
    assert open_calibration(recorded.path, None) == recorded


@pytest.mark.parametrize("kind", ["samples", "templates"])
def test_damaged_files_are_refused(copy: Path, kind: str) -> None:
    file = copy / kind / "00000.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "was altered" in refusal(copy)
    file.write_bytes(whole[: len(whole) // 2])
    assert f"has {len(whole) // 2} bytes" in refusal(copy)
    file.unlink()
    assert f"lacks {file}" in refusal(copy)
    file.write_bytes(whole)
    open_calibration(copy, None)


def test_unverified_the_damage_is_found_when_it_is_read(copy: Path) -> None:
    (copy / "samples" / "00002.npz").unlink()
    opened = open_calibration(copy, None, verify=False)
    opened.search_feeds(1)
    with pytest.raises(UserError, match=r"lacks .*00002\.npz"):
        opened.search_feeds(2)


@pytest.mark.parametrize("content", ["no zip", "other arrays"])
def test_a_file_that_was_never_a_sample_is_refused(copy: Path, content: str) -> None:
    file = copy / "samples" / "00000.npz"
    if content == "no zip":
        file.write_bytes(b"PK nonsense")
    else:
        np.savez(file, search_image=np.zeros((1, 2, 2, 3), np.uint8))
    edit(copy, lambda data: data["samples"][0].update(sha256=sha256_of(file), bytes=file.stat().st_size))
    opened = open_calibration(copy, None)
    with pytest.raises(UserError, match=r"is not an npz file|does not hold the manifest's inputs"):
        opened.search_feeds(0)


def test_manifests_that_are_none(copy: Path, tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "has no manifest.json" in refusal(tmp_path / "empty")
    edit(copy, lambda data: data.pop("seed"))
    assert "seed" in refusal(copy)
    edit(copy, lambda data: data.update(seed=0, samples=[]))
    assert "no sample" in refusal(copy)
    edit(copy, lambda data: data.update(schema=99))
    assert "schema 99" in refusal(copy)
    for text in ("{", "[" * 100_000, '{"schema": ' + "1" * 5000 + "}"):
        (copy / "manifest.json").write_text(text)
        assert "not valid JSON" in refusal(copy)
