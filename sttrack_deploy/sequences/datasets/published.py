"""The lists that data sets are published with: which sequences, which frames of them, which attributes.

They are the CSV files in ``tables/``; ``tables/README.md`` says where each comes from.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from importlib import resources

__all__ = ["attributes_of", "published_table"]


@functools.cache
def published_table(name: str) -> Mapping[str, Mapping[str, str]]:
    """Rows of ``tables/<name>.csv`` by sequence, in the published order."""
    file = resources.files("sttrack_deploy.sequences.datasets") / "tables" / f"{name}.csv"
    return {row["name"]: row for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())}


def attributes_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """A row's attributes, which its column separates by spaces; none where the table has no such column."""
    return tuple(row.get("attributes", "").split())
