"""``sttrack-run --list``: many videos; what fails costs itself alone, and what is finished is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from blobs import write_video
from click.testing import CliRunner, Result

from sttrack_deploy import files
from sttrack_deploy.cli.run import main
from sttrack_deploy.runtime.video_list import ListSettings, read_video_list

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 12, "mp4v")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path) -> Run:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, [*map(str, arguments), "--threads", "1"])


BOX = '"20,30,24,24"'


def write_list(*rows: str, header: str = "source,box,output") -> Path:
    path = Path("videos.csv")
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_videos_get_the_boxes_that_they_get_alone_and_a_failure_costs_itself(run: Run) -> None:
    Path("c.mp4").write_bytes(Path("c.mp4").read_bytes()[:3000])
    write_list(
        f"a.mp4,{BOX},out/a.txt;out/a.mp4",
        "b.mp4,20 30 24 24;90 40 30 30,out/b.txt;out/b.jsonl",
        f"c.mp4,{BOX},out/c.txt",
    )
    result = run("--list", "videos.csv", "--workers", 2)
    assert result.exit_code == 1, result.output
    assert "tracked 2 of 3 videos now, 24 frames" in result.stderr
    assert "line 4" in result.stderr
    assert "1 failed" in result.stderr
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "a.mp4",
        "a.txt",
        "b.jsonl",
        "b_1.txt",
        "b_2.txt",
    ]
    assert run("a.mp4", "--init-box", "20,30,24,24", "--no-video", "--boxes", "alone.txt").exit_code == 0
    assert np.array_equal(np.loadtxt("alone.txt", delimiter=","), np.loadtxt("out/a.txt", delimiter=","))


def test_what_is_finished_is_skipped_and_said(run: Run) -> None:
    write_list(f"a.mp4,{BOX},a.txt", f"b.mp4,{BOX},b.txt")
    Path("a.txt").write_text("from before")
    result = run("--list", "videos.csv")
    assert result.exit_code == 0, result.output
    assert "1 of 2 videos are finished" in result.stderr
    assert Path("a.txt").read_text() == "from before"
    assert Path("b.txt").read_text().count("\n") == 12
    again = run("--list", "videos.csv")
    assert again.exit_code == 0
    assert "2 of 2 videos are finished" in again.stderr
    assert run("--list", "videos.csv", "--overwrite").exit_code == 0
    assert Path("a.txt").read_text().count("\n") == 12


def test_a_list_is_checked_as_a_whole_before_any_work(run: Run) -> None:
    Path("x.mp4").write_text("")
    Path("half.txt").write_text("")
    wrong = {
        f"a.mp4,{BOX},a.txt": None,
        f"nowhere.mp4,{BOX},1.txt": "there is no file or folder",
        "a.mp4,nan 1 2 3,2.txt": "not four finite numbers",
        "a.mp4,,3.txt": "either box or start_from",
        f"a.mp4,{BOX},4.doc": "no suffix of an output",
        f"a.mp4,{BOX},a.txt;4.mp4": "output of line 2 too",
        f"a.mp4,{BOX},b.mp4": None,
        f"b.mp4,{BOX},5.txt": None,
        f"a.mp4,{BOX},": "there is no output",
        f"rtsp://host/door,{BOX},6.txt": "live source",
        f"a.mp4,{BOX},half.txt;half.mp4": "not every output",
        "a.mp4,20,30,24,24,7.txt": "a box with commas needs quotes",
    }
    write_list(*wrong)
    before = sorted(Path().iterdir())
    result = run("--list", "videos.csv")
    assert result.exit_code == 2, result.output
    for row, message in wrong.items():
        assert message is None or message in result.stderr, row
    assert "b.mp4 is a source" in result.stderr
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line names the columns"),
        ("a.mp4,b\n", "the first line names the columns"),
        ("source,box,output\n", "names no video"),
        ("source,box,output,fps\na,b,c,d\n", "a column 'fps'"),
        ('source,box,output\n"a.mp4,1\n', "unexpected end of data"),
        ("source,box,box,output\n", "the first line names the columns"),
    ],
)
def test_a_table_that_is_none(text: str, message: str, run: Run) -> None:
    Path("videos.csv").write_text(text)
    result = run("--list", "videos.csv")
    assert result.exit_code == 2
    assert message in result.stderr


def test_options_that_mean_nothing_with_a_list_are_refused(run: Run) -> None:
    write_list(f"a.mp4,{BOX},a.txt")
    for extra in (["--out", "x.mp4"], ["--init-box", "1,2,3,4"], ["a.mp4"], ["--start", "3"], ["--demo"]):
        result = run("--list", "videos.csv", *extra)
        assert result.exit_code == 2
        assert "does not go with --list" in result.stderr
    assert "--list FILE.csv" in run("a.mp4", "--init-box", "1,2,3,4", "--workers", 2).stderr


def test_start_end_and_paths_beside_the_list(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_list(
        f"a.mp4,{BOX},a.csv,3,8", f"b.mp4,{BOX},b.txt,,", header="source,box,output,start,end"
    ).resolve()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    first, second = read_video_list(path, ListSettings())
    assert (first.start, first.end, second.start, second.end) == (3, 8, 0, None)
    assert run("--list", path).exit_code == 0
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["3", "4", "5", "6", "7"]
    assert not any(Path().iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ on Windows")
def _wait_until_settled() -> None:
    """Until the killed worker's files are leftovers for the next run: nobody holds them, and they are not new."""
    import fcntl  # not on Windows

    end = time.monotonic() + 60
    for path in (p for p in Path().iterdir() if p.name.startswith(".")):
        with path.open("rb") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    assert time.monotonic() < end, f"{path} is still written"
                    time.sleep(0.05)
        while time.time() - path.stat().st_ctime < files._SETTLED:
            time.sleep(0.05)


def test_an_interrupted_list_goes_on_where_it_was(run: Run, tmp_path: Path) -> None:
    """A SIGTERM in the middle leaves finished files only, no process, and exit code 130."""
    write_video(Path("long.mp4"), 3000, "mp4v")
    write_list(f"a.mp4,{BOX},a.txt", f"long.mp4,{BOX},long.txt")
    code = "from sttrack_deploy.cli.run import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--list", "videos.csv", "--threads", "1"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + 120
    while not any(p.name.startswith(".long") for p in Path().iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "1 of 2 videos were done" in told
    assert Path("a.txt").exists()
    assert not Path("long.txt").exists()
    _wait_until_settled()
    Path("long.mp4").write_bytes(Path("b.mp4").read_bytes())
    again = run("--list", "videos.csv")
    assert again.exit_code == 0
    assert "1 of 2 videos are finished" in again.stderr
    assert not any(p.name.startswith(".") for p in Path().iterdir())  # leftovers are gone
