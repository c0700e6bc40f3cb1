"""The commands and examples of the README and the docs work, and their links lead somewhere.

Conventions on these pages: an HTML comment on the line before a code block says what it is.
``<!-- tested: cli -->`` and ``<!-- tested: python -->`` are run here with a stand-in for the network;
``<!-- setup: run -->`` and ``<!-- setup: test -->`` are the two commands for a fresh machine. Every
``sttrack-*`` command in any ``bash`` block must parse.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest
from blobs import BlobEngine, frame, write_bundle
from click.testing import CliRunner

from sttrack_deploy import bundle
from sttrack_deploy.engines.onnxruntime import engine as onnxruntime_engine

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARTIFACT_FOLDERS = ("models", "export", "engines", "calib")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *(ROOT / folder / "README.md" for folder in ARTIFACT_FOLDERS),
    *sorted(ROOT.glob("models/*/README.md")),
    *ROOT.glob("export/sttrack-nano/README.md"),
]
BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^>]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
OTHER_TOOLS = {
    "pip",
    "ruff",
    "mypy",
    "mkdocs",
    "python",
    "bash",
    "git",
    "trtexec",
    "polygraphy",
    "docker",
    "npm",
}
SIZE = (240, 320)  # height, width of the examples' videos
TARGET = (120.0, 80.0, 64.0, 48.0)  # the examples' box


class Block(NamedTuple):
    """A fenced block, with the comment before it."""

    mark: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(m["mark"] or "", m["language"], m["text"]) for m in found]


def block(mark: str) -> str:
    (found,) = [b.text for b in blocks(ROOT / "README.md") if b.mark == mark]
    return found


def calls(text: str) -> list[list[str]]:
    """The calls of this project's commands in a shell text: the command's name, then its arguments."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for part in " ".join(map(shlex.quote, words)).split(" '&&' "):
            command, *arguments = shlex.split(part) or [""]
            if Path(command).name.startswith("sttrack-"):
                found.append([Path(command).name, *arguments])
    return found


def commands() -> dict[str, click.Command]:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    found = {}
    for name, target in scripts.items():
        module, _, attribute = target.partition(":")
        found[name] = getattr(importlib.import_module(module), attribute)
    return found


NAMED_CALLS = [
    (page, call) for page in PAGES for b in blocks(page) if b.language == "bash" for call in calls(b.text)
]
ALL_CALLS = [
    pytest.param(call, id=f"{page.relative_to(ROOT)}: {' '.join(call)}") for page, call in NAMED_CALLS
]


def test_there_are_examples() -> None:
    assert {call[0] for _, call in NAMED_CALLS} == set(commands())
    marks = [b.mark for page in PAGES for b in blocks(page)]
    assert marks.count("tested: cli") >= 5
    assert marks.count("tested: python") == 1


def test_the_readme_is_one_page() -> None:
    assert len(README.splitlines()) < 200


def parse(command: click.Command, name: str, arguments: list[str]) -> None:
    """Raises UsageError; runs nothing."""
    context = command.make_context(name, list(arguments))
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        if rest:
            sub_name, sub, sub_arguments = command.resolve_command(context, rest)
            assert sub is not None
            parse(sub, sub_name or "", sub_arguments)


@pytest.mark.parametrize("call", ALL_CALLS)
def test_commands_parse(call: list[str]) -> None:
    name, *arguments = call
    parse(commands()[name], name, arguments)


def test_a_wrong_option_would_be_noticed() -> None:
    (call,) = calls("python3 -m venv x && x/bin/sttrack-run --no-such-option  # a comment")
    assert call == ["sttrack-run", "--no-such-option"]
    with pytest.raises(click.UsageError):
        parse(commands()[call[0]], call[0], call[1:])
    with pytest.raises(click.UsageError):
        parse(commands()["sttrack-eval"], "sttrack-eval", ["merge", "--no-such-option"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_the_text_exist(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    known = commands()
    every = [
        *known.values(),
        *(sub for c in known.values() if isinstance(c, click.Group) for sub in c.commands.values()),
    ]
    options = {"--help"}
    options |= {option for command in every for p in command.params for option in p.opts + p.secondary_opts}
    for code in re.findall(r"`([^`\n]+)`", text):
        word = code.split()[0]
        if word in OTHER_TOOLS:
            continue
        if re.fullmatch(r"sttrack-(?!deploy|nano|r50|plain)[\w-]+", word):
            assert word in known, code
            own = {option for p in known[word].params for option in p.opts + p.secondary_opts}
            assert set(re.findall(r"--[\w-]+", code)) <= own, code
        else:
            assert set(re.findall(r"(?<!\S)--[a-z][\w-]*", code)) <= options, code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = {
        re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
        for h in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif "://" not in link:
            assert (page.parent / link.partition("#")[0]).exists(), link


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name, an engine that finds red, and its bundle as the shipped one."""
    import cv2

    shipped = write_bundle(tmp_path / "shipped")
    monkeypatch.setattr(bundle, "default_bundle_path", lambda: shipped)
    monkeypatch.setattr(onnxruntime_engine, "create", lambda *_: BlobEngine())
    folder = tmp_path / "example"
    (folder / "frames").mkdir(parents=True)
    (folder / "annotated").mkdir()
    monkeypatch.chdir(folder)
    images = [frame((TARGET[0] + i, *TARGET[1:]), SIZE, i) for i in range(24)]
    for name in ("street.mp4", "annotated/street.mp4"):
        writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), 25.0, SIZE[::-1])
        for image in images:
            writer.write(image)
        writer.release()
    for index, image in enumerate(images):
        cv2.imwrite(f"frames/{index}.jpg", image)
    truth = np.array([(TARGET[0] + i, *TARGET[1:]) for i in range(len(images))])
    np.savetxt("annotated/street.txt", truth, delimiter=",")
    return folder


def test_cli_examples_run(example: Path) -> None:
    given, made = set(example.iterdir()), set[str]()
    for page in PAGES:
        marked = [b.text for b in blocks(page) if b.mark == "tested: cli"]
        for name, *arguments in calls("\n".join(marked)):
            result = CliRunner().invoke(commands()[name], arguments)
            assert result.exit_code == 0, (name, arguments, result.output)
        made |= {path.name for path in example.iterdir()}
        if page.name == "getting-started.md":
            assert len((example / "street.txt").read_text().splitlines()) == 24
        # Each page is read alone, and no run replaces what is there.
        for path in set(example.iterdir()) - given:
            if path.suffix in (".mp4", ".txt", ".jsonl", ".xml"):
                path.unlink()
    assert {"street_tracked.mp4", "frames_tracked.mp4", "result.mp4", "street.txt", "street.jsonl"} <= made
    assert {"scores.json", "results", "report.html", "plots"} <= made


@pytest.mark.usefixtures("example")
def test_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("tested: python"), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 23
    last = [float(value) for value in lines[-1].split()]
    assert last[:4] == pytest.approx([TARGET[0] + 23, *TARGET[1:]], abs=4)
    assert last[4] == pytest.approx(0.9)


def test_ci_runs_the_readmes_test_command() -> None:
    command = block("setup: test").strip()
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "\n" not in command
    assert "\n" not in block("setup: run").strip()


NAMED = re.compile(r"(?<![\w/.-])((?:tests|benchmarks|sttrack_deploy)/[\w/-]+(?:\.\w+|/))")
EXAMPLES = {  # files that CONTRIBUTING's example has its reader write
    "sttrack_deploy/sequences/datasets/myset.py",
    "tests/sequences/datasets/test_dataset_myset.py",
}


def test_files_named_on_the_pages_and_in_ci_exist() -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / ".ci/run"]}
    named = {(page.name, name) for page, text in texts.items() for name in NAMED.findall(text)}
    assert len(named) > 10
    assert [(page, name) for page, name in named if name not in EXAMPLES and not (ROOT / name).exists()] == []
