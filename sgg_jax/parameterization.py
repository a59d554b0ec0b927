"""What a denoiser network puts out, and how much each noise level counts in its training.

All else sees one contract, (x, step) -> eps: other outputs are turned into the noise here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from sgg_jax.schedule import BETAS
from sgg_jax.types import Array, NoisyImage, Params, StepIndex


@dataclass(frozen=True)
class FromNoise:
    """The noise predicted by a network that puts out the noise itself (DDPM).

    Equal settings give equal functions, so jit compiles once. schedule, total: the noise schedule by name
    (schedule.BETAS) and its length.
    """

    apply: Any
    schedule: str
    total: int

    def noise(self, output: Array, x: NoisyImage, step: StepIndex) -> Array:
        return output

    def __call__(self, params: Params, x: NoisyImage, step: StepIndex) -> Array:
        return self.noise(self.apply(params, x, step), x, step)

    def with_deep(self, params: Params, x: NoisyImage, step: StepIndex) -> tuple[Array, Array]:
        """eps, and the features below the network's full resolution, for `on_deep`."""
        output, deep = self.apply.of("with_deep")(params, x, step)
        return self.noise(output, x, step), deep

    def on_deep(self, params: Params, x: NoisyImage, step: StepIndex, deep: Array) -> Array:
        """eps by the layers of full resolution alone, with the deep features of an earlier step."""
        return self.noise(self.apply.of("on_deep")(params, x, step, deep), x, step)


@dataclass(frozen=True)
class FromVelocity(FromNoise):
    """The noise predicted by a network that puts out v = sqrt(alpha-bar) eps - sqrt(1 - alpha-bar) image.

    Salimans & Ho 2022, Appendix D: eps = sqrt(alpha-bar) v + sqrt(1 - alpha-bar) x. At high noise a network that puts
    out 0 says that all of x is noise, at low noise that none is.
    """

    def noise(self, output: Array, x: NoisyImage, step: StepIndex) -> Array:
        alpha_bars = np.cumprod(1 - BETAS[self.schedule](self.total))
        image_scale = jnp.asarray(np.sqrt(alpha_bars), jnp.float32)[step][:, None, None, None]
        noise_scale = jnp.asarray(np.sqrt(1 - alpha_bars), jnp.float32)[step][:, None, None, None]
        return image_scale * output + noise_scale * x


PREDICTIONS: dict[str, type[FromNoise]] = {"eps": FromNoise, "v": FromVelocity}


def even(alpha_bars: np.ndarray) -> np.ndarray:
    """Every level's squared error of the noise counts 1: L_simple, DDPM Eq. 14."""
    return np.ones_like(alpha_bars)


def velocity(alpha_bars: np.ndarray) -> np.ndarray:
    """Every level's squared error of v counts 1: 1 / alpha-bar of the noise's (Salimans & Ho 2022, SNR + 1)."""
    return 1 / alpha_bars


def min_snr(alpha_bars: np.ndarray) -> np.ndarray:
    """The image's squared error counts min(SNR, 5), of the noise's min(SNR, 5) / SNR (Hang et al. 2023, gamma = 5)."""
    snr = alpha_bars / (1 - alpha_bars)
    weights: np.ndarray = np.minimum(snr, 5.0) / snr
    return weights


WEIGHTINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"even": even, "velocity": velocity, "min_snr": min_snr}
"""Weight of the noise's squared error by level: [N] alpha-bars -> [N], float64."""
