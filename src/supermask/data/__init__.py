"""Data sets as tensors, verified; in memory and normalised once, or kept as bytes; and augmentation of whole batches.

No loader processes: files of images are decoded once, before the first run.
"""

from supermask.data.augment import CropFlip, RandomResizedCrop, SubsetCropFlip
from supermask.data.catalog import DATASETS, DataInfo
from supermask.data.dataset import DataSet, Split
from supermask.data.download import get
from supermask.data.loading import load, open_stored
from supermask.data.locate import DataStatus, status

__all__ = [
    "DATASETS",
    "CropFlip",
    "DataInfo",
    "DataSet",
    "DataStatus",
    "RandomResizedCrop",
    "Split",
    "SubsetCropFlip",
    "get",
    "load",
    "open_stored",
    "status",
]
