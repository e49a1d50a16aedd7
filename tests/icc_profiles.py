"""ICC profiles made byte by byte: RGB from primaries, grey from a gamma, CMYK from a table."""

import itertools
import struct

import numpy as np

# chromaticities of red, green and blue, and the gamma
PRIMARIES = {
    "display_p3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), None),
    "adobe_rgb": (((0.640, 0.330), (0.210, 0.710), (0.150, 0.060)), 2.19921875),
    "prophoto": (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 1.8),
    "srgb": (((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)), None),
}
D50 = np.array([0.9642, 1.0, 0.8249])
D65 = np.array([0.95047, 1.0, 1.08883])
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    # sRGB's curve: g, a, b, c, d of the parametric type 3
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(*_SRGB_CURVE)


_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _text(words: str) -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", len(words) + 1) + words.encode() + bytes(79)


def _pack(space: bytes, kind: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": _text("test"), b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50), **tags}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"test", 0x02400000, kind, space, pcs)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def make_matrix(name: str) -> np.ndarray:
    """Return the matrix of linear RGB to XYZ under D50."""
    points, _ = PRIMARIES[name]
    white = D50 if name == "prophoto" else D65
    xyz = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in points]).T
    matrix = xyz * np.linalg.solve(xyz, white)
    if name == "prophoto":
        return matrix
    cones = np.diag((BRADFORD @ D50) / (BRADFORD @ D65))
    return np.linalg.inv(BRADFORD) @ cones @ BRADFORD @ matrix


def make_rgb_profile(name: str) -> bytes:
    """Return a display profile of one of PRIMARIES."""
    matrix, gamma = make_matrix(name), PRIMARIES[name][1]
    tags = {}
    for index, letter in enumerate("rgb"):
        tags[f"{letter}XYZ".encode()] = b"XYZ " + bytes(4) + _fixed(*matrix[:, index])
        tags[f"{letter}TRC".encode()] = _curve(gamma)
    return _pack(b"RGB ", b"mntr", b"XYZ ", tags)


def make_grey_profile(gamma: float) -> bytes:
    """Return a display profile of one channel."""
    return _pack(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": _curve(gamma)})


def make_cmyk_profile(make_lab) -> bytes:
    """Return a printer profile whose colours are `make_lab` (c, m, y, k in 0..1) -> (L, a, b)."""
    table = b""
    for inks in itertools.product((0.0, 1.0), repeat=4):
        lightness, a, b = make_lab(*inks)
        # 16-bit Lab of version 2: 100 is 0xFF00, and a and b start at -128
        numbers = (lightness * 652.8, (a + 128) * 256, (b + 128) * 256)
        table += struct.pack(">3H", *(min(65535, max(0, round(n))) for n in numbers))
    identity = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    ramp = struct.pack(">2H", 0, 65535)
    lut = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + identity + struct.pack(">2H", 2, 2)
    return _pack(b"CMYK", b"prtr", b"Lab ", {b"A2B0": lut + 4 * ramp + table + 3 * ramp})


def to_srgb(values: np.ndarray, name: str) -> np.ndarray:
    """Return sRGB levels of RGB levels in another space, by the formulas and not by a library."""
    _, gamma = PRIMARIES[name]
    share = np.asarray(values, float) / 255
    linear = share**gamma if gamma is not None else _to_linear(share)
    other = linear @ make_matrix(name).T @ np.linalg.inv(make_matrix("srgb")).T
    return 255 * _from_linear(np.clip(other, 0, 1))


def _to_linear(share: np.ndarray) -> np.ndarray:
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def _from_linear(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def grey_to_srgb(values: np.ndarray, gamma: float) -> np.ndarray:
    """Return sRGB levels of grey levels with a gamma."""
    return 255 * _from_linear((np.asarray(values, float) / 255) ** gamma)
