"""The demo: the main job on streets, the embedded pair of domains; 30 minutes or less on two CPU cores.

    python main.py run --config configs/streets.py --workdir runs/streets

One seed, small networks, few images: it shows what the parts do, it does not measure the method.
"""

from configs import default


def get_config():
    config = default.get_config()
    for role, count in dict(source=256, target=1000, judge=1000, test=200).items():
        config.data[role].streets.count = count
    for recipe, steps in ((config.denoiser, 1000), (config.segmenter, 800), (config.adapt, 150), (config.student, 600)):
        recipe.training.steps = steps
    config.denoiser.training.learning_rate = 1e-3
    config.translate.steps = 16
    config.translate.compare = 64
    config.adapt.depths = (300, 500)
    return config
