"""
The video diffusion transformer of packages/diffusion, written a second time.

Patches are cut by a convolution and put back by a transposed one, attention is PyTorch's own with the relative
position bias as its mask, so that no step is a transcription of the other implementation's.
"""

import math

import torch
import torch.nn.functional as F

TIME_FEATURES = 128


class Shape:
    """Sizes and fixed tables of a model from its config, as the config is stored in model files."""

    def __init__(self, config, dtype=torch.float64):
        self.config = config
        self.dtype = dtype
        video, patch = config["video"], config["patch"]
        self.patch = (patch["frames"], patch["height"], patch["width"])
        self.grid = tuple(video[side] // patch[side] for side in ("frames", "height", "width"))
        self.tokens = math.prod(self.grid)
        self.width = config["hiddenSize"]
        self.hidden = round(self.width * config["mlpRatio"])
        self.heads = config["heads"]
        self.values = 3 * math.prod(self.patch)
        self.coordinate_features = coordinate_features(self).to(dtype)
        self.relative_index = relative_index(self)
        exponents = torch.arange(TIME_FEATURES // 2, dtype=torch.float64) / (TIME_FEATURES // 2)
        self.frequencies = (1000 * torch.exp(-math.log(10_000) * exponents)).to(dtype)

    def parameters(self):
        """Shape of every weight. Matrices are [inputs, outputs]."""
        width, caption = self.width, self.config["caption"]
        shapes = {}

        def linear(name, inputs, outputs):
            shapes[f"{name}.weight"] = (inputs, outputs)
            shapes[f"{name}.bias"] = (outputs,)

        linear("patch", self.values, width)
        shapes["position"] = (self.tokens, width)
        linear("time.0", TIME_FEATURES, width)
        linear("time.1", width, width)
        shapes["caption.words"] = (len(caption["vocabulary"]) + 1, caption["wordWidth"])
        linear("caption.0", caption["maxWords"] * caption["wordWidth"], 2 * width)
        linear("caption.1", 2 * width, width)
        for block in range(self.config["depth"]):
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


def coordinates(shape):
    """Place of every token along the three axes, [tokens, 3]; width runs fastest."""
    ranges = [torch.arange(extent) for extent in shape.grid]
    return torch.stack(torch.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)


def coordinate_features(shape):
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


def relative_index(shape):
    """[tokens, tokens]: which row of a table holds an offset in time, height and width; width runs fastest."""
    place = coordinates(shape)
    largest = torch.tensor(shape.grid) - 1
    offset = place[:, None] - place[None, :] + largest
    volume = torch.arange(math.prod(2 * n - 1 for n in shape.grid)).reshape(*(2 * n - 1 for n in shape.grid))
    return volume[offset[..., 0], offset[..., 1], offset[..., 2]]


def relative_bias(shape, table):
    """[heads, tokens, tokens]: a number a head for every offset."""
    return F.embedding(shape.relative_index, table).permute(2, 0, 1)


def time_features(shape, time):
    angles = time[:, None] * shape.frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def network(shape, weights, x, time, tokens):
    """What stands between the preconditioning: [batch, 3, frames, height, width] in and out."""
    batch = x.shape[0]

    def linear(name, value):
        return F.linear(value, weights[f"{name}.weight"].T, weights[f"{name}.bias"])

    condition = linear("time.1", F.silu(linear("time.0", time_features(shape, time))))
    words = F.embedding(tokens, weights["caption.words"]).flatten(1)
    condition = F.silu(condition + linear("caption.1", F.silu(linear("caption.0", words))))

    kernel = weights["patch.weight"].T.reshape(shape.width, 3, *shape.patch)
    h = F.conv3d(x, kernel, weights["patch.bias"], stride=shape.patch).flatten(2).mT
    h = h + weights["position"] + shape.coordinate_features

    def modulated(value, shift, scale):
        return F.layer_norm(value, (shape.width,), eps=1e-6) * (1 + scale) + shift

    for block in range(shape.config["depth"]):
        name = f"blocks.{block}"
        chunks = linear(f"{name}.modulation", condition).unsqueeze(1).chunk(6, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = chunks
        q, k, v = linear(f"{name}.attention.qkv", modulated(h, shift1, scale1)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (shape.heads, -1)).transpose(1, 2) for part in (q, k, v))
        bias = relative_bias(shape, weights[f"{name}.attention.relative"])
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(batch, -1, -1, -1))
        h = h + gate1 * linear(f"{name}.attention.out", mixed.transpose(1, 2).flatten(2))
        h = h + gate2 * linear(f"{name}.mlp.1", F.silu(linear(f"{name}.mlp.0", modulated(h, shift2, scale2))))

    shift, scale = linear("head.modulation", condition).unsqueeze(1).chunk(2, -1)
    volume = modulated(h, shift, scale).mT.reshape(batch, shape.width, *shape.grid)
    kernel = weights["head.out.weight"].reshape(shape.width, 3, *shape.patch)
    bias = weights["head.out.bias"].reshape(1, 3, *shape.patch).repeat(1, 1, *shape.grid)
    return F.conv_transpose3d(volume, kernel, stride=shape.patch) + bias


def path(parameterisation, time):
    """Signal and noise level at a time, and what the target is made of: (of the noise, of the clip)."""
    if parameterisation == "flow":
        return 1 - time, time, torch.ones_like(time), -torch.ones_like(time)
    signal, noise = torch.cos(math.pi / 2 * time), torch.sin(math.pi / 2 * time)
    if parameterisation == "epsilon":
        return signal, noise, torch.ones_like(time), torch.zeros_like(time)
    return signal, noise, signal, -noise


def factors(parameterisation, time, sigma):
    """
    skip, in and out of the preconditioning, as moments of x = signal * clip + noise * eps and of the target when clip
    has standard deviation `sigma` and eps has 1: the regression of the target on x, and the deviation of its residual.
    """
    signal, noise, to_noise, to_clip = path(parameterisation, time)
    x = torch.stack([signal * sigma, noise])
    target = torch.stack([to_clip * sigma, to_noise])
    skip = (x * target).sum(0) / (x * x).sum(0)
    return skip, torch.linalg.vector_norm(x, dim=0).reciprocal(), torch.linalg.vector_norm(target - skip * x, dim=0)


def noised_and_target(parameterisation, clip, noise, time):
    signal, level, to_noise, to_clip = (part.reshape(-1, 1, 1, 1, 1) for part in path(parameterisation, time))
    return signal * clip + level * noise, to_noise * noise + to_clip * clip


def denoise(shape, weights, noised, time, tokens):
    """The model's prediction in its parameterisation."""
    skip, scale_in, scale_out = (
        part.reshape(-1, 1, 1, 1, 1)
        for part in factors(shape.config["parameterisation"], time, shape.config["sigmaData"])
    )
    return skip * noised + scale_out * network(shape, weights, scale_in * noised, time, tokens)
