"""The study of docs/results.md: all ten methods on streets over three seeds; more than two hours of one CPU core.

    python main.py compare --config configs/study.py --workdir runs/study

Settings are the defaults of configs/default.py but for fewer images and steps, and three rounds of PTL instead of four.
"""

from configs import default


def get_config():
    config = default.get_config()
    for role, count in dict(source=200, target=1000, judge=1000, val=200, test=300).items():
        config.data[role].streets.count = count
    for recipe, steps in ((config.segmenter, 600), (config.adapt, 250), (config.student, 250)):
        recipe.training.steps = steps
    config.translate.steps = 8
    config.adapt.depths = (10, 20, 40)
    return config
