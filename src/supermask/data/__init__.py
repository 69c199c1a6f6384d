"""Data sets as tensors in memory, verified, normalised once; and augmentation of whole batches. No loader processes."""

from supermask.data.augment import CropFlip
from supermask.data.catalog import DATASETS, DataInfo
from supermask.data.dataset import DataSet, Split
from supermask.data.download import get
from supermask.data.loading import load
from supermask.data.locate import DataStatus, status

__all__ = ["DATASETS", "CropFlip", "DataInfo", "DataSet", "DataStatus", "Split", "get", "load", "status"]
