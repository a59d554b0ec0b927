"""How many steps a translation takes and what they share: named sets of fields of config.translate.

    python main.py run --config configs/streets.py:fast --workdir runs/fast

Fields that are set on the command line count over those of the preset. What they cost and give was measured on streets
from the default depth, 250, under PTL's guide (docs/performance.md, three seeds).
"""

PRESETS = {
    # N-step ancestral sampling: every step of the depth, global and local gradients by turns, as the paper. 8.5 s an
    # image on two cores, students of 47.0 +- 1.1 mIoU.
    "paper": dict(
        steps=0, spacing="even", sampler="ddpm", lcg_every=2, gradient_every=1, deep_every=1, interval=(0.0, 1.0)
    ),
    # The default: 0.41 s an image, 48.2 +- 1.4 mIoU.
    "balanced": dict(
        steps=12, spacing="even", sampler="ddpm", lcg_every=2, gradient_every=1, deep_every=1, interval=(0.0, 1.0)
    ),
    # 0.16 s an image, 48.5 +- 1.1 mIoU: a fiftieth of `paper`'s steps, and no worse.
    # A gradient that no later step denoises leaves patterns: of DPM-Solver++ and DDIM the last step is guided, too, of
    # the ancestral steps it is not, so these are the ones here.
    "fast": dict(
        steps=5, spacing="trailing", sampler="ddpm", lcg_every=2, gradient_every=1, deep_every=1, interval=(0.0, 1.0)
    ),
}
