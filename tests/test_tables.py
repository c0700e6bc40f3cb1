"""Tables by the name of a precision, an engine, a data set: none lacks a row that another one has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from sttrack_deploy.bundle import COMPUTE_BF16, TrackingPolicy, open_bundle
from sttrack_deploy.engines.building import BUILDERS
from sttrack_deploy.engines.openvino.build import PRECISIONS
from sttrack_deploy.engines.registry import BACKENDS
from sttrack_deploy.export.precision import CONVERTED
from sttrack_deploy.manifest import LAYOUT_OF
from sttrack_deploy.models.training.material import LAYOUTS, READERS
from sttrack_deploy.models.training.recipe import PUBLISHED_SETS
from sttrack_deploy.runtime.run_files import _KINDS
from sttrack_deploy.runtime.track_formats import TRACK_FORMATS
from sttrack_deploy.sequences.datasets import DATASETS
from sttrack_deploy.serve.downloads import FORMATS
from sttrack_deploy.verification import gpu_acceptance
from sttrack_deploy.verification.gates import GATES
from sttrack_deploy.verification.parity.run import TOLERANCES
from sttrack_deploy.video.file_types import CODECS, CONTAINERS, VIDEO_SUFFIXES
from sttrack_deploy.video.writer import _ENCODERS


def test_every_precision_has_a_gate_and_a_tolerance() -> None:
    precisions = ["fp32", *CONVERTED]
    assert list(GATES) == precisions
    assert list(TOLERANCES) == precisions
    assert set(gpu_acceptance.PRECISIONS) <= set(precisions)


def test_tables_name_engines_that_exist() -> None:
    for names in (COMPUTE_BF16, LAYOUT_OF, BUILDERS, PRECISIONS.values(), gpu_acceptance.ENGINES):
        assert set(names) <= set(BACKENDS)


def test_every_codec_has_an_encoder_and_what_is_written_can_be_read() -> None:
    assert set(CODECS) == set(_ENCODERS)
    assert set(CONTAINERS) <= set(VIDEO_SUFFIXES)


def test_training_sets() -> None:
    assert list(LAYOUTS) == list(PUBLISHED_SETS)
    assert set(READERS) <= set(PUBLISHED_SETS)
    assert set(READERS.values()) <= set(DATASETS)


def test_formats_of_tracks_are_offered_by_runs_and_by_the_page() -> None:
    assert set(TRACK_FORMATS) < set(FORMATS)
    assert {form.suffix for form in TRACK_FORMATS.values()} < set(_KINDS)
    assert len({form.suffix for form in FORMATS.values()}) == len(FORMATS)
    assert FORMATS["csv"] == ("csv", "Table", "CSV", ".csv", "text/csv; charset=utf-8")
    assert FORMATS["cvat"] == ("cvat", "CVAT for video", "XML", "_cvat.xml", "application/xml")


def test_the_page_of_the_tracking_policy_has_the_defaults_and_the_shipped_bundles() -> None:
    page = (Path(__file__).parents[1] / "docs/tracking-policy.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]+) \|", page, re.M)
    usual, shipped = TrackingPolicy(), open_bundle().manifest.tracking
    assert {name for name, _ in rows} == {field.name for field in dataclasses.fields(usual)}
    for name, text in rows:
        default, ours = getattr(usual, name), getattr(shipped, name)
        said = re.search(r"\((\S+) in `sttrack-nano`\)", text)
        assert (said is not None) == (ours != default), name
        if said is not None:
            assert said[1] == ("on" if ours is True else f"{ours:g}"), name
        if isinstance(default, float):
            assert float(text.split()[0].rstrip(":")) == default, name
