"""Folders of images: list, check and decode a folder with one folder per class."""
