"""What the configs of real data sets have in common; not a run of its own.

Sizes are those of the field: GTA5 brought to 1280x720, SYNTHIA to 1280x760, Cityscapes to 1024x512, crops of 512x512
(Tsai et al. 2018; Hoyer et al. 2022). Give the roots of the data sets; everything else has a default here. Scores are
counted at the full resolution of the label files. For a GPU or TPU.

Networks are those of the field, fresh where you give no weights. Published ones make all the difference:

    python main.py import_weights --kind mit --file mit_b5.pth --out weights/mit_b5
    python main.py import_weights --kind adm --file 256x256_diffusion_uncond.pt --out weights/adm
    python main.py run --config configs/gta5_to_cityscapes.py ... \
        --config.segmenter.network=weights/mit_b5 --config.denoiser.network=weights/adm

configs/gta5_to_cityscapes_deeplabv2.py has the segmenters of Tsai et al. (2018) and of most papers before transformers:
--config.segmenter.network=weights/resnet101 (--kind resnet101, of torchvision) starts them from ImageNet's weights.
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

    # The denoiser: guided-diffusion's network and recipe (Dhariwal & Nichol 2021, Appendix F and Table 11): AdamW
    # without decay at 1e-4, no schedule worth the name, EMA of 0.9999. Its widths here are a quarter of the 553M.
    config.denoiser.weights = ""  # the shipped one paints streets
    config.denoiser.network = "adm"
    config.denoiser.prediction, config.denoiser.weighting = "eps", "even"
    config.denoiser.adm.dtype = "bfloat16"
    config.denoiser.adm.remat = True
    denoising = config.denoiser.training
    denoising.steps, denoising.batch_size, denoising.learning_rate, denoising.warmup = 200_000, 16, 1e-4, 2000
    denoising.weight_decay, denoising.b2, denoising.clip = 0.0, 0.999, 1.0
    denoising.ema, denoising.save_every = 0.9999, 2000

    # The segmenters: DAFormer's network and recipe (Hoyer et al. 2022, Section 4.1 and their configs): MiT-B5, AdamW at
    # 6e-5, ten times that for the head, norms not decayed, 1,500 steps of warm-up, linear decay, 40,000 steps of 2.
    config.segmenter.network = "segformer"
    config.segmenter.segformer.update(
        widths=(64, 128, 320, 512), depths=(3, 6, 40, 3), head="daformer", channels=256, dtype="bfloat16", remat=True
    )
    config.segmenter.class_balance = 0.0  # rare-class sampling is its answer
    for recipe, steps in ((config.segmenter, 40_000), (config.adapt, 4_000), (config.student, 40_000)):
        recipe.training.update(
            steps=steps, batch_size=2, learning_rate=6e-5, schedule="poly", power=1.0, warmup=1500, weight_decay=0.01,
            decay_all=False, b2=0.999, rates=(("head.", 10.0),), clip=0.0, ema=0.999, save_every=1000,
        )  # fmt: skip
    config.adapt.training.warmup = 150  # a tenth of the steps, a tenth of the warm-up

    config.translate.donors = 200
    config.translate.steps = 50
    config.evaluate.batch_size = 8
    config.evaluate.sliding = True  # networks are trained on crops
    config.compare.methods = ()  # a comparison takes days here; it needs data.test, and for the oracle data.judge
    return config


def deeplabv2(config):
    """The same with the segmenters of Tsai et al. (2018, Section 4): DeepLabV2 on ResNet-101, SGD at 2.5e-4, ten times
    that for the classifier, decay 5e-4, poly of power 0.9."""
    config.segmenter.network = "deeplab"
    config.segmenter.deeplab.update(dtype="bfloat16", remat=True)
    for recipe in (config.segmenter, config.adapt, config.student):
        recipe.training.update(
            optimizer="sgd", learning_rate=2.5e-4, schedule="poly", power=0.9, warmup=0, weight_decay=5e-4,
            decay_all=True, rates=(("aspp.", 10.0),),
        )  # fmt: skip
    return config
