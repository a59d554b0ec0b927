"""Silhouettes of the things on a street: [64,64] uint8 of Part by (up, along), 0 where nothing is."""

from functools import cache

import numpy as np

from sgg_jax.data.streets_render import Part


def _blank(across: float, up: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x in [-across/2, across/2], y in [0, up], and an empty sprite."""
    grid = (np.arange(64) + 0.5) / 64
    x, y = np.meshgrid((grid - 0.5) * across, grid * up)
    return x, y, np.zeros((64, 64), np.uint8)


@cache
def person(pose: int) -> np.ndarray:
    """Standing (0) or walking (1)."""
    x, y, sprite = _blank(0.8, 1.75)
    gap, spread = (0.03, 0.08)[pose] * (1 - y / 0.5), 0.26 + 0.1 * pose * (0.9 - y)
    sprite[(y < 0.9) & (abs(x) > gap) & (abs(x) < spread)] = Part.LEGS
    sprite[(y > 0.8) & (y < 1.44) & (abs(x) < 0.38 - 0.8 * np.maximum(y - 1.25, 0))] = Part.TOP
    sprite[x**2 + (y - 1.57) ** 2 < 0.175**2] = Part.HEAD
    return sprite


@cache
def car_rear() -> np.ndarray:
    """The front looks alike but for the colour of its lamps."""
    x, y, sprite = _blank(1.8, 1.5)
    roof = 0.86 - 0.3 * (y - 0.95)
    sprite[(y > 0.15) & (y < 0.4) & (abs(x) < 0.8)] = Part.WHEEL  # the dark between the wheels
    sprite[(y < 0.4) & (abs(x) > 0.55) & (abs(x) < 0.86)] = Part.WHEEL
    sprite[(y > 0.3) & (y < 0.98) | (y > 0.9) & (abs(x) < roof)] = Part.PLAIN
    sprite[(y > 1.0) & (y < 1.38) & (abs(x) < roof - 0.1)] = Part.GLASS
    sprite[(y > 0.68) & (y < 0.86) & (abs(x) > 0.6) & (abs(x) < 0.86)] = Part.LAMP
    return sprite


@cache
def car_side() -> np.ndarray:
    """The rear is at along = 0."""
    x, y, sprite = _blank(4.2, 1.5)
    sprite[(y > 0.25) & (y < 0.95 - 0.06 * np.maximum(x, 0))] = Part.PLAIN
    sprite[(y > 0.9) & (x > 0.1 * y - 2.15) & (x < 2.15 - 1.1 * y)] = Part.PLAIN
    sprite[(y > 0.98) & (y < 1.38) & (x > -1.85) & (x < 1.95 - 1.1 * y) & (abs(x + 0.4) > 0.07)] = Part.GLASS
    sprite[(abs(x) - 1.3) ** 2 + (y - 0.33) ** 2 < 0.34**2] = Part.WHEEL
    return sprite


@cache
def plate(shape: int) -> np.ndarray:
    """Round (0), square (1) or triangular (2) sign."""
    x, y, sprite = _blank(2.0, 2.0)
    square = np.maximum(abs(x), abs(y - 1)) < 0.85
    sprite[(x**2 + (y - 1) ** 2 < 1, square, abs(x) < 1 - y / 2)[shape]] = Part.PLATE
    return sprite


@cache
def trunk() -> np.ndarray:
    """Wood all over."""
    return np.full((64, 64), Part.TRUNK, np.uint8)


@cache
def leaves(kind: int, hedge: bool) -> np.ndarray:
    """Random discs: about the middle, a tree's crown; over a solid foot, a hedge."""
    x, y, sprite = _blank(2.0, 2.0)
    for a, b, c in np.random.default_rng((kind, int(hedge))).uniform(size=(9, 3)):
        across, up, radius = (1.5 * (a - 0.5), 0.4 + b, 0.3) if hedge else (0.9 * (a - 0.5), 0.55 + 0.9 * b, 0.35)
        sprite[(x - across) ** 2 + (y - up) ** 2 < (radius + 0.25 * c) ** 2] = Part.PLAIN
    if hedge:
        sprite[(y < 0.8) & (abs(x) < 0.97 - 0.12 * y)] = Part.PLAIN
    return sprite
