"""``sttrack-bench`` from the command line, with the tiny network. No test looks at how fast anything is."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from blobs import truth, write_video
from click.testing import CliRunner, Result

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.cli.bench import main


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--threads", "1"])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.avi", 12)


@pytest.fixture
def box() -> str:
    return ",".join(map(str, truth(0)))


def test_two_engines_take_turns(tiny_bundle: Bundle, video: Path, box: str, tmp_path: Path) -> None:
    out, plot = tmp_path / "b.json", tmp_path / "b.png"
    done = bench(
        tiny_bundle.path, "--engines", "onnxruntime,torch", "--source", video, "--init-box", box,
        "--frames", 10, "--rounds", 2, "--targets", "2", "--long", 20, "--json", out, "--plot", plot,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "what is inside: decode" in done.output
    assert "fastest: " in done.output
    assert "fixed batch; export one with --batch dynamic" in done.output
    document = json.loads(out.read_text())
    assert document["baseline"] == "torch"
    exported, torch = document["engines"]
    assert (exported["label"], torch["label"]) == ("fp32 onnxruntime", "torch")
    assert torch["speed_of_baseline"]["search"]["value"] == pytest.approx(1.0)
    expected = torch["stages_ms"]["search"]["p50"] / exported["stages_ms"]["search"]["p50"]
    assert math.isfinite(expected)
    for engine in document["engines"]:
        assert engine["facts"]["opencv_threads"] == 1
        whole = engine["end_to_end_ms"]
        assert 0 < whole["p50"] <= whole["p95"] <= whole["p99"]
        assert engine["fps_end_to_end"] == pytest.approx(1e3 / whole["mean"])
        assert all(engine["stages_ms"][stage]["p50"] >= 0 for stage in ("decode", "crop", "template", "post"))
        assert len(engine["memory_mib"]["after_each_round"]) == 2
        assert engine["long"]["frames"] == [0.0]
    assert exported["targets"] == {"1": exported["targets"]["1"]}
    assert set(torch["targets"]) == {"1", "2"}
    assert torch["targets"]["2"]["cost_of_single_ones"]["value"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_profile_names_operators(tiny_bundle: Bundle, video: Path, box: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    out = tmp_path / "b.json"
    done = bench(
        tiny_bundle.path, "--engines", "onnxruntime,openvino,torch", "--source", video, "--init-box", box,
        "--frames", 8, "--rounds", 1, "--profile", "--json", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "torch: no profile: " in done.output
    profiles = json.loads(out.read_text())["profiles"]
    assert "openvino" in profiles["torch"]["reason"]
    for label, kind in (("fp32 onnxruntime", "Conv"), ("fp32 openvino", "Convolution")):
        found = profiles[label]
        assert f"{label}: " in done.output
        times = [one["milliseconds"] for one in found["operators"]]
        assert times == sorted(times, reverse=True)
        assert found["milliseconds"] == pytest.approx(sum(times))
        assert sum(group["share"] for group in found["groups"]) == pytest.approx(1.0)
        assert sum(group["count"] for group in found["groups"]) == len(times) > 10
        assert any(kind in group["kind"] for group in found["groups"])
        assert kind in done.output


def test_an_engine_that_fails_does_not_cost_the_others(
    tiny_bundle: Bundle, video: Path, box: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    (folder / "weights.safetensors").unlink()
    options = (folder, "--engines", "torch,onnxruntime", "--source", video, "--init-box", box, "--frames", 6)
    done = bench(*options, "--rounds", 1)
    assert done.exit_code == 1
    assert "torch was not run: " in done.output
    assert "has no weights for the torch engine" in done.output
    assert "fp32 onnxruntime" in done.output
    assert "error: not measured: torch" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--engine", "abacus"), 2, "engines are onnxruntime, torch"),
        (("--engines", ""), 2, "--engines names none; engines are onnxruntime, torch"),
        (("--precisions", " , "), 2, "--precisions names none; precisions are fp32"),
        (("--targets", "1,x"), 2, "--targets is numbers"),
        (("--targets", "1,1_0"), 2, "--targets is numbers"),
        (("--targets", "\u0662"), 2, "--targets is numbers"),
        (("--baseline", "torch"), 2, "the baseline 'torch' is not measured"),
        (("--init-box", "1,2,3,4"), 2, "--source and --init-box go together"),
        (("--source", "none.mp4", "--init-box", "1,2,3,4"), 1, "none.mp4 does not exist"),
    ],
)
def test_wrong_calls(arguments: tuple[str, ...], code: int, message: str, tiny_bundle: Bundle) -> None:
    done = bench(tiny_bundle.path, *arguments)
    assert done.exit_code == code
    assert message in done.output


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_report_never_replaces_a_file_of_somebody_else(
    option: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    mine = tmp_path / "thesis"
    mine.write_text("years of work")
    done = bench(tiny_bundle.path, option, mine)
    assert done.exit_code == 1
    assert "thesis exists and was not written by sttrack-deploy" in " ".join(done.output.split())
    assert "--overwrite" in done.output
    assert mine.read_text() == "years of work"
    twice = bench(tiny_bundle.path, "--json", mine, "--plot", mine, "--overwrite")
    assert twice.exit_code == 2
    assert "is named twice" in twice.output


def test_a_video_that_is_too_short(tiny_bundle: Bundle, box: str, tmp_path: Path) -> None:
    short = write_video(tmp_path / "short.avi", 3)
    done = bench(tiny_bundle.path, "--source", short, "--init-box", box)
    assert done.exit_code == 1
    assert "has 3 frames; a benchmark needs at least" in done.output
