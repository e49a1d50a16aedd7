"""Every config value with its default, unit and reason; other configs start here and change a few.

    omfa train --config configs/base.py --workdir runs/base \
        --config.data.records=RECORDS --config.model.init=DIR_OF_IMPORTED_SDXL

The sizes are SDXL's at 768x1024; configs/vitonhd.py names hardware and hours. Any value can be
overridden on the command line, for example --config.train.steps=1000.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the full configuration at SDXL size."""
    config = ConfigDict()
    # "partial_diffusion" trains the UNet; "autoencoder" trains the VAE (only the tiny model does)
    config.objective = "partial_diffusion"
    config.seed = 0

    config.model = ConfigDict()
    config.model.unet = "sdxl"  # a preset of models/presets.py; ignored if `init` has a UNet
    config.model.vae = "sdxl"  # a preset, as for the UNet
    # folder in diffusers form to initialize from: UNet, VAE and prompt table ("" = random)
    config.model.init = ""
    # False: take only the VAE and the prompts from `init`, and initialize the UNet at random
    config.model.init_unet = True
    # train even if the scheduler of `init` says that its UNet was trained with another prediction
    # type or noise schedule than config.diffusion; by default that is an error
    config.model.ignore_scheduler = False
    # ablation: a second UNet for the clean components, whose self-attention features the main UNet
    # attends to (docs/ablation.md)
    config.model.reference = False

    # task -> components that it noises, relative weight in training, prompt. To add a task such as
    # joint = ("garment", "person") in your own config, use `with config.unlocked():`
    config.tasks = ConfigDict()
    config.tasks.try_on = ConfigDict(
        {"noised": ("person",), "weight": 0.5, "prompt": "a person wearing the garment"}
    )
    config.tasks.try_off = ConfigDict(
        {"noised": ("garment",), "weight": 0.5, "prompt": "the garment worn by the person"}
    )

    config.canvas = ConfigDict()
    # "spatial": slots side by side; "channel": slots stacked on channels (the paper's ablation)
    config.canvas.layout = "spatial"
    # (height, width) in pixels. The face slot is smaller: at full size it would cost 62% more FLOPs
    config.canvas.garment = (1024, 768)
    config.canvas.person = (1024, 768)
    config.canvas.face = (512, 384)

    config.diffusion = ConfigDict()
    # ("noisy", "mask", "clean", "pose") fits weights in the style of SDXL-inpainting and IDM-VTON
    config.diffusion.unet_inputs = ("noisy", "mask", "pose")
    config.diffusion.prediction = "epsilon"  # or "v"
    # make the last timestep pure noise (arXiv 2305.08891). Use spacing="trailing" with "v". With
    # "epsilon" (IDM-VTON) use "leading", which skips the last timestep: it has no signal to predict
    config.diffusion.zero_terminal_snr = False
    # timestep spacing of the sampler: "leading" (SDXL's), "trailing" or "linspace"
    config.diffusion.spacing = "leading"
    config.diffusion.steps_offset = 1  # of "leading" timesteps; SDXL's
    # min-SNR-gamma loss weight (arXiv 2303.09556, which uses 5); 0 = uniform weight
    config.diffusion.min_snr_gamma = 0.0
    # probability of dropping all conditions, for classifier-free guidance; the paper's
    config.diffusion.condition_dropout = 0.05

    config.timesteps = ConfigDict()  # distribution of the training timesteps
    config.timesteps.name = "uniform"  # SDXL's; or "logit_normal" (arXiv 2403.03206)
    config.timesteps.logit_mean = 0.0  # above 0: more of the noisier timesteps
    config.timesteps.logit_std = 1.0

    config.data = ConfigDict()
    config.data.records = ""  # folder written by `omfa data build`
    config.data.latents = ""  # folder written by `omfa data latents`; used instead of records
    # weighted folders of one kind: "DIR=0.7,DIR=0.3" draws 70% of the examples from the first; used
    # instead of both ("" = a single folder)
    config.data.mixture = ""
    config.data.split = "train"
    # style of the pose maps (`omfa data poses --style`): "normals", "positions", "parts", "shaded".
    # It is saved with the model, so that inference renders poses in the same style
    config.data.pose_style = "normals"
    config.data.threads = 8  # decoding threads per host, or per worker process if there are any
    config.data.prefetch = 16  # decoded batches kept ready, per host or per worker process
    # worker processes per host; 0 = decode in threads of the host's process, which is enough for
    # latents. For images on a host with many cores use 4 to 16
    config.data.processes = 0
    # probability that garment and face come from another photo of the same outfit; 0 = always from
    # the photo itself (VITON-HD has one photo per outfit)
    config.data.multi_pose_prob = 0.0
    # sample stored latents from the VAE's posterior instead of using its mean
    config.data.sample_latents = False

    # augmentation, for image records only; the defaults change nothing
    config.data.augment = ConfigDict()
    # probability of a horizontal flip of all images; text on clothes is mirrored too
    config.data.augment.flip_prob = 0.0
    config.data.augment.scale = (1.0, 1.0)  # (min, max) zoom of an image within its slot
    config.data.augment.shift = 0.0  # max translation, as a fraction of the slot's sides
    # color factors are sampled from 1 +- these values, once for all images of an example, so that
    # the garment keeps the same color in each
    config.data.augment.brightness = 0.0
    config.data.augment.contrast = 0.0
    config.data.augment.saturation = 0.0

    config.train = ConfigDict()
    config.train.steps = 65_000  # the paper's
    config.train.batch_size = 8  # global, over all devices; the paper's
    # microbatches per step; activations take the memory of batch_size / grad_accum_steps examples
    config.train.grad_accum_steps = 1
    config.train.compute_dtype = "bfloat16"  # parameters, norms and loss stay float32
    # activation rematerialization: "none", "attention", "block" or "full"
    config.train.remat = "block"
    # attention kernel of image tokens: "auto" = cuDNN on NVIDIA in bfloat16, splash on TPU, else
    # "xla"
    config.train.attention = "auto"
    config.train.ema_decay = 0.9999  # 0 = no EMA
    # at a NaN or infinite loss or gradient: "stop" the run, or "skip" the update
    config.train.on_nonfinite = "stop"

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or "muon", which needs fewer steps from scratch
    # the paper does not publish its rate; this one is of related work (docs/method.md)
    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup_steps = 500  # linear
    config.optimizer.lr_schedule = "constant"  # or "cosine", which decays to 0 at train.steps
    config.optimizer.weight_decay = 0.01
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.clip_norm = 1.0  # global gradient norm; 0 = no clipping
    config.optimizer.mu_dtype = "float32"  # of the first moment; bfloat16 saves 2 bytes per weight
    # muP (docs/ladder.md): preset on which the learning rate was tuned, of the same levels and
    # layers ("ladder_32"); the rate then transfers to wider presets. AdamW only; "" = off
    config.optimizer.mup_base = ""

    config.mesh = ConfigDict()
    config.mesh.data = -1  # data-parallel devices; -1 = all that are left
    # devices over which parameters, moments and EMA are sharded; -1 = of the devices left, the
    # count with the fewest bytes per device (with 12 devices: fsdp 4, data 3, because 12 divides
    # none of SDXL's widths)
    config.mesh.fsdp = 1
    config.mesh.tensor = 1  # tensor-parallel devices
    config.mesh.slice = 1  # TPU slices; only gradients are summed across them
    # train even if fsdp or tensor shards less than 90% of the parameters' bytes, which a small
    # model may afford
    config.mesh.allow_replicated = False

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000
    config.checkpoint.max_to_keep = 3  # the newest ones
    config.checkpoint.keep_every_steps = 0  # also keep every checkpoint at a multiple; 0 = none
    config.checkpoint.keep_best_of = ""  # also keep the one with the lowest of this metric: "loss"
    # workdir whose newest checkpoint initializes the weights, if this workdir has no checkpoint yet
    config.checkpoint.start_from = ""

    config.log = ConfigDict()
    config.log.every_steps = 20
    config.log.samples_every_steps = 1000  # sample images; 0 = never
    config.log.samples = 4  # images per task
    config.log.wandb_project = ""  # also log to this Weights & Biases project (extra `wandb`)

    # metrics of held-out examples, logged as eval/...; they need no pretrained network
    # (`omfa eval --checkpoint` scores a complete split under a protocol)
    config.eval = ConfigDict()
    config.eval.every_steps = 0  # 0 = never
    config.eval.split = ""  # "" = val if the records have one, else test
    config.eval.seed = 0  # of all noise; use one seed for all runs that are compared
    # held-out loss, on what training reads (latents or images): examples, and noise levels (a
    # multiple of 4) for each example and task; the noise is the same each time
    config.eval.loss_examples = 64
    config.eval.loss_timesteps = 8
    # PSNR and SSIM of sampled examples, this many per task (0 = only the loss). They need image
    # records (config.data.records), and gather the weights on every host as sample images do
    config.eval.examples = 8
    config.eval.tasks = ("try_on", "try_off")  # or any other row that generates garment or person
    config.eval.steps = 20  # denoising steps; the sampler's other settings are config.sample's

    config.autoencoder = ConfigDict()  # only for objective = "autoencoder"
    config.autoencoder.crop_px = 64  # side of the square training crops
    config.autoencoder.latent_noise = 0.0  # std of the decoder's input noise, in latent stds
    config.autoencoder.decoder_of = (
        ""  # model folder: train only its decoder; latents do not change
    )

    config.sample = ConfigDict()
    config.sample.steps = 50
    config.sample.guidance = 2.0  # classifier-free guidance scale; 1 = none, at half the cost
    config.sample.sampler = "ddim"  # the paper's; or "euler", "dpmpp_2m"
    config.sample.guidance_rescale = 0.0  # 0..1; arXiv 2305.08891 uses 0.7 with zero terminal SNR
    # locked, so that a misspelt key in a config is an error instead of a new key
    return config.lock()
