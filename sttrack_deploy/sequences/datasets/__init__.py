"""Readers of annotated data sets, each in its published layout on disk."""

from __future__ import annotations

from sttrack_deploy.sequences.datasets.base import DatasetReader
from sttrack_deploy.sequences.datasets.folder import FOLDER
from sttrack_deploy.sequences.datasets.got10k import GOT10K_TEST, GOT10K_VAL
from sttrack_deploy.sequences.datasets.lasot import LASOT, LASOT_EXT
from sttrack_deploy.sequences.datasets.otb100 import OTB100
from sttrack_deploy.sequences.datasets.tnl2k import TNL2K
from sttrack_deploy.sequences.datasets.trackingnet import TRACKINGNET, TRACKINGNET_TRAIN
from sttrack_deploy.sequences.datasets.uav123 import UAV123
from sttrack_deploy.sequences.datasets.vot import VOT

__all__ = ["DATASETS", "DatasetReader"]

DATASETS: dict[str, DatasetReader] = {
    reader.name: reader
    for reader in (
        FOLDER,
        LASOT,
        LASOT_EXT,
        GOT10K_VAL,
        GOT10K_TEST,
        TRACKINGNET,
        TRACKINGNET_TRAIN,
        UAV123,
        TNL2K,
        OTB100,
        VOT,
    )
}
"""Readers by the name that ``--dataset`` takes."""
