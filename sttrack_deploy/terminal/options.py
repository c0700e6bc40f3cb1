"""Options that commands have in common, and what they choose: bundles, engines, sequences, tracking, reports.

What reads video is imported where it is needed: sttrack-doctor answers where OpenCV is broken or missing, too.
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sttrack_deploy.bundle import Bundle, open_bundle
from sttrack_deploy.engines.registry import BACKENDS, DEFAULT_BACKEND
from sttrack_deploy.errors import UsageError, UserError
from sttrack_deploy.files import check_file, check_folder, made_here
from sttrack_deploy.output_file import check_outputs, is_within
from sttrack_deploy.plotting import drawing
from sttrack_deploy.policy import PolicyChanges, TrackingPolicy
from sttrack_deploy.terminal.help import under
from sttrack_deploy.terminal.program import say
from sttrack_deploy.terminal.types import FOLDER, MOST_FRAMES, PATH, THREADS, Integer, NamedPath, Number
from sttrack_deploy.verification.gates import GATES

if TYPE_CHECKING:
    from sttrack_deploy.sequences.sequence import VideoSequence

__all__ = [
    "DATA",
    "ENGINE",
    "RESULTS",
    "TRACKING_NAMES",
    "bundle_option",
    "check_reports",
    "chosen_bundles",
    "chosen_engines",
    "data_options",
    "dataset_title",
    "emit_json",
    "engine_options",
    "json_option",
    "load_sequences",
    "overwrite_option",
    "policy_options",
    "subject_options",
    "threads_option",
    "tracking_options",
]


F = TypeVar("F", bound=Callable[..., Any])

DATA, ENGINE, RESULTS = "Data", "Engine", "Results"
"""Headings that several commands have."""


def bundle_option(function: F) -> F:
    """``--bundle DIR``: which exported model to use."""
    option = click.option(
        "--bundle",
        type=FOLDER,
        default=None,
        help="Exported bundle.  [default: the shipped sttrack-nano]",
    )
    return under(ENGINE, option)(function)


def threads_option(function: F) -> F:
    """``--threads N``."""
    option = click.option(
        "--threads",
        type=THREADS,
        default=None,
        help="CPU threads for inference.  [default: all]",
    )
    return under(ENGINE, option)(function)


def engine_options(function: F) -> F:
    """``--engine NAME`` and ``--threads N``."""
    option = click.option(
        "--engine",
        type=click.Choice(list(BACKENDS)),
        default=DEFAULT_BACKEND,
        show_default=True,
        metavar="NAME",
        help=f"Back end that runs the network: {', '.join(BACKENDS)}.",
    )
    return under(ENGINE, option)(threads_option(function))


_TRACKING_OPTIONS = (
    click.option(
        "--lost-below",
        type=Number(0, 1),
        help="Confidence under which the target counts as lost.  [default: the bundle's, as of all these]",
    ),
    click.option(
        "--recover/--no-recover",
        default=None,
        help="Hold a box of too little confidence, and search a region that grows around the last good one.",
    ),
    click.option(
        "--hold-below",
        type=Number(0, 1),
        help="Confidence under which a box is held, at most that of --lost-below.",
    ),
    click.option(
        "--max-growth",
        type=Number(1, 100),
        help="Largest side of that region, in multiples of the usual search region's.",
    ),
    click.option(
        "--lead",
        type=Number(0, 1),
        help="Share of the target's recent motion by which the search region goes ahead of the last box; 0: off.",
    ),
    click.option(
        "--reliable-above",
        type=Number(0, 1),
        help="Let that region fit the usual size on frames of at least this confidence, not a shrunken box; 0: off.",
    ),
    click.option(
        "--frame-after",
        type=Integer(0, MOST_FRAMES),
        help="Held frames after which every second search looks at another part of the whole frame; 0: never.",
    ),
    click.option(
        "--jump-penalty",
        type=Number(0, 1000),
        help="How much the confidence falls with a jump beyond the recent motion; 0: not.",
    ),
    click.option(
        "--change-penalty",
        type=Number(0, 1000),
        help="The same for a sudden change of size and aspect; 0: not.",
    ),
    click.option(
        "--size-smoothing",
        type=Number(0, 0.99),
        help="Share of each change of size that is held back at full confidence, more at less; 0: off.",
    ),
    click.option(
        "--box-correction",
        type=Number(0, 1),
        help="Share of the difference between the network's box on the first frame and the given one that is undone "
        "in reported boxes; 0: off.",
    ),
)


TRACKING_NAMES = tuple(
    "recover" if spec.name == "recovery" else spec.name for spec in dataclasses.fields(PolicyChanges)
)
"""Parameter names of :func:`tracking_options`."""


def tracking_options(function: F) -> F:
    """What to do with the network's answer, as one argument ``changes``: a :class:`PolicyChanges`."""

    @functools.wraps(function)
    def gathered(*args: Any, **options: Any) -> Any:
        options["recovery"] = options.pop("recover")
        names = [spec.name for spec in dataclasses.fields(PolicyChanges)]
        return function(
            *args, changes=PolicyChanges(**{name: options.pop(name) for name in names}), **options
        )

    return under("Tracking", *_TRACKING_OPTIONS, more=True)(gathered)  # type: ignore[return-value]


def policy_options(policy: TrackingPolicy) -> list[str]:
    """The options of :func:`tracking_options` that make of the default policy this one."""
    given, default = (dataclasses.asdict(p) for p in (policy, TrackingPolicy()))
    names = [spec.name for spec in dataclasses.fields(PolicyChanges)]
    changed = {name: given[name] for name in names if given[name] != default[name]}
    return [
        "--recover" if name == "recovery" else f"--{name.replace('_', '-')} {value:g}"
        for name, value in changed.items()
    ]


json_option = under(
    RESULTS,
    click.option(
        "--json",
        "json_path",
        type=NamedPath(dir_okay=False, allow_dash=True),
        help="Write all results as JSON; - for standard output.",
    ),
)


overwrite_option = under(
    RESULTS,
    click.option(
        "--overwrite", is_flag=True, help="Replace files that exist and that sttrack-deploy did not write."
    ),
)


def check_reports(
    files: Sequence[Path | None],
    folder: Path | None = None,
    *,
    plot: Path | None = None,
    overwrite: bool,
    inputs: Sequence[Path | None] = (),
    data: Sequence[Path | None] = (),
) -> None:
    """Check, before the work, that a report can be written and that nobody's file is lost by it.

    What an earlier run wrote is replaced unasked, so that the same command can be given again.

    Args:
        files: what will be written; ``-`` is standard output.
        folder: of plots.
        plot: a picture that is drawn when the work is done.
        inputs: files and bundles that the command reads: never written over, whatever ``overwrite`` says.
        data: annotated videos; the same, but for reports that an earlier run put among them.

    Raises:
        UsageError: one file is named twice, or is an input.
        UserError: it cannot be written, or something is there that is not ours.
        MissingDependencyError: matplotlib is not installed.
    """
    if plot is not None:
        with drawing():
            pass
    named = [path for path in (*files, plot) if path is not None and path != Path("-")]
    check_outputs(named, [path for path in inputs if path is not None], overwrite=True)
    for path in named:
        check_file(path, overwrite=overwrite)
        for source in data:
            if source is not None and is_within(path, source) and not made_here(path):
                raise UsageError(f"{path} is a part of {source}, which is read: name another file")
    if folder is None:
        return
    check_folder(folder)
    pictures = [] if overwrite else sorted((*folder.glob("*.png"), *folder.glob("*.svg")))
    for path in pictures:
        if not made_here(path):
            raise UserError(
                f"{path} was not written by sttrack-deploy and could be lost; name another folder, or say --overwrite"
            )


def emit_json(document: Any, path: Path | None) -> None:
    """Write a document where ``--json`` says; nothing without it."""
    if path is None:
        return
    from sttrack_deploy.evaluation.scores import write_json

    if str(path) == "-":
        click.echo(write_json(document, None), nl=False)
        return
    write_json(document, path)
    say(f"made {path}")


def data_options(function: F) -> F:
    """``--dataset NAME``, ``--data DIR``, ``--sequences GLOB`` and ``--partial``: which annotated sequences."""
    from sttrack_deploy.sequences.datasets import DATASETS

    return under(
        DATA,
        click.option(
            "--dataset",
            type=click.Choice(list(DATASETS)),
            default="folder",
            show_default=True,
            metavar="NAME",
            help=f"Layout of the data: {', '.join(DATASETS)}; folder is <name>.mp4 (or a folder of images) and "
            "<name>.txt, one x,y,w,h line a frame.",
        ),
        click.option(
            "--data",
            type=PATH,
            help="The data set's folder, or the one that holds it.  [default: as the environment or "
            "sttrack-datasets.toml has it, see sttrack-eval --write-config]",
        ),
        click.option("--sequences", metavar="GLOB", help="Only these, for example 'otb_*' or 'a,b'."),
        click.option(
            "--partial",
            is_flag=True,
            help="Take what is there of a data set that is not complete; its numbers are of that part only.",
        ),
    )(function)


def load_sequences(
    dataset: str, data: Path | None, pattern: str | None, partial: bool
) -> list[VideoSequence]:
    """The sequences that :func:`data_options` name.

    Raises:
        UserError: the data set is not there, not complete, or no sequence matches.
    """
    from sttrack_deploy.sequences.datasets import DATASETS
    from sttrack_deploy.sequences.datasets.locations import locate
    from sttrack_deploy.sequences.sequence import select

    sequences = DATASETS[dataset].read(locate(dataset, data), partial)
    return select(sequences, pattern)


def dataset_title(dataset: str, data: Path | None) -> str:
    """What tables and result folders call it: its own name, or the plain folder's."""
    return data.resolve().name if dataset == "folder" and data is not None else dataset


def subject_options(function: F) -> F:
    """``[BUNDLE]...``, ``--engine NAME``, ``--engines A,B`` and ``--precisions A,B``."""
    options = under(
        ENGINE,
        click.option(
            "--engine",
            "engines",
            multiple=True,
            metavar="NAME",
            help=f"Back end that runs the network: {', '.join(BACKENDS)}; several are compared.  "
            f"[default: {DEFAULT_BACKEND}]",
        ),
        click.option("--engines", "engine_list", metavar="A,B", help="The same, several at once."),
        click.option(
            "--precisions",
            metavar="A,B",
            help=f"Take the bundles BUNDLE-<precision> that lie beside BUNDLE: {', '.join(GATES)}.",
        ),
    )
    return click.argument("bundles", nargs=-1, type=FOLDER, metavar="[BUNDLE]...")(options(function))


def chosen_engines(
    engines: Sequence[str], engine_list: str | None, others: Collection[str] = ()
) -> list[str]:
    """The engines asked for, each once, or the default one.

    Args:
        others: names that are allowed besides the back ends'.

    Raises:
        UsageError: there is no engine of that name, or the list names none.
    """
    if engine_list is not None and not _words(engine_list):
        raise UsageError(f"--engines names none; engines are {', '.join([*BACKENDS, *others])}")
    asked = [*engines, *_words(engine_list)]
    known = [*BACKENDS, *others]
    for name in asked:
        if name not in known:
            raise UsageError(f"there is no engine {name!r}; engines are {', '.join(known)}")
    return list(dict.fromkeys(asked)) or [DEFAULT_BACKEND]


def chosen_bundles(paths: Sequence[Path], precisions: str | None) -> list[Bundle]:
    """The bundles named (the shipped one if none is), or their siblings of the precisions asked for.

    Raises:
        UsageError: there is no such precision, or the list names none.
        UserError: a bundle cannot be opened, or a sibling is missing: the line has the command that makes it.
    """
    named = [open_bundle(path) for path in paths or (None,)]
    if precisions is None:
        return named
    if not _words(precisions):
        raise UsageError(f"--precisions names none; precisions are {', '.join(GATES)}")
    found = []
    for precision in dict.fromkeys(_words(precisions)):
        if precision not in GATES:
            raise UsageError(f"there is no precision {precision!r}; precisions are {', '.join(GATES)}")
        found += [_sibling(bundle, precision) for bundle in named]
    return found


def _sibling(bundle: Bundle, precision: str) -> Bundle:
    if bundle.manifest.precision.get("name") == precision:
        return bundle
    path = bundle.path.with_name(f"{bundle.path.name}-{precision}")
    if not path.is_dir():
        make = f"sttrack-convert {shlex.quote(str(bundle.path))} --precision {precision}"
        raise UserError(f"there is no {precision} bundle {path}; make it with: {make}")
    return open_bundle(path)


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
