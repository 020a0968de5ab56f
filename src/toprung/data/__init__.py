"""Datasets: sources, folders of images, prepared arrays, splits and their DVC stages.

Importing this package imports only NumPy and pydantic; Pillow, torchvision and scikit-learn are imported when they are
needed to read a source.
"""

from toprung.data.card import OPERATIONS, DatasetCard, Operation, UnreadableFile
from toprung.data.duplicates import Duplicates, near_duplicates
from toprung.data.image_folder.add import AddedDataset, add
from toprung.data.image_folder.settings import FolderSettings
from toprung.data.placement import ImageArrays, load_arrays, open_mmap_images
from toprung.data.prepare import prepare
from toprung.data.prepare.folder import prepare_folder
from toprung.data.prepared import PREPARED, Prepared, open_prepared, open_test_split
from toprung.data.sample_sheet import write_sample_sheet
from toprung.data.sources import SOURCES
from toprung.data.sources.source import Arrays, Source
from toprung.data.splits.arrays import split_arrays
from toprung.data.splits.cross_validation import classes_missing_from_folds, fold_arrays
from toprung.data.splits.folds import stratified_folds
from toprung.data.splits.group_split import group_split
from toprung.data.splits.stratified_split import SplitIndices, stratified_split
from toprung.data.verify import verify
from toprung.data.versioning.dvc_project import RAW
from toprung.data.versioning.lock import LockedHashes, read_lock
from toprung.data.versioning.stages import folder_settings, reproduce

__all__ = [
    "OPERATIONS",
    "PREPARED",
    "RAW",
    "SOURCES",
    "AddedDataset",
    "Arrays",
    "DatasetCard",
    "Duplicates",
    "FolderSettings",
    "ImageArrays",
    "LockedHashes",
    "Operation",
    "Prepared",
    "Source",
    "SplitIndices",
    "UnreadableFile",
    "add",
    "classes_missing_from_folds",
    "fold_arrays",
    "folder_settings",
    "group_split",
    "load_arrays",
    "near_duplicates",
    "open_mmap_images",
    "open_prepared",
    "open_test_split",
    "prepare",
    "prepare_folder",
    "read_lock",
    "reproduce",
    "split_arrays",
    "stratified_folds",
    "stratified_split",
    "verify",
    "write_sample_sheet",
]
