"""Lines that the tests must guard, each with a way to break it and the tests that notice.

Lines are found by their text, anywhere in the package, so that files may move. A renamed symbol
must be renamed in its row; `python bench/mutations.py --check` names the rows that no longer fit.
"""

from typing import NamedTuple


class Mutation(NamedTuple):
    """`old` occurs exactly once in the package; `tests` are file names without `.py`."""

    name: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation(
        "mask: clean parts are kept",
        "return jnp.where(mask, generated, clean)",
        "return generated",
        "test_partial_diffusion",
    ),
    Mutation(
        "corruption: the noise's sign",
        "broadcast_per_example(alpha) * x0 + broadcast_per_example(sigma) * eps, x0\n",
        "broadcast_per_example(alpha) * x0 - broadcast_per_example(sigma) * eps, x0\n",
        "test_partial_diffusion",
    ),
    Mutation(
        "prediction: the v target",
        "return broadcast_per_example(alpha) * eps - broadcast_per_example(sigma) * x0",
        "return broadcast_per_example(alpha) * eps + broadcast_per_example(sigma) * x0",
        "test_partial_diffusion",
    ),
    Mutation(
        "prediction: x0 of v",
        "return a * xt - s * output, a * output + s * xt",
        "return a * xt + s * output, a * output + s * xt",
        "test_partial_diffusion test_samplers",
    ),
    Mutation(
        "network input: clean holds no noised part",
        '"clean": lambda: jnp.where(mask, 0.0, xt),',
        '"clean": lambda: xt,',
        "test_partial_diffusion",
    ),
    Mutation(
        "loss: the mean is over M",
        "return total / jnp.maximum(jnp.sum(mask, axis=(1, 2, 3)), 1)",
        "return total / mask[0].size",
        "test_partial_diffusion",
    ),
    Mutation(
        "loss: min-SNR weight for v",
        'return clipped / (snr + 1.0) if prediction == "v"',
        'return clipped / snr if prediction == "v"',
        "test_partial_diffusion test_zero_snr",
    ),
    Mutation(
        "guidance: the formula",
        "unconditional + scale * (conditional - unconditional)",
        "conditional + scale * (conditional - unconditional)",
        "test_partial_diffusion test_samplers",
    ),
    Mutation(
        "guidance: the order of the branches",
        "jnp.concatenate(pair) for pair in zip((xt, pose, prompt), null, strict=True)",
        "jnp.concatenate(pair[::-1]) for pair in zip((xt, pose, prompt), null, strict=True)",
        "test_partial_diffusion test_samplers",
    ),
    Mutation(
        "guidance: rescaling over M only",
        "squared = jnp.where(mask, (values - mean) ** 2, 0.0)",
        "squared = (values - mean) ** 2",
        "test_samplers",
    ),
    Mutation(
        "DDIM: the weight of x0",
        "return keep, alpha_next - alpha * keep",
        "return keep, alpha_next - alpha",
        "test_samplers",
    ),
    Mutation(
        "DDIM: the last step goes to alpha_bar_0",
        "after = np.maximum(times - schedule.train_steps // steps, 0)",
        "after = np.maximum(times - schedule.train_steps // steps, 20)",
        "test_samplers",
    ),
    Mutation(
        "schedule: trailing timesteps",
        "times = np.round(np.arange(total, 0, -total / steps)) - 1",
        "times = np.round(np.arange(total, 0, -total / steps)) - 2",
        "test_schedule test_samplers",
    ),
    Mutation(
        "condition dropout: the noised part stays",
        "jnp.where(dropped & ~mask, 0.0, xt),",
        "jnp.where(dropped, 0.0, xt),",
        "test_partial_diffusion",
    ),
    Mutation(
        "EMA: the warm-up of its decay",
        "(1.0 + n) / (10.0 + n)",
        "(2.0 + n) / (10.0 + n)",
        "test_state test_training",
    ),
    Mutation(
        "step: a bad batch changes nothing",
        "jnp.where(good, moved, kept), new, old)",
        "moved, new, old)",
        "test_metrics_buffer",
    ),
    Mutation(
        "random keys: each step has its own",
        "zlib.crc32(name.encode())), step)",
        "zlib.crc32(name.encode())), 0)",
        "test_objective test_training",
    ),
    Mutation(
        "random keys: each row has its own",
        "return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)",
        "return jax.vmap(lambda row: jax.random.fold_in(key, 0 * row))(rows)",
        "test_objective test_positions",
    ),
    Mutation(
        "data order: a folder's next record",
        "block * self._parts[dataset] + int(self._rank[place])",
        "block * self._parts[dataset]",
        "test_mixture",
    ),
    Mutation(
        "data order: folders are spread evenly",
        "when = (rank + 0.5) / np.repeat(parts, parts)",
        "when = rank + 0.5",
        "test_mixture",
    ),
    Mutation(
        "data position: batches of worker processes",
        "self._consumed += 1",
        "self._consumed += 2",
        "test_pipeline test_mixture",
    ),
    Mutation(
        "sharding: the rule of a feed-forward kernel",
        '(r"/(to_out\\.0|net\\.2)/kernel$", ("tensor", "fsdp")),',
        '(r"/(to_out\\.0|net\\.2)/kernel$", ("fsdp", "tensor")),',
        "test_partition_specs test_mesh_resolution test_sharding_rules",
    ),
    Mutation(
        "sharding: fsdp takes the largest dimension",
        "max(free, key=lambda index: shape[index])",
        "min(free, key=lambda index: shape[index])",
        "test_partition_specs test_mesh_resolution test_sharding_rules",
    ),
    Mutation(
        "gather: axes are counted from the last",
        "cut[0] - len(leaf.shape) if cut else None",
        "cut[0] if cut else None",
        "test_sharding_rules test_heldout",
    ),
    Mutation(
        "scatter: gradients are summed along their axis",
        'psum_scatter(full, "fsdp", scatter_dimension=axis, tiled=True),)',
        'psum_scatter(full, "fsdp", scatter_dimension=axis, tiled=True) * 2,)',
        "test_sharding_rules test_training",
    ),
    Mutation(
        "gradient: the mean over microbatches",
        "return jax.lax.psum(leaf, rest) / (parts * grad_accum_steps)",
        "return jax.lax.psum(leaf, rest) / parts",
        "test_positions test_training",
    ),
    Mutation(
        "batch: each host's rows of the global batch",
        "rows = np.arange(shard * count, (shard + 1) * count, dtype=np.int32)",
        "rows = np.arange(count, dtype=np.int32)",
        "test_positions test_processes",
    ),
    Mutation(
        "checkpoint: checksums are compared",
        "sums[name] != record[name][0]), None)",
        "sums[name] < 0), None)",
        "test_checksums test_damage",
    ),
    Mutation(
        "checkpoint: the data position is the step's",
        "if consumed != step:",
        "if consumed < 0:",
        "test_damage",
    ),
    Mutation(
        "retention: of equal checkpoints the earliest is best",
        "kept = scores.index(best) if best < math.inf else None",
        "kept = len(scores) - 1 - scores[::-1].index(best) if best < math.inf else None",
        "test_retention",
    ),
    Mutation(
        "weights: a convolution's transposition",
        '("kernel", 4): ("weight", (3, 2, 0, 1)),',
        '("kernel", 4): ("weight", (3, 2, 1, 0)),',
        "test_tensor_names test_convert",
    ),
    Mutation(
        "weights: a word of the name table",
        '"proj_attn": "to_out.0",',
        '"proj_attn": "to_out.1",',
        "test_tensor_names test_convert",
    ),
    Mutation(
        "weights: the groups of conv_in",
        "start : start + channels]\n            start += channels",
        "start : start + channels]\n            start += 0",
        "test_conv_in",
    ),
    Mutation(
        "images: the letter box is centred",
        "width = min(width_px, max(1, round(source_width * scale)))\n"
        "    return (height_px - height) // 2, (",
        "width = min(width_px, max(1, round(source_width * scale)))\n    return 0, (",
        "test_images test_decode_record",
    ),
    Mutation(
        "faces: the box rises above the eyes",
        "y - RISE_IN_HEAD_WIDTHS * head_width, side)",
        "y + RISE_IN_HEAD_WIDTHS * head_width, side)",
        "test_face_box",
    ),
    Mutation(
        "pose maps: y is up and z to the viewer",
        "vertex_normals(vertices, faces) * (1.0, -1.0, -1.0)",
        "vertex_normals(vertices, faces) * (1.0, 1.0, -1.0)",
        "test_body_render",
    ),
    Mutation(
        "pose maps: a flip turns red round",
        "red = np.clip(np.round(full - flipped[..., 0]), 0, 255)",
        "red = np.clip(np.round(flipped[..., 0]), 0, 255)",
        "test_augment",
    ),
    Mutation(
        "labels: the order of a label set",
        '*("pants", "torso_skin", "scarf", "skirt"',
        '*("pants", "scarf", "torso_skin", "skirt"',
        "test_labels",
    ),
    Mutation(
        "metrics: PSNR's peak",
        "10 * float(np.log10(PEAK**2 / error))",
        "10 * float(np.log10(PEAK / error))",
        "test_evals test_eval_metrics",
    ),
    Mutation(
        "metrics: SSIM's window",
        '"sigma": 1.5,',
        '"sigma": 1.6,',
        "test_eval_metrics",
    ),
    Mutation(
        "influence: every condition is another's",
        "swapped[order] = np.roll(order, 1)",
        "swapped[order] = order",
        "test_evals",
    ),
    Mutation(
        "scaling: the law about its centre",
        "out[..., 0] += theta[..., 3] * center[0]",
        "out[..., 0] -= theta[..., 3] * center[0]",
        "test_scaling_law",
    ),
    Mutation(
        "exit status: a full disk is not restarted",
        'errnos=("ENOSPC", "EDQUOT", "EFBIG"),',
        'errnos=("EDQUOT", "EFBIG"),',
        "test_exit_status",
    ),
    Mutation(
        "bounds: the upper end of a number",
        "high = found < self.maximum if self.exclusive_maximum else found <= self.maximum",
        "high = True",
        "test_cli_flags test_config_table",
    ),
    Mutation(
        "atomic write: a failure leaves nothing",
        "if temporary is not None:\n            temporary.unlink(missing_ok=True)",
        "pass",
        "test_images test_kills test_exit_status test_outputs",
    ),
)
