"""Folders of images: list, check and decode a class-per-folder tree."""
