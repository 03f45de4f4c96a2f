"""How a picture was made, in its own metadata: written as JSON, and read back.

The metadata is one JSON object, in ASCII. In PNG, JPEG, WebP, TIFF and AVIF it is the property `fastnst:parameters` of
an XMP packet (ISO 16684-1), which programs that edit pictures keep; in `.npy` a second array after the picture's, the
bytes of the text.
"""

import html
import json
import math
import os
import re
import tokenize
from collections.abc import Mapping
from importlib.metadata import version
from typing import IO, Any

import numpy as np

from fastnst.errors import ImageError
from fastnst.image.decode import CREDITS, MOST_DPI, is_npy, open_image, opened, read_npy_header
from fastnst.image.files import contents, source_name

_DEEPEST = 100  # fastnst's own parameters nest four deep
# libvips leaves out a packet that is longer.
_JPEG_PACKET_BYTES = 60_000
_PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:fastnst="urn:fastnst:1" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/">'
    "<xmp:CreatorTool>fastnst {version}</xmp:CreatorTool>{credit}{parameters}"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
_CREDITS = {
    "artist": "<dc:creator><rdf:Seq><rdf:li>{}</rdf:li></rdf:Seq></dc:creator>",
    "copyright": '<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:rights>',
}
_NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PARAMETERS = ("<fastnst:parameters>", "</fastnst:parameters>")


def read_parameters(path: str | os.PathLike[str] | IO[bytes]) -> dict[str, Any]:
    """The `parameters` that `save_image` wrote into the file at `path`, or a stream of it; NaN and infinities are None.

    Raises ImageError if it cannot be read as an image, or carries no parameters as fastnst writes them.
    """
    name, _ = source_name(path, "the")
    what = f"the image {name!r}"
    held = contents(path, what)
    text = _npy_text(held) if is_npy(held) else _packet_text(open_image(held, what))
    try:
        parameters = json.loads(text or "null")
    except (ValueError, RecursionError):
        parameters = None
    if not isinstance(parameters, dict):
        raise ImageError(f"{name!r} has no fastnst parameters; it was not made by fastnst, or its metadata was removed")
    if not _nests_at_most(parameters, _DEEPEST):
        raise ImageError(f"{name!r} has parameters that nest more than {_DEEPEST} deep; it was not made by fastnst")
    return {key: _plain(value) for key, value in parameters.items()}


def packet(parameters: Mapping[str, Any] | None, *, shortened: bool = False) -> bytes:
    """The XMP packet that carries `parameters`, with the artist and the copyright of the content.

    `shortened` to what a JPEG holds, without the largest entries."""
    kept = None if parameters is None else dict(parameters)
    left_out: list[str] = []
    credit = "".join(
        _CREDITS[name].format(html.escape(_NOT_XML.sub(" ", text), quote=False))
        for name, text in credits_in(parameters).items()
    )
    while True:
        text = "" if kept is None else html.escape(to_json(kept), quote=False).join(_PARAMETERS)
        data = _PACKET.format(version=version("fastnst"), credit=credit, parameters=text).encode()
        if not kept or not shortened or len(data) <= _JPEG_PACKET_BYTES:
            return data
        largest = max(
            (key for key in kept if key != "left_out" or not left_out), key=lambda key: len(to_json(kept[key]))
        )
        del kept[largest]
        if len(left_out) < 50:  # the list itself must fit, whatever the names are
            left_out.append(str(largest)[:50])
        kept["left_out"] = left_out


def credits_in(parameters: Mapping[str, Any] | None) -> dict[str, str]:
    """The artist and the copyright of a run's content that its `parameters` name, by the names of `CREDITS`."""
    known = _content(parameters)
    return {name: known[name] for name in CREDITS if isinstance(known.get(name), str)}


def dpi_in(parameters: Mapping[str, Any] | None) -> float | None:
    """The pixels an inch of a run's content that its `parameters` name."""
    dpi = _content(parameters).get("dpi")
    return dpi if isinstance(dpi, int | float) and 1 < dpi < MOST_DPI else None


def blend_in(parameters: Mapping[str, Any]) -> dict[str, float]:
    """The styles, with their shares, in which a network made the picture of these `parameters`; none for another."""
    network = parameters.get("network")
    known: Mapping[str, Any] = network if isinstance(network, Mapping) else {}
    styles, blend = known.get("styles"), known.get("blend")
    if not isinstance(styles, list) or not isinstance(blend, list) or len(styles) != len(blend):
        return {}
    shares = zip(map(str, styles), blend, strict=True)
    return {name: share for name, share in shares if isinstance(share, int | float) and share > 0}


def _content(parameters: Mapping[str, Any] | None) -> Mapping[str, Any]:
    content = (parameters or {}).get("content")
    return content if isinstance(content, Mapping) else {}


def _packet_text(image: Any) -> str | None:
    """The JSON in libvips' image; None where there is none."""
    data = image.get("xmp-data") if image.get_typeof("xmp-data") else b""
    match = re.search(b"(.*)".join(part.encode() for part in _PARAMETERS), data, re.DOTALL)
    return html.unescape(match[1].decode(errors="replace")) if match else None


def _npy_text(held: str | bytes) -> str | None:
    """The text after the picture in a `.npy` file; None where there is none."""
    try:
        with opened(held) as file:
            shape, dtype = read_npy_header(file)
            file.seek(math.prod(shape) * dtype.itemsize, os.SEEK_CUR)
            text = np.load(file, allow_pickle=False)
        return bytes(text).decode() if text.dtype == np.uint8 and text.ndim == 1 else None
    except (ValueError, TypeError, OSError, EOFError, OverflowError, MemoryError, SyntaxError, tokenize.TokenError):
        return None


def to_json(value: object) -> str:
    """`value` as JSON in ASCII; objects that JSON does not know as their text, NaN and infinities as null."""
    return json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _nests_at_most(value: object, depth: int) -> bool:
    """True where lists and dicts are at most `depth` within each other."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth >= 0 and all(_nests_at_most(child, depth - 1) for child in children)
