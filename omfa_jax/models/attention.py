"""Attention: the reference kernel, which a faster one may replace, and its four projections."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from omfa_jax.models.compute import HEAD_AXES, AttentionKernel, Compute
from omfa_jax.models.layers import dense


def attention(
    q: Float[Array, "b l n d"], k: Float[Array, "b s n d"], v: Float[Array, "b s n d"]
) -> Float[Array, "b l n d"]:
    """Return softmax(q k^T / sqrt(d)) v for each head n, with a float32 softmax.

    The softmax is normalised last, on the output instead of the l x s weights. With heads before
    tokens, XLA on a CPU differentiates this three times as fast as `jax.nn.dot_product_attention`.
    """
    # scaling the queries touches l x d values, scaling the scores l x s
    q, k, v = (array.swapaxes(1, 2) for array in (q * q.shape[-1] ** -0.5, k, v))
    scores = jnp.einsum("bnld,bnsd->bnls", q, k, preferred_element_type=jnp.float32)
    # the maximum cancels in the quotient, so its gradient is zero and need not be computed
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    mixed = jnp.einsum(
        "bnls,bnsd->bnld", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (mixed / total).astype(v.dtype).swapaxes(1, 2)


def chunked_attention(
    q: Float[Array, "b l n d"], k: Float[Array, "b s n d"], v: Float[Array, "b s n d"], run: int
) -> Float[Array, "b l n d"]:
    """Return `attention` over chunks of `run` queries: scores take run x s values, not l x s."""
    # batch_size runs a last, shorter chunk too, so `run` need not divide the length
    by_query = jax.lax.map(
        lambda one: attention(one[:, None], k, v)[:, 0], q.swapaxes(0, 1), batch_size=run
    )
    return by_query.swapaxes(0, 1)


def attend(
    x: Float[Array, "b l c"],
    context: Float[Array, "b s e"],
    heads: int,
    compute: Compute,
    *,
    use_bias: bool,
    kernel: AttentionKernel = attention,
) -> Float[Array, "b l c"]:
    """Attend from `x` to `context`, with projections created in the calling module.

    `use_bias` applies to queries, keys and values; the output projection always has a bias.
    `kernel` has the signature of `attention`.
    """
    channels = x.shape[-1]

    def project(name: str, source: Array) -> Array:
        projected = dense(channels, name, compute, use_bias=use_bias)(source)
        split = projected.reshape(*source.shape[:2], heads, channels // heads)
        return compute.constrain_activation(split, HEAD_AXES)

    mixed = kernel(project("to_q", x), project("to_k", context), project("to_v", context))
    return dense(channels, "to_out.0", compute)(mixed.reshape(x.shape))


def self_attention_fn(compute: Compute) -> AttentionKernel:
    """Return the kernel for self-attention of image tokens, as chosen for the devices.

    Cross-attention to the text always uses `attention`: 77 tokens are not a multiple of any fast
    kernel's block size, and their scores are small.
    """
    kernel = compute.kernel or attention
    # keeps q, k and v, from which the backward pass recomputes the l x l weights
    return jax.checkpoint(kernel) if compute.remat == "attention" else kernel


class Attention(nn.Module):
    """Multi-head self- or cross-attention of a transformer block."""

    heads: int
    compute: Compute
    kernel: AttentionKernel = attention

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l c"], context: Float[Array, "b s e"]
    ) -> Float[Array, "b l c"]:
        return attend(x, context, self.heads, self.compute, use_bias=False, kernel=self.kernel)
