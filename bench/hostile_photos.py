"""What the landmark network says of photos as people, and not only people, upload them: a table.

    PYTHONPATH=. python bench/hostile_photos.py --workdir DIR [--only head] [--height 1024]
        [--samples VITON-HD/test]

All photos are generated from synthetic people by the seed. The last column is the median distance
of the confident landmarks from those of the plain photo, in % of the person's height, for photos
in which the person is only moved, turned, scaled or encoded in another way. A second table has the
rates of `photo_warnings.py`.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from omfa_jax.body.landmarks import LANDMARK_INDEX, PersonLandmarks, find_people, find_person
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import read_rgb
from omfa_jax.synthetic.world import World

Move = Callable[[np.ndarray], np.ndarray]
# of a world whose first people are seen from head to thighs, with hanging arms
SEED = 4
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Case:
    """An image file, and how the plain photo's points move to it; None if they do not.

    `nobody`: nobody must be found.
    """

    name: str
    data: bytes
    suffix: str = ".png"
    move: Move | None = None
    nobody: bool = False


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def render_people(height_px: int, count: int = 3) -> list[np.ndarray]:
    """Return photos (h, 3/4 h, 3) of synthetic people; the first is the plain photo."""
    world = World(SEED, height_px, height_px * 3 // 4)
    numbers = range(1, 1 + count)
    return [
        world.render_photo(
            world.get_person(i), world.get_garment(i), world.get_pose(1), world.get_view(i)
        ).image
        for i in numbers
    ]


def make_blank(height: int, width: int, seed: int = 0) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    shape = (height, width, 3)
    for name, value in (("white", 255), ("black", 0), ("grey", 128)):
        yield Case(f"blank {name}", encode(np.full(shape, value, np.uint8)), nobody=True)
    noise = rng.integers(0, 256, shape, np.uint8)
    yield Case("noise", encode(noise), nobody=True)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 9, 3), np.uint8))
    yield Case("smooth noise", encode(smooth.resize((width, height))), nobody=True)
    stripes = np.broadcast_to((np.arange(width) // 8 % 2 * 255)[None, :, None], shape)
    yield Case("stripes", encode(stripes.astype(np.uint8)), nobody=True)
    ramp = np.broadcast_to(np.linspace(0, 255, height)[:, None, None], shape)
    yield Case("gradient", encode(ramp.astype(np.uint8)), nobody=True)
    world = World(SEED, max(height, 64), max(width, 64))
    for i in range(4):
        garment = world.render_garment(world.get_garment(i))[0]
        yield Case(f"garment {i}", encode(garment), nobody=True)


def make_damaged(person: np.ndarray) -> Iterator[Case]:
    image = Image.fromarray(person)
    yield Case("empty file", b"", nobody=True)
    yield Case("text called .jpg", b"not an image\n", ".jpg", nobody=True)
    for kind, suffix in (("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp")):
        data = encode(image, kind)
        yield Case(f"truncated {kind}", data[: len(data) // 2], suffix, nobody=True)
    for size in ((1, 1), (2, 2), (2, 3000), (3000, 2)):
        yield Case(f"{size[0]}x{size[1]} px", encode(image.resize(size)), nobody=True)


def make_encoded(person: np.ndarray) -> Iterator[Case]:
    image = Image.fromarray(person)

    def same(name: str, data: bytes, suffix: str = ".png") -> Case:
        return Case(name, data, suffix, lambda points: points)

    yield same("plain", encode(image))
    yield same("CMYK JPEG", encode(image.convert("CMYK"), "JPEG"), ".jpg")
    yield same("grey", encode(image.convert("L")))
    yield same("palette", encode(image.quantize(32)))
    yield same("GIF", encode(image.quantize(64), "GIF"), ".gif")
    grey16 = np.asarray(image.convert("L")).astype(np.uint16) * 257
    yield same("16 bits", encode(Image.fromarray(grey16)))
    alpha = np.dstack([person, np.full(person.shape[:2], 255, np.uint8)])
    alpha[: len(person) // 20, :, 3] = 0
    yield same("alpha", encode(alpha))
    yield same("TIFF", encode(image, "TIFF"), ".tif")
    yield same("WebP", encode(image, "WEBP"), ".webp")
    yield same("JPEG of quality 3", encode(image, "JPEG", quality=3), ".jpg")
    try:
        import pillow_heif

        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, quality=80)
        yield same("HEIC", buffer.getvalue(), ".heic")
    except ImportError:
        # without the extra: what the reader says of a file that begins as HEIC
        yield Case("HEIC, no extra", b"\0\0\0\x18ftypheic" + bytes(64), ".heic")


def make_moved(person: np.ndarray, megapixels: tuple[float, ...] = (24, 108)) -> Iterator[Case]:
    height, width = person.shape[:2]
    image = Image.fromarray(person)
    turns = {
        "really turned by 90 degrees": (Image.Transpose.ROTATE_90, lambda x, y: (y, width - x)),
        "upside down": (Image.Transpose.ROTATE_180, lambda x, y: (width - x, height - y)),
    }
    for name, (how, place) in turns.items():
        move: Move = lambda points, place=place: np.stack(place(*points.T), axis=1)  # noqa: E731
        yield Case(name, encode(image.transpose(how)), move=move)
    # a camera that stores what it saw on its side
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    lying = encode(image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    yield Case("turned by EXIF", lying, ".jpg", lambda points: points)
    angle = np.radians(25)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    tilted = image.rotate(25, Image.Resampling.BICUBIC, fillcolor=(225, 225, 225))
    center = np.array([width, height]) / 2
    yield Case("tilted", encode(tilted), move=lambda p: (p - center) @ rotation.T + center)
    for times in (2, 3, 5):
        wide = Image.new("RGB", (times * width, times * height), (225, 225, 225))
        shift = ((times - 1) * width // 2, (times - 1) * height // 2)
        wide.paste(image, shift)
        yield Case(f"1/{times} of the height", encode(wide), move=lambda p, s=shift: p + s)
    for share in (0.5, 0.25, 0.06):
        size = round(width * share), round(height * share)
        scale = np.divide(size, (width, height))
        name = f"{size[0]}x{size[1]} px"
        yield Case(name, encode(image.resize(size)), move=lambda p, s=scale: p * s)
    for many in megapixels:
        factor = (many * 1e6 / (width * height)) ** 0.5
        size = round(width * factor), round(height * factor)
        big = encode(image.resize(size, Image.Resampling.BILINEAR), "JPEG", quality=80)
        scale = np.divide(size, (width, height))
        yield Case(f"{many:g} megapixels", big, ".jpg", lambda p, s=scale: p * s)


def make_cut(person: np.ndarray) -> Iterator[Case]:
    height, width = person.shape[:2]
    parts = {
        "head cut off at the chin": (0.24, 0, 1, 1),
        "head and shoulders cut off": (0.36, 0, 1, 1),
        "legs only": (0.7, 0, 1, 1),
        "head only": (0, 0, 0.22, 1),
        "head and shoulders": (0, 0, 0.36, 1),
        "above the waist": (0, 0, 0.55, 1),
        "left half": (0, 0, 1, 0.5),
    }
    for name, (top, left, bottom, right) in parts.items():
        rows = slice(int(top * height), int(bottom * height))
        columns = slice(int(left * width), int(right * width))
        yield Case(name, encode(person[rows, columns]))
    hidden = person.copy()
    hidden[int(0.45 * height) : int(0.8 * height)] = (90, 110, 80)
    yield Case("behind a wall", encode(hidden))
    bars = person.copy()
    bars[:, ::16] = bars[:, 1::16] = bars[:, 2::16] = (40, 40, 40)
    yield Case("behind bars", encode(bars), move=lambda points: points)


def make_odd(people: list[np.ndarray]) -> Iterator[Case]:
    person = people[0]
    image = Image.fromarray(person)
    marble = ImageOps.autocontrast(image.convert("L").filter(ImageFilter.GaussianBlur(1)))
    statue = np.asarray(marble)[..., None] * 0.45 + np.array([130, 128, 122])
    yield Case("like a statue", encode(statue.clip(0, 255).astype(np.uint8)))
    yield Case("negative", encode(255 - person))
    yield Case("very dark", encode((person * 0.08).astype(np.uint8)))
    yield Case("overexposed", encode((person * 0.2 + 204).astype(np.uint8)))
    ground = np.abs(person.astype(int) - person[4, 4]).max(axis=2) < 40
    yield Case("black silhouette", encode(ground[..., None] * np.uint8([255] * 3)))
    small = image.resize((image.width // 24, image.height // 24), Image.Resampling.BOX)
    yield Case("mosaic", encode(small.resize(image.size, Image.Resampling.NEAREST)))
    yield Case("blurred", encode(image.filter(ImageFilter.GaussianBlur(image.height / 60))))
    beside = np.concatenate(people[:2], axis=1)
    yield Case("two people", encode(beside))
    behind = Image.new("RGB", (image.width * 2, image.height * 2), (225, 225, 225))
    behind.paste(image, (0, image.height))
    smaller = Image.fromarray(people[1]).resize((image.width // 2, image.height // 2))
    behind.paste(smaller, (image.width * 5 // 4, image.height // 2))
    yield Case("a second person far behind", encode(behind))
    rows = [np.concatenate([people[(i + j) % len(people)] for j in range(4)], 1) for i in range(3)]
    yield Case("crowd of twelve", encode(np.concatenate(rows)))


def make_cases(height_px: int, megapixels: tuple[float, ...] = (24, 108)) -> Iterator[Case]:
    people = render_people(height_px)
    yield from make_blank(height_px, height_px * 3 // 4)
    yield from make_damaged(people[0])
    yield from make_encoded(people[0])
    yield from make_moved(people[0], megapixels)
    yield from make_cut(people[0])
    yield from make_odd(people)


def measure_shift(found: PersonLandmarks, plain: PersonLandmarks, move: Move) -> float:
    """Return the median distance of confident landmarks, in % of the trunk's height times 3.2."""
    sure = plain.confidence > 0.5
    moved = move(plain.points_px)
    sides = ("left", "right")
    shoulders, hips = (
        moved[[LANDMARK_INDEX[f"{side}_{part}"] for side in sides]].mean(axis=0)
        for part in ("shoulder", "hip")
    )
    # a person is about 3.2 times as high as the trunk from hips to shoulders
    height = 3.2 * np.linalg.norm(shoulders - hips)
    distances = np.linalg.norm(found.points_px - moved, axis=1)[sure]
    return float(100 * np.median(distances) / height)


def look(case: Case, folder: Path, plain: PersonLandmarks) -> tuple[str, float | None]:
    """Return what is said of a photo, and how far its person is from the plain photo's in %."""
    path = folder / f"{case.name.replace(' ', '_').replace('/', '_')}{case.suffix}"
    path.write_bytes(case.data)
    try:
        photo = read_rgb(path, "photo")
        people = find_people(photo)
        person = people[0] if people else find_person(photo, path.name)
    except OmfaError as error:
        return str(error).replace(f"{folder}/", ""), None
    sure = person.confidence > 0.5
    trunk = [
        sure[LANDMARK_INDEX[f"{s}_{p}"]] for s in ("left", "right") for p in ("shoulder", "hip")
    ]
    what = f"{len(people)} found: score {person.score:.2f}, {sure.sum()} of 33 landmarks sure"
    if sum(trunk) < 4:
        what += f", {4 - sum(trunk)} of 4 of the trunk not"
    shift = None if case.move is None else measure_shift(person, plain, case.move)
    return what, shift


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="folder for the photos")
    parser.add_argument("--height", type=int, default=1024, help="height of the plain photo, px")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--samples", type=Path, help="folder with real photos, image/ and cloth/")
    args = parser.parse_args()
    args.workdir.mkdir(parents=True, exist_ok=True)
    plain = find_person(render_people(args.height, 1)[0], "plain")
    print("| photo | what was said | ms of CPU | shift, % |\n| --- | --- | --- | --- |")
    for case in make_cases(args.height):
        if args.only in case.name:
            started = time.process_time()
            said, shift = look(case, args.workdir, plain)
            spent = f"{1e3 * (time.process_time() - started):.0f}"
            print(f"| {case.name} | {said} | {spent} | {'' if shift is None else f'{shift:.2f}'} |")
    if not args.only:
        # beside this file
        from photo_warnings import print_rates

        print()
        print_rates(60, args.samples)


if __name__ == "__main__":
    main()
