"""Memory that training takes on each device, by formulas for what `homegrown.model` and `homegrown.training` hold.

Weights, their gradients and the optimizer's moments are float32 (4 bytes); what passes between matrix products, and the
copies of weights they take, is in the type of autocast. A test adds up what PyTorch holds, operation by operation. With
`torch.compile`, which keeps less of what it can compute again, activations are at most what is said here.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from homegrown.config.recipe import Parallel, TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.planning.compute import block_matrices, hidden_parameters

LONGEST_BY_HAND = 512
"""`homegrown.model.cpu_ops.LONGEST`, which cannot be imported without PyTorch: longer contexts keep no scores."""
CHUNK_TOKENS = {"cpu": 512, "cuda": 4096}
"""`homegrown.model.loss.CHUNK_TOKENS`, likewise."""
MUON_BATCH_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}
"""`homegrown.training.muon.BATCH_ELEMENTS`, likewise."""
MARGIN = 0.1
"""Share of a device's memory that a plan leaves free: for fragments, libraries, and what is smaller than a tensor."""

_FLOAT = 4


@dataclass(frozen=True)
class Layout:
    """How a training step lies on devices.

    `value_bytes` is the size of one number in matrix products, `rows` the sequences in one forward pass of one device,
    `passes` the forward passes of one device in a step.
    """

    device: Literal["cpu", "cuda"]
    value_bytes: Literal[2, 4]
    rows: int
    passes: int
    devices: int = 1
    parallel: Parallel = "ddp"
    checkpointing: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    `activations` is what the forward pass keeps for the backward pass, `working` what the loss and the gathering of
    sharded weights need for a moment; `peak` is the most that there is at once, at most the sum of all.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    working: int
    peak: int


def training_memory(config: ModelConfig, settings: TrainingSettings, layout: Layout) -> Memory:
    """Return what one device holds while it trains.

    With FSDP2 (Zhao et al. 2023) a device keeps its part of weights, gradients and moments. For a pass it makes whole
    the embedding and the last norm, the block that computes and the next one; and the gradients of all but a step's
    last pass are whole on every device.
    """
    sharded = layout.parallel == "fsdp" and layout.devices > 1
    parts = layout.devices if sharded else 1
    gradients = _FLOAT * config.parameter_count() // parts
    weights = gradients + _tables(config)
    optimizer = moments(config, settings) // parts
    activations = saved_for_backward(config, layout)
    gathered = _gathered(config) if sharded else 0
    working = _loss_work(config, layout) + gathered
    held = (_FLOAT * config.parameter_count() if sharded else gradients) if layout.passes > 1 else 0
    embedding = _FLOAT * config.vocabulary_size * config.hidden
    # Gradients grow while activations go, until the first block is left. Then a tied embedding's gradient comes in two
    # parts and is their sum, a third.
    own = _FLOAT * hidden_parameters(config) // config.layers // parts
    first = _block_saved(config, layout) + _narrow_weights(config, layout) - own
    ends = max(held, gradients) + gathered + max(first, embedding * (2 if config.tied else 0))
    backward = held + activations + gathered + _backward_work(config, layout)
    # AdamW comes first, in place, and its gradients are gone when Muon begins.
    with_muon = settings.optimizer == "muon"
    update = _FLOAT * hidden_parameters(config) // parts + _update_work(config, layout) if with_muon else 0
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        working=working,
        peak=weights + optimizer + max(held + activations + working, backward, ends, update),
    )


def moments(config: ModelConfig, settings: TrainingSettings) -> int:
    """Return the bytes of the optimizer's state: two moments for a parameter with AdamW, one with Muon."""
    with_muon = hidden_parameters(config) if settings.optimizer == "muon" else 0
    return _FLOAT * (2 * config.parameter_count() - with_muon)


def saved_for_backward(config: ModelConfig, layout: Layout) -> int:
    """Return the bytes that a forward pass keeps, weights themselves not counted.

    With activation checkpointing (Chen et al. 2016) that of a block is its input; of narrow weights only autocast's own
    copies are left, which it forgets at the end of the pass.
    """
    tokens, size = layout.rows * config.context, layout.value_bytes
    block = _FLOAT * tokens * config.hidden if layout.checkpointing else _block_saved(config, layout)
    angles = 2 * config.context * config.head_size if config.family == "modern" else 0
    narrow = size * angles + config.layers * _narrow_weights(config, layout) if size < _FLOAT else 0
    indices = 8 * layout.rows * (config.context + 1)
    dropped = tokens * config.hidden * (_FLOAT if layout.device == "cpu" else 1) if config.dropout else 0
    last_norm = _norm_saved(config, tokens)
    output = _FLOAT * config.vocabulary_size * (config.hidden + (config.family == "classic"))
    return config.layers * block + narrow + indices + dropped + last_norm + size * tokens * config.hidden + output


def _narrow_weights(config: ModelConfig, layout: Layout) -> int:
    """Return the size of autocast's copies of one block's weights."""
    if layout.value_bytes == _FLOAT:
        return 0
    biases = sum(rows for rows, _ in block_matrices(config)) if config.family == "classic" else 0
    return layout.value_bytes * (hidden_parameters(config) // config.layers + biases)


def _block_saved(config: ModelConfig, layout: Layout) -> int:
    tokens, size = layout.rows * config.context, layout.value_bytes
    queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
    numbers = 2 * config.hidden  # what both norms give
    numbers += 2 * queries + 2 * keys  # queries, keys, values, and what is mixed of them
    numbers += (4 if config.family == "modern" else 1) * config.feed_forward
    statistics = 0
    if config.family == "modern":
        numbers += queries + keys  # before their norms
        heads = config.heads + config.kv_heads
        statistics += (size if layout.device == "cpu" else _FLOAT) * heads
    if layout.device == "cpu" and config.context <= LONGEST_BY_HAND and not layout.compiled:
        numbers += config.heads * config.context  # attention's weights
    else:
        statistics += _FLOAT * config.heads
        if layout.device == "cpu" and config.family == "modern":
            numbers += queries  # the fused kernel's output in the order that the rotation by hand gives, and put right
    dropped = 2 * config.hidden * (size if layout.device == "cpu" else 1) if config.dropout else 0
    return tokens * (size * numbers + statistics + dropped) + 2 * _norm_saved(config, tokens)


def _norm_saved(config: ModelConfig, tokens: int) -> int:
    """Return what a norm of the residual stream keeps: the stream, and its scale or its mean and scale."""
    return _FLOAT * tokens * (config.hidden + (1 if config.family == "modern" else 2))


def _loss_work(config: ModelConfig, layout: Layout) -> int:
    """Return what the loss holds besides what it keeps: hidden states, a narrow embedding, logits of a chunk."""
    tokens, size = layout.rows * config.context, layout.value_bytes
    chunk = min(tokens, CHUNK_TOKENS[layout.device])
    embedding = size * config.vocabulary_size * config.hidden
    logits, next_logits = (size * count * config.vocabulary_size for count in (chunk, min(chunk, tokens - chunk)))
    narrow = size * tokens * config.hidden + embedding if size < _FLOAT else 0
    # Chances in float32, logits; then the next chunk's logits, or the product that is added to the gradient.
    products = _FLOAT * chunk * config.vocabulary_size + logits + max(embedding, next_logits)
    return _FLOAT * tokens * config.hidden + narrow + products


def _backward_work(config: ModelConfig, layout: Layout) -> int:
    """Return the most that gradients take beside what the forward pass kept, which goes as they come.

    That is at the loss, at the last norm (four copies of the stream), or in the last block's feed-forward.
    """
    tokens, size = layout.rows * config.context, layout.value_bytes
    of_loss = _FLOAT * config.vocabulary_size * config.hidden + (size + _FLOAT) * tokens * config.hidden
    of_norm = (4 * _FLOAT - size) * tokens * config.hidden
    of_block = 2 * size * tokens * config.feed_forward - (_FLOAT * tokens * config.hidden if size == _FLOAT else 0)
    if layout.checkpointing:
        # What the block keeps when it is computed again, instead of autocast's copies and, where it has been added to
        # those of other passes, the gradient of the output projection.
        forgotten = config.layers * _narrow_weights(config, layout)
        if not config.tied and layout.passes > 1:
            forgotten += _FLOAT * config.vocabulary_size * config.hidden
        of_block += _block_saved(config, layout) + _narrow_weights(config, layout) - forgotten
    return max(of_loss, of_norm, of_block)


def _update_work(config: ModelConfig, layout: Layout) -> int:
    """Return what Muon takes for its largest batch of matrices: two copies of it and two of their squares."""
    alike = Counter((min(shape), max(shape)) for shape in block_matrices(config))
    works = []
    for (m, n), count in alike.items():
        together = min(config.layers * count, max(1, MUON_BATCH_ELEMENTS[layout.device] // (m * n)))
        works.append(together * layout.value_bytes * 2 * (m * n + m * m))
    return max(works)


def _gathered(config: ModelConfig) -> int:
    blocks = config.layers * sum(rows * columns for rows, columns in block_matrices(config))
    return _FLOAT * (config.parameter_count() - blocks + 2 * blocks // config.layers)


def _tables(config: ModelConfig) -> int:
    """Return the size of the table of positions."""
    width = 2 * config.head_size if config.family == "modern" else config.hidden
    return _FLOAT * config.context * width
