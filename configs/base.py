"""Every knob with its default, unit and reason; experiments start from here and change little.

Sizes are SDXL's at 768x1024. `omfa train --config configs/base.py --workdir DIR` trains it on
whatever `config.data.records` names; any line can be overridden: `--config.train.steps=1000`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the full configuration at SDXL size."""
    config = ConfigDict()
    # partial_diffusion trains the UNet; autoencoder trains the VAE (only the tiny model needs it)
    config.objective = "partial_diffusion"
    config.seed = 0

    config.model = ConfigDict()
    config.model.unet = "sdxl"  # a row of models/presets.py; ignored when `init` brings a UNet
    config.model.vae = "sdxl"  # likewise
    # a folder in diffusers form to start from: its UNet, VAE and prompt table ("" = random)
    config.model.init = ""
    # of `init`, take the UNet too (False: its VAE and prompts only, the UNet starts random)
    config.model.init_unet = True
    # train `init`'s UNet even if its scheduler says that it was trained otherwise than
    # config.diffusion does (another prediction type or schedule): that is refused, and said if so
    config.model.ignore_scheduler = False
    # the ablation: a second UNet for the clean components, whose self-attention features the main
    # one sees (docs/ablation.md)
    config.model.reference = False

    # which components a task noises, its share of the training examples, its prompt; a config of
    # your own adds rows under `with config.unlocked():`, such as joint: ("garment", "person")
    config.tasks = ConfigDict()
    config.tasks.try_on = ConfigDict(
        {"noised": ("person",), "weight": 0.5, "prompt": "a person wearing the garment"}
    )
    config.tasks.try_off = ConfigDict(
        {"noised": ("garment",), "weight": 0.5, "prompt": "the garment worn by the person"}
    )

    config.canvas = ConfigDict()
    config.canvas.layout = "spatial"  # or "channel", the ablation
    # (height, width) in pixels; the face needs fewer: a third full slot costs 62% more FLOPs
    config.canvas.garment = (1024, 768)
    config.canvas.person = (1024, 768)
    config.canvas.face = (512, 384)

    config.diffusion = ConfigDict()
    # ("noisy", "mask", "clean", "pose") fits SDXL-inpainting and IDM-VTON style weights
    config.diffusion.unet_inputs = ("noisy", "mask", "pose")
    config.diffusion.prediction = "epsilon"  # or "v"
    # the last timestep is pure noise; sample "v" with "trailing" timesteps then, and "epsilon", as
    # IDM-VTON was trained, with "leading" ones, which leave that timestep out
    config.diffusion.zero_terminal_snr = False
    # of the sampler's timesteps: "leading" is SDXL's; or "trailing", "linspace"
    config.diffusion.spacing = "leading"
    config.diffusion.steps_offset = 1  # of the "leading" timesteps; SDXL's
    config.diffusion.min_snr_gamma = (
        0.0  # 0 = uniform weight; 5 is the paper's choice of 2303.09556
    )
    config.diffusion.condition_dropout = 0.05  # the paper's

    config.timesteps = ConfigDict()  # how often training visits each
    config.timesteps.name = "uniform"  # SDXL's; or "logit_normal" (2403.03206)
    config.timesteps.logit_mean = 0.0  # above 0: more of the noisy ones
    config.timesteps.logit_std = 1.0

    config.data = ConfigDict()
    config.data.records = ""  # folder written by `omfa data build`
    config.data.latents = ""  # folder written by `omfa data latents`; takes precedence
    # train on several such folders of one kind: "DIR=0.7,DIR=0.3" gives seven of ten examples from
    # the first; takes precedence over both ("" = one folder)
    config.data.mixture = ""
    config.data.split = "train"
    # what `omfa data poses --style` drew; travels with the model, so that its poses are drawn alike
    config.data.pose_style = "normals"  # or "positions", "parts", "shaded"
    config.data.threads = 8  # decoding threads, of a host or of each of its processes
    config.data.prefetch = 16  # decoded batches kept ready, by a host or each of its processes
    # decode in so many processes a host: 0 = in its threads, enough for latents (they hardly wait
    # for each other); pictures on many cores gain from 4 to 16
    config.data.processes = 0
    # probability, 0..1, that garment and face come from another photo of the same outfit; 0 = each
    # photo by itself, all that VITON-HD has
    config.data.multi_pose_prob = 0.0
    # draw stored latents from the VAE's posterior, as a new encoding would, instead of their mean
    config.data.sample_latents = False

    # of image records only, drawn for every example; the defaults change nothing
    config.data.augment = ConfigDict()
    # probability of a horizontal flip of all images; letters on clothes are mirrored too
    config.data.augment.flip_prob = 0.0
    config.data.augment.scale = (1.0, 1.0)  # (least, most) that a picture is enlarged in its slot
    config.data.augment.shift = 0.0  # moved by up to this share of the slot's sides, cropped there
    # multiplied by 1 plus or minus up to these; all pictures alike: cloth keeps one colour
    config.data.augment.brightness = 0.0
    config.data.augment.contrast = 0.0
    config.data.augment.saturation = 0.0

    config.train = ConfigDict()
    config.train.steps = 65_000  # the paper's
    config.train.batch_size = 8  # over all devices; the paper's
    # microbatches a step, one after the other: the memory of batch_size / grad_accum_steps examples
    config.train.grad_accum_steps = 1
    config.train.compute_dtype = "bfloat16"  # parameters, norms and loss stay float32
    # recompute activations in the backward pass: "none", "attention", "block" or "full"
    config.train.remat = "block"
    # of image tokens: "auto" is cuDNN's on NVIDIA in bfloat16, splash on TPU, else XLA's ("xla")
    config.train.attention = "auto"
    config.train.ema_decay = 0.9999  # 0 = no EMA
    config.train.on_nonfinite = "stop"  # at a loss that is no number; or "skip" such steps

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or "muon": fewer steps from scratch
    config.optimizer.learning_rate = 1e-5  # unpublished; the sister work's
    config.optimizer.warmup_steps = 500
    config.optimizer.lr_schedule = "constant"  # or "cosine", to 0 at train.steps
    config.optimizer.weight_decay = 0.01
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.clip_norm = 1.0  # global gradient norm
    config.optimizer.mu_dtype = "float32"  # of the first moment; "bfloat16" saves 2 bytes a weight
    # muP (docs/ladder.md): the preset that the learning rate was found with, of the same levels and
    # layers ("ladder_32"); the rate then serves wider ones. AdamW only; "" = off
    config.optimizer.mup_base = ""

    config.mesh = ConfigDict()
    config.mesh.data = -1  # -1 = all devices that are left
    # weights, moments and EMA cut over this many; -1 = of the devices that are left, the count that
    # leaves the least on each (12 divide no width of SDXL's, 4 do: then 3 of data times 4)
    config.mesh.fsdp = 1
    config.mesh.tensor = 1
    config.mesh.slice = 1  # TPU slices, which only sum gradients with each other
    # train even where fsdp or tensor cuts less than 90% of the weights' bytes: a small model may
    # have the memory for it
    config.mesh.allow_replicated = False

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 1000
    config.checkpoint.max_to_keep = 3  # the last ones
    config.checkpoint.keep_every_steps = 0  # and one every so many steps, for good; 0 = none
    config.checkpoint.keep_best_of = ""  # and the one with the lowest of this metric: "loss"
    # a workdir to start the weights from (its newest step), when the own one holds no checkpoint
    config.checkpoint.start_from = ""

    config.log = ConfigDict()
    config.log.every_steps = 20
    config.log.samples_every_steps = 1000  # 0 = never
    config.log.samples = 4  # pictures a task
    config.log.wandb_project = ""  # also log to this Weights & Biases project (extra `wandb`)

    # figures of held-out examples, as eval/... in metrics.jsonl and TensorBoard; they need no
    # pretrained network (`omfa eval --checkpoint` scores a whole split under a protocol)
    config.eval = ConfigDict()
    config.eval.every_steps = 0  # 0 = never
    config.eval.split = ""  # "" = val if the records have one, else test
    config.eval.seed = 0  # of all its noise: one seed for all runs that are compared
    # the held-out loss, on what the training reads (latents or pictures): each example and task at
    # so many noise levels (a multiple of 4), always with the same noise
    config.eval.loss_examples = 64
    config.eval.loss_timesteps = 8
    # PSNR and SSIM of so many sampled examples a task (0 = the loss alone); they need image records
    # (config.data.records), and gather the weights on every host as sample pictures do
    config.eval.examples = 8
    config.eval.tasks = ("try_on", "try_off")
    config.eval.steps = 20  # of the sampler; its other settings are config.sample's

    config.autoencoder = ConfigDict()  # only for objective = "autoencoder"
    config.autoencoder.crop_px = 64  # side of the square training crops
    config.autoencoder.latent_noise = 0.0  # for the decoder, in standard deviations of latents
    config.autoencoder.decoder_of = ""  # a model folder: train its decoder alone, keep the latents

    config.sample = ConfigDict()
    config.sample.steps = 50
    config.sample.guidance = 2.0
    config.sample.sampler = "ddim"  # the paper's; or "euler", "dpmpp_2m"
    config.sample.guidance_rescale = 0.0  # 0..1; 0.7 is the choice of 2305.08891 for zero SNR
    # a misspelt knob in an experiment is then an error, not a new knob
    return config.lock()
