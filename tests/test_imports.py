"""The runtime side needs neither torch nor onnx, and the package keeps its shape."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from blobs import read_video, truth, write_video

from sttrack_deploy.bundle import Bundle
from sttrack_deploy.engines.registry import BACKENDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sttrack_deploy"
HEAVY = ("torch", "onnx", "onnxslim", "onnxscript", "safetensors", "yaml", "matplotlib")
LONGEST_MODULE = 400

# Not an ImportError: nobody can catch it by accident and go on.
GUARD = f"""
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise AssertionError(f"the runtime imported {{name}}")
sys.meta_path.insert(0, Guard())
"""
# To every import and to importlib.util.find_spec, these are not installed.
ABSENT = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY}))
"""
RUN = "from sttrack_deploy.cli.run import main; main()"


def runtime_modules() -> list[str]:
    files = [
        *(PACKAGE / name for name in ("__init__.py", "bundle.py", "cropping.py", "errors.py", "files.py")),
        *(
            PACKAGE / "cli" / name
            for name in (
                "run.py",
                "run_one.py",
                "run_list.py",
                "evaluate.py",
                "doctor.py",
                "evaluate_commands.py",
                "calibrate.py",
            )
        ),
        *PACKAGE.glob("terminal/*.py"),
        PACKAGE / "geometry.py",
        *PACKAGE.glob("runtime/*.py"),
        *PACKAGE.glob("video/*.py"),
        *PACKAGE.glob("evaluation/**/*.py"),
        *PACKAGE.glob("calib/*.py"),
        *PACKAGE.glob("sequences/**/*.py"),
        # The adapters of CUDA need its packages.
        *(
            file
            for file in PACKAGE.glob("engines/**/*.py")
            if file.parent.name != "torch" and file.stem not in ("cuda_python", "pycuda_adapter")
        ),
    ]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return sorted(name.removesuffix(".__init__") for name in names)


def python(code: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_runtime_imports_nothing_of_training_and_export(tmp_path: Path) -> None:
    modules = runtime_modules()
    assert "sttrack_deploy.engines.onnxruntime.engine" in modules
    imports = "\n".join(f"import {name}" for name in modules)
    lazy = "from sttrack_deploy import Bundle, TrackResult, Tracker, open_bundle"
    done = python(f"{GUARD}\n{imports}\n{lazy}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_guard_works(tmp_path: Path) -> None:
    done = python(f"{GUARD}\nimport sttrack_deploy.engines.torch.engine", cwd=tmp_path)
    assert "the runtime imported torch" in done.stderr


@pytest.mark.parametrize(
    "command", ["run", "evaluate", "parity", "bench", "build_engine", "doctor", "export", "train"]
)
def test_a_command_starts_without_heavy_imports(command: str, tmp_path: Path) -> None:
    """``--help`` and wrong calls are answered at once, on any installation."""
    code = (
        f"{GUARD}\nimport sttrack_deploy.cli.{command} as c\n"
        "try: c.main(['--help'], prog_name='it')\nexcept SystemExit as e: code = e.code\n"
        "assert not code, code\nassert 'onnxruntime' not in sys.modules"
    )
    done = python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: it ")


def test_tracking_without_torch(tiny_bundle: Bundle, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", 8)
    box = ",".join(map(str, truth(0)))
    arguments = (
        video,
        "--init-box",
        box,
        "--bundle",
        tiny_bundle.path,
        "--engine",
        "onnxruntime",
        "--threads",
        1,
    )
    done = python(f"{ABSENT}\n{RUN}", *arguments, "--boxes", "b.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tracked 8 frames" in done.stderr
    assert len(read_video(tmp_path / "clip_tracked.mp4")) == 8
    assert len((tmp_path / "b.txt").read_text().splitlines()) == 8


def test_the_torch_engine_without_torch(tiny_bundle: Bundle, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.avi", 3)
    arguments = (video, "--init-box", "20,30,24,24", "--bundle", tiny_bundle.path, "--engine", "torch")
    done = python(f"{ABSENT}\n{RUN}", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(BACKENDS["torch"].install)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.avi"]


@pytest.mark.parametrize(
    ("command", "arguments", "extra"),
    [
        ("export", ("--model", "sttrack-nano", "--checkpoint", "a.pth", "--out", "b"), "export"),
        ("train", ("--recipe", "a.toml", "--out", "b"), "train"),
    ],
)
def test_export_and_training_without_torch(
    command: str, arguments: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    code = f"{ABSENT}\nfrom sttrack_deploy.cli.{command} import main; main()"
    done = python(code, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"sttrack-deploy[{extra}]" in line
    assert list(tmp_path.iterdir()) == []


def test_no_module_is_long() -> None:
    files = [
        file for folder in (PACKAGE, ROOT / "tests", ROOT / "benchmarks") for file in folder.rglob("*.py")
    ]
    lines = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files
    }
    assert len(lines) > 50
    assert {name: count for name, count in lines.items() if count > LONGEST_MODULE} == {}


def test_every_package_says_that_it_is_one() -> None:
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
    assert (PACKAGE / "py.typed").is_file()
