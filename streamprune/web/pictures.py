"""JPEG bytes to pictures and back, within bounds."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from streamprune.errors import InvalidValueError
from streamprune.readers.base import Image

# more than any camera of a browser gives; a small file may unfold to far more
_MAX_PIXELS = 4096 * 4096
_LONGEST_SHOWN = 640
_QUALITY = 85


def read_jpeg(data: bytes) -> Image:
    """Decode; InvalidValueError for what is no JPEG, is cut short, or has too many pixels."""
    try:
        with PillowImage.open(io.BytesIO(data), formats=("JPEG",)) as opened:
            cols, rows = opened.size
            if rows * cols > _MAX_PIXELS:
                raise InvalidValueError(f"a picture has at most {_MAX_PIXELS} pixels, got {rows} x {cols}")
            return np.asarray(opened.convert("RGB"))
    except UnidentifiedImageError as error:
        raise InvalidValueError(
            f"a picture must be a whole JPEG, got {len(data)} bytes of another kind"
        ) from error
    except (OSError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise InvalidValueError(f"a picture must be a whole JPEG: {error}") from error


def write_jpeg(image: Image) -> bytes:
    """Encode for showing, the longer side at most 640 pixels."""
    picture = PillowImage.fromarray(image)
    picture.thumbnail((_LONGEST_SHOWN, _LONGEST_SHOWN))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
