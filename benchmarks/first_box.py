"""Time from ``sttrack-run`` to the first box that an engine has found, cold and warm.

    python -m benchmarks.first_box --engines onnxruntime,openvino --rounds 5

Cold: the engine cache is empty, so what the engine compiles is compiled now. Warm: the same command again. The system's
own cache of files is warm in both. Each run is a new process; engines take turns in an order drawn anew each round.
Beside the time stands the processor time of the whole process, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from sttrack_deploy.engines.building import VARIABLE
from sttrack_deploy.runtime.demo import DemoClip
from sttrack_deploy.video.writer import VideoWriter

RUN = "from sttrack_deploy.cli.run import main; main()"
COLD, WARM = "cold", "warm"


def first_box(clip: Path, engine: str, options: list[str], cache: Path) -> tuple[float, float]:
    """Seconds until the box of the second frame is out, and processor seconds of the whole run."""
    box = ",".join(f"{value:g}" for value in DemoClip().truth[0])
    command = [sys.executable, "-c", RUN, str(clip), "--init-box", box, "--engine", engine, *options]
    command += ["--no-video", "--end", "2", "--json", "-"]
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, VARIABLE: str(cache)}
    )
    assert process.stdout is not None
    assert process.stderr is not None
    seconds = None
    for line in process.stdout:
        if json.loads(line).get("frame") == 1:
            seconds = time.perf_counter() - begun
    said = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if seconds is None or process.returncode:
        raise SystemExit(f"{engine}: {said.strip()}")
    return seconds, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", default="onnxruntime,openvino,openvino-bf16,torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("options", nargs="*", help="further arguments of sttrack-run, after --")
    options = parser.parse_args()
    engines = options.engines.split(",")
    order = np.random.default_rng(0)
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="sttrack-first-box-") as folder:
        clip = Path(folder) / "clip.mp4"
        demo = DemoClip()
        with VideoWriter(clip, demo.fps) as writer:
            for frame in demo.frames(range(4)):
                writer.write(frame.image)
        for turn in range(options.rounds):
            for index in order.permutation(len(engines)):
                engine, cache = engines[index], Path(folder) / f"{turn}-{index}"
                for state in (COLD, WARM):
                    times.setdefault((engine, state), []).append(
                        first_box(clip, engine, options.options, cache)
                    )
    print(f"{'engine':20} {'':5} {'first box s':>12} {'range':>14} {'processor s':>12}")
    for engine in engines:
        for state in (COLD, WARM):
            wall, busy = zip(*times[engine, state], strict=True)
            span = f"{min(wall):.2f}..{max(wall):.2f}"
            print(f"{engine:20} {state:5} {median(wall):12.2f} {span:>14} {median(busy):12.2f}")


if __name__ == "__main__":
    main()
