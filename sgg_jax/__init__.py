"""Diffusion-based image translation with label guidance for domain-adaptive semantic segmentation, in JAX."""

from sgg_jax.compiler import keep_compiled, set_cpu_flags
from sgg_jax.memory import keep_memory

set_cpu_flags()
keep_compiled()
keep_memory()
