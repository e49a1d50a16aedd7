"""The flat sheet of a garment: the plane in which cut, pattern and print are defined.

A top laid flat has two layers, front and back, joined at the side seams, and two sleeves. The torso
has coordinates (x, y) in metres: x from the centre line, y upwards as in the body's rest pose. A
sleeve has (s, t): s along it from the shoulder seam, t across it from the upper fold. Clothes on a
body carry these coordinates as vertex attributes, and the shop photo draws the sheet itself, so
that cut, pattern and print agree between the two.
"""

from omfa_jax.synthetic.numba_kernels import kernel

SEAM_X = 0.2
SHOULDER_Y = 0.19
ARMPIT_Y = 0.03
COLLAR_Y = 0.262
NECK_SIDE_X = 0.075
SHOULDER_SLOPE = (COLLAR_Y - SHOULDER_Y) / (SEAM_X - NECK_SIDE_X)
LOWEST_HEM_Y = -0.38

TEXTURE_TOP_Y = 0.29
TEXTURE_SIDE_M = 0.72
FRONT, BACK, SLEEVE = 0, 1, 2

# indices of the vector that defines a garment's cut
SLEEVE_M, HEM_Y, NECK_HALF_WIDTH, NECK_DEPTH, NECK_IS_V, COLLAR_M, CUFF_M, HEM_M = range(8)
CUT_LENGTH = 8
BACK_NECK_DEPTH = 0.03
# depth at which the edges of a V-neck begin, in front of the shoulders
V_STARTS_M = 0.035


@kernel
def compute_half_width(y: float) -> float:
    """Return the half width (m) of the torso at height y, which grows from shoulders to hem."""
    if y >= SHOULDER_Y:
        return SEAM_X
    if y >= ARMPIT_Y:
        part = (SHOULDER_Y - y) / (SHOULDER_Y - ARMPIT_Y)
        return SEAM_X + 0.035 * part * part * (3 - 2 * part)
    return 0.235 + 0.015 * (ARMPIT_Y - y) / (ARMPIT_Y - LOWEST_HEM_Y)


@kernel
def compute_sleeve_width(s: float) -> float:
    """Return the width (m) of the folded sleeve at s metres from the shoulder seam."""
    return 0.175 - 0.055 * min(max(s, 0.0) / 0.5, 1.0)


@kernel
def compute_neck_distance(x: float, y: float, front: bool, cut) -> float:
    """Return the approximate distance (m) of a torso point from the neckline; < 0 is trimmed."""
    width = cut[NECK_HALF_WIDTH]
    depth = cut[NECK_DEPTH] if front else BACK_NECK_DEPTH
    below = COLLAR_Y - y
    if below <= 0.0:
        return min(abs(x) - width, below)
    if cut[NECK_IS_V] > 0.5 and front:
        # distance to the slanted line: the horizontal one times the cosine of its slope
        slope = width / (depth - V_STARTS_M)
        edge = width - max(below - V_STARTS_M, 0.0) * slope
        return (abs(x) - edge) / (1.0 + slope * slope) ** 0.5
    # first-order distance to an ellipse: its implicit function over the gradient's length
    across, down = x / width, below / depth
    radius = (across * across + down * down) ** 0.5
    slope = ((across / width) ** 2 + (down / depth) ** 2) ** 0.5
    return (radius - 1.0) * radius / max(slope, 1e-6)


@kernel
def sample_texture(texture, part: int, x: float, y: float):
    """Return (r, g, b) of the texture at the point (x, y) of the sheet, bilinear."""
    side = texture.shape[1]
    u = (x / TEXTURE_SIDE_M + 0.5) * side - 0.5
    v = (TEXTURE_TOP_Y - y) / TEXTURE_SIDE_M * side - 0.5
    # 1.001: the texel to the right and the one below must exist
    u = min(max(u, 0.0), side - 1.001)
    v = min(max(v, 0.0), side - 1.001)
    column, row = int(u), int(v)
    fu, fv = u - column, v - row
    w00, w01, w10, w11 = (1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv
    sheet = texture[part]
    a, b = sheet[row, column], sheet[row, column + 1]
    c, d = sheet[row + 1, column], sheet[row + 1, column + 1]
    return (
        w00 * a[0] + w01 * b[0] + w10 * c[0] + w11 * d[0],
        w00 * a[1] + w01 * b[1] + w10 * c[1] + w11 * d[1],
        w00 * a[2] + w01 * b[2] + w10 * c[2] + w11 * d[2],
    )


@kernel
def compute_torso_color(texture, cut, trim, x: float, y: float, front: bool):
    """Return (r, g, b) of a torso point: collar, texture or hem."""
    if compute_neck_distance(x, y, front, cut) < cut[COLLAR_M]:
        return trim[0], trim[1], trim[2]
    r, g, b = sample_texture(texture, FRONT if front else BACK, x, y)
    shade = 0.86 if y - cut[HEM_Y] < cut[HEM_M] else 1.0
    return r * shade, g * shade, b * shade


@kernel
def compute_sleeve_color(texture, cut, trim, s: float, t: float):
    """Return (r, g, b) of a sleeve at s (m) along it and t in [0, 1] across it: cuff or texture."""
    if cut[SLEEVE_M] - s < cut[CUFF_M]:
        return trim[0], trim[1], trim[2]
    across = (t - 0.5) * compute_sleeve_width(s)
    r, g, b = sample_texture(texture, SLEEVE, across, SHOULDER_Y - s)
    shade = 0.9 if s < 0.005 else 1.0
    return r * shade, g * shade, b * shade
