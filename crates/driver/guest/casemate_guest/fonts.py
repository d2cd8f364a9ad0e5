"""Fonts that are read once, and can be part of a snapshot.

matplotlib keeps a font's file open and reads it piece by piece as it draws, 128 KiB for each piece of a few bytes: hundreds of
megabytes for one figure where no kernel answers. A font whose file is in memory is read once, and has no descriptor
that a snapshot could not keep.
"""

import functools
import io

from matplotlib import font_manager


class _Read(io.BytesIO):
    """The content of a file, under its name, which is what `FT2Font.fname` tells."""

    def __init__(self, path, content):
        super().__init__(content)
        self.name = path


def install():
    """Have fonts read as a whole. For a guest without threads: `io.open` is another function while one is loaded."""
    load = font_manager._get_font.__wrapped__

    @functools.lru_cache(64)
    @functools.wraps(load)
    def _get_font(*args, **kwargs):
        opened = io.open

        def read(path, mode="r", *rest, **options):
            if mode != "rb":
                return opened(path, mode, *rest, **options)
            with opened(path, mode) as file:
                return _Read(path, file.read())

        # By this name FT2Font opens a path that it is given.
        io.open = read
        try:
            return load(*args, **kwargs)
        finally:
            io.open = opened

    font_manager._get_font = _get_font
