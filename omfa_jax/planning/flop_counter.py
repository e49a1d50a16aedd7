"""A network's parameters and FLOPs in closed form, by kind of layer, forward and training step.

Counts as XLA does: two FLOPs per multiply-add, none for convolution taps on padding, and
elementwise operations one by one (`pointwise`).
"""

from dataclasses import dataclass, field

# FLOPs per element, (forward, training step), in XLA's count of the unoptimised program: there a
# power is free and an erfc is a polynomial of 60. "score" is softmax's maximum, difference and sum;
# "query" is the scaling of queries and the division of outputs.
POINTWISE = {
    "group_norm": (7, 19),
    "silu": (4, 10),
    "layer_norm": (8, 23),
    "geglu": (67, 79),
    "score": (3, 5),
    "query": (2, 6),
    "bias": (1, 2),
    "sum": (1, 2),
    "skip": (0, 1),
}


@dataclass
class LayerCost:
    """Parameters of one kind of layer, and FLOPs per example: forward, and a training step."""

    params: int = 0
    forward: int = 0
    step: int = 0


@dataclass
class FlopCounter:
    """A network's cost by kind of layer; layers are added one by one.

    A part's `step` is forward and backward without remat and without the optimizer (about 15 FLOPs
    per parameter and update). Attention parts have projections and products; softmax, norms,
    biases, activations and sums are `pointwise`; `other` are the embeddings of time and size and
    the linear layers around transformers. `padding` and `scores` are forward FLOPs: convolution
    taps on padding, which matrix units compute and torch counts but no part includes; attention's
    products.
    """

    conv: LayerCost = field(default_factory=LayerCost)
    self_attention: LayerCost = field(default_factory=LayerCost)
    cross_attention: LayerCost = field(default_factory=LayerCost)
    feed_forward: LayerCost = field(default_factory=LayerCost)
    other: LayerCost = field(default_factory=LayerCost)
    pointwise: LayerCost = field(default_factory=LayerCost)
    padding: int = 0
    scores: int = 0

    @property
    def layer_costs(self) -> dict[str, LayerCost]:
        """The parts by name."""
        return {name: part for name, part in vars(self).items() if isinstance(part, LayerCost)}

    @property
    def total(self) -> LayerCost:
        """Sum of all parts."""
        parts = self.layer_costs.values()
        return LayerCost(
            sum(part.params for part in parts),
            sum(part.forward for part in parts),
            sum(part.step for part in parts),
        )

    def add_dense(
        self,
        part: LayerCost,
        rows: int,
        c_in: int,
        c_out: int,
        *,
        bias: bool = True,
        inner: bool = True,
    ) -> None:
        """Add a linear layer on `rows` vectors; not `inner`: its input needs no gradient."""
        products = 2 * rows * c_in * c_out
        part.params += c_in * c_out + bias * c_out
        part.forward += products
        # backward: one product for the weights' gradient, one for the input's
        part.step += (2 + inner) * products
        if bias:
            self.add_pointwise("bias", rows * c_out)

    def add_convolution(
        self,
        size: tuple[int, int],
        c_in: int,
        c_out: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        pad: tuple[int, int] = (1, 1),
        inner: bool = True,
    ) -> tuple[int, int]:
        """Add a square convolution on an image of `size`; return the size of its output."""
        if kernel == 1:
            pad = (0, 0)
        (high, taps_high), (wide, taps_wide) = (
            _taps(length, kernel, stride, pad) for length in size
        )
        products = 2 * taps_high * taps_wide * c_in * c_out
        self.conv.params += (kernel * kernel * c_in + 1) * c_out
        self.conv.forward += products
        self.conv.step += (2 + inner) * products
        # torch's rule counts these too, so the difference is kept for comparisons
        self.padding += 2 * high * wide * kernel * kernel * c_in * c_out - products
        self.add_pointwise("bias", high * wide * c_out)
        return high, wide

    def add_attention(
        self,
        part: LayerCost,
        tokens: int,
        keys: int,
        channels: int,
        heads: int,
        c_keys: int,
        bias: bool,
    ) -> None:
        """Add attention of `tokens` to `keys` vectors of width `c_keys`, projections included."""
        # the text encoder is frozen: in cross-attention no gradient flows to keys and values
        among_itself = part is self.self_attention
        self.add_dense(part, tokens, channels, channels, bias=bias)
        for _ in ("keys", "values"):
            self.add_dense(part, keys, c_keys, channels, bias=bias, inner=among_itself)
        self.add_dense(part, tokens, channels, channels)
        # two products, q k^T and weights v, at two FLOPs per multiply-add
        products = 4 * tokens * keys * channels
        part.forward += products
        part.step += 3 * products
        self.scores += products
        self.add_pointwise("score", tokens * keys * heads)
        self.add_pointwise("query", tokens * channels)

    def add_norm(self, kind: str, elements: int, channels: int) -> None:
        """Add a norm over `elements` numbers with a scale and a shift per channel."""
        self.pointwise.params += 2 * channels
        self.add_pointwise(kind, elements)

    def add_pointwise(self, kind: str, count: int) -> None:
        """Add `count` elements of a row of `POINTWISE`."""
        forward, step = POINTWISE[kind]
        self.pointwise.forward += forward * count
        self.pointwise.step += step * count

    def add_resnet(self, size: tuple[int, int], c_in: int, c_out: int, embed: int = 0) -> None:
        """Add a residual block; `embed` is the width of the time embedding, 0 without one."""
        pixels = size[0] * size[1]
        for c, layer_in in ((c_in, c_in), (c_out, c_out)):
            self.add_norm("group_norm", pixels * c, c)
            self.add_pointwise("silu", pixels * c)
            self.add_convolution(size, layer_in, c_out)
        if embed:
            self.add_dense(self.other, 1, embed, c_out)
            self.add_pointwise("sum", pixels * c_out)
        if c_in != c_out:
            self.add_convolution(size, c_in, c_out, kernel=1)
        self.add_pointwise("sum", pixels * c_out)

    def add_transformer(
        self,
        tokens: int,
        c: int,
        heads: int,
        depth: int,
        keys: int,
        c_keys: int,
        *,
        joined: int = 0,
        ends: bool = False,
    ) -> None:
        """Add `depth` transformer blocks between their two linear layers; nothing if depth is 0.

        Self-attention also attends to `joined` tokens of another network. With `ends` the network
        ends with the last block, without the second linear layer.
        """
        if not depth:
            return
        self.add_norm("group_norm", tokens * c, c)
        self.add_dense(self.other, tokens, c, c)
        for _ in range(depth):
            for _ in ("norm1", "norm2", "norm3"):
                self.add_norm("layer_norm", tokens * c, c)
                self.add_pointwise("sum", tokens * c)
            self.add_attention(
                self.self_attention, tokens, tokens + joined, c, heads, c, bias=False
            )
            self.add_attention(self.cross_attention, tokens, keys, c, heads, c_keys, bias=False)
            # GEGLU: value and gate, each four times as wide
            self.add_dense(self.feed_forward, tokens, c, 8 * c)
            self.add_pointwise("geglu", tokens * 4 * c)
            self.add_dense(self.feed_forward, tokens, 4 * c, c)
        if ends:
            return
        self.add_dense(self.other, tokens, c, c)
        self.add_pointwise("sum", tokens * c)

    def add_spatial_attention(self, size: tuple[int, int], c: int) -> None:
        """Add the VAE's single-head attention over all pixels."""
        pixels = size[0] * size[1]
        self.add_norm("group_norm", pixels * c, c)
        self.add_attention(self.self_attention, pixels, pixels, c, 1, c, bias=True)
        self.add_pointwise("sum", pixels * c)

    def add_output_layers(self, size: tuple[int, int], c: int, c_out: int) -> None:
        """Add a network's final norm, activation and convolution."""
        self.add_norm("group_norm", size[0] * size[1] * c, c)
        self.add_pointwise("silu", size[0] * size[1] * c)
        self.add_convolution(size, c, c_out)


def _taps(length: int, kernel: int, stride: int, pad: tuple[int, int]) -> tuple[int, int]:
    """Return (outputs along one side, how many of their taps fall on the input)."""
    outputs = (length + sum(pad) - kernel) // stride + 1
    starts = [index * stride - pad[0] for index in range(outputs)]
    return outputs, sum(min(start + kernel, length) - max(start, 0) for start in starts)
