"""The transformer of a UNet level: a stack of blocks over image tokens, run as a scan."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from omfa_jax.models.attention import Attention, self_attention_fn
from omfa_jax.models.compute import HIDDEN_AXES, IMAGE_AXES, TOKEN_AXES, Compute
from omfa_jax.models.layers import GroupNorm, dense, layer_norm

# the Flax collection of normed tokens that a reference UNet stores and a main UNet reads
FEATURES = "features"


class GEGLU(nn.Module):
    """A linear layer whose first half is gated by an exact (erf) GELU of the second half."""

    features: int
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b l c"]) -> Float[Array, "b l f"]:
        x = self.compute.constrain_activation(
            dense(2 * self.features, "proj", self.compute)(x), HIDDEN_AXES
        )
        value, gate = jnp.split(x, 2, axis=-1)
        # jax.nn.gelu defaults to the tanh approximation, PyTorch's to erf
        return value * jax.nn.gelu(gate, approximate=False)


class FeedForward(nn.Module):
    """The gated feed-forward network of a block, with four times the width inside."""

    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b l c"]) -> Float[Array, "b l c"]:
        channels = x.shape[-1]
        hidden = GEGLU(4 * channels, self.compute, name="net.0")(x)
        return dense(channels, "net.2", self.compute)(hidden)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention, cross-attention to the text and feed-forward, with residuals.

    Returns (tokens, None), the form that a scan over layers expects.
    """

    heads: int
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l c"], context: Float[Array, "b s e"]
    ) -> tuple[Float[Array, "b l c"], None]:
        compute = self.compute
        normed = layer_norm("norm1", compute)(x)
        kernel = self_attention_fn(compute)
        seen = self._join_tokens(normed)
        x = x + Attention(self.heads, compute, kernel, name="attn1")(normed, seen)
        normed = layer_norm("norm2", compute)(x)
        x = x + Attention(self.heads, compute, name="attn2")(normed, context)
        normed = layer_norm("norm3", compute)(x)
        x = x + FeedForward(compute, name="ff")(normed)
        return compute.constrain_activation(x, TOKEN_AXES), None

    def _join_tokens(self, normed: Float[Array, "b l c"]) -> Float[Array, "b s c"]:
        """Return the tokens of keys and values: the block's own, then those of a reference UNet.

        A reference UNet stores its tokens here. Without a reference the block's own are returned.
        """
        # at initialisation every collection is mutable: features would become a part of the model
        if self.is_initializing():
            return normed
        if self.is_mutable_collection(FEATURES):
            self.put_variable(FEATURES, "tokens", normed)
        elif self.has_variable(FEATURES, "tokens"):
            kept = self.get_variable(FEATURES, "tokens")
            return jnp.concatenate([normed, kept.astype(normed.dtype)], axis=1)
        return normed


class Transformer(nn.Module):
    """`depth` blocks over the flattened image between two linear layers, with a residual.

    The blocks' parameters are stored as one `transformer_blocks` with a leading layer axis and run
    under a scan: unrolled, SDXL compiles three times as slowly and in three times the memory.
    """

    depth: int
    heads: int
    groups: int
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], context: Float[Array, "b s e"]
    ) -> Float[Array, "b h w c"]:
        batch, height, width, channels = x.shape
        block, compute = TransformerBlock, self.compute
        if compute.remat in ("block", "full"):
            # within a scan XLA cannot merge the recomputation with the forward pass anyway
            block, compute = nn.remat(block, prevent_cse=False), compute.without_regather()
        stack = nn.scan(
            block,
            variable_axes={"params": 0, FEATURES: 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
            length=self.depth,
        )
        # epsilon is 1e-6 here and 1e-5 in the resnets, as in SDXL
        tokens = GroupNorm(self.groups, 1e-6, self.compute.dtype, name="norm")(x)
        tokens = tokens.reshape(batch, height * width, channels)
        tokens = self.compute.constrain_activation(
            dense(channels, "proj_in", self.compute)(tokens), TOKEN_AXES
        )
        tokens, _ = stack(self.heads, compute, name="transformer_blocks")(tokens, context)
        tokens = dense(channels, "proj_out", self.compute)(tokens)
        return self.compute.constrain_activation(x + tokens.reshape(x.shape), IMAGE_AXES)
