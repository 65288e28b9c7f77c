"""
The random numbers of the ONNX engine: xoroshiro128+ (Blackman and Vigna) as the npm package pure-rand has it, seeded by a
hash of what the numbers are for. Equal keys give equal numbers on both sides, so that both draw the same batches, times
and noise.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_MASK64: Final = (1 << 64) - 1
_BITS: Final = 128
# Below this, plain Python is faster than setting up lanes.
_FEW: Final = 2048
_LANES: Final = 1024

Bits = NDArray[np.uint8]


class RandomStream:
    """A stream of random numbers. `state` is two 64-bit words, not both 0."""

    def __init__(self, state: tuple[int, int]) -> None:
        self._state = state

    def uniform(self) -> float:
        """A number from [0, 1), a multiple of 2^-53."""
        first, second = self._next() & 0x3FFFFFF, self._next() & 0x7FFFFFF
        return first * 2.0**-26 + second * 2.0**-53

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """The next `count` numbers from [0, 1), [count]."""
        words = self._words(2 * count)
        return (words[0::2] & 0x3FFFFFF) * 2.0**-26 + (words[1::2] & 0x7FFFFFF) * 2.0**-53

    def gaussian(self) -> float:
        """A number from N(0, 1)."""
        radius = math.sqrt(-2 * math.log(1 - self.uniform()))
        return radius * math.cos(2 * math.pi * self.uniform())

    def gaussians(self, count: int) -> NDArray[np.float32]:
        """`count` numbers from N(0, 1) by the Box-Muller transform, [count]; takes an even number of uniform ones."""
        draws = self.uniforms(2 * ((count + 1) // 2))
        radius = np.sqrt(-2 * np.log(1 - draws[0::2]))
        angle = 2 * np.pi * draws[1::2]
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return pairs.reshape(-1)[:count].astype(np.float32)

    def gaussian_rows(self, rows: int, size: int, wanted: range) -> NDArray[np.float32]:
        """
        What `gaussians(rows * size)` gives for the rows `wanted`, [len(wanted), size], without drawing the others: a
        process draws the noise of its own share of a batch.
        """
        # Pairs are made together, so that a row of odd size may begin in the middle of one.
        first = wanted.start * size
        lead = first % 2
        self.skip(4 * (first // 2))
        count = len(wanted) * size
        values = self.gaussians(lead + count)[lead:]
        drawn = 4 * (first // 2) + 4 * ((lead + count + 1) // 2)
        self.skip(4 * ((rows * size + 1) // 2) - drawn)
        return values.reshape(len(wanted), size)

    def skip(self, count: int) -> None:
        """Goes on as if `count` words had been drawn; an uniform number is made of two."""
        bits = _bits_of([self._state])
        for power, digit in enumerate(reversed(f"{count:b}")):
            if digit == "1":
                bits = _apply(_power_of_two(power), bits)
        self._state = _states_of(bits)[0]

    def _next(self) -> int:
        s0, s1 = self._state
        word = (s0 + s1) & 0xFFFFFFFF
        a = s0 ^ s1
        rotated = ((s0 << 24) | (s0 >> 40)) & _MASK64
        self._state = (rotated ^ a ^ ((a << 16) & _MASK64), ((a << 37) | (a >> 27)) & _MASK64)
        return word

    def _words(self, count: int) -> NDArray[np.int64]:
        if count < _FEW:
            return np.array([self._next() for _ in range(count)], dtype=np.int64)
        # The generator is linear over bits: lanes begin at equal distances of the stream and advance together.
        stride = -(-count // _LANES)
        states = _bits_of([self._state])
        distance = _power(stride)
        while states.shape[1] < _LANES:
            states = np.concatenate([states, _apply(distance, states)], axis=1)
            distance = _multiply(distance, distance)
        words = np.packbits(states, axis=0, bitorder="little").T.copy().view("<u8").astype(np.uint64)
        s0, s1 = words[:, 0].copy(), words[:, 1].copy()
        drawn = np.empty((stride, _LANES), dtype=np.uint32)
        for step in range(stride):
            drawn[step] = ((s0 + s1) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
            a = s0 ^ s1
            s0 = ((s0 << np.uint64(24)) | (s0 >> np.uint64(40))) ^ a ^ (a << np.uint64(16))
            s1 = (a << np.uint64(37)) | (a >> np.uint64(27))
        self.skip(count)
        return drawn.T.reshape(-1)[:count].astype(np.int64)


def random_stream(*parts: str | int) -> RandomStream:
    """The stream of a purpose, such as `random_stream(seed, "step", 3)`; `randomGenerator` of packages/diffusion."""
    # The length prefix keeps ("a", "b") and ("a:b") apart.
    text = "".join(f"{len(str(part).encode('utf-16-le')) // 2}:{part}" for part in parts)
    d0, d1, d2, d3 = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u4").tolist()
    return RandomStream(((d0 << 32) | d1, (d2 << 32) | (d3 | 1)))


def keyed_stream(seed: int, *key: str | int) -> RandomStream:
    """The stream of a choice of the data step; `keyedGenerator` of packages/objective."""
    text = json.dumps([seed, *key], ensure_ascii=False, separators=(",", ":"))
    d0, d1, d2, d3 = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u4").tolist()
    return RandomStream(((d0 << 32) | d1, (d2 << 32) | d3))


def shuffled(values: Sequence[T], random: RandomStream) -> list[T]:
    """A shuffled copy, sorted by random keys."""
    keys = random.uniforms(len(values)).tolist()
    return [values[place] for place in sorted(range(len(values)), key=keys.__getitem__)]


def _bits_of(states: Sequence[tuple[int, int]]) -> Bits:
    """[128, states], lowest bit first."""
    words = np.array(states, dtype="<u8")
    return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").T.copy()


def _states_of(bits: Bits) -> list[tuple[int, int]]:
    words = np.packbits(bits, axis=0, bitorder="little").T.copy().view("<u8")
    return [(int(s0), int(s1)) for s0, s1 in words]


def _apply(matrix: Bits, bits: Bits) -> Bits:
    # Sums of at most 128 ones are exact in float32, whose products are fast.
    product = matrix.astype(np.float32) @ bits.astype(np.float32)
    return (product.astype(np.int64) & 1).astype(np.uint8)


def _multiply(a: Bits, b: Bits) -> Bits:
    return _apply(a, b)


@cache
def _power_of_two(exponent: int) -> Bits:
    """The matrix over bits, [128, 128], that draws 2^exponent words."""
    if exponent == 0:
        images = []
        for bit in range(_BITS):
            state = (1 << bit, 0) if bit < 64 else (0, 1 << (bit - 64))
            stream = RandomStream(state)
            stream._next()
            images.append(stream._state)
        return _bits_of(images)
    half = _power_of_two(exponent - 1)
    return _multiply(half, half)


def _power(count: int) -> Bits:
    """The matrix that draws `count` words."""
    result: Bits = np.eye(_BITS, dtype=np.uint8)
    for power, digit in enumerate(reversed(f"{count:b}")):
        if digit == "1":
            result = _multiply(_power_of_two(power), result)
    return result
