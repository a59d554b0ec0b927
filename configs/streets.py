"""The demo: the main job on streets, the embedded pair of domains, with the shipped denoiser; 8 to 15 minutes on two
CPU cores.

    python main.py run --config configs/streets.py --workdir runs/streets

One seed, few images, small batches, few reverse steps and a short comparison: it shows what the parts do. The study is
docs/results.md.
"""

from configs import default


def get_config():
    config = default.get_config()
    for role, count in dict(source=128, target=1000, judge=1000, val=64, test=200).items():
        config.data[role].streets.count = count
    for recipe, steps in ((config.segmenter, 300), (config.adapt, 130), (config.student, 200)):
        recipe.training.steps = steps
        recipe.training.batch_size = 8
    config.translate.update(depth=100, steps=4, spacing="trailing")  # so few steps need a shallow depth
    config.translate.unguided = 32
    config.translate.donors = 400
    config.adapt.depths = (10, 20, 40)  # shallow rounds first: they are what makes PTL climb (docs/results.md)
    config.compare.methods = ("none", "sdedit", "sgg_ptl", "oracle")
    config.compare.seeds = (0,)
    config.compare.sdedit_steps = 8  # from deep in the noise four would blur
    config.compare.sdedit_depths = (600,)  # the study's best, so that the demo need not search
    return config
