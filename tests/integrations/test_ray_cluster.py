"""A list of videos on a Ray cluster of two machines (both on this one)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blobs import write_video
from click.testing import CliRunner

from sttrack_deploy.cli.run import main

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'sttrack-deploy[ray]'")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.timeout(600)
def test_two_workers_give_the_boxes_of_one_machine(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_video(Path(name), 12, "mp4v")
    Path("c.mp4").write_bytes(Path("c.mp4").read_bytes()[:2000])

    def run(out: str, *options: str) -> Any:
        rows = [f'{name}.mp4,"20,30,24,24",{out}/{name}.txt' for name in "abc"]
        Path("videos.csv").write_text("\n".join(["source,box,output", *rows]))
        return CliRunner().invoke(main, ["--list", "videos.csv", "--threads", "1", *options])

    here, there = run("here"), run("there", "--ray", address, "--workers", "2")
    for result in (here, there):
        assert result.exit_code == 1, result.output
        assert "tracked 2 of 3 videos now, 24 frames" in result.stderr
        assert "line 4" in result.stderr
    for name in ("a.txt", "b.txt"):
        one, other = (np.loadtxt(Path(folder) / name, delimiter=",") for folder in ("here", "there"))
        np.testing.assert_allclose(other, one, atol=0.02)
    assert not Path("there/c.txt").exists()
    again = run("there", "--ray", address)
    assert again.exit_code == 1
    assert "2 of 3 videos are finished" in again.stderr


def test_no_cluster_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("a.mp4"), 3, "mp4v")
    Path("videos.csv").write_text('source,box,output\na.mp4,"20,30,24,24",a.txt\n')
    result = CliRunner().invoke(main, ["--list", "videos.csv", "--ray", "nonsense://x"])
    assert result.exit_code == 1
    assert "cannot reach a Ray cluster at nonsense://x" in result.stderr
