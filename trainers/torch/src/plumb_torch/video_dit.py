"""
The video diffusion transformer of packages/diffusion, written a second time.

Patches are cut by a convolution and put back by a transposed one, attention is PyTorch's own with the relative
position bias as its mask, so that no step is a transcription of the other implementation's.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TIME_FEATURES = 128

Weights = Mapping[str, Tensor]
Config = Mapping[str, Any]


class Shape:
    """Sizes and fixed tables of a model from its config, as the config is stored in model files."""

    def __init__(self, config: Config, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.dtype = dtype
        video, patch = config["video"], config["patch"]
        self.patch: tuple[int, int, int] = (patch["frames"], patch["height"], patch["width"])
        sides = ("frames", "height", "width")
        self.grid: tuple[int, ...] = tuple(video[side] // patch[side] for side in sides)
        self.clip: tuple[int, ...] = (3, *(video[side] for side in sides))
        self.tokens = math.prod(self.grid)
        self.width: int = config["hiddenSize"]
        self.hidden = math.floor(self.width * config["mlpRatio"] + 0.5)
        self.heads: int = config["heads"]
        self.depth: int = config["depth"]
        self.values = 3 * math.prod(self.patch)
        self.coordinate_features = coordinate_features(self).to(device, dtype)
        self.relative_index = relative_index(self).to(device)
        exponents = torch.arange(TIME_FEATURES // 2, dtype=torch.float64) / (TIME_FEATURES // 2)
        self.frequencies = (1000 * torch.exp(-math.log(10_000) * exponents)).to(device, dtype)

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight. Matrices are [inputs, outputs]."""
        width, caption = self.width, self.config["caption"]
        shapes: dict[str, tuple[int, ...]] = {}

        def linear(name: str, inputs: int, outputs: int) -> None:
            shapes[f"{name}.weight"] = (inputs, outputs)
            shapes[f"{name}.bias"] = (outputs,)

        linear("patch", self.values, width)
        shapes["position"] = (self.tokens, width)
        linear("time.0", TIME_FEATURES, width)
        linear("time.1", width, width)
        shapes["caption.words"] = (len(caption["vocabulary"]) + 1, caption["wordWidth"])
        linear("caption.0", caption["maxWords"] * caption["wordWidth"], 2 * width)
        linear("caption.1", 2 * width, width)
        for block in range(self.depth):
            name = f"blocks.{block}"
            linear(f"{name}.modulation", width, 6 * width)
            linear(f"{name}.attention.qkv", width, 3 * width)
            linear(f"{name}.attention.out", width, width)
            shapes[f"{name}.attention.relative"] = (math.prod(2 * n - 1 for n in self.grid), self.heads)
            linear(f"{name}.mlp.0", width, self.hidden)
            linear(f"{name}.mlp.1", self.hidden, width)
        linear("head.modulation", width, 2 * width)
        linear("head.out", width, self.values)
        return shapes


def coordinates(shape: Shape) -> Tensor:
    """Place of every token along the three axes, [tokens, 3]; width runs fastest."""
    ranges = [torch.arange(extent) for extent in shape.grid]
    return torch.stack(torch.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)


def coordinate_features(shape: Shape) -> Tensor:
    """Sine and cosine pairs of each axis in turn, from a quarter turn over the clip to half a turn a token."""
    pairs = shape.width // 6
    parts = []
    for axis, extent in enumerate(shape.grid):
        exponents = torch.arange(pairs, dtype=torch.float64) / max(pairs - 1, 1)
        turns = 0.25 * (2.0 * extent) ** exponents
        places = coordinates(shape)[:, axis].double() / extent
        angles = 2 * math.pi * places[:, None] * turns
        parts.append(torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
    features = torch.cat(parts, 1)
    return F.pad(features, (0, shape.width - features.shape[1]))


def relative_index(shape: Shape) -> Tensor:
    """[tokens, tokens]: which row of a table holds an offset in time, height and width; width runs fastest."""
    place = coordinates(shape)
    largest = torch.tensor(shape.grid) - 1
    offset = place[:, None] - place[None, :] + largest
    volume = torch.arange(math.prod(2 * n - 1 for n in shape.grid)).reshape(*(2 * n - 1 for n in shape.grid))
    return volume[offset[..., 0], offset[..., 1], offset[..., 2]]


def relative_bias(shape: Shape, table: Tensor) -> Tensor:
    """[heads, tokens, tokens]: a number a head for every offset."""
    return F.embedding(shape.relative_index, table).permute(2, 0, 1)


def time_features(shape: Shape, time: Tensor) -> Tensor:
    """[batch, TIME_FEATURES]"""
    angles = time[:, None] * shape.frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def linear(weights: Weights, name: str, value: Tensor) -> Tensor:
    return F.linear(value, weights[f"{name}.weight"].T, weights[f"{name}.bias"])


def modulated(shape: Shape, value: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(value, (shape.width,), eps=1e-6) * (1 + scale) + shift


def embed(shape: Shape, weights: Weights, x: Tensor, time: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """[batch, 3, frames, height, width] to tokens [batch, tokens, width], with what every block is conditioned on."""
    condition = linear(weights, "time.1", F.silu(linear(weights, "time.0", time_features(shape, time))))
    words = F.embedding(tokens, weights["caption.words"]).flatten(1)
    caption = linear(weights, "caption.1", F.silu(linear(weights, "caption.0", words)))
    kernel = weights["patch.weight"].T.reshape(shape.width, 3, *shape.patch)
    h = F.conv3d(x, kernel, weights["patch.bias"], stride=shape.patch).flatten(2).mT
    return h + weights["position"] + shape.coordinate_features, F.silu(condition + caption)


def block(shape: Shape, weights: Weights, h: Tensor, condition: Tensor) -> Tensor:
    """One block; its weights are named without `blocks.<n>.`"""
    chunks = linear(weights, "modulation", condition).unsqueeze(1).chunk(6, -1)
    shift1, scale1, gate1, shift2, scale2, gate2 = chunks
    q, k, v = linear(weights, "attention.qkv", modulated(shape, h, shift1, scale1)).chunk(3, -1)
    q, k, v = (part.reshape(*part.shape[:2], shape.heads, -1).transpose(1, 2) for part in (q, k, v))
    bias = relative_bias(shape, weights["attention.relative"]).to(q.dtype)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(h.shape[0], -1, -1, -1))
    h = h + gate1 * linear(weights, "attention.out", mixed.transpose(1, 2).flatten(2))
    hidden = F.silu(linear(weights, "mlp.0", modulated(shape, h, shift2, scale2)))
    return h + gate2 * linear(weights, "mlp.1", hidden)


def head(shape: Shape, weights: Weights, h: Tensor, condition: Tensor) -> Tensor:
    """[batch, tokens, width] to [batch, 3, frames, height, width]"""
    shift, scale = linear(weights, "head.modulation", condition).unsqueeze(1).chunk(2, -1)
    volume = modulated(shape, h, shift, scale).mT.reshape(h.shape[0], shape.width, *shape.grid)
    kernel = weights["head.out.weight"].reshape(shape.width, 3, *shape.patch)
    bias = weights["head.out.bias"].reshape(1, 3, *shape.patch).repeat(1, 1, *shape.grid)
    return F.conv_transpose3d(volume, kernel, stride=shape.patch) + bias


def network(shape: Shape, weights: Weights, x: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
    """What stands between the preconditioning: [batch, 3, frames, height, width] in and out."""
    h, condition = embed(shape, weights, x, time, tokens)
    for place in range(shape.depth):
        prefix = f"blocks.{place}."
        own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        h = block(shape, own, h, condition)
    return head(shape, weights, h, condition)


def levels(parameterisation: str, time: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise level at a time in [0, 1], shaped as `time`."""
    if parameterisation == "flow":
        return 1 - time, time
    return torch.cos(math.pi / 2 * time), torch.sin(math.pi / 2 * time)


def target_parts(parameterisation: str, signal: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """What the target is made of: (of the noise, of the clip)."""
    if parameterisation == "flow":
        return torch.ones_like(signal), -torch.ones_like(signal)
    if parameterisation == "epsilon":
        return torch.ones_like(signal), torch.zeros_like(signal)
    return signal, -level


def factors(parameterisation: str, time: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """
    skip, in and out of the preconditioning, as moments of x = signal * clip + noise * eps and of the target when clip
    has standard deviation `sigma` and eps has 1: the regression of the target on x, and the deviation of its residual.
    """
    signal, noise = levels(parameterisation, time)
    to_noise, to_clip = target_parts(parameterisation, signal, noise)
    x = torch.stack([signal * sigma, noise])
    target = torch.stack([to_clip * sigma, to_noise])
    skip = (x * target).sum(0) / (x * x).sum(0)
    return skip, torch.linalg.vector_norm(x, dim=0).reciprocal(), torch.linalg.vector_norm(target - skip * x, dim=0)


def noised_and_target(
    parameterisation: str, clip: Tensor, noise: Tensor, signal: Tensor, level: Tensor
) -> tuple[Tensor, Tensor]:
    """The noised clips and what should be predicted for them; `signal` and `level` are [batch]."""
    signal, level = (part.reshape(-1, *[1] * (clip.dim() - 1)) for part in (signal, level))
    to_noise, to_clip = target_parts(parameterisation, signal, level)
    return signal * clip + level * noise, to_noise * noise + to_clip * clip


def denoise(shape: Shape, weights: Weights, noised: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
    """The model's prediction in its parameterisation."""
    skip, scale_in, scale_out = (
        part.reshape(-1, 1, 1, 1, 1) for part in factors(shape.config["parameterisation"], time, shape.config["sigmaData"])
    )
    return skip * noised + scale_out * network(shape, weights, scale_in * noised, time, tokens)
