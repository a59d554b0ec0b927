"""The two renderers of streets: a sampled scene -> uint8 picture. What they differ in stands in the constants on top.

Source gives each class its own flat colour. Target gives each image its own palette, light and weather, and each
surface a texture whose contrast is like that between classes. Whatever is drawn for the scene is drawn before any
pixel, so the size does not change it; only + - * / and comparisons touch pixels, which round alike on every machine.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

SKY_DEPTH = 150.0  # m; Z of the sky, and the farthest ground

# --- source: RGB of road, sidewalk, building, vegetation, sky, person, car, pole
SOURCE_COLORS = (
    (88, 88, 104), (206, 150, 190), (214, 120, 56), (36, 176, 48), (84, 164, 255), (240, 60, 170), (214, 28, 32),
    (244, 216, 40),
)  # fmt: skip
SOURCE_SPREAD = 0.08  # brightness of an instance: 1 +- this
SOURCE_SIDE = 0.85  # brightness of walls along the road, against those across it

# --- target: the gap between the domains. Larger is harder for a network that has seen the source only.
TEXTURE = 1.0  # common factor of all texture contrasts below (they are fractions of the surface's own colour)
ASPHALT_GRAIN, ASPHALT_PATCH = 0.34, 0.35  # grains and stains; darker mended patches
PAVING_TILE, PAVING_JOINT = 0.40, 0.40  # tiles against each other; joints against tiles
BRICK, WINDOW = 0.36, 0.72  # bricks and damp; panes, darker or (lit) brighter than the wall
LEAVES = 1.1  # clumps of leaves against the dark between them
CLOTH = 0.25  # folds and the shaded side of clothes
CLOUDS = 0.45  # bright and dark parts of clouds
PALETTE = 0.30  # spread of a surface's base colour between images and instances
TINT = 0.10  # colour cast of the whole image: each channel times 1 +- this
SHADOW = (0.38, 0.72)  # light left in a cast shadow, in sun
SUNNY = 0.6  # probability of sun
GRADIENT = 0.25  # illumination across the picture: 1 +- this from edge to edge
HAZE = (0.002, 0.018)  # 1/m; light left over Z metres is 1 / (1 + haze Z)
WEATHER = (0.55, 0.17, 0.14, 0.14)  # probabilities of clear, fog, dusk, rain
FOG = (0.025, 0.05)  # 1/m, in fog
DUSK = (0.55, 0.8)  # exposure at dusk
RAIN = (0.55, 0.75)  # contrast left in rain
BLUR = (0.25, 0.65)  # sigma of the lens blur, pixels of a picture 48 high
NOISE = (3.0, 8.0)  # sigma of the sensor noise, grey levels
VIGNETTE = 0.28  # light lost in the corners


class Label(IntEnum):
    """Train ids, in the order of streets.CLASSES."""

    ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, PERSON, CAR, POLE = range(8)


class Axis(IntEnum):
    """How a surface stands: Z constant, X constant, or Y = 0."""

    FRONT, SIDE, GROUND = range(3)


class Part(IntEnum):
    """What a pixel of a thing is made of."""

    PLAIN, GLASS, WHEEL, LAMP, HEAD, TOP, LEGS, TRUNK, PLATE = range(1, 10)


class Camera(NamedTuple):
    """A pinhole that looks along Z: u = center + focal X / Z, v = horizon + focal (height - Y) / Z."""

    horizon: float  # v
    center: float  # u of the vanishing point
    focal: float  # picture heights
    height: float  # m above the ground


@dataclass(frozen=True)
class Scene:
    """A street sampled at the pixel centres; arrays are [H,W]. Lengths in metres, axes as in streets.py."""

    labels: np.ndarray  # uint8, 0..7
    instances: np.ndarray  # int16; 0 sky, 1 road, 2 sidewalk, then one a thing
    parts: np.ndarray  # uint8 Part
    facing: np.ndarray  # uint8 Axis; the sky is FRONT
    x: np.ndarray
    y: np.ndarray
    depth: np.ndarray  # Z
    along: np.ndarray  # from the near or left edge of the surface
    up: np.ndarray  # from the lower edge of the surface
    curb: float  # |X| where the road ends
    count: int  # instances
    feet: list[tuple[float, float, float, float]]  # X, Z, half width, height of what casts a shadow


def render_source(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """-> [H,W,3] uint8: a flat colour a class, hard edges."""
    brightness = rng.uniform(1 - SOURCE_SPREAD, 1 + SOURCE_SPREAD, scene.count)[scene.instances]
    brightness = np.where(scene.facing == Axis.SIDE, SOURCE_SIDE * brightness, brightness)
    colors = np.array(SOURCE_COLORS, np.float64)[scene.labels] * brightness[..., None]
    return np.clip(colors, 0, 255).astype(np.uint8)


# --- target -----------------------------------------------------------------------------------------------------------


FREE = (
    "weather", "sun", "sun side", "shadow", "across", "down", "haze", "dusk", "rain", "exposure", "blur", "noise",
    "zebra", "zebra distance", "markings", "tiles", "tile shape", "season", "blue", "white", "cover", "traffic",
)  # fmt: skip


class Mood(NamedTuple):
    """All that is drawn for one image."""

    base: np.ndarray  # [3,3] base colours of road, sidewalk and poles, 0..255
    own: np.ndarray  # [count,8] numbers in 0..1 for each instance
    tile: np.ndarray  # [64,64] noise in 0..1
    tint: np.ndarray  # [3] gain of each channel
    free: dict[str, float]  # numbers in 0..1 for the whole image, by the names in FREE
    weather: int  # 0 clear, 1 fog, 2 dusk, 3 rain
    sunny: bool


class Pixels(NamedTuple):
    """The scene at the n pixels of one class; fields [n] as in Scene."""

    curb: float
    own: np.ndarray  # [n,8] of Mood
    x: np.ndarray
    y: np.ndarray
    depth: np.ndarray
    along: np.ndarray
    up: np.ndarray
    parts: np.ndarray


Palette = tuple[tuple[int, int, int], ...]  # RGB
FACADES = (
    (140, 82, 66), (168, 150, 122), (128, 128, 126), (186, 180, 168), (112, 96, 84), (160, 120, 84), (96, 104, 116),
)  # fmt: skip
CLOTHES = (
    (30, 32, 38), (58, 66, 96), (150, 52, 50), (196, 190, 180), (70, 92, 70), (172, 140, 60), (96, 78, 66),
    (200, 96, 60), (80, 120, 170),
)  # fmt: skip
CARS = (
    (214, 214, 210), (150, 154, 158), (92, 96, 100), (28, 28, 32), (140, 30, 32), (36, 58, 116), (44, 82, 60),
    (176, 150, 96),
)  # fmt: skip
SIGNS = ((176, 40, 40), (44, 80, 160), (220, 220, 216), (210, 170, 40))
GREYS = (92, 142, 110)  # road, sidewalk, poles
LEAFAGE = ((84, 96, 52), (66, 84, 58), (110, 104, 56), (58, 72, 40), (122, 92, 52))


def render_target(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """-> [H,W,3] uint8: textures, shadows, haze, weather, lens and sensor."""
    mood = _mood(scene.count, rng)
    colors = np.empty((scene.labels.size, 3), np.float32)
    fields = [f.ravel() for f in (scene.x, scene.y, scene.depth, scene.along, scene.up, scene.parts, scene.instances)]
    for label, paint in enumerate(PAINTERS):
        at = np.flatnonzero(scene.labels == label)
        *here, instances = (field[at] for field in fields)
        colors[at] = paint(Pixels(scene.curb, mood.own[instances], *here), mood)
    image = colors.reshape(*scene.labels.shape, 3) * _light(scene, mood)[..., None]
    return _camera(_air(image, scene, mood), mood, rng)


def _mood(count: int, rng: np.random.Generator) -> Mood:
    free = {name: float(chance) for name, chance in zip(FREE, rng.random(len(FREE)), strict=True)}
    weather = int(np.searchsorted(np.cumsum(WEATHER[:3]), free["weather"]))
    tile = rng.random((64, 64)).astype(np.float32)
    own = rng.random((count, 8)).astype(np.float32)
    tint = rng.uniform(1 - TINT, 1 + TINT, 3).astype(np.float32)
    greys = np.array(GREYS, np.float64)[:, None]
    base = greys * rng.uniform(1 - PALETTE, 1 + PALETTE, (3, 1)) * rng.uniform(0.92, 1.08, (3, 3))
    return Mood(base.astype(np.float32), own, tile, tint, free, weather, weather == 0 and free["sun"] < SUNNY)


def _grain(mood: Mood, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n] -> [n] noise in 0..1, constant on unit squares of (a, b)."""
    return mood.tile[np.floor(a).astype(np.int32) & 63, np.floor(b).astype(np.int32) & 63]


def _clouded(mood: Mood, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n] -> [n] noise in 0..1, bilinear between the whole numbers of (a, b)."""
    i, j = np.floor(a).astype(np.int32), np.floor(b).astype(np.int32)
    s, t = a - i, b - j
    i, j, below, right = i & 63, j & 63, (i + 1) & 63, (j + 1) & 63
    upper = mood.tile[i, j] * (1 - t) + mood.tile[i, right] * t
    return upper * (1 - s) + (mood.tile[below, j] * (1 - t) + mood.tile[below, right] * t) * s


def _pick(palette: Palette, chance: np.ndarray) -> np.ndarray:
    """Numbers [n] in 0..1 -> colours [n,3] of the palette."""
    return np.array(palette, np.float32)[(chance * len(palette)).astype(np.int32)]


# one painter a class: (Pixels, Mood) -> colours [n,3], 0..255 and above, before light and air


def _road(p: Pixels, mood: Mood) -> np.ndarray:
    shade = 1 + TEXTURE * ASPHALT_GRAIN * (_grain(mood, p.x * 5, p.depth * 3) + _clouded(mood, p.x * 1.5, p.depth) - 1)
    shade *= np.where(_clouded(mood, p.x * 0.35 + 9, p.depth * 0.2) > 0.62, 1 - TEXTURE * ASPHALT_PATCH, 1)
    side = np.abs(p.x)
    paint = (side < 0.13) & (p.depth * 0.3 % 1 < 0.5) | (np.abs(side - p.curb + 0.35) < 0.1)
    zebra = 5 + 12 * mood.free["zebra distance"]
    if mood.free["zebra"] < 0.35:
        paint |= (np.abs(p.depth - zebra) < 1.2) & (p.x % 1.1 < 0.55)
    shade = np.where(paint, (1.5 + 0.6 * mood.free["markings"]) * (0.75 + 0.25 * shade), shade)
    return mood.base[0] * shade[:, None]


def _sidewalk(p: Pixels, mood: Mood) -> np.ndarray:
    size = 0.6 + 0.6 * mood.free["tiles"]
    a, b = p.x / size, p.depth / (size * (1 + mood.free["tile shape"]))
    shade = 1 + TEXTURE * PAVING_TILE * (_grain(mood, a, b) - 0.5)
    shade *= np.where((a % 1 < 0.14) | (b % 1 < 0.14), 1 - TEXTURE * PAVING_JOINT, 1)
    shade = np.where(np.abs(p.x) < p.curb + 0.22, 1.25, shade)  # the curb stone
    return mood.base[1] * shade[:, None]


def _building(p: Pixels, mood: Mood) -> np.ndarray:
    """Bricks or render, a grid of windows, a plinth."""
    one, two, three = p.own[:, 1], p.own[:, 2], p.own[:, 3]
    wall = _pick(FACADES, p.own[:, 0]) * (1 + 2 * PALETTE * (one - 0.5))[:, None]
    row = np.floor(p.up * 3.0)
    bricks = _grain(mood, p.along * 1.6 + row * 0.5, row + 64 * two) + _clouded(mood, p.along * 0.4, p.up * 0.5)
    shade = 1 + TEXTURE * BRICK * (bricks - 1)
    a, b = p.along / (2.0 + 1.4 * two), p.up / (2.7 + 0.6 * three)
    window = (np.abs(a % 1 - 0.5) < 0.24 + 0.1 * one) & (np.abs(b % 1 - 0.55) < 0.24 + 0.06 * three)
    chance = _grain(mood, np.floor(a) + 64 * one, np.floor(b) + 7)
    lit = chance > (0.6 if mood.weather == 2 else 0.82)
    pane = np.where(lit, 1 + TEXTURE * WINDOW, 1 - TEXTURE * WINDOW * (0.7 + 0.4 * chance))
    shade = np.where(window, pane, np.where(p.up < 0.6, 0.7 * shade, shade))
    warm = np.where((window & lit)[:, None], np.array((1.1, 1.0, 0.75), np.float32), np.float32(1))
    return wall * shade[:, None] * warm


def _vegetation(p: Pixels, mood: Mood) -> np.ndarray:
    clumps = _clouded(mood, p.along * 2.0 + 64 * p.own[:, 1], p.up * 2.0) + 0.7 * _grain(mood, p.along * 4, p.up * 4)
    shade = 1 + TEXTURE * LEAVES * (clumps - 0.85) + 0.08 * np.minimum(p.up - 1.5, 3)
    leaf = _pick(LEAFAGE, 0.8 * mood.free["season"] + 0.2 * p.own[:, 0])
    leaf = leaf * (1 + PALETTE * (p.own[:, 2] - 0.5))[:, None]
    trunk = np.array((62, 50, 42), np.float32) * (0.7 + 0.6 * p.own[:, :1])
    return np.where((p.parts == Part.TRUNK)[:, None], trunk, leaf * np.maximum(shade, 0.15)[:, None])


def _sky(p: Pixels, mood: Mood) -> np.ndarray:
    """Blue to white, clouds or overcast; brighter towards the horizon."""
    a, b = p.x * 0.02, p.y * 0.05
    clouds = 0.65 * _clouded(mood, b, a) + 0.35 * _clouded(mood, b * 2.7, a * 2.7)
    clear = np.array((120, 158, 204), np.float32) * (0.8 + 0.4 * mood.free["blue"])
    white = np.array((214, 218, 222), np.float32) * (0.85 + 0.25 * mood.free["white"])
    cover = np.clip((clouds - 0.65 + 0.5 * mood.free["cover"]) * 4, 0, 1) if mood.sunny else np.ones_like(clouds)
    shade = 1 + TEXTURE * CLOUDS * (clouds - 0.5) - 0.0015 * np.minimum(p.y, 80)
    return (clear + (white - clear) * cover[:, None]) * shade[:, None]


def _person(p: Pixels, mood: Mood) -> np.ndarray:
    top, legs = _pick(CLOTHES, p.own[:, 0]), _pick(CLOTHES[:4] + CLOTHES[6:7], p.own[:, 1])
    skin = np.array((188, 142, 116), np.float32) * (0.45 + 0.65 * p.own[:, 2:3])
    skin = np.where((p.up > 0.94 * (1.65 + 0.3 * p.own[:, 3]))[:, None], skin * 0.4, skin)  # hair
    parts = p.parts[:, None]
    cloth = np.where(parts == Part.HEAD, skin, np.where(parts == Part.TOP, top, legs))
    return cloth * (1 + TEXTURE * CLOTH * (_grain(mood, p.along * 8, p.up * 5) + 2 * (p.along - 0.4)))[:, None]


def _car(p: Pixels, mood: Mood) -> np.ndarray:
    body = _pick(CARS, p.own[:, 0]) * (0.75 + 0.3 * np.minimum(p.up, 1.0) + 0.1 * p.own[:, 1])[:, None]
    body *= np.where(np.abs(p.up - 0.9) < 0.09, 1.3, 1.0)[:, None]  # the highlight along the shoulder
    glass = np.array((34, 40, 48), np.float32) * (1 + 2.2 * p.own[:, 2] * (p.up > 1.2))[:, None]
    lamp = np.array((200, 40, 30), np.float32) if mood.free["traffic"] < 0.7 else np.array((240, 225, 180), np.float32)
    wheel = np.array((26, 26, 28), np.float32)
    parts = p.parts[:, None]
    hard = np.where(parts == Part.WHEEL, wheel, np.where(parts == Part.LAMP, lamp, body))
    return np.where(parts == Part.GLASS, glass, hard)


def _pole(p: Pixels, mood: Mood) -> np.ndarray:
    metal = mood.base[2] * np.where(p.own[:, 0] < 0.5, 0.45, 1.5)[:, None] * (0.8 + 0.4 * p.own[:, 1])[:, None]
    metal *= (1.15 - 0.5 * np.minimum(p.along, 0.6))[:, None]
    sign = _pick(SIGNS, p.own[:, 2]) * (0.85 + 0.3 * _grain(mood, p.along * 5, p.up * 5))[:, None]
    return np.where((p.parts == Part.PLATE)[:, None], sign, metal)


PAINTERS = (_road, _sidewalk, _building, _vegetation, _sky, _person, _car, _pole)


def _light(scene: Scene, mood: Mood) -> np.ndarray:
    """Light on every pixel [H,W]: walls by side, shadows on the ground, a gradient over the picture."""
    reach = (mood.free["sun side"] - 0.5) * 4  # X a shadow runs for a metre of height
    left = SHADOW[0] + (SHADOW[1] - SHADOW[0]) * mood.free["shadow"] if mood.sunny else 0.85
    lit = np.where(scene.facing == Axis.SIDE, np.where((scene.x > 0) == (reach > 0), 0.68, 1.12), 0.92)
    x, z = scene.x, scene.depth
    dark = np.zeros(x.shape, bool)
    if mood.sunny:  # the houses' shadow, with gaps of their rhythm
        side = -1.0 if reach > 0 else 1.0
        edge = scene.curb * (1.6 - 1.5 * abs(reach) * _grain(mood, z * 0.14, z * 0))
        dark |= x * side > edge
    for foot_x, foot_z, half, height in scene.feet:
        contact = (np.abs(x - foot_x) < half) & (np.abs(z - foot_z) < max(half, 0.25) + 1.2 * (half > 0.9))
        dark |= contact
        if mood.sunny:
            run = (x - foot_x) / (reach if abs(reach) > 0.1 else 0.1)
            dark |= (run > 0) & (run < height) & (np.abs(z - foot_z - 0.3 * run) < half + 0.15)
    lit = np.where(scene.facing == Axis.GROUND, np.where(dark, left, 1.0), lit)
    lit = np.where(scene.labels == Label.SKY, 1.0, lit)
    rows, columns = (np.linspace(-1, 1, size) for size in x.shape)
    across, down = (GRADIENT * (2 * chance - 1) for chance in (mood.free["across"], mood.free["down"]))
    return (lit * (1 + across * columns + 0.5 * down * rows[:, None])).astype(np.float32)


def _air(image: np.ndarray, scene: Scene, mood: Mood) -> np.ndarray:
    """[H,W,3] -> [H,W,3]: haze by distance, then the weather's exposure and contrast."""
    low, high = FOG if mood.weather == 1 else HAZE
    left = 1 / (1 + (low + (high - low) * mood.free["haze"]) * np.where(scene.labels == Label.SKY, 20, scene.depth))
    veil = np.array((196, 200, 206), np.float32) * (0.8 + 0.3 * mood.free["white"])
    image = veil + (image - veil) * left.astype(np.float32)[..., None]
    if mood.weather == 2:
        image = image * np.array((0.92, 0.92, 1.1), np.float32) * (DUSK[0] + (DUSK[1] - DUSK[0]) * mood.free["dusk"])
    if mood.weather == 3:
        image = 120 + (image - 120) * (RAIN[0] + (RAIN[1] - RAIN[0]) * mood.free["rain"])
    return image * mood.tint


def _camera(image: np.ndarray, mood: Mood, rng: np.random.Generator) -> np.ndarray:
    """[H,W,3] -> [H,W,3] uint8: exposure, lens blur, vignette, sensor noise."""
    image = image * np.float32(0.8 + 0.4 * mood.free["exposure"])
    height, width = image.shape[:2]
    sigma = (BLUR[0] + (BLUR[1] - BLUR[0]) * mood.free["blur"]) * height / 48
    rest, step = sigma * sigma, 1
    while rest > 0:  # [k, 1 - 2k, k] at distance d has variance 2 k d^2; doubling d reaches any sigma
        k = min(0.25, rest / (2 * step * step))
        for _ in range(2):  # rows, then columns
            padded = np.pad(image, ((step, step), (0, 0), (0, 0)), mode="edge")
            image = image * np.float32(1 - 2 * k) + (padded[: -2 * step] + padded[2 * step :]) * np.float32(k)
            image = image.swapaxes(0, 1)
        rest -= 2 * k * step * step
        step *= 2
    rows, columns = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    image *= (1 - VIGNETTE / 2 * (rows[:, None] ** 2 + columns**2))[..., None]
    noise = rng.random(image.shape, np.float32) - rng.random(image.shape, np.float32)  # of sigma 1 / sqrt(6)
    image += noise * np.float32((NOISE[0] + (NOISE[1] - NOISE[0]) * mood.free["noise"]) * 2.45)
    return np.clip(image, 0, 255).astype(np.uint8)
