"""Guidance against literal loops, finite differences and the facts that follow from its definition."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from toys import CLASSES, labels, mixing_segmenter, pairs, pixelwise_segmenter, point

from sgg_jax.guidance import (
    LOOKS,
    VARIANTS,
    at_denoised,
    blurred,
    clipped,
    global_scene,
    interval,
    local_class,
    log_likelihood,
    muted,
    noise_ratio,
    normalized,
    present_pairs,
    semantic_gradients,
    through_denoiser,
    unguided,
)
from sgg_jax.schedule import predict_image
from sgg_jax.types import VOID


def literal_log_likelihood(logits, given):
    total = 0.0
    for b, i, j in np.ndindex(*given.shape):
        if given[b, i, j] != VOID:
            row = np.asarray(logits[b, i, j], np.float64)
            total += row[given[b, i, j]] - np.log(np.exp(row).sum())
    return total


def local_objective(where, image):
    """log p(c | masked image) over c's pixels, summed over classes and images, by a Python loop."""
    total = 0.0
    for b in range(where.labels.shape[0]):
        for c in range(CLASSES):
            region = where.labels[b : b + 1] == c
            masked = jnp.where(region[..., None], image[b : b + 1], where.fill)
            total += log_likelihood(where.segmenter(masked), jnp.where(region, c, VOID))
    return total


def test_log_likelihood_is_the_literal_sum():
    given = labels()
    logits = jax.random.normal(jax.random.key(1), (*given.shape, CLASSES)) * 3
    assert float(log_likelihood(logits, given)) == pytest.approx(literal_log_likelihood(logits, given), rel=1e-5)


def test_nothing_known_has_no_gradient():
    where = point(mixing_segmenter(), jnp.full((2, 8, 12), VOID))
    for variant in VARIANTS.values():
        np.testing.assert_array_equal(variant(where), 0)


def test_present_pairs_are_those_of_a_loop():
    given = labels(batch=4, seed=3)
    wanted = [(b, c) for b in range(4) for c in range(CLASSES) if (given[b] == c).any()]
    for microbatch in (1, 3, 7, 64):
        found = present_pairs(given, CLASSES, microbatch)
        used = int(found.count)
        assert used == -(-len(wanted) // microbatch)  # no microbatch without a present class
        flat = [(int(b), int(c)) for b, c in zip(found.image.ravel(), found.label.ravel(), strict=True) if c >= 0]
        assert flat == wanted
        assert (found.label[used:] == -1).all()


@pytest.mark.parametrize("fill", [0.0, -0.4])
@pytest.mark.parametrize("microbatch", [1, 4, 32])
def test_lcg_is_the_literal_class_loop(fill, microbatch):
    where = point(mixing_segmenter(), labels(), microbatch=microbatch, fill=fill)
    wanted = np.zeros(where.x.shape, np.float32)
    for b in range(3):
        for c in range(CLASSES):
            region = where.labels[b] == c
            if not region.any():
                continue
            masked_labels = jnp.where(region, c, VOID)[None]

            def of_class(image, region=region, masked_labels=masked_labels):
                masked = jnp.where(region[None, ..., None], image, fill)
                return log_likelihood(where.segmenter(masked), masked_labels)

            slope = jax.grad(of_class)(where.x[b : b + 1])[0]
            wanted[b] += np.where(region[..., None], slope, 0)
    np.testing.assert_allclose(local_class(where), wanted, atol=1e-5 * np.abs(wanted).max())


def test_lcg_lies_inside_its_regions():
    where = point(mixing_segmenter(), labels())
    gradient = local_class(where)
    np.testing.assert_array_equal(gradient[where.labels == VOID], 0)
    assert (jnp.abs(gradient).sum(-1)[where.labels != VOID] > 0).all()


def test_absent_classes_change_nothing():
    """A pair list with every class, present or not, gives the same gradient as the present ones."""
    where = point(mixing_segmenter(), labels())
    b, c = np.divmod(np.arange(3 * CLASSES, dtype=np.int32), CLASSES)
    every = replace(where.pairs, image=jnp.asarray(b[:, None]), label=jnp.asarray(c[:, None]), count=jnp.int32(len(b)))
    np.testing.assert_allclose(local_class(replace(where, pairs=every)), local_class(where), rtol=2e-5, atol=1e-6)


def test_lcg_equals_gsg_for_a_pixelwise_segmenter():
    where = point(pixelwise_segmenter(), labels(), fill=0.0)
    np.testing.assert_allclose(local_class(where), global_scene(where), rtol=1e-5, atol=1e-6)


def test_lcg_differs_from_gsg_where_pixels_see_each_other():
    where = point(mixing_segmenter(), labels())
    assert float(jnp.abs(local_class(where) - global_scene(where)).max()) > 0.1


@pytest.mark.parametrize("name", ["gsg", "lcg"])
def test_an_images_gradient_is_its_own(name):
    """Alone or in a batch: the objective is a sum over images, not a mean."""
    given = labels()
    batch = point(mixing_segmenter(), given)
    together = VARIANTS[name](batch)
    for b in range(3):
        alone = replace(
            batch,
            seen=batch.seen[b : b + 1],
            x=batch.x[b : b + 1],
            eps=batch.eps[b : b + 1],
            labels=given[b : b + 1],
            pairs=pairs(given[b : b + 1]),
        )
        np.testing.assert_allclose(VARIANTS[name](alone)[0], together[b], rtol=1e-4, atol=1e-5)


def objective_of(name, where):
    """The scalar whose gradient a guidance is, as a function of the chain's x, built from the definition."""
    step = jnp.broadcast_to(where.row.step, where.x.shape[:1])
    look = {
        "noisy": lambda x: x,
        "denoised": lambda x: predict_image(where.row, x, where.eps),
        "through_denoiser": lambda x: predict_image(where.row, x, where.denoiser(x, step)),
    }[name[1]]
    if name[0] == "gsg":
        return lambda x: log_likelihood(where.segmenter(look(x)), where.labels)
    return lambda x: local_objective(where, look(x))


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("variant", ["gsg", "lcg"])
def test_finite_differences(variant, look):
    where = point(mixing_segmenter(), labels())
    gradient = LOOKS[look](VARIANTS[variant])(where)
    objective = objective_of((variant, look), where)
    for seed in range(3):
        # half a random direction, half the gradient's own, so that the slope is well above rounding
        direction = jax.random.normal(jax.random.key(seed), where.x.shape)
        direction = direction / jnp.linalg.norm(direction) + gradient / jnp.linalg.norm(gradient)
        h = 2e-2
        slope = (float(objective(where.x + h * direction)) - float(objective(where.x - h * direction))) / (2 * h)
        assert float(jnp.vdot(gradient, direction)) == pytest.approx(slope, rel=1e-2)


def test_held_estimate_is_one_factor():
    where = point(mixing_segmenter(), labels())
    seen = predict_image(where.row, where.x, where.eps)
    wanted = global_scene(replace(where, seen=seen)) / where.row.image_scale
    np.testing.assert_allclose(at_denoised(global_scene)(where), wanted, rtol=1e-6)
    difference = through_denoiser(global_scene)(where) - wanted
    assert float(jnp.abs(difference).max()) > 1e-2  # the chain through the denoiser is another gradient


@pytest.mark.parametrize("name", ["gsg", "lcg"])
def test_one_small_guided_step_lowers_the_cross_entropy(name):
    where = point(mixing_segmenter(), labels())
    objective = objective_of((name, "noisy"), where)
    moved = where.x + 1e-3 * where.row.variance * VARIANTS[name](where)
    assert float(objective(moved)) > float(objective(where.x))
    against = where.x - 1e-3 * where.row.variance * VARIANTS[name](where)
    assert float(objective(against)) < float(objective(where.x))


@pytest.mark.parametrize(("every", "local"), [(2, {1, 3, 5}), (3, {2, 5}), (5, {4})])
def test_sgg_is_local_every_so_many_turns_and_not_in_the_last(every, local):
    where = point(mixing_segmenter(), labels())
    for turn in range(6):
        wanted = local_class if turn in local else global_scene
        found = semantic_gradients(every)(replace(where, turn=jnp.int32(turn)))
        np.testing.assert_allclose(found, wanted(where), rtol=1e-5, atol=1e-6)


def test_normalized_has_ratio_one():
    where = point(mixing_segmenter(), labels(void=0.0))
    np.testing.assert_allclose(noise_ratio(where.push, normalized(global_scene)(where)), 1, rtol=1e-5)
    cosine = jnp.vdot(normalized(global_scene)(where)[0], global_scene(where)[0])
    cosine /= jnp.linalg.norm(normalized(global_scene)(where)[0]) * jnp.linalg.norm(global_scene(where)[0])
    assert float(cosine) == pytest.approx(1, abs=1e-5)


def test_normalized_survives_nothing_to_normalise():
    where = point(mixing_segmenter(), labels())
    np.testing.assert_array_equal(normalized(unguided)(where), 0)
    last = replace(where, push=jnp.float32(0))
    np.testing.assert_array_equal(normalized(global_scene)(last), 0)


def test_noise_ratio_is_its_definition():
    where = point(mixing_segmenter(), labels())
    gradient = np.asarray(global_scene(where))
    sigma = np.sqrt(float(where.row.variance))
    for b in range(3):
        rms = np.sqrt(np.mean((sigma**2 * gradient[b]) ** 2))
        assert float(noise_ratio(where.push, jnp.asarray(gradient))[b]) == pytest.approx(rms / sigma, rel=1e-5)


def test_clipped_shrinks_only_what_is_too_large():
    where = point(mixing_segmenter(), labels())
    ratios = np.asarray(noise_ratio(where.push, global_scene(where)))
    limit = float(np.sort(ratios)[1])  # one below, one at, one above
    clipped_ratios = noise_ratio(where.push, clipped(global_scene, limit)(where))
    np.testing.assert_allclose(clipped_ratios, np.minimum(ratios, limit), rtol=1e-5)


def test_blurred_is_scipys_gaussian_with_reflection():
    where = point(mixing_segmenter(), labels())
    wanted = gaussian_filter(
        np.asarray(global_scene(where), np.float64), 1.3, mode="reflect", truncate=4.0, axes=(1, 2)
    )
    np.testing.assert_allclose(blurred(global_scene, 1.3)(where), wanted, atol=1e-4 * np.abs(wanted).max())


def test_blurring_wider_than_the_image_leaves_a_mean_and_keeps_the_sum():
    where = point(mixing_segmenter(), labels())
    gradient, flat = np.asarray(global_scene(where)), np.asarray(blurred(global_scene, 40.0)(where))
    np.testing.assert_allclose(flat.sum((1, 2)), gradient.sum((1, 2)), rtol=1e-3, atol=1e-3)
    assert np.ptp(flat, axis=(1, 2)).max() < 1e-2 * np.ptp(gradient, axis=(1, 2)).max()


def test_muted_keeps_brightness_and_a_share_of_the_colour():
    where = point(mixing_segmenter(), labels())
    gradient, half, grey = (np.asarray(muted(global_scene, share)(where)) for share in (1.0, 0.5, 0.0))
    np.testing.assert_allclose(gradient, global_scene(where), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(half, (gradient + grey) / 2, atol=1e-5)
    np.testing.assert_allclose(grey, np.broadcast_to(gradient.mean(-1, keepdims=True), grey.shape), atol=1e-5)


def test_interval_guides_inside_only():
    where = point(mixing_segmenter(), labels(), k=300)
    np.testing.assert_array_equal(interval(global_scene, 0, 300)(where), 0)
    np.testing.assert_array_equal(interval(global_scene, 301, 1000)(where), 0)
    np.testing.assert_allclose(interval(global_scene, 300, 301)(where), global_scene(where), rtol=1e-5, atol=1e-6)


def test_wrappers_of_equal_arguments_are_one_function():
    """jit compiles by function identity: building the same guidance twice must not compile twice."""
    assert interval(clipped(at_denoised(global_scene), 2.0), 0, 9) is interval(
        clipped(at_denoised(global_scene), 2.0), 0, 9
    )
    assert semantic_gradients(2) is VARIANTS["sgg"]
