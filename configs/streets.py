"""The demo: the main job on streets, the embedded pair of domains, with the shipped denoiser; 11 minutes on two CPU
cores.

    python main.py run --config configs/streets.py --workdir runs/streets

One seed, few images and a short comparison: it shows what the parts do. The study is docs/results.md.
"""

from configs import default


def get_config():
    config = default.get_config()
    for role, count in dict(source=160, target=1000, judge=1000, val=100, test=200).items():
        config.data[role].streets.count = count
    for recipe, steps in ((config.segmenter, 350), (config.adapt, 60), (config.student, 250)):
        recipe.training.steps = steps
    config.translate.steps = 6
    config.translate.unguided = 32
    config.adapt.depths = (60, 100)  # not yet the study's; as in docs/logs/demo.log
    config.compare.methods = ("none", "sdedit", "sgg_ptl", "oracle")
    config.compare.seeds = (0,)
    config.compare.sdedit_depths = (400,)
    return config
