"""Where data sets lie: said on the command line, by the environment, or in a small TOML file."""

from __future__ import annotations

import os
from pathlib import Path

from sttrack_deploy.errors import UserError
from sttrack_deploy.files import expanded, explain_os_error
from sttrack_deploy.records import parse_toml, read_text, show
from sttrack_deploy.sequences.datasets import DATASETS
from sttrack_deploy.sequences.datasets.base import DatasetReader

__all__ = ["CONFIG_NAME", "config_path", "locate", "write_config"]

CONFIG_NAME = "sttrack-datasets.toml"
"""The configuration's name in the current folder."""

CONFIG_VARIABLE = "STTRACK_DATASETS"
PARENT_VARIABLE = "STTRACK_DATA"
PARENT_KEY = "data"


def locate(name: str, given: Path | None) -> Path:
    """The folder of a data set.

    The first of these that says anything: ``given``; the environment variable ``STTRACK_<NAME>``; a subfolder
    of ``STTRACK_DATA``; the data set's key in the configuration; a subfolder of the configuration's ``data``.
    Each may name the data set's own folder or one that holds it under its usual name.

    Args:
        name: key of ``DATASETS``.
        given: the user's ``--data``, if any.

    Raises:
        UserError: nothing says where it is, or what does is not a folder.
    """
    reader = DATASETS[name]
    if given is not None:
        return _own_folder(reader, given, f"the data folder {given}")
    if value := os.environ.get(reader.variable):
        return _own_folder(reader, expanded(value), f"{reader.variable}={value}")
    looked = [f"{reader.variable} is not set"]
    if reader.subfolder:
        value = os.environ.get(PARENT_VARIABLE)
        if value and (found := _in_parent(reader, expanded(value), f"{PARENT_VARIABLE}={value}")):
            return found
        looked.append(
            f"{PARENT_VARIABLE}={value} has no {reader.subfolder}" if value else f"nor is {PARENT_VARIABLE}"
        )
    path = config_path()
    if path.is_file():
        places = _read_config(path)
        if name in places:
            return _own_folder(reader, places[name], f"{path} says {name} = {str(places[name])!r}, which")
        if PARENT_KEY in places:
            parent = places[PARENT_KEY]
            if found := _in_parent(reader, parent, f"{path} says {PARENT_KEY} = {str(parent)!r}, which"):
                return found
        looked.append(f"{path} does not have it")
    elif os.environ.get(CONFIG_VARIABLE):
        raise UserError(f"{CONFIG_VARIABLE} names {path}, which is not a file")
    else:
        looked.append(f"there is no {path}")
    raise UserError(
        f"where is {reader.title}? {', '.join(looked)}; name a folder with {reader.layout} by --data DIR"
        + (f" (obtain it from {reader.source})" if reader.source else "")
    )


def config_path() -> Path:
    """The configuration: ``$STTRACK_DATASETS``, else the current folder's, else the user's; it need not exist."""
    if named := os.environ.get(CONFIG_VARIABLE):
        return expanded(named)
    here = Path(CONFIG_NAME)
    if here.is_file():
        return here
    return expanded(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "sttrack-deploy" / "datasets.toml"


def write_config(path: Path) -> None:
    """Write a configuration to fill in: every data set and what its folder holds, commented out.

    Raises:
        UserError: there is one already, or it cannot be written.
    """
    text = (
        "# Where data sets lie. Remove the # before what you have.\n"
        "# The environment goes first: STTRACK_LASOT for one data set, STTRACK_DATA for the folder of all.\n"
        "\n[datasets]\n"
        "# A folder that holds data sets under their usual names:\n"
        f'# {PARENT_KEY} = "/path/to/data"\n'
    )
    for reader in DATASETS.values():
        text += f"\n# {reader.title}: a folder with\n#   {reader.layout}\n"
        text += f"#   from {reader.source}\n" if reader.source else ""
        text += f'# {reader.name} = "/path/to/{reader.subfolder or reader.name}"\n'
    if path.exists():
        raise UserError(f"{path} exists already; edit it, or remove it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise explain_os_error(error, path) from error


def _own_folder(reader: DatasetReader, path: Path, what: str) -> Path:
    """The data set's folder: ``path``, or its subfolder of the usual name.

    Raises:
        UserError: ``path`` is not a folder.
    """
    return _in_parent(reader, path, what) or path


def _in_parent(reader: DatasetReader, parent: Path, what: str) -> Path | None:
    """The subfolder of the usual name, if there is one.

    Raises:
        UserError: the parent is not a folder.
    """
    if not parent.is_dir():
        problem = "is not a folder" if parent.exists() else "does not exist"
        raise UserError(f"{what} {problem}; it must be a folder with {reader.layout}, or hold that folder")
    for subfolder in (reader.subfolder, *reader.also):
        if subfolder and (parent / subfolder).is_dir():
            return parent / subfolder
    return None


def _read_config(path: Path) -> dict[str, Path]:
    """The configuration's places; relative ones are relative to its folder.

    Raises:
        UserError: not readable, not TOML, or anything but known names and paths in ``[datasets]``.
    """
    data = parse_toml(read_text(path, "the configuration"), str(path))
    table = data.pop("datasets", {})
    if data or not isinstance(table, dict):
        found = ", ".join(map(show, sorted(data))) or "a value"
        raise UserError(f"{path} must have one table, [datasets]; it has {found}")
    if unknown := sorted(set(table) - {PARENT_KEY, *DATASETS}):
        raise UserError(
            f"{path} [datasets] has unknown names {show(unknown)}; known are {', '.join((PARENT_KEY, *DATASETS))}"
        )
    for key, value in table.items():
        if not isinstance(value, str):
            raise UserError(f"{path} [datasets] {key} must be a path in quotes, not {show(value)}")
    return {key: path.parent / expanded(value) for key, value in table.items()}
