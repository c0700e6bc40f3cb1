"""What a run starts from: fresh weights, a checkpoint, a backbone; and its own checkpoints, which it goes on from."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sttrack_deploy.errors import UserError, one_line
from sttrack_deploy.files import atomic_path
from sttrack_deploy.models.checkpoint_file import check_usable, read_weights
from sttrack_deploy.models.config import ModelConfig
from sttrack_deploy.models.corner_network import STTrack
from sttrack_deploy.models.published import load_published
from sttrack_deploy.models.training.recipe import Recipe
from sttrack_deploy.models.weights import load_weights

__all__ = [
    "FOLDER",
    "OLD_NAME",
    "CheckpointFolder",
    "check_belongs",
    "check_run_folder",
    "checkpoint_of_a_run",
    "fresh_network",
    "load_backbone",
    "load_initial",
    "unpack",
]


FOLDER = "checkpoints"
OLD_NAME = "last.pt"
"""The one checkpoint of runs of version 0.1; see :func:`_from_old`."""

FORMAT = 2

_NEUTRAL = ("data.workers",)  # changes the pace, not the outcome


class CheckpointFolder:
    """``checkpoints/step-00001000.pt`` and its like in a run's folder.

    Args:
        run: the run's folder.
        keep: how many of the newest stay.
    """

    def __init__(self, run: Path, keep: int = 3) -> None:
        self.run, self.folder, self.keep = run, run / FOLDER, keep

    def files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def save(self, state: Mapping[str, Any]) -> Path:
        """Write the state of step ``state['step']`` and remove the oldest ones.

        Raises:
            UserError: it cannot be written.
        """
        path = self.folder / f"step-{state['step']:08d}.pt"
        with atomic_path(path) as temporary:
            torch.save({"format": FORMAT, **state}, temporary)
        # One of a later step is of a run that was since put back: it would be taken for the newest.
        files = [f for f in self.files() if f.name <= path.name]
        for file in {*self.files()} - {*files[: self.keep]}:
            with contextlib.suppress(OSError):
                file.unlink()
        return path

    def newest(self, note: Callable[[str], None]) -> bytes | None:
        """The content of the newest checkpoint that is whole; ``None`` if the run has none.

        Args:
            note: is told of those that are not.

        Raises:
            UserError: there are some and none is whole.
        """
        files = self.files() or [file for file in [self.run / OLD_NAME] if file.is_file()]
        for file in files:
            try:
                return _read_whole(file)
            except (OSError, zipfile.BadZipFile, EOFError, ValueError) as error:
                note(f"{file} is cut short or corrupt ({error}); the checkpoint before it is tried")
        if files:
            raise UserError(
                f"no checkpoint in {files[0].parent} can be read; delete {self.run}, or choose another --out, to "
                "start again"
            )
        return None


def check_run_folder(run: Path, log: str, others: Collection[str], checkpoint: str = OLD_NAME) -> None:
    """Whether a run may write there: what it would replace was written by a run.

    Args:
        log: file that a run writes first; others: what else it writes; checkpoint: where it is one file.

    Raises:
        UserError: a file of such a name is there, and no run.
    """
    if (run / checkpoint).is_file() or CheckpointFolder(run).files():
        return
    with contextlib.suppress(OSError), (run / log).open("rb") as file:
        if file.read(5) == b"step,":  # killed before its first checkpoint
            return
    for name in (log, *others):
        if (run / name).exists():
            raise UserError(
                f"{run / name} was not written by a training run, and would be replaced; choose another --out"
            )


@contextlib.contextmanager
def checkpoint_of_a_run(where: Path) -> Iterator[None]:
    """Within the block a checkpoint's content is taken apart; what does not fit it is told in one line.

    Args:
        where: the checkpoint, or its run's folder.

    Raises:
        UserError: it is damaged, of another network, or no run's at all.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a foreign file fails in any way
        reason = one_line(str(error) or type(error).__name__, 160)
        raise UserError(
            f"{where} holds no checkpoint that this run can go on from ({reason}); choose another --out, or delete it"
        ) from error


def _read_whole(file: Path) -> bytes:
    """A checkpoint's bytes; they agree with their checksums, which ``torch.load`` does not look at."""
    content = file.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"the checksum of {broken} is wrong")
    return content


def unpack(content: bytes, network: nn.Module) -> dict[str, Any]:
    """The state that :meth:`CheckpointFolder.save` was given, or that of an old run put into the same form.

    Args:
        content: from :meth:`CheckpointFolder.newest`.
        network: tells an old run's parameters their names.
    """
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state if "format" in state else _from_old(state, network)


def check_belongs(state: Mapping[str, Any], recipe: Recipe, shares: int, where: Path, changed: bool) -> None:
    """See that a checkpoint is one of this recipe.

    Args:
        state: from :func:`unpack`.
        recipe: of the run that wants to go on.
        shares: its batches side by side.
        where: the run's folder.
        changed: whether the recipe may have changed, apart from the network.

    Raises:
        UserError: it is of another network, or of another recipe; the differences are named.
    """
    kept = json.loads(state["recipe"])
    # With the defaults of what did not exist when it was written.
    mine, theirs = recipe.to_dict(), Recipe.from_dict(kept, str(where)).to_dict()
    if _different(theirs["model"], mine["model"]):
        what = "; ".join(_different(theirs["model"], mine["model"]))
        raise UserError(
            f"{where} is a run of another network ({what}); choose another --out, or delete that folder"
        )
    if changed:
        return
    # An old run did not keep its recipe.
    differences = [line for key in mine if key in kept for line in _different(theirs[key], mine[key], key)]
    differences = [line for line in differences if line.partition(":")[0] not in _NEUTRAL]
    if state["shares"] not in (None, shares):
        differences.append(f"batches side by side: {state['shares']} there, {shares} here (--shares)")
    if differences:
        raise UserError(
            f"{where} is a run of another recipe ({'; '.join(differences)}); choose another --out, or go on with "
            "the new one from there: --changed-recipe"
        )


def _different(theirs: Any, mine: Any, name: str = "") -> list[str]:
    """One text for each setting that differs."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = sorted({*theirs, *mine})
        return [
            line
            for key in keys
            for line in _different(theirs.get(key), mine.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if theirs == mine else [f"{name}: {theirs} there, {mine} here"]


def _from_old(state: Mapping[str, Any], network: nn.Module) -> dict[str, Any]:
    """The checkpoint of version 0.1, which numbered the optimizer's parameters and kept no recipe.

    Its parameters were numbered by groups, the backbone's apart from the others and matrices apart from vectors, in
    the order in which the groups first occur; the probe's came last. Its random generators are not taken
    over: clips now follow from their batch's number.
    """
    groups: dict[tuple[bool, bool], list[str]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault((name.startswith("backbone."), parameter.ndim > 1), []).append(name)
    names = [f"network.{name}" for group in groups.values() for name in group]
    names += [f"probe.{name}" for name in state["probe"]]
    moments = {names[index]: dict(value) for index, value in state["optimizer"]["state"].items()}
    return {
        "format": FORMAT,
        "recipe": json.dumps({"model": json.loads(state["config"])}),
        "shares": None,
        "step": int(state["step"]),
        "best": float(state["best"]),
        "network": state["network"],
        "average": state["average"],
        "probe": state["probe"],
        "optimizer": {"moments": moments, "scaler": {}},
    }


def fresh_network(config: ModelConfig, seed: int) -> STTrack:
    """A network with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = STTrack(config)
    # Attention then begins as similarity of tokens, which is what matching a template to a search region
    # needs; from random projections it first has to be found.
    for layer in network.encoder.layers:
        attention = layer.self_attention
        attention.k_proj.load_state_dict(attention.q_proj.state_dict())  # type: ignore[union-attr]
    return network


def load_initial(path: Path, config: ModelConfig) -> STTrack:
    """A network with the weights of one of our ``.safetensors`` files or of a published checkpoint.

    Raises:
        UserError: it is missing, neither, or does not fit the configuration.
    """
    if path.suffix == ".safetensors":
        loaded = load_weights(path, config)
        if not isinstance(loaded, STTrack):
            raise UserError(
                f"{path} has a dense head, which is trained in closed loop: give a recipe with a [closed_loop] table"
            )
        return loaded
    network = STTrack(config)
    load_published(network, path)
    return network


def load_backbone(network: STTrack, path: Path) -> None:
    """Fill the network's ResNet from a classifier's weights in torchvision's names (``conv1.weight``, ``layer1.0...``).

    What a tracker does not have (the last stage, the classifier) is left out.

    Raises:
        UserError: the file is missing or not one of weights, or lacks a part of the backbone.
    """
    weights = read_weights(path)
    own = network.backbone.state_dict()
    fitting = {
        name: weights[name] for name in own if name in weights and weights[name].shape == own[name].shape
    }
    missing = [name for name in own if name not in fitting]
    if missing:
        raise UserError(
            f"{path} does not fit the backbone '{network.config.backbone}': {len(missing)} of its {len(own)} tensors "
            f"are missing or of another shape, the first is {missing[0]} {tuple(own[missing[0]].shape)}"
        )
    check_usable(path, fitting)
    network.backbone.load_state_dict(fitting)
