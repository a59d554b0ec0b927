"""Every field of a run, with its unit and source. The other configs change a few of them.

Values here are those of streets, the embedded pair of domains, at 48x96.
"""

from ml_collections import ConfigDict


def training(steps: int, batch_size: int, learning_rate: float) -> ConfigDict:
    """How one network is trained (sgg_jax/optimization.py)."""
    return ConfigDict(
        dict(
            steps=steps,
            batch_size=batch_size,  # images a step, over all devices
            learning_rate=learning_rate,  # peak
            optimizer="adamw",  # or "sgd", with momentum 0.9, or "muon", which learns more a step (docs/denoiser.md)
            schedule="cosine",  # of the learning rate, to 0; or "poly", (1 - t / steps)^power
            power=0.9,  # of "poly"
            warmup=100,  # steps
            weight_decay=0.01,  # decoupled with AdamW
            decay_all=True,  # False spares biases and norms
            b2=0.99,  # decay of Adam's second moment
            # ((start of names, factor), ...): other learning rates for parts of a network, as ("head.", 10.0); of those
            # that fit a weight's dotted name (`main.py describe` lists them) the first counts.
            rates=(),
            clip=1.0,  # largest global norm of the gradient; 0 for any
            ema=0.998,  # decay of the weight average that is used afterwards
            save_every=200,  # steps between checkpoints: what a kill can cost
            # Parts that weights, their moments and averages are split into, on as many devices each, as by FSDP (Zhao
            # et al. 2023); 1 keeps a copy on every device. For networks that do not fit one.
            weight_shards=1,
            # Groups of images, a power of two, whose gradients are added in one order: so a network ends in the same
            # bytes on any number of devices that divides them. At most as many as divide the batch. 1: the whole batch
            # at once, equal to rounding, and faster where one device trains a denoiser (docs/performance.md).
            groups=4,
        )
    )


def dataset(domain: str, split: str, count: int) -> ConfigDict:
    """One role's data set: `name` says which of the blocks below it is read from."""
    return ConfigDict(
        dict(
            # "streets", "folder" (your own files), "tfds" (prepared), or a public set where it lies: "gta5", "synthia",
            # "cityscapes", "acdc", "dark_zurich", "bdd100k", "urbansyn", "synscapes", "mapillary"; "exported" for what
            # this program wrote; "none" for judge, val, test
            name="streets",
            root="",  # folder (or zip file) of a public set; "" for that of data.target, if that is the same set
            size=(),  # height, width that examples are brought to; () for data.size
            public=dict(
                split="train",  # further words narrow it down: "train/fog" of ACDC, "train/aachen" of Cityscapes
                fit="stretch",  # to the size; "crop" keeps the aspect and cuts the middle out, "native" keeps the size
                count=0,  # images, the first in sorted order; 0 for all
            ),
            streets=dict(
                domain=domain,  # "source" or "target"
                split=split,  # "train", "val" or "test": disjoint image ids
                count=count,  # images
                seed=0,  # of the scenes
            ),
            folder=dict(
                images="",  # directory or glob of images, any size
                labels="",  # directory or glob of label PNGs with the same stems; "" for an unlabelled set
                fit="crop",  # as above
                count=0,  # images, the first in sorted order; 0 for all
                void_ids=(255,),  # label values that mean "no class"
            ),
            tfds=dict(
                directory="",  # version folder of a prepared TensorFlow Datasets set (ArrayRecord)
                split="train",  # or a slice, "train[:1000]"
                image="image",  # feature names
                label="label",  # "" for an unlabelled set
                fit="crop",  # as for folders
                count=0,
                void_ids=(255,),
            ),
        )
    )


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of weights, batches, augmentation and noise

    config.data = ConfigDict()
    # Height, width in pixels of what networks see at once: training crops, tiles. A multiple of every network's stride.
    config.data.size = (48, 96)
    # Class table of folder data: (name, (label values,), (R, G, B)); the place in the table is the train id.
    # Streets brings its own, public sets have the 19 of Cityscapes unless this says otherwise.
    config.data.classes = ()
    config.data.workers = 0  # threads that decode training images; 0 for none, best for streets, which Python draws
    config.data.crop = ConfigDict(
        dict(  # how training images larger than `size` are cut
            scale=(1.0, 1.0),  # random zoom first, uniform; of segmenters' images, the denoiser's keep their scale
            most=1.0,  # largest share of a crop that one class may have, where ten tries give such a crop
            # Temperature at which images and crops are drawn by their rare classes, P(c) ~ exp((1 - f_c) / T); 0.01 in
            # DAFormer (Hoyer et al. 2022), 0 draws every image alike.
            rare=0.0,
        )
    )
    config.data.max_bad = 0  # examples of each role that may be unusable; they are named, and the run goes on without
    config.data.source = dataset("source", "train", 1000)  # labelled; is translated
    config.data.target = dataset("target", "train", 4000)  # labels, if any, are not looked at
    config.data.judge = dataset("target", "train", 1000)  # labelled target images for the judge, or "none"
    config.data.val = dataset("target", "val", 200)  # labelled target images on which settings are chosen, or "none"
    config.data.test = dataset("target", "test", 200)  # labelled target images that score the networks, or "none"

    config.denoiser = ConfigDict(
        dict(
            # Weights to use: "streets" (shipped, sgg_jax/shipped/), a .safetensors file, or "" to train from scratch.
            weights="streets",
            start="",  # weights that training starts from, named likewise; "" for fresh ones
            # "unet", "adm" (guided-diffusion's), or a directory of import_weights: that network, from its weights.
            network="unet",
            unet=dict(
                widths=(48, 96, 128),  # channels by resolution, halving from H/patch down
                blocks=2,  # residual blocks at each resolution
                attention=(2,),  # resolutions (indices into widths) with self-attention; the bottleneck always has it
                patch=2,  # block of the space-to-depth stem
                dtype="float32",  # of the computation; parameters and norms stay float32. "bfloat16" for TPU and GPU
            ),
            adm=dict(  # Dhariwal & Nichol 2021; these are the widths of ILVR's (Choi et al. 2021). prediction is "eps"
                channels=128,  # of the step's features, a quarter of the embedding's
                widths=(128, 128, 256, 256, 512, 512),  # channels by resolution, from the full one down
                blocks=1,  # residual blocks at each resolution; one more on the way up
                attention=(16,),  # by how much resolutions with self-attention are downsampled
                heads=0,  # of every attention layer; 0 for heads of head_channels
                head_channels=64,
                new_attention_order=False,  # of q, k, v and heads; of published weights, the directory says
                resample="block",  # how sizes change: in a residual "block", a "conv", or "plain" (averaged, repeated)
                scale_shift_norm=True,  # the step scales and shifts norms; False adds it
                learn_sigma=False,  # six outputs; what the last three say of variances is not used
                label=-1,  # of a class-conditional network (a directory's), the class that all images have
                attention_kernel="xla",  # or "cudnn", on NVIDIA GPUs in bfloat16
                remat=False,  # keep less for gradients and compute more
                dtype="float32",
            ),
            schedule="linear",  # of the noise: "linear" (DDPM) or "cosine" (Nichol & Dhariwal 2021)
            total=1000,  # N, forward steps of the whole process
            prediction="v",  # what the network puts out: "eps", the noise (DDPM), or "v" (Salimans & Ho 2022)
            weighting="velocity",  # of the noise levels in the loss: "even" (L_simple), "velocity" or "min_snr"
            flip=True,  # mirror training images with probability 1/2
            training=training(steps=6000, batch_size=16, learning_rate=1e-3),
        )
    )

    config.segmenter = ConfigDict(
        dict(
            # Of guides, judge and students: "encoder_decoder", "deeplab", "segformer", or a directory: that network,
            # from its weights (import_weights writes one; Hugging Face's SegFormers are directories as they are).
            network="encoder_decoder",
            as_it_is=False,  # the first guide is the network of that directory, not trained on the source
            judge="",  # a directory: the judge is its network as it is, not trained on data.judge
            encoder_decoder=dict(
                widths=(32, 64, 96),  # channels by resolution, halving from H/patch down
                blocks=2,  # residual blocks at each resolution
                patch=2,  # block of the space-to-depth stem
                dtype="float32",
            ),
            deeplab=dict(  # DeepLabV2 on a ResNet-101 (Chen et al. 2018), BatchNorm folded
                blocks=(3, 4, 23, 3),  # bottlenecks of each stage
                widths=(64, 128, 256, 512),  # inner channels of each stage
                rates=(6, 12, 18, 24),  # dilations of the classifier's convolutions
                normalisation="imagenet",  # of images: "imagenet" (torchvision's weights) or "caffe"
                stride_place="3x3",  # which convolution of a bottleneck strides; "1x1" in caffe
                ceil_pool=False,  # max-pooling keeps a last, partly outer window; True in caffe
                align_corners=True,  # how logits are enlarged
                forms=("halving", "pool", "pyramid"),  # exact, faster ways (sgg_jax/models/deeplab.py, benchmarks/)
                remat=False,
                dtype="float32",
            ),
            segformer=dict(  # SegFormer (Xie et al. 2021), these are MiT-B0's numbers, by stage
                widths=(32, 64, 160, 256),  # channels
                depths=(2, 2, 2, 2),  # transformer blocks
                heads=(1, 2, 5, 8),  # of attention
                reductions=(8, 4, 2, 1),  # of the keys' and values' resolution
                mlp_ratios=(4, 4, 4, 4),
                channels=256,  # of the head
                head="mlp",  # or "daformer" (Hoyer et al. 2022)
                dilations=(1, 6, 12, 18),  # of DAFormer's head
                attention_kernel="xla",  # or "cudnn", on NVIDIA GPUs in bfloat16
                remat=False,
                dtype="float32",
            ),
            # Weight of a class in the loss: its share of the pixels to the power of -class_balance. 0 leaves thin
            # classes (persons, poles) unlearnt, 1 overshoots them.
            class_balance=0.5,
            augment=True,  # False trains on the bare images
            augmentation=dict(  # of every segmenter alike; 0 or False switches one off (sgg_jax/augmentation.py)
                flip=True,  # mirror with probability 1/2
                scale=0.5,  # zoom from 1/1.25 to 1.5, then a random crop
                color=0.5,  # standard deviation of the random colour matrix
                brightness=0.3,  # largest offset, in units of [-1,1]
                contrast=0.5,  # largest log factor
                blur=1.0,  # largest sigma, pixels
                noise=0.1,  # largest standard deviation, in units of [-1,1]
                recolor=0.0,  # see config.guide, where these three are
                texture=0.0,
                diffuse=0.0,
            ),
            training=training(steps=1500, batch_size=16, learning_rate=2e-3),
        )
    )

    config.guide = ConfigDict(
        dict(  # what the first guide is augmented with at least, whatever segmenter says; PTL's know target's colours
            # A guide that knows classes by the source's colours paints them back. On streets the first two raise the
            # mIoU on target images of the source network itself from 32 to 50, in fewer steps (docs/results.md).
            recolor=0.7,  # standard deviation of a random colour added to each class's pixels, in units of [-1,1]
            texture=0.3,  # standard deviation of random patterns of 1 to 16 pixels added likewise
            # Largest share s of noise in sqrt(1 - s^2) image + s noise, what the steps of diffusion show. Cleaner
            # gradients at deep steps (0.8), but 3 points of mIoU, which a collage needs more.
            diffuse=0.0,
        )
    )

    config.translate = ConfigDict(
        dict(
            guide="adapted",  # whose weights guide: "adapted" (the last of PTL) or "source"
            # What is noised: the source "image", its brightness alone, "grey", or a "collage" of it in the target's
            # pixels. On streets, one seed: students of unguided translations 36, 37, 50 mIoU (docs/results.md).
            start="collage",
            donors=600,  # target images, the first, that a collage is made of (sgg_jax/collage.py)
            donor_confidence=0.7,  # least probability with which the guide must see a class in a donor's pixel
            # n: forward steps that noise the start, of denoiser.total. A collage has the target's textures already, the
            # source image needs 600. Streets, one seed, students of SGG under PTL's guide at depths 100 (6 steps) and
            # 250: 54.3 and 55.4 mIoU; of the collage itself 53.9, of depth 250 without guidance 50.7 (docs/results.md).
            depth=250,
            steps=12,  # reverse steps below the depth; 0 for every one of them (the paper)
            spacing="even",  # of the steps: "even" with step 0 as the last, or "trailing", better where they are few
            sampler="ddpm",  # "ddpm" (ancestral, the paper), "ddim" or "dpm" (DPM-Solver++ 2M; guidance split off)
            eta=0.0,  # stochasticity of ddim: 0 none, 1 as ddpm
            limit=1.0,  # bound on the predicted clean image, in [-1,1] units; float("inf") for none
            # "none", "gsg" (global), "lcg" (local) or "sgg" (alternating, the paper). Streets, one seed, under PTL's
            # guide: 50.7, 55.6, 50.2, 55.4 mIoU; gsg takes half the time (docs/results.md).
            guidance="sgg",
            lcg_every=2,  # of sgg's turns every so many are local, the others global; 2 in the paper
            gradient_every=1,  # steps that share one gradient, taken at the first of them
            deep_every=1,  # steps that share the denoiser's features below its first resolution (DeepCache)
            # On streets, one seed, image start: students of 128 images 38.5 mIoU where g looks at x0-hat (clip_ratio
            # 0.5), 34.5 where it looks at x_k (clip_ratio 1), unguided 35.9 (docs/results.md).
            look="denoised",  # where g looks: "noisy" (x_k, the paper), "denoised" (x0-hat), "through_denoiser"
            scale=1.0,  # lambda; cross-entropy is summed over pixels
            fill=0.0,  # what hides the other classes from lcg, in [-1,1]; 0 is mid-grey
            blur=0.0,  # sigma of a Gaussian that smooths the gradient, pixels; 0 for none
            chroma=1.0,  # share of the gradient's colour that is kept; 0 guides brightness alone
            # Scale each gradient to a guidance-to-noise ratio of 1: then `scale` is the ratio. Not together with
            # clip_ratio, which would cut them again.
            normalize=False,
            # Largest guidance-to-noise ratio before `scale`, 0 for no limit: the first are many times the noise.
            clip_ratio=0.5,
            interval=(0.0, 1.0),  # guide only at steps low * N <= k < high * N
            batch_size=8,  # images at once, on each device; of 48x96, two cores gain nothing with 16
            # (image, class) pairs that lcg's segmenter sees at once, on each device. The last ones are filled up: one
            # image of 8 classes takes two cores 1.5 times as long with 16.
            microbatch=8,
            # GiB that translations may take of a device, 0 for all that it has. What needs more is done with fewer
            # images and pairs at once, and stderr says how many.
            memory=0.0,
            # Height, width of what networks see at once of an image; () for data.size. Larger images are seen in tiles.
            tile=(),
            overlap=0.25,  # share of a tile's smaller side that neighbouring tiles have in common at least
            # Least share of an image's known pixels in which the guide must find their label in the translation for it
            # to be exported; the others are dropped, and the manifest tells so. 0 keeps all.
            keep=0.0,
            unguided=64,  # images that are also translated unguided, to compare; 0 for none
        )
    )

    config.adapt = ConfigDict(
        dict(
            fresh=False,  # every round trains a fresh network; False fine-tunes the last guide (the paper)
            # d_1 < d_2 < ... of PTL's rounds; all else about the translations is `translate`. The first ones must be
            # shallow: on streets, one seed, rounds of 300 steps take the guide from 50 mIoU on the target to 62 over
            # these depths, and to 56 over 60, 80, 100 (docs/results.md).
            depths=(10, 20, 40, 80),
            training=training(steps=300, batch_size=16, learning_rate=1e-3),  # of every round's fine-tuning
        )
    )

    config.student = ConfigDict(
        dict(  # a segmenter trained on the exported translations
            network="",  # as segmenter.network, which it is where this is ""
            training=training(steps=1500, batch_size=16, learning_rate=2e-3),
        )
    )

    config.export = ConfigDict(dict(layout="folders"))  # of export_streets: "folders" or "cityscapes"

    config.compare = ConfigDict(
        dict(  # methods side by side: same student, same budget, same judge (sgg_jax/comparison.py)
            methods=("none_plain", "none", "color", "fda", "sdedit", "gsg", "lcg", "sgg", "sgg_ptl", "oracle"),
            seeds=(0, 1, 2),
            # Candidates of the baselines' own settings: the best on data.val for config.seed is used for all.
            sdedit_depths=(300, 400, 500, 600, 700),  # 600 is best on streets (docs/results.md)
            sdedit_steps=0,  # reverse steps of unguided SDEdit, whose depths are large; 0 for translate.steps
            fda_betas=(0.05, 0.1, 0.2),
        )
    )

    config.evaluate = ConfigDict(
        dict(
            # Images (or windows) at once on each device; one where images have sizes of their own.
            batch_size=32,
            # Scores are counted in the resolution of the label files: logits are upsampled to it.
            sliding=False,  # show images in windows of data.size; False shows each as a whole, at its role's size
            overlap=0.5,  # share of a window that the next one covers again; their logits are averaged
            flip=False,  # average the probabilities with those of the mirror image
            overlays=8,  # test images, the first, of which evaluation/overlays/ has pictures; 0 for none
        )
    )

    config.report = ConfigDict(
        dict(
            examples=6,  # rows of the pictures
        )
    )
    return config
