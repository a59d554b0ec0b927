"""streets: the same bytes whatever is asked for first; scenes that hide what is behind; two domains that look apart."""

import numpy as np
import pytest

from sgg_jax.data import streets, streets_render
from sgg_jax.data.dataset import Example
from sgg_jax.data.kept import Kept
from sgg_jax.data.streets import CLASSES, FIRST_ID, LAYOUTS, Plane, Street, Streets, Thing
from sgg_jax.data.streets_render import SKY_DEPTH, Axis, Camera, Label
from sgg_jax.errors import InputError

DOMAINS = tuple(LAYOUTS)
# least and most share of the pixels, in percent, of each class on average over a hundred images
SHARES = {
    "road": (18, 32), "sidewalk": (6, 15), "building": (18, 36), "vegetation": (6, 15),
    "sky": (7, 18), "person": (3, 8), "car": (6, 11), "pole": (3, 7),
}  # fmt: skip


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """Every example is drawn anew."""
    monkeypatch.setattr(streets, "_drawn", Kept(room=0))


def similar(first: np.ndarray, second: np.ndarray) -> float:
    """Share of equal entries."""
    return float((first == second).mean())


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_image_depends_on_its_id_alone(domain: str) -> None:
    long, short = Streets(domain, "train", 50), Streets(domain, "train", 3)
    backwards = {index: long[index] for index in (40, 2, 1, 0)}
    for index in (0, 1, 2):
        assert short.image_id(index) == long.image_id(index) == index
        np.testing.assert_array_equal(short[index].image, backwards[index].image)
        np.testing.assert_array_equal(short[index].labels, backwards[index].labels)
    assert similar(long[0].image, long[1].image) < 0.9
    assert similar(long[0].image, Streets(domain, "train", 1, seed=1)[0].image) < 0.9


def test_bytes_of_version_1() -> None:
    """A sum of pixels and one of labels, so that no change of any draw goes unseen; new bytes need a new VERSION."""
    assert streets.VERSION == "1"
    sums = {}
    for domain in DOMAINS:
        image, labels = Streets(domain, "val", 6)[5]
        assert labels is not None
        sums[domain] = int(image.sum(dtype=np.int64)), int(labels.sum(dtype=np.int64))
    assert sums == {"source": (1717580, 13187), "target": (1473075, 11256)}


def test_splits_and_domains_draw_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one layout for both, so that only the draws can tell the domains apart."""
    monkeypatch.setitem(LAYOUTS, "source", LAYOUTS["target"])
    seen = {}
    for domain in DOMAINS:
        for split, first in FIRST_ID.items():
            data = Streets(domain, split, 4)
            assert [data.image_id(index) for index in range(4)] == list(range(first, first + 4))
            assert data.name(3) == f"{first + 3:07d}"
            for index in range(4):
                seen[domain, split, index] = data.scene(index).labels
    maps = list(seen.values())
    assert all(similar(a, b) < 0.97 for i, a in enumerate(maps) for b in maps[:i])


def test_it_is_a_sequence() -> None:
    data = Streets("target", "test", 2)
    assert len(data) == 2 and len(list(data)) == 2  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        data[2]
    assert data.labelled and data.classes == CLASSES and [info.ids for info in CLASSES] == [(i,) for i in range(8)]


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [(8, 8), (40, 72), (64, 64), (128, 256)])
def test_any_multiple_of_eight(domain: str, size: tuple[int, int]) -> None:
    data = Streets(domain, "train", 1, size=size)
    image, labels = data[0]
    assert labels is not None
    assert data.size == size and image.shape == (*size, 3) and labels.shape == size
    assert image.dtype == labels.dtype == np.uint8 and labels.max() < len(CLASSES)


def test_wrong_arguments_are_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match="size \\(48, 90\\): height and width must be multiples of 8"):
        Streets("source", "train", 1, size=(48, 90))
    with pytest.raises(InputError, match="multiples of 8"):
        Streets("source", "train", 1, size=(0, 96))
    with pytest.raises(InputError, match="no domain 'sauce'; choose one of source, target"):
        Streets("sauce", "train", 1)
    with pytest.raises(InputError, match="no split 'dev'; choose one of train, val, test"):
        Streets("source", "dev", 1)
    with pytest.raises(InputError, match="1000001 images"):
        Streets("source", "train", 1_000_001)
    with pytest.raises(InputError, match="seed -1"):
        Streets("source", "train", 1, seed=-1)


@pytest.mark.parametrize("domain", DOMAINS)
def test_shares_of_classes(domain: str) -> None:
    data = Streets(domain, "train", 100)
    maps = np.stack([data.scene(index).labels for index in range(100)])
    for label, info in enumerate(CLASSES):
        share = 100 * (maps == label).mean()
        assert SHARES[info.name][0] < share < SHARES[info.name][1], f"{info.name}: {share:.1f} %"
    for label in (Label.PERSON, Label.CAR, Label.POLE):
        assert (maps == label).any(axis=(1, 2)).mean() > 0.95, CLASSES[label].name


@pytest.mark.parametrize("domain", DOMAINS)
def test_persons_and_poles_are_large_enough(domain: str) -> None:
    """At 48 x 96 whole poles are at least 3 pixels wide and whole persons 9 high and 3 wide, alone on the street."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        street, things = streets.draw_things(LAYOUTS[domain], rng)
        for thing in things:
            if thing.label in (Label.PERSON, Label.POLE):
                mask = streets.rasterise(street, [thing], (48, 96)).labels == thing.label
                at_border = mask[:, (0, -1)].any()
                least = (3, 9) if thing.label == Label.PERSON else (3, 12)
                assert at_border or (mask.sum(1).max() >= least[0] and mask.any(1).sum() >= least[1])


def test_the_nearer_hides_the_farther() -> None:
    """A car before a person before a house, in whatever order they are listed."""
    street = Street(Camera(0.4, 0.0, 1.2, 1.8), curb=4.0, wall=7.0)
    car = Thing(Label.CAR, 6.0, (Plane(Axis.FRONT, 6.0, -1.0, 1.0, 0.0, 1.5),))
    person = Thing(Label.PERSON, 8.0, (Plane(Axis.FRONT, 8.0, 0.5, 1.5, 0.0, 1.8),))
    house = Thing(
        Label.BUILDING, 29.0, (Plane(Axis.SIDE, 0.2, 9.0, 29.0, 0.0, 9.0), Plane(Axis.FRONT, 9.0, 0.2, 9.0, 0.0, 9.0))
    )
    size = (96, 192)
    alone = {}
    for thing in (car, person, house):
        alone[thing.label] = streets.rasterise(street, [thing], size).labels == thing.label
    assert (alone[Label.CAR] & alone[Label.PERSON]).any() and (alone[Label.PERSON] & alone[Label.BUILDING]).any()
    for things in ([car, person, house], [house, person, car], [person, car, house]):
        scene = streets.rasterise(street, things, size)
        np.testing.assert_array_equal(scene.labels == Label.CAR, alone[Label.CAR])
        np.testing.assert_array_equal(scene.labels == Label.PERSON, alone[Label.PERSON] & ~alone[Label.CAR])
        np.testing.assert_array_equal(
            scene.labels == Label.BUILDING, alone[Label.BUILDING] & ~alone[Label.CAR] & ~alone[Label.PERSON]
        )
        np.testing.assert_array_equal(scene.instances == 3 + things.index(car), alone[Label.CAR])


def test_points_of_a_scene_lie_where_the_camera_says() -> None:
    """A box of known corners: its front stands at its Z, its side at its X, and both lie between ground and roof."""
    street = Street(Camera(0.4, -0.1, 1.2, 1.8), curb=4.0, wall=7.0)
    box = Thing(
        Label.BUILDING, 20.0, (Plane(Axis.SIDE, 3.0, 8.0, 20.0, 0.0, 5.0), Plane(Axis.FRONT, 8.0, 3.0, 5.0, 0.0, 5.0))
    )
    scene = streets.rasterise(street, [box], (96, 192))
    mine = scene.labels == Label.BUILDING
    side, front = mine & (scene.facing == Axis.SIDE), mine & (scene.facing == Axis.FRONT)
    assert side.any() and front.any()
    np.testing.assert_allclose(scene.x[side], 3.0)
    np.testing.assert_allclose(scene.depth[front], 8.0)
    assert scene.depth[side].min() >= 8.0 and scene.depth[side].max() <= 20.0
    assert scene.up[mine].min() >= 0.0 and scene.up[mine].max() <= 5.0
    rows, columns = np.nonzero(front)  # projected back, the point meets the centre of its pixel
    v = 0.4 + 1.2 * (1.8 - scene.y[front]) / 8.0
    u = -0.1 + 1.2 * scene.x[front] / 8.0
    np.testing.assert_allclose(v * 96 - 0.5, rows, atol=1e-9)
    np.testing.assert_allclose((u + 1) * 96 - 0.5, columns, atol=1e-9)
    assert (scene.depth[scene.labels == Label.SKY] == SKY_DEPTH).all()


@pytest.mark.parametrize("domain", DOMAINS)
def test_size_only_changes_the_sampling(domain: str) -> None:
    small, large = Streets(domain, "train", 10), Streets(domain, "train", 10, size=(96, 192))
    for index in range(10):
        fine = large[index]
        coarse = small[index]
        assert fine.labels is not None and coarse.labels is not None
        assert similar(fine.labels[::2, ::2], coarse.labels) > 0.85
        # colours are drawn before pixels, so the light of the picture stays too
        assert abs(fine.image.mean() - coarse.image.mean()) < 6


def test_target_varies_within_a_class_and_source_does_not() -> None:
    spread = {}
    for domain in DOMAINS:
        data = Streets(domain, "train", 20)
        images, maps = zip(*(data[index] for index in range(20)), strict=True)
        pixels, labels = np.stack(images).astype(np.float64), np.stack(maps)
        spread[domain] = [float(pixels[labels == label].std(axis=0).mean()) for label in range(8)]
    assert max(spread["source"]) < 16
    for label, info in enumerate(CLASSES):
        assert spread["target"][label] > 2.5 * spread["source"][label], info.name


def test_target_has_texture_inside_surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours of one instance: equal in source, different in target, and not for the sensor's noise."""
    monkeypatch.setattr(streets_render, "NOISE", (0.0, 0.0))
    steps = {}
    for domain in DOMAINS:
        data = Streets(domain, "train", 10)
        differences = []
        for index in range(10):
            scene, image = data.scene(index), data[index].image.astype(np.float64)
            same = (scene.instances[:, 1:] == scene.instances[:, :-1]) & (scene.facing[:, 1:] == scene.facing[:, :-1])
            differences.append(abs(image[:, 1:] - image[:, :-1]).mean(-1)[same])
        steps[domain] = float(np.concatenate(differences).mean())
    assert steps["source"] == 0 and steps["target"] > 4


def test_what_was_drawn_stays_until_there_is_no_more_room():
    drawn = []

    def draw(index):
        drawn.append(index)
        return Example(np.full((4, 4, 3), index, np.uint8), np.zeros((4, 4), np.uint8))

    kept = Kept(room=2 * 4 * 4 * 4)  # two examples
    for index in (0, 1, 2, 0, 1, 2):
        assert kept.get(index, lambda index=index: draw(index)).image[0, 0, 0] == index
    assert drawn == [0, 1, 2, 2]
    with pytest.raises(ValueError, match="read-only"):
        kept.get(0, lambda: draw(0)).image[:] = 7
