"""The Triton repository: read as the server reads it, and replayed by a double that keeps state per sequence."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.cli.export_triton import main as export_triton
from sttrack_deploy.cli.run import main as run
from sttrack_deploy.engines.registry import load_engine
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.integrations.triton.client import Request, TritonEngine
from sttrack_deploy.integrations.triton.export import export_repository
from sttrack_deploy.integrations.triton.layout import SEARCH, ServerOptions, state_bytes
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.runtime.multi_tracker import MultiTracker
from sttrack_deploy.runtime.tracker import Tracker

pytest.importorskip("onnx")
pytest.importorskip(
    "tritonclient.grpc", reason="tritonclient is not installed: pip install 'tritonclient[grpc]'"
)
from triton_double import Refused, TritonDouble


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "models"
    done = CliRunner().invoke(export_triton, ["--out", str(out), "--tracks", "8", "--max-batch", "4"])
    assert done.exit_code == 0, done.output
    assert f"{state_bytes(open_bundle().manifest) / 1000:.1f} kB a track" in done.output
    return out


def test_a_track_on_the_server_has_the_boxes_of_sttrack_run(repository: Path, tmp_path: Path) -> None:
    frames = 24
    lines = tmp_path / "demo.jsonl"
    arguments = [
        "--demo",
        "--start",
        "106",
        "--end",
        str(106 + frames),
        "--no-video",
        "--json",
        str(lines),
        "--threads",
        "1",
    ]
    assert CliRunner().invoke(run, arguments).exit_code == 0
    expected = [json.loads(line) for line in lines.read_text().splitlines() if '"frame"' in line]
    clip, bundle = DemoClip(), open_bundle()
    tracker = Tracker(bundle, TritonEngine(bundle, TritonDouble(repository)))
    tracker.init(clip.frame(106), clip.truth[106])
    seen = [tracker.update(clip.frame(106 + index)) for index in range(1, frames)]
    assert any(result.lost for result in seen)
    for result, line in zip(seen, expected[1:], strict=True):
        box = line["box"] if "box" in line else line["targets"][0]["box"]
        assert result.box == pytest.approx(box, abs=0.02)


def test_tracks_run_as_one_batch_and_keep_their_states_apart(repository: Path) -> None:
    clip, bundle = DemoClip(), open_bundle()
    server = TritonDouble(repository)
    several = MultiTracker(bundle, TritonEngine(bundle, server))
    boxes = [clip.truth[0], (300.0, 200.0, 60.0, 60.0), (20.0, 30.0, 90.0, 40.0)]
    several.init(clip.frame(0), boxes)
    alone = Tracker(bundle, TritonEngine(bundle, server))
    alone.init(clip.frame(0), clip.truth[0])
    for index in range(1, 4):  # frames of both arrive in turn
        first, second = several.update(clip.frame(index)), alone.update(clip.frame(index))
        assert first[0].box == pytest.approx(second.box, abs=1e-3)
    assert len(server.models[SEARCH].states) == 4
    assert server.models[SEARCH].batches[-6:] == [3, 1] * 3


def test_tracks_that_are_over_leave_their_place_to_others(tmp_path: Path) -> None:
    clip, bundle = DemoClip(), open_bundle()
    export_repository(bundle, tmp_path / "models", ServerOptions(tracks=2))
    server = TritonDouble(tmp_path / "models")
    tracker = Tracker(bundle, TritonEngine(bundle, server))
    for index in range(4):  # each looks at its first frame too, as a sequence of its own
        tracker.init(clip.frame(index), clip.truth[index])
        tracker.update(clip.frame(index + 1))
    assert len(server.models[SEARCH].states) <= 2
    server.models[SEARCH].states.clear()  # the server was started again: there is nothing left to end
    tracker.init(clip.frame(9), clip.truth[9])
    tracker.update(clip.frame(10))
    assert len(server.models[SEARCH].states) == 1


def test_a_state_of_another_engine_goes_on_on_the_server(repository: Path) -> None:
    bundle, random = open_bundle(), np.random.default_rng(4)
    spec, here = bundle.manifest.crop, load_engine("onnxruntime", bundle, 1)
    there = TritonEngine(bundle, TritonDouble(repository))
    template = random.integers(0, 256, (1, spec.template_size, spec.template_size, 3), dtype=np.uint8)
    search = random.integers(0, 256, (1, spec.search_size, spec.search_size, 3), dtype=np.uint8)
    cells = [
        np.zeros((1, size // spec.stride, size // spec.stride), np.bool_)
        for size in (spec.template_size, spec.search_size)
    ]
    _, state = here.step(search, cells[1], here.initial_state(template, cells[0]))
    moved = there.import_state(here.export_state(state))
    for _ in range(2):
        (a, state), (b, moved) = here.step(search, cells[1], state), there.step(search, cells[1], moved)
        np.testing.assert_allclose(a.box, b.box, atol=1e-5)
    with pytest.raises(UsageError, match="stays on the Triton server"):
        there.export_state(moved)


def test_the_server_refuses_what_the_client_must_not_do(repository: Path) -> None:
    model = TritonDouble(repository).models[SEARCH]
    zeros = {p.name: np.zeros([1, *p.dims], model.kind(p)) for p in model.config.input}
    with pytest.raises(Refused, match="START"):
        model.run([Request(SEARCH, zeros, ("box",), 7, False)])
    with pytest.raises(Refused, match="expected input"):
        model.run([Request(SEARCH, {}, ("box",), 7, True)])


def test_options_reach_the_configuration(repository: Path, tmp_path: Path) -> None:
    bundle = open_bundle()
    export_repository(
        bundle, tmp_path / "gpu", ServerOptions(tracks=5, idle_seconds=2.5, instances=3, gpu=True)
    )
    config = TritonDouble(tmp_path / "gpu").models[SEARCH].config
    assert config.sequence_batching.max_sequence_idle_microseconds == 2_500_000
    assert config.sequence_batching.oldest.max_candidate_sequences == 5
    group = config.instance_group[0]
    assert (group.count, group.Kind.Name(group.kind)) == (3, "KIND_GPU")
    compile((repository / "client.py").read_text(), "client.py", "exec")


def test_a_fixed_batch_and_a_folder_of_something_else_are_refused(tmp_path: Path) -> None:
    bundle = open_bundle()
    four = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, batch=4))
    with pytest.raises(UsageError, match="--batch dynamic"):
        export_repository(four, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not such a repository"):
        export_repository(bundle, tmp_path / "mine")


def test_a_repository_with_further_files_is_not_replaced(repository: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(repository, tmp_path / "models"))
    assert export_repository(open_bundle(), made).path == made
    (made / "another").mkdir()
    (made / "another" / "config.pbtxt").write_text("mine")
    with pytest.raises(UserError, match=r"another/config\.pbtxt in it is not part of it"):
        export_repository(open_bundle(), made)
