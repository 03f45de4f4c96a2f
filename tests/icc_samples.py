"""Small colour profiles, and what they mean."""

import itertools
import struct

import numpy as np


def icc_profile(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """An ICC 2.4 profile with `tags` and no more than it must have besides."""
    name = b"test"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + b"\0" + bytes(78)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(*D50), **tags}
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    device = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, device, space, connection)
    header += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + xyz(*D50)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


D50 = (0.9642, 1.0, 0.8249)


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def power_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def grey_profile(gamma: float) -> bytes:
    return icc_profile(b"GRAY", {b"kTRC": power_curve(gamma)})


def cmyk_profile() -> bytes:
    """A press with three inks of one grey: L* = 100 (1 − k) (1 − (c + m + y) / 3), linear between corners."""
    corners = itertools.product((0, 1), repeat=4)
    grid = bytes(v for c, m, y, k in corners for v in (round(255 * (1 - k) * (1 - (c + m + y) / 3)), 128, 128))
    identity = b"".join(struct.pack(">i", 65536 * (row == column)) for row in range(3) for column in range(3))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + bytes(range(256)) * 4 + grid + bytes(range(256)) * 3
    return icc_profile(b"CMYK", {b"A2B0": lut}, b"Lab ")


# Adobe RGB (1998), adapted to D50 by Bradford.
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])


SRGB_TO_XYZ_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


def adobe_rgb_profile() -> bytes:
    columns = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), (xyz(*column) for column in ADOBE_RGB.T), strict=True))
    return icc_profile(b"RGB ", columns | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), power_curve(2.19921875)))


def encoded_srgb(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def adobe_rgb_to_srgb(values: np.ndarray) -> np.ndarray:
    """(…, 3) in 0…1, from the definitions of both spaces."""
    xyz = (values**2.19921875) @ ADOBE_RGB.T
    return encoded_srgb(xyz @ np.linalg.inv(SRGB_TO_XYZ_D50).T)
