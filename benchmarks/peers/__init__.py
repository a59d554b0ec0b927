"""The same networks, maths and steps in PyTorch, for comparison: torch and numpy, nothing of sgg_jax, nothing of jax.

Images are [B,3,H,W]. Weights come from sgg_jax (`networks.load`), so both sides compute the same numbers.
"""
