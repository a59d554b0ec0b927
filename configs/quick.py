"""Every stage in four minutes on two CPU cores: small images, small networks, few steps. It proves that all parts
work together, not what the method can do.

    python main.py run --config configs/quick.py --workdir runs/quick
"""

from configs import default


def get_config():
    config = default.get_config()
    config.data.size = (32, 64)
    for role, count in dict(source=96, target=320, judge=320, val=32, test=64).items():
        config.data[role].streets.count = count
    config.denoiser.weights = ""  # trains its own
    config.denoiser.unet.widths = (32, 64)
    config.denoiser.unet.blocks = 1
    config.denoiser.unet.attention = ()
    config.segmenter.encoder_decoder.widths = (24, 48, 64)
    config.segmenter.encoder_decoder.blocks = 1
    for recipe, steps in ((config.denoiser, 250), (config.segmenter, 200), (config.adapt, 40), (config.student, 100)):
        recipe.training.steps = steps
        recipe.training.warmup = 20
        recipe.training.save_every = 100
        recipe.training.ema = 0.98
    config.denoiser.training.learning_rate = 2e-3
    config.translate.steps = 8
    config.translate.depth = 500
    config.translate.unguided = 48
    config.adapt.depths = (300, 500)
    config.compare.methods = ("none", "sdedit", "sgg_ptl", "oracle")
    config.compare.seeds = (0,)
    config.compare.sdedit_depths = (400,)
    config.report.examples = 4
    return config
