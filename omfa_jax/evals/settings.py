"""Settings of the evaluation that runs inside a training run."""

from dataclasses import dataclass

from omfa_jax.diffusion.denoising_loop import SamplerSettings


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The held-out loss, and PSNR and SSIM of `examples` sampled examples (0: the loss alone).

    `split` "" is val if the records have one, else test. `seed` fixes all of the evaluation's
    noise. The loss is of `loss_examples` at `loss_timesteps` noise levels each. `tasks` and
    `sampler` are those of the sampled examples, which are read from `image_records`.
    """

    split: str
    seed: int
    loss_examples: int
    loss_timesteps: int
    examples: int
    tasks: tuple[str, ...]
    sampler: SamplerSettings
    image_records: str
    compute_dtype: str
    attention: str
