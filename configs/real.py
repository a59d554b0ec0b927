"""What the configs of real data sets have in common; not a run of its own.

Sizes are those of the field: GTA5 brought to 1280x720, SYNTHIA to 1280x760, Cityscapes to 1024x512, crops of 512x512
(Tsai et al. 2018; Hoyer et al. 2022). Give the roots of the data sets; everything else has a default here. Scores are
counted at the full resolution of the label files. Networks are this package's own, trained from scratch, for a GPU or
TPU.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.data.size = (512, 512)  # training crops, and tiles of larger images
    config.data.workers = 4
    config.data.crop.most = 0.75  # as MMSegmentation's cat_max_ratio
    config.data.crop.rare = 0.01  # as DAFormer
    for role in ("source", "target", "test"):
        config.data[role].public.fit = "stretch"
    config.data.judge.name = "none"  # target labels that train a judge; a target without labels has none
    config.data.val.name = "none"

    config.denoiser.weights = ""  # the shipped one paints streets
    config.denoiser.unet.widths = (64, 128, 256, 256, 512)  # 512 / 2 pixels down to 16
    config.denoiser.unet.attention = (4,)
    config.denoiser.unet.dtype = "bfloat16"
    config.denoiser.training.steps = 200_000
    config.denoiser.training.learning_rate = 2e-4
    config.denoiser.training.warmup = 2000
    config.denoiser.training.ema = 0.9999
    config.denoiser.training.save_every = 2000

    config.segmenter.encoder_decoder.widths = (64, 128, 256, 384, 512)
    config.segmenter.encoder_decoder.dtype = "bfloat16"
    for recipe, steps in ((config.segmenter, 40_000), (config.adapt, 4_000), (config.student, 40_000)):
        recipe.training.steps = steps
        recipe.training.learning_rate = 3e-4
        recipe.training.warmup = 1500
        recipe.training.ema = 0.999
        recipe.training.save_every = 1000

    config.translate.batch_size = 8
    config.translate.microbatch = 8
    config.translate.donors = 200
    config.translate.steps = 50
    config.evaluate.batch_size = 8
    config.evaluate.sliding = True  # networks are trained on crops
    config.compare.methods = ()  # needs a judge
    return config
