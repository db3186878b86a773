"""Picture files: written whole or not at all, each with its record inside; read with suspicion."""

import hashlib
import json
import os
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.results import GenerationRecord

if TYPE_CHECKING:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

RECORD_KEY = "imagelab"  # of the PNG text chunk
_FORMATS = ("PNG", "JPEG", "WEBP")  # a TIFF or an EPS named .png is no picture of ours: fewer decoders to trust


def save_png(image: "Image.Image", path: str | os.PathLike[str], record: GenerationRecord | None = None) -> Path:
    """Write a picture with its record as a JSON text chunk, and return its path.

    The file appears under its name only when it is complete; folders are made. Raises ImageFileError if it can't be
    written, InvalidValueError if the name doesn't end in .png.
    """
    path = Path(path)
    check_png_path(path)
    # Same folder: os.replace is atomic within a file system only.
    scratch = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("xb") as stream:
            image.save(stream, format="PNG", pnginfo=_text_chunk(record))
            _sync(stream)
        scratch.replace(path)
    except OSError as error:
        raise ImageFileError(path, f"can't be written: {error.strerror or error}", "Free some space there") from error
    finally:
        # Also after a KeyboardInterrupt; after os.replace there is nothing left.
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
    return path


def _text_chunk(record: GenerationRecord | None) -> "PngInfo | None":
    from PIL.PngImagePlugin import PngInfo

    if record is None:
        return None
    chunk = PngInfo()
    # ASCII: tEXt is Latin-1, and readers disagree about iTXt.
    chunk.add_text(RECORD_KEY, json.dumps(record.to_dict(), allow_nan=False))
    return chunk


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())  # else a power cut leaves the name without the content


def check_png_path(path: str | os.PathLike[str], name: str = "output_path") -> None:
    """Refuse a path that no PNG can be written to, before anything is drawn for it.

    Raises InvalidValueError, which calls the path `name`.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InvalidValueError(name, str(path), "a path that ends in .png")
    if path.is_dir():
        raise InvalidValueError(name, str(path), "a file's path, not a folder's")
    folder = next(parent for parent in (path.absolute().parents) if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidValueError(name, str(path), f"in a folder that can be written to ({folder} can't)")


def open_image(path: str | os.PathLike[str]) -> "Image.Image":
    """Read a PNG, JPEG or WebP whole, turned upright, as RGB; transparent parts become white.

    Raises ImageFileError for a file that is missing, truncated, huge or not one of these, whatever its name.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(_decode(Path(path)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _decode(path: Path) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    if not path.exists():
        raise ImageFileError(path, "doesn't exist")
    if not path.is_file():
        raise ImageFileError(path, "isn't a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                image.load()
                return image
    except UnidentifiedImageError as error:
        raise ImageFileError(path, "isn't a PNG, JPEG or WebP picture, whatever its name") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageFileError(path, f"has more than {Image.MAX_IMAGE_PIXELS} pixels", "Scale it down") from error
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise ImageFileError(path, f"is damaged: {error}", "Fetch or make it again") from error


def read_record(path: str | os.PathLike[str]) -> GenerationRecord:
    """Return the record that `save_png` put into a picture; raises ImageFileError if there is none."""
    path = Path(path)
    text = getattr(_decode(path), "text", {}).get(RECORD_KEY)
    if text is None:
        raise ImageFileError(path, "carries no imagelab record")
    try:
        return GenerationRecord.from_json(text)
    except InvalidValueError as error:
        raise ImageFileError(path, f"carries a record that can't be read: {error}") from error


def perceptual_hash(image: "Image.Image") -> str:
    """Return the 64-bit pHash in hex: near for pictures that look alike (imagehash.phash)."""
    import imagehash  # slow: it imports scipy

    return str(imagehash.phash(image))


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file in hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
