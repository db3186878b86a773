"""Picture files: written whole or not at all, each with its record inside; read with suspicion."""

import errno
import hashlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagelab.errors import ImageFileError, InvalidValueError
from imagelab.metadata import (
    PictureChunk,
    PictureMetadata,
    embedding,
    find_chunk,
    format_infotext,
    infotext_of,
    read_chunk,
    read_metadata,
    write_chunk,
)
from imagelab.results import GenerationRecord
from imagelab.whole_file import whole_file

if TYPE_CHECKING:
    from PIL import Image

_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# WebP keeps every pixel too; a JPEG can't, but not halving the colours keeps the edges of drawn things.
_SAVING: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
}
_FORMATS = ("PNG", "JPEG", "WEBP")  # a TIFF or an EPS named .png is no picture of ours: fewer decoders to trust
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I;16")
_WHITE = (255, 255, 255)
_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 4095  # of Linux, NAME_MAX and PATH_MAX without its NUL
_MAX_FILE_BYTES = 2**30  # the most that Pillow decodes, 89 million pixels, are half of it with 16 bits a channel
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

_filtering = threading.Lock()


def save_png(image: "Image.Image", path: str | os.PathLike[str], record: GenerationRecord | None = None) -> Path:
    """Write a picture as a PNG, as `save_picture` does; raises InvalidValueError if the name doesn't end in .png."""
    return save_picture(image, check_png_path(path), record)


def save_picture(image: "Image.Image", path: str | os.PathLike[str], record: GenerationRecord | None = None) -> Path:
    """Write a picture with its record inside, in the format that its name says, and return its path.

    The record is there twice: in A1111's words for other programs, and whole, as the `imagelab` chunk. The file appears
    under its name only when it is complete; folders are made. Raises ImageFileError if it can't be written, also for a
    JPEG whose metadata is too long for one; InvalidValueError if the name ends in none of .png, .jpg and .webp.
    """
    path = check_picture_path(path)
    form = _SUFFIXES[path.suffix.lower()]
    given = _SAVING[form] | (_metadata(image, path, form, record) if record else {})
    try:
        with whole_file(path) as stream:
            image.save(stream, format=form, **given)
    except OSError as error:
        fix = "Free some space there" if error.errno in _FULL_DISK else "Choose another path"
        raise ImageFileError(path, f"can't be written: {error.strerror or error}", fix) from error
    return path


def as_jpeg(image: "Image.Image") -> "Image.Image":
    """Return what is left of a picture when `save_picture` writes it as a JPEG."""
    from PIL import Image

    stream = io.BytesIO()
    image.save(stream, format="JPEG", **_SAVING["JPEG"])
    return Image.open(stream, formats=("JPEG",)).convert("RGB")


def _metadata(image: "Image.Image", path: Path, form: str, record: GenerationRecord) -> dict[str, Any]:
    chunk = write_chunk(PictureChunk(record=record, pixels_sha256=pixels_sha256(image)))
    infotext = format_infotext(infotext_of(record))
    if reason := embedding.too_long(form, chunk, infotext):
        raise ImageFileError(path, reason, "Write a PNG" if form != "PNG" else "Shorten the prompts")
    if form == "PNG":
        return {"pnginfo": embedding.png_texts(chunk, infotext)}
    return {"exif": embedding.exif(chunk, infotext)}


def checked_path(value: object, name: str) -> Path:
    """Return a path that the system can have as a Path; raises InvalidValueError, which calls it `name`."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise InvalidValueError(name, value, "a path")
    try:
        coded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise InvalidValueError(name, text, "a path whose characters a file's name can have") from error
    if b"\0" in coded:
        raise InvalidValueError(name, text, "a path without a NUL in it")
    if len(coded) > _MAX_PATH_BYTES or any(len(part) > _MAX_NAME_BYTES for part in coded.split(b"/")):
        expected = f"a path of at most {_MAX_PATH_BYTES} bytes, {_MAX_NAME_BYTES} in each part"
        raise InvalidValueError(name, text, expected)
    return Path(text)


def check_png_path(value: object, name: str = "output_path") -> Path:
    """Return a path that a PNG can be written to, so that nothing is drawn for another one; makes nothing.

    Raises InvalidValueError, which calls the path `name`.
    """
    return check_file_path(value, name, (".png",))


def check_picture_path(value: object, name: str = "output_path") -> Path:
    """Return a path that a picture can be written to, as `check_png_path`; JPEG and WebP are fine, too."""
    return check_file_path(value, name, tuple(_SUFFIXES))


def check_file_path(value: object, name: str, suffixes: tuple[str, ...]) -> Path:
    """Return a path with one of the suffixes that a file can be written to; makes nothing, raises InvalidValueError."""
    path = checked_path(value, name)
    if path.suffix.lower() not in suffixes:
        raise InvalidValueError(name, str(path), f"a path that ends in {' or '.join(suffixes)}")
    try:
        if path.is_dir():
            raise InvalidValueError(name, str(path), "a file's path, not a folder's")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        raise InvalidValueError(name, str(path), f"a path that can be looked at ({error.strerror})") from error
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidValueError(name, str(path), f"in a folder that can be written to ({folder} can't)")
    return path


def open_image(path: str | os.PathLike[str], background: tuple[int, int, int] = _WHITE) -> "Image.Image":
    """Read a PNG, JPEG or WebP whole, as `upright_rgb`.

    Raises ImageFileError for a file that is missing, truncated, huge or not one of these, whatever its name.
    """
    return upright_rgb(_decode(Path(path)), background)


def upright_rgb(image: "Image.Image", background: tuple[int, int, int] = _WHITE) -> "Image.Image":
    """Return a picture turned upright, as its EXIF says, and as RGB; the background shows where it is transparent.

    Raises InvalidValueError for a mode without a range that is black to white (F, say); ImageFileError for a file that
    was opened but turns out to be damaged.
    """
    from PIL import Image, ImageOps

    if image.mode not in _MODES:
        raise InvalidValueError("picture", f"mode {image.mode}", f"of a mode among {', '.join(_MODES)}")
    with _damage_is_one_error(Path(getattr(image, "filename", "") or "a picture in memory")), _own_warnings():
        image = ImageOps.exif_transpose(image)
    if image.mode == "I;16":
        image = _in_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")
    return image.convert("RGB")


def _in_8_bits(image: "Image.Image") -> "Image.Image":
    # Scaled first: convert clips instead, and nearly all of 16 bits is above 255.
    scaled = image.point(lambda level: level / 257 + 0.5).convert("L")
    if "transparency" in scaled.info:
        scaled.info["transparency"] = round(scaled.info["transparency"] / 257)
    return scaled


def read_image_bytes(path: Path) -> bytes:
    """Return what a picture's file holds, whatever that is; raises ImageFileError where it can't be read."""
    with _damage_is_one_error(path):
        _check_is_file(path)
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ImageFileError(path, f"is larger than {_MAX_FILE_BYTES // 2**20} MiB", "Scale the picture down")
        return path.read_bytes()


def decode_image(data: bytes, path: Path) -> "Image.Image":
    """Return the picture in a file's bytes, as it is stored; raises ImageFileError, about `path`, as `open_image`."""
    image = _decode(path, io.BytesIO(data))
    image.filename = str(path)  # type: ignore[attr-defined]  # as Pillow sets it for files; errors name it
    return image


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        raise ImageFileError(path, "isn't a file" if path.exists() else "doesn't exist")


def _decode(path: Path, stream: io.BytesIO | None = None) -> "Image.Image":
    from PIL import Image

    with _damage_is_one_error(path):
        if stream is None:
            _check_is_file(path)
        with _own_warnings():
            opened = Image.open(path if stream is None else stream, formats=_FORMATS)
        with opened as image:
            image.load()  # the long part: other threads needn't wait for it
            return image


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Make Pillow's warning of a huge picture an error; one thread at a time, as warning filters are every thread's."""
    from PIL import Image

    with _filtering, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # EXIF with a broken tag: the orientation is read all the same, if it is there.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
        yield


@contextmanager
def _damage_is_one_error(path: Path) -> Iterator[None]:
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except ImageFileError:
        raise
    except UnidentifiedImageError as error:
        raise ImageFileError(path, "isn't a PNG, JPEG or WebP picture, whatever its name") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageFileError(path, f"has more than {Image.MAX_IMAGE_PIXELS} pixels", "Scale it down") from error
    except Exception as error:  # Pillow's decoders and its EXIF reader share no base
        if isinstance(error, OSError) and error.strerror:  # the system's own
            raise ImageFileError(path, f"can't be read: {error.strerror}") from error
        raise ImageFileError(path, f"is damaged: {error}", "Fetch or make it again") from error


def read_texts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the texts that a picture carries, {name of the PNG chunk or of the EXIF tag: text}.

    Raises ImageFileError as `open_image` does, and for megabytes of text.
    """
    return _size_and_texts(Path(path))[1]


def _size_and_texts(path: Path) -> tuple[tuple[int, int], dict[str, str]]:
    image = _decode(path)
    with _damage_is_one_error(path), _own_warnings():
        return image.size, embedding.read_texts(image)


def read_picture_metadata(path: str | os.PathLike[str]) -> PictureMetadata:
    """Return what a picture says of its making.

    Written by imagelab, A1111, Forge, ComfyUI, InvokeAI, Fooocus or SwarmUI, into a PNG, or into the EXIF of a JPEG or
    WebP; `writer` is None where nothing is said that can be read. Where no size is said, as for a picture drawn over
    another one, it is the file's own. It is text from whoever made the file: none of it is run, looked up or opened.
    Raises ImageFileError for a picture that can't be read, for megabytes of text, and for a damaged record of our own.
    """
    path = Path(path)
    size, texts = _size_and_texts(path)
    try:
        read = read_metadata(texts)
    except InvalidValueError as error:
        raise ImageFileError(path, f"carries a record that can't be read: {error}") from error
    return replace(read, size=size) if read.writer and read.size is None else read


def read_record(path: str | os.PathLike[str]) -> GenerationRecord:
    """Return the record that `save_picture` put into a picture; raises ImageFileError if there is none."""
    return read_picture_chunk(path).record


def read_picture_chunk(path: str | os.PathLike[str]) -> PictureChunk:
    """Return the `imagelab` chunk of a picture; raises ImageFileError if there is none, or a damaged one."""
    path, text = Path(path), find_chunk(read_texts(path))
    if text is None:
        raise ImageFileError(path, "carries no imagelab record")
    try:
        return read_chunk(text)
    except InvalidValueError as error:
        raise ImageFileError(path, f"carries a record that can't be read: {error}") from error


def perceptual_hash(image: "Image.Image") -> str:
    """Return the 64-bit pHash in hex: near for pictures that look alike (imagehash.phash)."""
    import imagehash  # slow: it imports scipy

    return str(imagehash.phash(image))


def pixels_sha256(image: "Image.Image") -> str:
    """Return the sha256 of a picture's size and pixels in hex: the same for the same picture in any file."""
    header = f"{image.mode} {image.width}x{image.height}\n".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def mean_difference(one: "Image.Image", other: "Image.Image") -> float:
    """Return the mean absolute difference of two pictures of one size, in grey levels from 0 to 255."""
    import numpy as np

    first, second = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (one, other))
    return float(np.abs(first - second).mean())


def control_map_path(path: Path, index: int, control_type: str) -> Path:
    """Return where the map of a picture's control lies beside it: luca.png has luca.control-0-pose.png."""
    return path.with_name(f"{path.stem}.control-{index}-{control_type}.png")


def shared_map_path(folder: Path, index: int, control_type: str, map_sha256: str) -> Path:
    """Return where a run's folder has a map that several of its pictures follow: control-0-pose-5606431f.png."""
    return folder / f"control-{index}-{control_type}-{map_sha256[:8]}.png"
