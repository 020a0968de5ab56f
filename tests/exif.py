"""Metadata of a photograph that some cameras write, and that Pillow can read but not write again."""

import struct

_ORIENTATION, _X_RESOLUTION, _ASCII, _SHORT = 0x0112, 0x011A, 2, 3

# A photograph to be turned by 90 degrees, whose resolution is text instead of a fraction.
TURNED_WITH_TEXT_AS_RESOLUTION = (
    b"Exif\0\0II*\0"
    + struct.pack("<IH", 8, 2)
    + struct.pack("<HHIHH", _ORIENTATION, _SHORT, 1, 6, 0)
    + struct.pack("<HHI4s", _X_RESOLUTION, _ASCII, 3, b"72")
    + struct.pack("<I", 0)
)
