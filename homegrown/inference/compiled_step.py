"""The decoding step of a `modern` model on a CPU as one compiled kernel: one token of each sequence.

A step multiplies every weight with one vector per sequence, so it is bound by reading the weights, and in small models
by calling operations. Here one call computes the step: bfloat16 weights are widened to float32 in registers, also on
processors without bfloat16 instructions, and everything else is computed in float32.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, prange, types
from numba.extending import intrinsic
from torch import Tensor, nn

from homegrown.model.adapters import PROJECTIONS, AdaptedLinear, Adapters
from homegrown.model.cache import KVCache
from homegrown.model.transformer import Transformer

# Sums may be split over registers; infinities and NaN are kept.
_REORDERED = {"reassoc", "contract", "nsz"}

_BLOCK = 16
"""Matrix rows per thread and block."""

_NAMES = (
    *("input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    *("self_attn.q_norm.weight", "self_attn.k_norm.weight", "self_attn.o_proj.weight"),
    *("post_attention_layernorm.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"),
    *("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
)
"""A layer's parameters, in the order of the columns of `addresses` below; the address of a missing one is 0."""


class CompiledStep:
    """The step of one model, whose weights must keep their addresses."""

    def __init__(self, model: Transformer, adapters: Adapters | None = None):
        """Look up the weights, without a copy."""
        decoder, config = model.model, model.config
        self._config, self._model = config, model
        self._adapters = adapters or Adapters(model, {})
        parameters = [
            {name.replace(".base_layer", ""): parameter for name, parameter in layer.named_parameters()}
            for layer in decoder.layers
        ]
        self._addresses = np.array(
            [[layer[name].data_ptr() if name in layer else 0 for name in _NAMES] for layer in parameters],
            dtype=np.int64,
        )
        self._windows = np.array([config.window(layer) or config.context for layer in range(config.layers)])
        self._embedding, self._output, self._gain = (
            _array(tensor)
            for tensor in (decoder.embed_tokens.weight, model.output_weight, decoder.get_parameter("norm.weight"))
        )
        self._positions = decoder.positions.float().numpy()

    @staticmethod
    def serves(model: Transformer) -> bool:
        """Return whether it is `modern`, on a CPU, and its weights all float32 or all bfloat16."""
        if model.config.family != "modern" or model.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return False
        matrices = [layer.get_submodule(name) for layer in model.model.layers for name in PROJECTIONS]
        matrices = [one.base_layer if isinstance(one, AdaptedLinear) else one for one in matrices]
        # By exact class, also of the weights: a replacement stores its numbers differently, and torchao's weights have
        # no address.
        plain = all(
            type(matrix) is nn.Linear and type(matrix.weight) is nn.Parameter and matrix.weight.is_contiguous()
            for matrix in matrices
        )
        return plain and {tensor.dtype for tensor in model.parameters()} in ({torch.float32}, {torch.bfloat16})

    def __call__(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        """Add `tokens[row]` to each row of the cache; return the next logits, float32 [rows, vocabulary].

        Raises ValueError if they do not fit the capacity.
        """
        config = self._config
        extent = int(cache.lengths.max()) + 1
        if extent > cache.capacity:
            raise ValueError(f"{extent} tokens do not fit a cache of {cache.capacity}")
        logits = np.zeros((len(tokens), len(self._output)), dtype=np.float32)
        threads = torch.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        torch.set_num_threads(threads)  # the first call of numba's sets OpenMP's number, which is PyTorch's too
        _step(
            np.array(tokens, dtype=np.int64),
            cache.lengths,
            self._embedding,
            self._output,
            self._gain,
            self._addresses,
            self._windows,
            self._adapters.addresses,
            self._adapters.ranks,
            np.array(self._adapters.rows or [-1] * len(tokens), dtype=np.int64),
            (config.heads, config.kv_heads, config.head_size, config.feed_forward),
            np.float32(config.norm_eps),
            self._positions,
            (cache.keys.data_ptr(), cache.values.data_ptr(), *cache.keys.stride()[:3]),
            logits,
        )
        cache.advance([1] * len(tokens))
        return torch.from_numpy(logits)


def _array(tensor: Tensor) -> Any:
    """Return a tensor's memory as an array: float32, or uint16 for the bits of bfloat16.

    By its address: FSDP2 frees gathered weights after use, and cannot once `Tensor.numpy` has shared their storage.
    """
    kind = np.dtype(np.uint16 if tensor.dtype == torch.bfloat16 else np.float32)
    memory = (ctypes.c_char * (tensor.numel() * kind.itemsize)).from_address(tensor.data_ptr())
    return np.frombuffer(memoryview(memory), kind).reshape(tensor.shape)


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(typing: Any, address: Any) -> Any:
    """Return an address, an integer, as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _wide(typing: Any, value: Any) -> Any:
    """Return a weight as float32: itself, or the bits of a bfloat16, which are the upper half of it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if value == types.float32:
            return arguments[0]
        bits = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(value), generate


@njit(nogil=True, cache=True, fastmath=_REORDERED)  # type: ignore[untyped-decorator]
def _dot(first: Any, second: Any) -> Any:
    total = np.float32(0)
    for place in range(len(second)):
        total += _wide(first[place]) * second[place]
    return total


@njit(nogil=True, cache=True, fastmath=_REORDERED)  # type: ignore[untyped-decorator]
def _dots(first: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Return the dot products of one row of weights with four vectors; each weight is read once."""
    to_a, to_b, to_c, to_d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for place in range(len(a)):
        weight = _wide(first[place])
        to_a += weight * a[place]
        to_b += weight * b[place]
        to_c += weight * c[place]
        to_d += weight * d[place]
    return to_a, to_b, to_c, to_d


@njit(nogil=True, cache=True, fastmath=_REORDERED)  # type: ignore[untyped-decorator]
def _crossed(first: Any, second: Any, a: Any, b: Any) -> Any:
    """Return the dot products of two rows of weights with two vectors: two loads for each two products."""
    first_a, first_b, second_a, second_b = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for place in range(len(a)):
        one, other = _wide(first[place]), _wide(second[place])
        first_a += one * a[place]
        first_b += one * b[place]
        second_a += other * a[place]
        second_b += other * b[place]
    return first_a, first_b, second_a, second_b


@njit(nogil=True, cache=True, parallel=True)  # type: ignore[untyped-decorator]
def _multiply(matrix: Any, x: Any, out: Any) -> None:
    """Add x [batch, width] @ matrix.T to out [batch, rows].

    Each row of weights is read from memory once; in a batch of 8 or more for four vectors, and its block, then in the
    cache, is multiplied with the others by two and two. All ways add in the same order: the bits of a sequence are the
    same in every batch.
    """
    rows, batch = len(matrix), len(x)
    for block in prange((rows + _BLOCK - 1) // _BLOCK):
        start, end = block * _BLOCK, min(rows, (block + 1) * _BLOCK)
        at_once = 4 if batch >= 2 * 4 else batch
        for row in range(start, end):
            weights, place = matrix[row], 0
            while place + 4 <= at_once:
                sums = _dots(weights, x[place], x[place + 1], x[place + 2], x[place + 3])
                for ahead in range(4):
                    out[place + ahead, row] += sums[ahead]
                place += 4
            while place < at_once:
                out[place, row] += _dot(weights, x[place])
                place += 1
        for place in range(at_once, batch - 1, 2):
            for row in range(start, end - 1, 2):
                sums = _crossed(matrix[row], matrix[row + 1], x[place], x[place + 1])
                out[place, row] += sums[0]
                out[place + 1, row] += sums[1]
                out[place, row + 1] += sums[2]
                out[place + 1, row + 1] += sums[3]
            if (end - start) % 2:
                for ahead in range(2):
                    out[place + ahead, end - 1] += _dot(matrix[end - 1], x[place + ahead])
        if (batch - at_once) % 2:
            for row in range(start, end):
                out[batch - 1, row] += _dot(matrix[row], x[batch - 1])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _adapt(updates: Any, ranks: Any, adapters: Any, x: Any, out: Any) -> None:
    """Add the update of each row's adapter: B A x, for x [batch, width], to out [batch, rows].

    `updates` [adapters, 2] has a projection's addresses of A and B, `adapters` the one of each row, or -1.
    """
    for row in range(len(x)):
        adapter = adapters[row]
        if adapter >= 0 and updates[adapter, 0]:
            rank = ranks[adapter]
            down = carray(_pointer(updates[adapter, 0]), (rank, x.shape[1]), np.float32)
            up = carray(_pointer(updates[adapter, 1]), (out.shape[1], rank), np.float32)
            low = np.empty(rank, np.float32)
            for index in range(rank):
                low[index] = _dot(down[index], x[row])
            for index in range(out.shape[1]):
                out[row, index] += _dot(up[index], low)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _normalize(x: Any, gain: Any, eps: Any, out: Any) -> None:
    """Root mean square normalization of a vector."""
    scale = np.float32(1) / np.sqrt(_dot(x, x) / np.float32(len(x)) + eps)
    for place in range(len(x)):
        out[place] = x[place] * scale * _wide(gain[place])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _start(out: Any, bias: Any, like: Any) -> None:
    """Set each row of out [batch, width] to the bias at an address, or to zeros without one."""
    out[:] = np.float32(0)
    if bias:
        values = carray(_pointer(bias), (out.shape[1],), like.dtype)
        for row in range(len(out)):
            for place in range(len(values)):
                out[row, place] = _wide(values[place])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _rotate(x: Any, cosines: Any, sines: Any) -> None:
    """Rotate a head of queries or keys by its position, in the half-split form."""
    half = len(x) // 2
    for place in range(half):
        first, second = x[place], x[place + half]
        x[place] = first * cosines[place] - second * sines[place]
        x[place + half] = second * cosines[place + half] + first * sines[place + half]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _store(x: Any, out: Any) -> None:
    """Store float32 in a row of the cache; bfloat16 is rounded to nearest, ties to even."""
    if out.itemsize == 4:
        wide = out.view(np.float32)
        for place in range(len(x)):  # assigning a slice takes seconds to compile, for its error message
            wide[place] = x[place]
        return
    bits, halves = x.view(np.uint32), out.view(np.uint16)
    for place in range(len(x)):
        word = bits[place]
        halves[place] = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


@njit(nogil=True, cache=True, parallel=True, fastmath=_REORDERED)  # type: ignore[untyped-decorator]
def _attend(
    queries: Any, keys: Any, values: Any, strides: Any, capacity: Any, lengths: Any, window: Any, like: Any, out: Any
) -> None:
    """Set out [batch, heads, head_size] to the attention of one query per row and head over the last `window`."""
    batch, heads, size = queries.shape
    group, bytes_each = heads // (strides[0] // (capacity * size)), like.itemsize
    longest = 0
    for row in range(batch):
        longest = max(longest, lengths[row])
    scores = np.empty((batch * heads, longest + 1), dtype=np.float32)
    for task in prange(batch * heads):
        row, head = task // heads, task % heads
        place = (row * strides[0] + head // group * strides[1]) * bytes_each
        seen, kept = carray(_pointer(keys + place), (capacity, size), like.dtype), scores[task]
        query, count, mixed = queries[row, head], lengths[row] + 1, out[row, head]
        scale, highest = np.float32(1) / np.sqrt(np.float32(size)), np.float32(-np.inf)
        start = max(0, count - window)
        for token in range(start, count):
            kept[token] = _dot(seen[token], query) * scale
            highest = max(highest, kept[token])
        total = np.float32(0)
        for token in range(start, count):
            kept[token] = np.exp(kept[token] - highest)
            total += kept[token]
        mixed[:] = np.float32(0)
        seen = carray(_pointer(values + place), (capacity, size), like.dtype)
        for token in range(start, count):
            weight, value = kept[token] / total, seen[token]
            for dimension in range(size):
                mixed[dimension] += weight * _wide(value[dimension])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _step(
    tokens: Any,
    lengths: Any,
    embedding: Any,
    output: Any,
    gain: Any,
    addresses: Any,
    windows: Any,
    updates: Any,
    ranks: Any,
    adapters: Any,
    shape: Any,
    eps: Any,
    positions: Any,
    cache: Any,
    logits: Any,
) -> None:
    """Add the logits [batch, vocabulary] to zeros; store keys and values in the cache.

    `cache` holds the addresses of keys and values and the strides of a layer, a row and a head, in elements.
    """
    heads, kv_heads, size, feed_forward = shape
    keys, values, layer_stride, row_stride, head_stride = cache
    batch, hidden, bytes_each = len(tokens), embedding.shape[1], embedding.itemsize
    stream, normed = np.empty((batch, hidden), np.float32), np.empty((batch, hidden), np.float32)
    queries, mixed = np.empty((batch, heads * size), np.float32), np.empty((batch, heads * size), np.float32)
    new_keys, new_values = (
        np.empty((batch, kv_heads * size), np.float32),
        np.empty((batch, kv_heads * size), np.float32),
    )
    gate, up = np.empty((batch, feed_forward), np.float32), np.empty((batch, feed_forward), np.float32)
    for row in range(batch):
        for place in range(hidden):
            stream[row, place] = _wide(embedding[tokens[row], place])
    for layer in range(len(addresses)):
        weights, update = addresses[layer], updates[:, layer]
        for row in range(batch):
            _normalize(stream[row], carray(_pointer(weights[0]), (hidden,), embedding.dtype), eps, normed[row])
        _start(queries, weights[11], embedding)
        _start(new_keys, weights[12], embedding)
        _start(new_values, weights[13], embedding)
        _multiply(carray(_pointer(weights[1]), (heads * size, hidden), embedding.dtype), normed, queries)
        _adapt(update[:, 0], ranks, adapters, normed, queries)
        _multiply(carray(_pointer(weights[2]), (kv_heads * size, hidden), embedding.dtype), normed, new_keys)
        _adapt(update[:, 1], ranks, adapters, normed, new_keys)
        _multiply(carray(_pointer(weights[3]), (kv_heads * size, hidden), embedding.dtype), normed, new_values)
        _adapt(update[:, 2], ranks, adapters, normed, new_values)
        for row in range(batch):
            cosines, sines = positions[0, lengths[row]], positions[1, lengths[row]]
            for head in range(heads):
                part = queries[row, head * size : (head + 1) * size]
                if weights[4]:
                    _normalize(part, carray(_pointer(weights[4]), (size,), embedding.dtype), eps, part)
                _rotate(part, cosines, sines)
            for head in range(kv_heads):
                part = new_keys[row, head * size : (head + 1) * size]
                if weights[5]:
                    _normalize(part, carray(_pointer(weights[5]), (size,), embedding.dtype), eps, part)
                _rotate(part, cosines, sines)
                place = layer * layer_stride + row * row_stride + head * head_stride + lengths[row] * size
                _store(part, carray(_pointer(keys + place * bytes_each), (size,), embedding.dtype))
                part = new_values[row, head * size : (head + 1) * size]
                _store(part, carray(_pointer(values + place * bytes_each), (size,), embedding.dtype))
        below = layer * layer_stride * bytes_each
        _attend(
            queries.reshape(batch, heads, size),
            keys + below,
            values + below,
            (row_stride, head_stride),
            head_stride // size,
            lengths,
            windows[layer],
            embedding,
            mixed.reshape(batch, heads, size),
        )
        _multiply(carray(_pointer(weights[6]), (hidden, heads * size), embedding.dtype), mixed, stream)
        _adapt(update[:, 3], ranks, adapters, mixed, stream)
        for row in range(batch):
            _normalize(stream[row], carray(_pointer(weights[7]), (hidden,), embedding.dtype), eps, normed[row])
        gate[:], up[:] = np.float32(0), np.float32(0)
        _multiply(carray(_pointer(weights[8]), (feed_forward, hidden), embedding.dtype), normed, gate)
        _adapt(update[:, 4], ranks, adapters, normed, gate)
        _multiply(carray(_pointer(weights[9]), (feed_forward, hidden), embedding.dtype), normed, up)
        _adapt(update[:, 5], ranks, adapters, normed, up)
        for row in range(batch):
            for place in range(feed_forward):
                gate[row, place] *= up[row, place] / (np.float32(1) + np.exp(-gate[row, place]))
        _multiply(carray(_pointer(weights[10]), (hidden, feed_forward), embedding.dtype), gate, stream)
        _adapt(update[:, 6], ranks, adapters, gate, stream)
    for row in range(batch):
        _normalize(stream[row], gain, eps, normed[row])
    _multiply(output, normed, logits)
