"""The TraX server: what it answers, and how it says what is wrong. Without the ``trax`` package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from blobs import BlobEngine, frame, truth, write_bundle, write_images
from click.testing import CliRunner
from trax_double import Client, Image, Region, Request, TraxDouble, TraxException, request

from sttrack_deploy.bundle import TrackingPolicy, open_bundle
from sttrack_deploy.cli.trax_server import main
from sttrack_deploy.engines import registry
from sttrack_deploy.errors import UserError
from sttrack_deploy.evaluation.vot import IMAGE_FORMATS, read_image, serve
from sttrack_deploy.geometry import iou
from sttrack_deploy.policy import PolicyChanges
from sttrack_deploy.runtime.tracker import Tracker


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "the images", 6)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def served(bundle: Path, *requests: Request) -> Client:
    client, engine, opened = Client(requests), BlobEngine(), open_bundle(bundle)
    serve(client, lambda: Tracker(opened, engine), Region)
    return client


# --- the conversation --------------------------------------------------------------------------------


def test_it_answers_every_frame_with_box_and_confidence(images: Path, bundle: Path) -> None:
    client = served(
        bundle,
        request("initialize", images / "frame0.png", truth(0)),
        *(request("frame", images / f"frame{index}.png") for index in range(1, 6)),
    )
    assert len(client.answers) == 6
    assert client.answers[0] == [(truth(0), 1.0)]
    for index, [(box, confidence)] in enumerate(client.answers[1:], 1):
        assert iou(box, truth(index)) > 0.75
        assert confidence == pytest.approx(0.9)


def test_the_answers_are_those_of_the_tracker(images: Path, bundle: Path) -> None:
    client = served(
        bundle,
        request("initialize", images / "frame0.png", truth(0)),
        request("frame", images / "frame1.png"),
    )
    tracker = Tracker(open_bundle(bundle), BlobEngine())
    tracker.init(frame(truth(0)), truth(0))
    [(box, _)] = client.answers[1]
    assert box == tracker.update(frame(truth(1), seed=1)).box


def test_a_second_start_forgets_the_first(images: Path, bundle: Path) -> None:
    """What a supervised experiment does after each failure."""
    client = served(
        bundle,
        request("initialize", images / "frame0.png", truth(0), (70, 10, 20, 20)),
        request("frame", images / "frame1.png"),
        request("initialize", images / "frame3.png", truth(3)),
        request("frame", images / "frame4.png"),
    )
    assert [len(answer) for answer in client.answers] == [2, 2, 1, 1]
    assert client.answers[2] == [(truth(3), 1.0)]
    assert iou(client.answers[3][0][0], truth(4)) > 0.75


def test_an_object_that_comes_later_is_answered_last(images: Path, bundle: Path) -> None:
    client = served(
        bundle,
        request("initialize", images / "frame0.png", (100, 5, 20, 20)),
        request("frame", images / "frame1.png", truth(1)),
        request("frame", images / "frame2.png"),
    )
    assert [len(answer) for answer in client.answers] == [1, 2, 2]
    assert client.answers[1][1] == (truth(1), 1.0)
    (_, nothing), (box, confidence) = client.answers[2]
    assert nothing == pytest.approx(0.05)
    assert confidence == pytest.approx(0.9)
    assert iou(box, truth(2)) > 0.75


@pytest.mark.parametrize("kind", ["polygon", "mask", "special"])
def test_other_regions_are_named(kind: str, images: Path, bundle: Path) -> None:
    start = request("initialize", images / "frame0.png", truth(0))
    start.objects = [(Region(*truth(0), type=kind), {})]
    with pytest.raises(UserError, match=f"as a rectangle, not as a {kind} region"):
        served(bundle, start)


def test_a_box_outside_the_image_is_an_error(images: Path, bundle: Path) -> None:
    with pytest.raises(UserError, match="less than one pixel inside the image"):
        served(bundle, request("initialize", images / "frame0.png", (900, 900, 20, 20)))


# --- images ------------------------------------------------------------------------------------------


def test_every_way_to_hand_over_an_image_gives_bgr(tmp_path: Path) -> None:
    bgr = frame(truth(0))
    path = tmp_path / "ünïcode and space.png"
    encoded = cv2.imencode(".png", bgr)[1]
    path.write_bytes(encoded.tobytes())
    ways = {
        "path": Image("path", path),
        "buffer": Image("buffer", encoded.tobytes()),
        "memory": Image("memory", np.ascontiguousarray(bgr[..., ::-1])),
    }
    assert set(ways) == set(IMAGE_FORMATS)
    for image in ways.values():
        read = read_image(image)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, bgr)


def test_gray_pixels_become_three_channels() -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    np.testing.assert_array_equal(read_image(Image("memory", gray)), np.repeat(gray, 3, axis=2))


def test_bad_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    for image, message in [
        (None, "no color image"),
        (Image("path", tmp_path / "absent.jpg"), "cannot read the image .*absent.jpg: No such file"),
        (Image("path", tmp_path / "text.jpg"), "text.jpg cannot be read as an image"),
        (Image("path", tmp_path / "empty.jpg"), "empty.jpg cannot be read as an image"),
        (Image("buffer", b""), "the image that the client sent cannot be read"),
        (Image("memory", np.zeros((3, 4, 1), np.uint16)), "sent uint16 pixels"),
        (Image("url", "http://somewhere"), "as 'url'; images are taken as path, memory, buffer"),
    ]:
        with pytest.raises(UserError, match=message):
            read_image(image)


# --- the process -------------------------------------------------------------------------------------


def run(
    monkeypatch: pytest.MonkeyPatch, trax: object, *arguments: str, **environment: str
) -> tuple[int, str]:
    monkeypatch.setitem(sys.modules, "trax", trax)
    result = CliRunner().invoke(main, arguments, env=environment)
    assert result.stdout == ""  # it belongs to TraX
    return result.exit_code, result.stderr


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int | None]]:
    """What engines were asked for; all of them find red."""
    calls: list[tuple[str, str, int | None]] = []

    def create(name: str, bundle: object, threads: int | None) -> BlobEngine:
        calls.append((name, type(bundle).__name__, threads))
        return BlobEngine()

    monkeypatch.setattr(registry, "load_engine", create)
    return calls


def test_the_process_serves_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, created: list[object], bundle: Path, images: Path
) -> None:
    trax = TraxDouble(
        request("initialize", images / "frame0.png", truth(0)),
        request("frame", images / "frame1.png"),
    )
    code, said = run(
        monkeypatch,
        trax,
        STTRACK_BUNDLE=str(bundle),
        STTRACK_ENGINE="torch",
        STTRACK_THREADS="3",
        STTRACK_LOST_BELOW="0.5",
        STTRACK_RECOVER="1",
    )
    assert (code, said) == (0, "")
    assert created == [("torch", "Bundle", 3)]
    [client] = trax.clients
    assert client.reasons == [None]
    assert [len(answer) for answer in client.answers] == [1, 1]
    [((regions, image_formats, channels), options)] = trax.handshakes
    assert (regions, image_formats, channels) == (["rectangle"], ["path", "memory", "buffer"], ["color"])
    assert options["multiobject"] is True
    assert options["tracker_name"] == "blob"


@pytest.mark.parametrize(
    ("setting", "expected"), [("1", True), ("true", True), ("0", False), ("false", False), (None, None)]
)
def test_recovery_from_the_environment(
    setting: str | None,
    expected: bool | None,
    monkeypatch: pytest.MonkeyPatch,
    created: list[object],
    bundle: Path,
) -> None:
    policies: list[bool | None] = []

    def override(policy: TrackingPolicy, changes: PolicyChanges) -> TrackingPolicy:
        policies.append(changes.recovery)
        return policy

    monkeypatch.setattr("sttrack_deploy.bundle.TrackingPolicy.override", override)
    environment = {} if setting is None else {"STTRACK_RECOVER": setting}
    assert run(monkeypatch, TraxDouble(), "--bundle", str(bundle), **environment)[0] == 0
    assert policies == [expected]


def test_options_beat_the_environment(
    monkeypatch: pytest.MonkeyPatch, created: list[object], bundle: Path
) -> None:
    options = ("--bundle", str(bundle), "--engine", "onnxruntime", "--threads", "2")
    code, _ = run(monkeypatch, TraxDouble(), *options, STTRACK_BUNDLE="/nowhere", STTRACK_THREADS="5")
    assert code == 0
    assert created == [("onnxruntime", "Bundle", 2)]


def test_a_bad_bundle_is_told_to_the_client_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trax = TraxDouble()
    code, said = run(monkeypatch, trax, STTRACK_BUNDLE=str(tmp_path / "nothing"))
    [client] = trax.clients
    [reason] = client.reasons
    assert code == 1
    assert said == f"error: {reason}\n"
    assert reason is not None
    assert "is not a bundle" in reason


def test_an_error_on_the_way_is_told_to_the_client_too(
    monkeypatch: pytest.MonkeyPatch, created: list[object], bundle: Path, images: Path
) -> None:
    trax = TraxDouble(
        request("initialize", images / "frame0.png", truth(0)), request("frame", images / "gone.png")
    )
    code, said = run(monkeypatch, trax, "--bundle", str(bundle))
    [reason] = trax.clients[0].reasons
    assert code == 1
    assert said == f"error: {reason}\n"
    assert reason is not None
    assert "gone.png" in reason


def test_a_client_that_goes_away_is_one_line(
    monkeypatch: pytest.MonkeyPatch, created: list[object], bundle: Path
) -> None:
    def gone(_: Client) -> Request:
        raise TraxException("Exception when waiting for command: Unknown")

    monkeypatch.setattr(Client, "wait", gone)
    code, said = run(monkeypatch, TraxDouble(), "--bundle", str(bundle))
    assert code == 1
    assert said.startswith("error: the TraX client is gone")
    assert said.count("\n") == 1


@pytest.mark.parametrize("other", [None, ModuleType("trax")], ids=["absent", "another package of that name"])
def test_without_trax_the_install_line_is_given(
    other: ModuleType | None, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    code, said = run(monkeypatch, other, "--bundle", str(bundle))
    assert code == 1
    assert said == "error: the TraX server needs 'trax', which is not installed: pip install vot-trax\n"
