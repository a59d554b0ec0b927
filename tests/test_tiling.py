"""Tiles: where they lie, what counts, and that a network seen through them is the network."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from toys import labels, smooth_denoiser

from configs import default
from sgg_jax.data.dataset import ClassInfo, Example
from sgg_jax.errors import InputError
from sgg_jax.experiment import Experiment
from sgg_jax.guidance import VARIANTS
from sgg_jax.models.operations import conv2d
from sgg_jax.sampling import Knobs, Method, ancestral
from sgg_jax.tiling import Tile, _plan, cover, covered_size, starts, tile_count, tile_of, tiled, weights
from sgg_jax.translation import in_blocks, translate_all
from sgg_jax.types import VOID


@pytest.mark.parametrize(("length", "tile", "overlap"), [(96, 48, 16), (97, 48, 16), (1914, 512, 128), (49, 48, 0)])
def test_tiles_cover_everything_and_overlap(length, tile, overlap):
    found = starts(length, tile, overlap)
    assert found[0] == 0 and found[-1] + tile == length
    shared = [before + tile - after for before, after in zip(found, found[1:], strict=False)]
    assert min(shared) >= overlap and max(shared) - min(shared) <= 1
    fewest = next(n for n in range(1, 99) if tile + (n - 1) * (tile - overlap) >= length)
    assert len(found) == fewest
    assert starts(tile, tile, overlap) == starts(tile - 1, tile, overlap) == [0]


def test_weights_sum_to_one_and_leave_out_what_a_tile_sees_badly():
    corners, window = _plan(20, 37, Tile(12, 16, 8))
    total = np.zeros((20, 37))
    for (r, c), one in zip(corners, window, strict=True):
        total[r : r + 12, c : c + 16] += one
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    side = weights([0, 8], 24, 16)
    assert (side[1, :2] == 0).all() and (side[1, 6:] == 1).all() and (np.diff(side[1, :8]) >= 0).all()
    np.testing.assert_allclose(side[0], side[1][::-1])
    np.testing.assert_allclose(side[0, 8:] + side[1, :8], 1, rtol=1e-6)


def _local(params, image):
    return conv2d(jnp.tanh(conv2d(image, params["a"])), params["b"])  # sees 2 pixels around


def local_network():
    a, b = jax.random.split(jax.random.key(3))
    return Partial(_local, {"a": jax.random.normal(a, (3, 3, 3, 8)) / 3, "b": jax.random.normal(b, (3, 3, 8, 5)) / 5})


def test_a_network_that_sees_less_than_a_quarter_of_the_overlap_is_exact():
    whole, parts = local_network(), tiled(local_network(), Tile(16, 24, 8))
    image = jax.random.normal(jax.random.key(0), (2, 40, 61, 3))
    np.testing.assert_allclose(parts(image), whole(image), rtol=1e-4, atol=1e-5)
    slope = [jax.grad(lambda x, net=net: jnp.sum(jnp.sin(net(x))))(image) for net in (whole, parts)]
    np.testing.assert_allclose(slope[1], slope[0], rtol=1e-3, atol=1e-4)
    # with less overlap the borders of the tiles show: the test above can fail
    poor = tiled(local_network(), Tile(16, 24, 2))(image)
    assert np.abs(poor - whole(image)).max() > 1e-2


def test_what_fits_into_a_tile_is_seen_whole():
    image, step = jax.random.normal(jax.random.key(0), (2, 8, 12, 3)), jnp.array([3, 700])
    for tile in (Tile(8, 12, 0), Tile(32, 12, 4)):
        np.testing.assert_array_equal(tiled(smooth_denoiser(), tile)(image, step), smooth_denoiser()(image, step))
    assert tiled(smooth_denoiser(), Tile(8, 12, 0)).func == tiled(smooth_denoiser(1), Tile(8, 12, 0)).func


def test_a_tile_from_the_share_it_has_in_common():
    assert tile_of((48, 96), 0.25) == Tile(48, 96, 12)
    assert tile_of((8, 12), 0.99) == Tile(8, 12, 7)
    assert tile_count((96, 192), Tile(48, 96, 16)) == 9 and tile_count((40, 96), Tile(48, 96, 16)) == 1
    for share in (-0.1, 1.0):
        with pytest.raises(InputError, match=r"translate.overlap is .* share of a tile"):
            tile_of((8, 12), share)


def test_small_images_are_extended_by_their_mirror_image_and_void():
    rng = np.random.default_rng(0)
    image, given = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), rng.integers(0, 4, (5, 7), dtype=np.uint8)
    assert covered_size((5, 7), Tile(8, 6, 2), mixed=False) == (8, 7)
    assert covered_size((5, 7), Tile(8, 6, 2), mixed=True) == (8, 64)
    larger, void = cover(image, given, (8, 7))
    np.testing.assert_array_equal(larger[:5], image)
    np.testing.assert_array_equal(larger[5:], image[4:1:-1])
    np.testing.assert_array_equal(void[:5], given)
    assert (void[5:] == VOID).all()
    assert cover(image, given, (5, 7))[0] is image


class Mixed:
    """Images of three sizes, with classes of the toys."""

    classes = tuple(ClassInfo(str(i), (i,), (0, 0, 0)) for i in range(5))
    size, labelled, problems = None, True, ()
    sizes = ((8, 12), (8, 12), (12, 20), (6, 9), (12, 20))

    def __len__(self):
        return len(self.sizes)

    def name(self, index):
        return str(index)

    def image_id(self, index):
        return 70 + index

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        height, width = self.sizes[index]
        given = np.asarray(labels(1, 16, 24, seed=index)[0])[:height, :width].astype(np.uint8)
        return Example(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), given)

    full = __getitem__


def test_images_of_many_sizes_come_back_in_order_and_at_their_size(one_device):
    from toys import mixing_segmenter, short_schedule

    def run(indices, batch_size):
        blocks = list(
            translate_all(
                smooth_denoiser(), mixing_segmenter(), short_schedule(), Mixed(), in_blocks(indices, batch_size),
                Knobs(jnp.float32(0.5), jnp.float32(0), jnp.float32(1), jnp.int32(1)),
                batch_size=batch_size, method=Method(VARIANTS["sgg"], ancestral, 4), mesh=one_device,
                tile=Tile(8, 12, 4),
            )
        )  # fmt: skip
        return [done for block in blocks for done in block]

    together = run([0, 1, 2, 3, 4], 2)
    assert [t.index for t in together] == [0, 1, 2, 3, 4]
    for found in together:
        example = Mixed()[found.index]
        assert found.image.shape == example.image.shape
        np.testing.assert_array_equal(found.labels, example.labels)
        (alone,) = run([found.index], 1)
        difference = np.abs(alone.image.astype(int) - found.image)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.02


def test_a_tiled_translation_is_near_the_whole_one_and_shows_no_seam(one_device):
    """The shipped denoiser at twice its size. Attention and norms see a tile, not the image: equal it cannot be. So it
    is held against the whole image by other noise, and against tiles that are not blended."""
    config = default.get_config()
    for role in ("source", "target", "judge", "val", "test"):
        config.data[role].streets.count = 4
        config.data[role].size = (96, 192)
    config.translate.start, config.translate.steps = "image", 4
    run = Experiment(config, Path("nowhere"))
    guide = run.segmenter(run.segmenter_network()[1])

    def go(tile, seed=0):
        found = translate_all(
            run.denoiser(), guide, run.schedule(100), run.source, [[0, 1]], run.knobs._replace(seed=jnp.int32(seed)),
            batch_size=2, method=run.method("none"), mesh=one_device, tile=tile,
        )  # fmt: skip
        return np.stack([done.image.astype(int) for block in found for done in block])

    whole, parts, hard = go(None), go(Tile(48, 96, 16)), go(Tile(48, 96, 0))

    def far(images):
        return np.abs(images - whole).mean()

    assert far(parts) < 0.75 * far(go(None, seed=1))  # 6.3 and 10.1 grey levels when this was written
    assert far(parts) < far(hard)  # 7.7

    def seam(images, axis, borders):
        """How much more neighbouring pixels differ there than elsewhere, beyond the whole image's."""

        def excess(images):
            change = np.abs(np.diff(images.mean(-1), axis=1 + axis)).mean((0, 2 - axis))
            return change[borders].mean() / change.mean()

        return excess(images) / excess(whole) - 1

    for axis, borders, cut in ((0, [31, 47], [47]), (1, [47, 95, 95, 143], [95])):
        assert seam(hard, axis, cut) > 0.5  # tiles that are not blended do show
        assert seam(parts, axis, borders) < 0.2  # 0.12 and 0.07
    np.testing.assert_array_equal(go(Tile(96, 192, 16)), whole)
