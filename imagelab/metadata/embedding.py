"""Metadata in picture files: PNG's text chunks, and EXIF in JPEG and WebP."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

CHUNK_KEY = "imagelab"  # of the PNG text chunk
PARAMETERS_KEY = "parameters"  # A1111's
MAX_TEXT_BYTES = 2**20  # in all: Pillow opens no PNG with a compressed text beyond that, others none at all
_MAX_JPEG_EXIF_BYTES = 65_527  # a segment's 65,535 without its length and its mark
MAX_READ_CHARACTERS = 8 * 2**20  # of a stranger's picture; ComfyUI's largest workflows have about 2

_EXIF_IFD = 0x8769
_USER_COMMENT, _MAKER_NOTE = 0x9286, 0x927C
_NAMES = {  # of the EXIF tags that somebody writes metadata into
    _USER_COMMENT: "UserComment",
    _MAKER_NOTE: "MakerNote",
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0131: "Software",
}
_CODES = {b"UNICODE\0": "utf-16-be", b"ASCII\0\0\0": "utf-8", b"\0" * 8: "utf-8"}


def png_texts(chunk: str, infotext: str) -> "PngInfo":
    """Return PNG's text chunks: tEXt for what Latin-1 can say, iTXt for the rest, as A1111 does."""
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text(PARAMETERS_KEY, infotext)
    texts.add_text(CHUNK_KEY, chunk)
    return texts


def exif(chunk: str, infotext: str) -> "Image.Exif":
    """Return EXIF with A1111's text as UserComment, big-endian UTF-16 as piexif writes it, and ours as MakerNote."""
    from PIL import Image

    tags = Image.Exif()
    tags.endian = ">"  # whoever reads UTF-16 in the file's own order then reads the same
    details = tags.get_ifd(_EXIF_IFD)
    details[_USER_COMMENT] = b"UNICODE\0" + infotext.encode("utf-16-be", "replace")
    details[_MAKER_NOTE] = chunk.encode()
    return tags


def too_long(form: str, chunk: str, infotext: str) -> str | None:
    """Say why the metadata doesn't fit into a file of Pillow's format, None if it does."""
    written = len(exif(chunk, infotext).tobytes()) if form != "PNG" else len(chunk) + len(infotext.encode())
    limit = _MAX_JPEG_EXIF_BYTES if form == "JPEG" else MAX_TEXT_BYTES
    return f"its metadata takes {written} bytes, and a {form} holds {limit}" if written > limit else None


def read_texts(image: "Image.Image") -> dict[str, str]:
    """Return the texts that a loaded picture carries, {name of the chunk or of the EXIF tag: text}.

    Raises ValueError if there is too much of it.
    """
    texts = {str(key): str(value) for key, value in getattr(image, "text", {}).items()}
    tags = image.getexif()
    for found in (tags, tags.get_ifd(_EXIF_IFD)):
        for tag, name in _NAMES.items():
            if tag in found and (text := decode_comment(found[tag])):
                texts.setdefault(name, text)
    if sum(map(len, texts.values())) > MAX_READ_CHARACTERS:
        raise ValueError(f"carries more than {MAX_READ_CHARACTERS // 2**20} million characters of text")
    return texts


def decode_comment(value: Any) -> str:
    """Return the text of an EXIF value.

    `UNICODE` says UTF-16, of an order that writers don't agree on: A1111's is big-endian, and others follow their TIFF.
    """
    if not isinstance(value, bytes):
        return value.strip("\0") if isinstance(value, str) else ""
    code, body = _CODES.get(value[:8]), value[8:]
    if code is None:
        return value.decode("utf-8", "replace").strip("\0")
    if code == "utf-16-be" and body[::2].count(0) < body[1::2].count(0):
        code = "utf-16-le"  # letters of Latin-1 have a zero before them in the one order, behind them in the other
    return body.decode(code, "replace").strip("\0\ufeff")
