"""Datasets: sources, folders of images, prepared arrays, splits and their DVC stages.

Importing this room costs NumPy and pydantic only; Pillow, torchvision and scikit-learn are imported where they read
a source.
"""

from toprung.data.add import Added, add
from toprung.data.arrays import split_arrays
from toprung.data.card import OPERATIONS, Card, Operation, UnreadableFile
from toprung.data.duplicates import Duplicates, near_duplicates
from toprung.data.folds import stratified_folds
from toprung.data.grouped import grouped_split
from toprung.data.image_folder.settings import FolderSettings
from toprung.data.placement import Placed, mapped_images, place
from toprung.data.prepare import prepare
from toprung.data.prepare.folder import prepare_folder
from toprung.data.prepared import PREPARED, Prepared, open_prepared, open_test_split
from toprung.data.repository import RAW, Locked, locked
from toprung.data.sheet import write_sample_sheet
from toprung.data.source import Arrays, Source
from toprung.data.sources import SOURCES
from toprung.data.split import SplitIndices, stratified_split
from toprung.data.stages import folder_settings, reproduce
from toprung.data.verify import check_unchanged, verify

__all__ = [
    "OPERATIONS",
    "PREPARED",
    "RAW",
    "SOURCES",
    "Added",
    "Arrays",
    "Card",
    "Duplicates",
    "FolderSettings",
    "Locked",
    "Operation",
    "Placed",
    "Prepared",
    "Source",
    "SplitIndices",
    "UnreadableFile",
    "add",
    "check_unchanged",
    "folder_settings",
    "grouped_split",
    "locked",
    "mapped_images",
    "near_duplicates",
    "open_prepared",
    "open_test_split",
    "place",
    "prepare",
    "prepare_folder",
    "reproduce",
    "split_arrays",
    "stratified_folds",
    "stratified_split",
    "verify",
    "write_sample_sheet",
]
