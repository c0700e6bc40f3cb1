"""What ``sttrack-eval`` measures: bundles on engines, and result files of any tracker."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttrack_deploy import __version__
from sttrack_deploy.bundle import MANIFEST, PolicyChanges
from sttrack_deploy.errors import UsageError
from sttrack_deploy.evaluation.layouts import Layout
from sttrack_deploy.evaluation.results import ResultFolder, find_results
from sttrack_deploy.evaluation.runner import BundleTracker, SingleTargetTracker
from sttrack_deploy.files import sha256_of
from sttrack_deploy.runtime.tracker import Tracker
from sttrack_deploy.sequences.sequence import VideoSequence

__all__ = ["Subject", "other_results", "subjects_of"]


@dataclass(frozen=True)
class Subject:
    """One bundle on one engine.

    Attributes:
        label: differs from those of the others that are measured.
        maker: makes it anew, in a worker process too.
        tracker: made once here, so that a bad bundle ends the run before it starts.
    """

    label: str
    maker: BundleTracker
    tracker: Tracker

    def make(self, workers: int) -> Callable[[], SingleTargetTracker]:
        """Makes a tracker for each worker; one process needs no second one."""
        return self.maker if workers > 1 else lambda: self.tracker

    def identity(self) -> dict[str, Any]:
        """What decides the boxes."""
        manifest = self.tracker.bundle.manifest
        return {
            "template_sha256": manifest.template.sha256,
            "search_sha256": manifest.search.sha256,
            "engine": self.tracker.engine.name,
            "tracking": dataclasses.asdict(self.tracker.policy),
        }

    def facts(self, workers: int) -> dict[str, Any]:
        """What was measured, for the JSON and the HTML."""
        bundle, engine = self.tracker.bundle, self.tracker.engine
        return {
            "sttrack_deploy": __version__,
            "bundle": {
                "name": bundle.manifest.title,
                "path": str(bundle.path),
                "precision": bundle.manifest.precision.get("name"),
                "template_sha256": bundle.manifest.template.sha256,
                "search_sha256": bundle.manifest.search.sha256,
                "manifest_sha256": sha256_of(bundle.path / MANIFEST),
            },
            "engine": {"name": engine.name, **engine.describe()},
            "tracking": dataclasses.asdict(self.tracker.policy),
            "threads": self.maker.threads,
            "workers": workers,
        }

    def store(self, root: Path, layout: Layout, dataset: str) -> ResultFolder:
        """Where its result files lie below ``root``."""
        parameters = re.sub(r"[^A-Za-z0-9._]+", "-", self.label).strip("-")
        return ResultFolder(layout.run_folder(root, "sttrack", parameters, dataset), layout, self.identity())


def subjects_of(
    bundles: Sequence[Path | None],
    engines: Sequence[str],
    threads: int | None,
    changes: PolicyChanges,
) -> list[Subject]:
    """Every bundle on every engine.

    Raises:
        UserError: a bundle cannot be opened, or an engine not be made.
    """
    pairs = list(itertools.product(bundles, engines))
    if len(set(pairs)) != len(pairs):
        raise UsageError("a bundle or an engine is named twice; name each once")
    made = []
    for bundle, engine in pairs:
        maker = BundleTracker(bundle, engine, threads, changes)
        made.append((maker, maker()))
    names = [tracker.bundle.manifest.title for _, tracker in made]
    subjects: list[Subject] = []
    for (maker, tracker), name in zip(made, names, strict=True):
        # The folder tells apart two bundles of one name (two precisions, say).
        namesakes = {str(t.bundle.path) for (_, t), other in zip(made, names, strict=True) if other == name}
        shown = name if len(namesakes) == 1 else f"{name} {tracker.bundle.path.name}"
        label = f"{shown} ({maker.engine})"
        if any(s.label == label for s in subjects):
            label = f"{name} {tracker.bundle.path} ({maker.engine})"
        subjects.append(Subject(label, maker, tracker))
    return subjects


def other_results(
    given: Sequence[str], sequences: list[VideoSequence], dataset: str
) -> dict[str, tuple[Path, Layout]]:
    """The trackers that ``--results [LABEL=]DIR`` names, by label.

    Raises:
        UserError: a folder is not there or holds no results.
        UsageError: a label comes twice, or is given to a folder that holds several trackers.
    """
    found: dict[str, tuple[Path, Layout]] = {}
    for text in given:
        label, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            label, folder = "", text
        here = find_results(Path(folder), sequences, dataset)
        if label and len(here) > 1:
            raise UsageError(
                f"{folder} holds {len(here)} trackers ({', '.join(sorted(here)[:3])}); one label cannot name them"
            )
        for name, place in here.items():
            if (label or name) in found:
                raise UsageError(
                    f"two results are called {label or name!r}; tell them apart with --results LABEL=DIR"
                )
            found[label or name] = place
    return found
