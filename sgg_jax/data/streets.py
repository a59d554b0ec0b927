"""Procedural streets: a pair of domains that needs no files. Source looks like an old game, target like a camera.

An image is a pure function of (seed, domain, image id): a random scene in metres, seen by a pinhole camera and sampled
at the pixel centres (this file), then coloured by its domain's renderer (streets_render.py). The size only changes the
sampling.

    Streets[i] -> draw_things -> rasterise -> Scene -> render_source | render_target -> Example

World: X right, Y up from the ground, Z away from the camera, metres. Picture: u in [-1,1] rightwards, v in [0,1] down;
they have one unit when W = 2 H. Everything is upright rectangles with a silhouette, painted from far to near.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sgg_jax.data.dataset import ClassInfo, Example, pixels_digest
from sgg_jax.data.kept import Kept
from sgg_jax.data.problems import Problem
from sgg_jax.data.streets_render import SKY_DEPTH, Axis, Camera, Label, Part, Scene, render_source, render_target
from sgg_jax.data.streets_shapes import car_rear, car_side, leaves, person, plate, trunk
from sgg_jax.errors import InputError

VERSION = "1"  # raise it when any byte of any image changes

CLASSES = (
    ClassInfo("road", (0,), (128, 64, 128)),
    ClassInfo("sidewalk", (1,), (244, 35, 232)),
    ClassInfo("building", (2,), (70, 70, 70)),
    ClassInfo("vegetation", (3,), (107, 142, 35)),
    ClassInfo("sky", (4,), (70, 130, 180)),
    ClassInfo("person", (5,), (220, 20, 60)),
    ClassInfo("car", (6,), (0, 0, 142)),
    ClassInfo("pole", (7,), (153, 153, 153)),
)

Range = tuple[float, float]  # (low, high) of a uniform draw


class Layout(NamedTuple):
    """The prior of a domain's scenes; it shifts mildly between the domains."""

    horizon: Range  # v
    height: Range  # of the camera above the ground, m
    curb: Range  # half the road's width, m
    walk: Range  # width of the sidewalk, m
    storeys: Range  # height of buildings, m
    gaps: float  # probability that a plot has no building
    trees: tuple[int, int]  # at each side: fewest, most + 1
    cars: float  # probability that a place on a lane is taken
    persons: tuple[int, int]  # fewest, most + 1
    poles: tuple[int, int]  # fewest, most + 1


LAYOUTS = {
    "source": Layout((0.36, 0.44), (1.8, 2.3), (3.2, 4.2), (3.2, 4.8), (5.0, 9.0), 0.30, (1, 4), 0.45, (3, 6), (2, 4)),
    "target": Layout((0.40, 0.48), (1.5, 1.9), (2.8, 3.8), (2.8, 4.2), (6.0, 11.0), 0.25, (1, 4), 0.45, (3, 7), (2, 4)),
}
FOCAL = 1.2  # focal length in picture heights
MAST = 0.066  # least width of a pole in picture heights: 3.2 pixels of 48
FIRST_ID = {"train": 0, "val": 1_000_000, "test": 2_000_000}
MOST = 1_000_000  # images a split can have without running into the next


class Plane(NamedTuple):
    """An upright rectangle: Z = at over X in [low, high] (FRONT), or X = at over Z in [low, high] (SIDE)."""

    axis: Axis
    at: float
    low: float
    high: float
    bottom: float  # Y
    top: float  # Y
    sprite: np.ndarray | None = None  # [64,64] uint8 Part by (up, along), 0 where nothing is; None: all of it is PLAIN


class Thing(NamedTuple):
    """One instance: what it is, its planes, and how its shadow falls."""

    label: Label
    order: float  # Z that decides who hides whom
    planes: tuple[Plane, ...]
    foot: tuple[float, float, float, float] | None = None  # X, Z, half width, height of what casts a shadow


class Street(NamedTuple):
    """What the ground and all things on it are placed by."""

    camera: Camera
    curb: float  # the road is |X| < curb, the sidewalk all other ground
    wall: float  # |X| of the buildings' line


_drawn = Kept()


class Streets:
    """`count` images of one domain and split, drawn on demand; see Dataset.

    size: (H, W), multiples of 8.
    labels: whether the set shows its labels.

    Raises InputError for an unknown domain or split, a size or a count that cannot be.
    """

    classes: tuple[ClassInfo, ...] = CLASSES
    problems: tuple[Problem, ...] = ()  # nothing to go wrong: there are no files

    def __init__(
        self, domain: str, split: str, count: int, size: tuple[int, int] = (48, 96), seed: int = 0, labels: bool = True
    ) -> None:
        if domain not in LAYOUTS:
            raise InputError(f"streets has no domain {domain!r}; choose one of {', '.join(LAYOUTS)}.")
        if split not in FIRST_ID:
            raise InputError(f"streets has no split {split!r}; choose one of {', '.join(FIRST_ID)}.")
        if len(size) != 2 or any(side < 8 or side % 8 for side in size):
            raise InputError(f"streets cannot be drawn at size {tuple(size)}: height and width must be multiples of 8.")
        if not 0 < count <= MOST:
            raise InputError(f"streets cannot have {count} images in a split: choose 1 to {MOST}.")
        if seed < 0:
            raise InputError(f"streets cannot be drawn from seed {seed}: choose 0 or more.")
        self.size = (int(size[0]), int(size[1]))
        self.labelled = labels
        self._domain, self._seed = domain, seed
        self._ids = range(FIRST_ID[split], FIRST_ID[split] + count)

    def __len__(self) -> int:
        return len(self._ids)

    def name(self, index: int) -> str:
        """The image id in seven digits."""
        return f"{self._ids[index]:07d}"

    def image_id(self, index: int) -> int:
        """Train ids count from 0, val from 1,000,000, test from 2,000,000."""
        return self._ids[index]

    def scene(self, index: int) -> Scene:
        """The scene behind image `index`, before any renderer."""
        rng = np.random.default_rng(self._key(index, stream=0))
        street, things = draw_things(LAYOUTS[self._domain], rng)
        return rasterise(street, things, self.size)

    def __getitem__(self, index: int) -> Example:
        """image [H,W,3] uint8 RGB, labels [H,W] uint8 in 0..7; both read-only."""
        drawn = _drawn.get((*self._key(index, stream=1), *self.size), lambda: self._draw(index))
        return drawn if self.labelled else Example(drawn.image, None)

    def _draw(self, index: int) -> Example:
        scene = self.scene(index)
        render = {"source": render_source, "target": render_target}[self._domain]
        return Example(render(scene, np.random.default_rng(self._key(index, stream=1))), scene.labels)

    def full(self, index: int) -> Example:
        """The example itself: streets are drawn at their size."""
        return self[index]

    def origin(self, index: int) -> tuple[str, str]:
        """What the image is a function of, and the digest of its pixels."""
        words = f"streets version {VERSION}, {self._domain}, seed {self._seed}, image {self._ids[index]}"
        return words, pixels_digest(self[index].image)

    def _key(self, index: int, stream: int) -> tuple[int, ...]:
        """Seed of one of the image's streams: 0 draws the scene, 1 its colours, so that neither shifts the other."""
        return self._seed, list(LAYOUTS).index(self._domain), self._ids[index], stream


def draw_things(layout: Layout, rng: np.random.Generator) -> tuple[Street, list[Thing]]:
    """A random street and all that stands on it, in no order."""
    camera = Camera(rng.uniform(*layout.horizon), rng.uniform(-0.3, 0.3), FOCAL, rng.uniform(*layout.height))
    curb = rng.uniform(*layout.curb)
    street = Street(camera, curb, curb + rng.uniform(*layout.walk))
    cars = list(_cars(layout, street, rng))
    things = [*_backdrop(layout, rng), *cars, *_poles(layout, street, rng), *_persons(layout, street, cars, rng)]
    for side in (-1.0, 1.0):
        things += [*_plots(layout, street, side, rng), *_trees(layout, street, side, rng)]
    return street, things


def rasterise(street: Street, things: list[Thing], size: tuple[int, int]) -> Scene:
    """Sample the street at the pixel centres; instance 0 is the sky, 1 the road, 2 the sidewalk, 3 + i is things[i]."""
    height, width = size
    camera = street.camera
    u = (np.arange(width) + 0.5) * (2.0 / width) - 1.0
    v = (np.arange(height) + 0.5) / height
    below = np.maximum(v - camera.horizon, 1e-9)[:, None]
    ground = np.minimum(camera.focal * camera.height / below, SKY_DEPTH)  # Z of the ground, [H,1]
    on_road = np.abs((u - camera.center) * ground / camera.focal) < street.curb
    surface = np.where(v[:, None] <= camera.horizon, 0, np.where(on_road, 1, 2)).astype(np.int16)
    parts = np.full(size, Part.PLAIN, np.uint8)
    # one row a surface: axis, at, low, bottom, instance; the first three are sky, road, sidewalk
    rows: list[tuple[float, ...]] = [
        (Axis.FRONT, SKY_DEPTH, 0, 0, 0),
        (Axis.GROUND, 0, 0, 0, 1),
        (Axis.GROUND, 0, 0, 0, 2),
    ]
    for number in sorted(range(len(things)), key=lambda number: -things[number].order):
        for plane in things[number].planes:
            _paint(camera, plane, len(rows), u, v, surface, parts)
            rows.append((plane.axis, plane.at, plane.low, plane.bottom, 3 + number))
    axis, at, low, bottom, instance = np.array(rows).T
    instances = instance.astype(np.int16)[surface]
    labels = np.array([Label.SKY, Label.ROAD, Label.SIDEWALK] + [thing.label for thing in things], np.uint8)[instances]
    facing = axis.astype(np.uint8)[surface]
    with np.errstate(divide="ignore", invalid="ignore"):  # the column of the vanishing point shows no side
        depth = np.where(facing == Axis.SIDE, at[surface] * camera.focal / (u - camera.center), at[surface])
    depth = np.where(facing == Axis.GROUND, ground, depth)
    x = (u - camera.center) * depth / camera.focal
    y = camera.height - (v[:, None] - camera.horizon) * depth / camera.focal
    along = np.where(facing == Axis.SIDE, depth, x) - low[surface]
    feet = [thing.foot for thing in things if thing.foot is not None]
    up = y - bottom[surface]
    return Scene(labels, instances, parts, facing, x, y, depth, along, up, street.curb, 3 + len(things), feet)


def _paint(
    camera: Camera, plane: Plane, number: int, u: np.ndarray, v: np.ndarray, surface: np.ndarray, parts: np.ndarray
) -> None:
    """Write `number` into surface [H,W] and the sprite's parts into parts [H,W] where the plane is, at u [W], v [H]."""
    if plane.axis == Axis.FRONT:
        scales = (camera.focal / plane.at,) * 2
        ends = sorted(camera.center + camera.focal * x / plane.at for x in (plane.low, plane.high))
    else:
        scales = (camera.focal / plane.low, camera.focal / plane.high)
        ends = sorted(camera.center + plane.at * scale for scale in scales)
    left, right = u.searchsorted(ends)
    upper = min((camera.height - plane.top) * scale for scale in scales) + camera.horizon
    lower = max((camera.height - plane.bottom) * scale for scale in scales) + camera.horizon
    first, last = v.searchsorted((upper, lower))
    if left >= right or first >= last:
        return
    ray = (u[left:right] - camera.center) / camera.focal  # X / Z of each column
    depth = plane.at / ray if plane.axis == Axis.SIDE else np.full(1, plane.at)
    along = depth if plane.axis == Axis.SIDE else ray * plane.at
    y = camera.height - (v[first:last, None] - camera.horizon) / camera.focal * depth
    up = (y - plane.bottom) / (plane.top - plane.bottom)  # [h,w] or [h,1], 0..1 inside
    seen = (up >= 0) & (up < 1)
    window = np.s_[first:last, left:right]
    if plane.sprite is None:
        part: np.ndarray = np.full(1, Part.PLAIN, np.uint8)
    else:
        row = np.minimum(np.maximum(up * 64, 0), 63).astype(np.intp)
        column = (along - plane.low) * (64 / (plane.high - plane.low))
        part = plane.sprite[row, np.minimum(np.maximum(column, 0), 63).astype(np.intp)]
        seen = seen & (part > 0)
    np.copyto(surface[window], np.int16(number), where=seen)
    np.copyto(parts[window], part, where=seen)


# --- the grammar: what stands where -----------------------------------------------------------------------------------


def _plots(layout: Layout, street: Street, side: float, rng: np.random.Generator) -> Iterator[Thing]:
    """Buildings in a row at one side, with gaps that hedges fill."""
    start = 2.0
    while start < 55.0:
        end = start + rng.uniform(5.0, 9.0) * (1.0 + start / 30.0)
        face = side * (street.wall + (rng.uniform(0.5, 2.0) if rng.random() < 0.3 else 0.0))
        outer = sorted((face, face + side * 12.0))
        if rng.random() < layout.gaps:
            z, top, hedge = start + 1.5, rng.uniform(1.6, 3.6), leaves(int(rng.integers(8)), hedge=True)
            yield Thing(Label.VEGETATION, z, (Plane(Axis.FRONT, z, outer[0], outer[1], 0.0, top, hedge),))
        else:
            top = rng.uniform(*layout.storeys)
            walls = (
                Plane(Axis.SIDE, face, start, end, 0.0, top),
                Plane(Axis.FRONT, start, outer[0], outer[1], 0.0, top),
            )
            yield Thing(Label.BUILDING, end - 0.01, walls)
        start = end


def _backdrop(layout: Layout, rng: np.random.Generator) -> Iterator[Thing]:
    """What closes the view at the end of the road."""
    x = -45.0
    while x < 45.0:
        width, z, top = rng.uniform(8.0, 16.0), rng.uniform(56.0, 75.0), rng.uniform(*layout.storeys)
        if rng.random() < 0.5:
            yield Thing(Label.BUILDING, z, (Plane(Axis.FRONT, z, x, x + width, 0.0, top),))
        else:
            grove = leaves(int(rng.integers(8)), hedge=True)
            yield Thing(Label.VEGETATION, z, (Plane(Axis.FRONT, z, x - 2.0, x + width + 2.0, 0.0, top, grove),))
        x += width


def _trees(layout: Layout, street: Street, side: float, rng: np.random.Generator) -> Iterator[Thing]:
    """Trunk and crown, just behind the curb."""
    for _ in range(rng.integers(*layout.trees)):
        z, x = rng.uniform(8.0, 26.0), side * (street.curb + rng.uniform(0.9, 1.6))
        radius, foot, stem = rng.uniform(1.4, 2.4), rng.uniform(1.8, 2.6), rng.uniform(0.15, 0.24)
        wood = Plane(Axis.FRONT, z, x - stem, x + stem, 0.0, foot + radius, trunk())
        leafage = leaves(int(rng.integers(8)), hedge=False)
        crown = Plane(Axis.FRONT, z, x - radius, x + radius, foot, foot + 2.0 * radius, leafage)
        yield Thing(Label.VEGETATION, z, (wood, crown), (x, z, radius * 0.7, foot + radius))


def _cars(layout: Layout, street: Street, rng: np.random.Generator) -> Iterator[Thing]:
    """Two driving lanes, two rows of parked cars, now and then one that crosses."""
    lanes = [-street.curb + 0.9, -0.42 * street.curb, 0.42 * street.curb, street.curb - 0.9]
    for lane in lanes:
        z = rng.uniform(5.0, 9.0)
        while z < 30.0:
            if rng.random() < layout.cars:
                yield _car(lane + rng.uniform(-0.15, 0.15), z, rng)
            z += rng.uniform(5.5, 9.0)
    if rng.random() < 0.35:
        x, z = rng.uniform(-street.curb, street.curb - 3.0), rng.uniform(8.0, 16.0)
        body = Plane(Axis.FRONT, z, x, x + 4.2, 0.0, rng.uniform(1.4, 1.7), car_side()[:, :: rng.choice((-1, 1))])
        yield Thing(Label.CAR, z, (body,), (x + 2.1, z, 2.1, 1.2))


def _car(x: float, z: float, rng: np.random.Generator) -> Thing:
    """A car along the road: its rear, and the side that is turned to the middle."""
    half, top, length = rng.uniform(0.85, 0.98), rng.uniform(1.4, 1.75), rng.uniform(3.7, 4.5)
    inner = x - half if x > 0 else x + half
    side = Plane(Axis.SIDE, inner, z, z + length, 0.0, top, car_side())
    rear = Plane(Axis.FRONT, z, x - half, x + half, 0.0, top, car_rear())
    return Thing(Label.CAR, z, (side, rear), (x, z + 1.5, half + 0.2, 1.2))


def _persons(layout: Layout, street: Street, cars: list[Thing], rng: np.random.Generator) -> Iterator[Thing]:
    """Walkers in sight, near enough to be made out, not inside cars."""
    feet = [car.foot for car in cars if car.foot]
    taken: list[float] = []  # u of those that stand
    wanted = rng.integers(*layout.persons)
    for _ in range(8 * wanted):
        z, u = rng.uniform(5.0, 10.0), rng.uniform(-0.93, 0.93)
        top, half = rng.uniform(1.65, 1.95), rng.uniform(0.34, 0.4)
        sprite, strolls = person(int(rng.integers(2))), rng.random() < 0.4
        x = (u - street.camera.center) * z / street.camera.focal
        blocked = any(abs(x - foot[0]) < foot[2] + 0.5 and -4.0 < foot[1] - z < 2.0 for foot in feet)
        blocked |= any(abs(u - other) < 0.09 for other in taken) or abs(x) > street.wall - 0.4
        if not blocked and (strolls or abs(x) > street.curb) and len(taken) < wanted:
            taken.append(u)
            yield Thing(
                Label.PERSON, z, (Plane(Axis.FRONT, z, x - half, x + half, 0.0, top, sprite),), (x, z, 0.25, top)
            )


def _poles(layout: Layout, street: Street, rng: np.random.Generator) -> Iterator[Thing]:
    """Lamp posts and sign poles behind the curb."""
    taken: list[float] = []  # u of those that stand
    wanted = rng.integers(*layout.poles)
    for _ in range(6 * wanted):
        side, z = rng.choice((-1.0, 1.0)), rng.uniform(6.0, 12.0)
        x = side * (street.curb + rng.uniform(0.2, 0.7))
        u = street.camera.center + x * street.camera.focal / z
        if len(taken) == wanted or abs(u) > 0.94 or any(abs(u - other) < 0.15 for other in taken):
            continue
        taken.append(u)
        half = max(rng.uniform(0.12, 0.2), MAST / 2 * z / street.camera.focal)
        top = rng.uniform(4.5, 7.0)
        head = Plane(Axis.FRONT, z, x - (side > 0) * 1.6, x + (side < 0) * 1.6, top - 0.2, top + 0.15)
        if rng.random() < 0.5:
            top, size = rng.uniform(2.7, 3.6), rng.uniform(0.4, 0.6)
            head = Plane(Axis.FRONT, z - 0.01, x - size, x + size, top - size, top + size, plate(int(rng.integers(3))))
        yield Thing(Label.POLE, z, (Plane(Axis.FRONT, z, x - half, x + half, 0.0, top), head), (x, z, half, top))
