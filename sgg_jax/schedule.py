"""The forward process q and its posterior (DDPM: Ho, Jain, Abbeel 2020), whole or respaced.

All maths is float64 numpy; the tables that reach the device are float32. Steps are indices 0..N-1, 0 the least noisy:
index k here is the paper's step k+1, and a translation of depth n starts at index n-1.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from sgg_jax.errors import InputError
from sgg_jax.types import Array, Image, NoisyImage, StepIndex


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "index",
        "step",
        "beta",
        "image_scale",
        "noise_scale",
        "inverse_scale",
        "image_scale_prev",
        "noise_scale_prev",
        "variance",
        "mean_image",
        "mean_x",
        "extrapolation",
    ],
    meta_fields=[],
)
@dataclass(frozen=True)
class Step:
    """Constants of one reverse step (each a scalar), or of all of them (each [K]); float32 unless said.

    Square roots are taken in float64: 1 - alpha-bar of a float32 alpha-bar near 1 would keep three digits.
    """

    index: Array  # int32, row of the schedule, 0 is the last reverse step
    step: Array  # int32, index in the whole process: what the denoiser is told
    beta: Array  # variance of q(x_k | x_{k-1})
    image_scale: Array  # sqrt(alpha-bar_k): x_k = image_scale * image + noise_scale * noise
    noise_scale: Array  # sqrt(1 - alpha-bar_k)
    inverse_scale: Array  # 1 / image_scale; products leave XLA no choice how to divide (test_translation.py)
    image_scale_prev: Array  # the same of x_{k-1}; 1 at index 0
    noise_scale_prev: Array  # 0 at index 0
    variance: Array  # posterior variance beta-tilde, DDPM Eq. 7; 0 at index 0
    mean_image: Array  # coefficient of the image in the posterior mean, DDPM Eq. 7
    mean_x: Array  # coefficient of x in the posterior mean, DDPM Eq. 7
    # h_k / (2 h_{k+1}) with h the step in log(image_scale / noise_scale), DPM-Solver++ (2M); 0 at the first step taken,
    # which has none before it, and at index 0, where h is infinite
    extrapolation: Array


@partial(jax.tree_util.register_dataclass, data_fields=["table", "count"], meta_fields=[])
@dataclass(frozen=True)
class NoiseSchedule:
    """K reverse steps, of which the first `count` rows are in use.

    The depth is data, not shape, so one compiled chain serves every depth.
    """

    table: Step  # of [K] arrays
    count: Array  # int32 []

    def row(self, index: Array | int) -> Step:
        """Constants of the reverse step `index` (int32 [], traced or not)."""
        pick = partial(jax.lax.dynamic_index_in_dim, keepdims=False, allow_negative_indices=False)
        return jax.tree.map(lambda column: pick(column, index), self.table)

    def __len__(self) -> int:
        return int(self.table.step.shape[0])


def linear(total: int) -> np.ndarray:
    """Betas of DDPM's linear schedule, 1e-4 to 0.02 at N = 1000, scaled to keep alpha-bar_N at other N. [N] float64."""
    return np.minimum(np.linspace(1e-4, 0.02, total, dtype=np.float64) * (1000 / total), 0.999)


def cosine(total: int) -> np.ndarray:
    """Betas of the cosine schedule (Nichol & Dhariwal 2021, Eq. 17, s = 0.008, betas at most 0.999). [N] float64."""
    t = np.linspace(0, 1, total + 1, dtype=np.float64)
    alpha_bars = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bars[1:] / alpha_bars[:-1], 0.999)


BETAS = {"linear": linear, "cosine": cosine}


def even(depth: int, count: int) -> np.ndarray:
    """`count` levels from 0 to depth - 1: the last step is the whole process's last. [count] float64."""
    return np.linspace(0, depth - 1, count) if count > 1 else np.array([depth - 1.0])


def trailing(depth: int, count: int) -> np.ndarray:
    """`count` levels as far apart as the lowest is from the clean image (Lin et al. 2024, "trailing"): with few steps
    none is spent where there is hardly any noise. [count] float64."""
    return np.arange(1, count + 1) * (depth / count) - 1


SPACINGS = {"even": even, "trailing": trailing}


def respace(betas: np.ndarray, depth: int, steps: int, spacing: str = "even") -> NoiseSchedule:
    """The sub-process of `steps` reverse steps over the lowest `depth` noise levels.

    betas: [N] float64 of the whole process. depth in [1, N]: number of forward steps that noise the image.
    steps in [1, N]: rows of the table, so the shape does not depend on the depth; where steps > depth every one of the
    `depth` levels is used and the rest of the rows is unused. steps = depth = N is the whole process.
    spacing: which levels, a name in SPACINGS. Raises InputError when depth or steps lie outside their ranges.
    """
    total = len(betas)
    for name, value in (("depth", depth), ("number of sampling steps", steps)):
        if not 1 <= value <= total:
            raise InputError(f"the {name} is {value}: it must lie in 1..{total}, the length of the noise schedule")
    count = min(steps, depth)
    kept = np.round(SPACINGS[spacing](depth, count)).astype(np.int64)
    alpha_bars = np.cumprod(1 - np.asarray(betas, np.float64))[kept]
    before = np.append(1.0, alpha_bars[:-1])
    beta = 1 - alpha_bars / before
    log_snr = 0.5 * np.log(alpha_bars / (1 - alpha_bars))
    extrapolation = np.zeros(count)  # not at the ends
    extrapolation[1:-1] = 0.5 * (log_snr[:-2] - log_snr[1:-1]) / (log_snr[1:-1] - log_snr[2:])
    columns = dict(
        beta=beta,
        image_scale=np.sqrt(alpha_bars),
        noise_scale=np.sqrt(1 - alpha_bars),
        inverse_scale=1 / np.sqrt(alpha_bars),
        image_scale_prev=np.sqrt(before),
        noise_scale_prev=np.sqrt(1 - before),
        variance=beta * (1 - before) / (1 - alpha_bars),
        mean_image=np.sqrt(before) * beta / (1 - alpha_bars),
        mean_x=np.sqrt(1 - beta) * (1 - before) / (1 - alpha_bars),
        extrapolation=extrapolation,
    )

    def column(values: np.ndarray, dtype: str) -> Array:  # unused rows repeat the last one: finite and never read
        return jnp.asarray(np.pad(values, (0, steps - count), mode="edge"), dtype)

    table = Step(
        index=column(np.arange(count), "int32"),
        step=column(kept, "int32"),
        **{name: column(values, "float32") for name, values in columns.items()},
    )
    return NoiseSchedule(table=table, count=jnp.int32(count))


def noise_schedule(betas: np.ndarray) -> NoiseSchedule:
    """The whole process of [N] betas."""
    return respace(betas, len(betas), len(betas))


def diffuse(schedule: NoiseSchedule, image: Image, step: StepIndex, noise: Array) -> NoisyImage:
    """A draw from q(x_k | image), DDPM Eq. 4. [B,H,W,3], [B] rows of the schedule, [B,H,W,3] -> [B,H,W,3]."""
    row = jax.tree.map(lambda column: column[step][:, None, None, None], schedule.table)
    return add_noise(row, image, noise)


def add_noise(row: Step, image: Image, noise: Array) -> NoisyImage:
    """`diffuse` to the noise level of one row."""
    return row.image_scale * image + row.noise_scale * noise


def predict_image(row: Step, x: NoisyImage, eps: Array) -> Image:
    """x0-hat, the image that x and its predicted noise imply: DDPM Eq. 4 solved for x_0."""
    return (x - row.noise_scale * eps) * row.inverse_scale


def posterior_mean(row: Step, image: Image, x: NoisyImage) -> Array:
    """mu of q(x_{k-1} | x_k, x_0), DDPM Eq. 7; its variance is `row.variance`."""
    return row.mean_image * image + row.mean_x * x
