"""Memory of training on each device, by formulas for the tensors of `homegrown.model` and `homegrown.training`.

Weights, their average, gradients and the optimizer's moments are float32 (4 bytes). Activations and the copies of
weights for matrix products have the type of autocast. A test adds up what PyTorch allocates, operation by operation.
`torch.compile` recomputes some activations, so they are at most what is computed here. `benchmarks/plan_memory.py` sets
a plan beside the memory of a real training.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from homegrown.config.compute import Parallel
from homegrown.config.training import TrainingSettings
from homegrown.model.config import ModelConfig
from homegrown.planning.compute import (
    Adapter,
    block_matrices,
    hidden_parameters,
    targeted,
    trained_parameters,
    vocabulary_matrices,
    vocabulary_parameters,
)

CPU_OPS_CONTEXT = 512
"""`homegrown.model.cpu_ops.LONGEST`, whose import needs PyTorch; longer contexts keep no attention scores."""
CHUNK_TOKENS, ACCELERATOR_CHUNK_TOKENS = 512, 4096
"""Those of `homegrown.model.loss`, likewise."""
PADDED_ROWS = 64
"""`homegrown.model.loss.ACCELERATOR_ROWS`, likewise."""
MUON_BATCH_ELEMENTS, ACCELERATOR_MUON_BATCH_ELEMENTS = 2**20, 2**26
"""Those of `homegrown.training.muon`, likewise."""
MARGIN = 0.1
"""Share of a device's memory that a plan leaves free for fragmentation, libraries and small allocations."""

PROCESS_BYTES, LATER_BYTES = 600_000_000, 45_000_000
"""Memory of a training process beside its tensors, measured on Linux without a GPU, and the part of it that samples and
the result load: 360 MB after the imports; kernels and TensorBoard's writer come with the first steps. `plan` measures
all but the later part."""
_HEAP_SHARE = 0.22
"""What the allocator of a CPU holds beside live tensors, as a share of the most that a step holds: .25 in `small`, .26
in 6 layers of it, .20 in 4 layers of `medium`. Freed activations leave gaps of other sizes than the next tensors."""

_FLOAT = 4


@dataclass(frozen=True)
class Layout:
    """The layout of a training step on its devices.

    `value_bytes` is the size of one number in matrix products; `rows` counts the sequences in one forward pass of one
    device, `passes` the forward passes of one device in a step.
    """

    device: str
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

    `activations` is what the forward pass saves for the backward pass; `working` is what the loss and gathering
    sharded weights need temporarily; `step` is the most of these at any one time, at most their sum. `heap` is what the
    allocator holds beside, `checkpoint` the copy of a checkpoint that is being written: nothing on an accelerator.
    """

    weights: int
    average: int
    gradients: int
    optimizer: int
    activations: int
    working: int
    step: int
    heap: int = 0
    checkpoint: int = 0

    @property
    def peak(self) -> int:
        """The most at any one time."""
        return self.step + self.heap + self.checkpoint


_NF4_BYTES = 0.5 + _FLOAT / 64
"""A frozen weight in 4 bits, with its share of the scale of 64."""


def training_memory(
    config: ModelConfig, settings: TrainingSettings, layout: Layout, adapter: Adapter | None = None
) -> Memory:
    """Return the memory of one device during training, with a checkpoint's copy that is written beside its steps."""
    tensors = _step_memory(config, settings, layout, adapter)
    if layout.device != "cpu":
        return tensors
    heap = int(_HEAP_SHARE * tensors.step)
    # Trained weights, of which there are as many as gradients, their average and the moments.
    copied = tensors.gradients + tensors.average + tensors.optimizer
    if not _saves_between_steps(settings):
        copied = max(0, tensors.weights + tensors.average + tensors.optimizer + copied - tensors.step - heap)
    return replace(tensors, heap=heap, checkpoint=copied)


def _saves_between_steps(settings: TrainingSettings) -> bool:
    """Return whether steps follow a checkpoint, whose copy then stays for the next one."""
    every = settings.checkpoint_every
    if settings.patience is not None:
        every = min(every, settings.validate_every)
    return every < settings.max_steps or settings.schedule == "wsd"


def _step_memory(config: ModelConfig, settings: TrainingSettings, layout: Layout, adapter: Adapter | None) -> Memory:
    """Return the memory of one device during a step.

    With FSDP2 (Zhao et al. 2023) a device keeps its shard of weights, average, gradients and moments. During a pass it
    gathers the embedding, the last norm, the current block and the next one. Gradients of all passes of a step but the
    last are not sharded.
    """
    if adapter is not None:
        return _adapter_memory(config, settings, layout, adapter)
    sharded = layout.parallel == "fsdp" and layout.devices > 1
    parts = layout.devices if sharded else 1
    gradients = _FLOAT * config.parameter_count() // parts
    weights = gradients + _tables(config)
    optimizer = moments(config, settings) // parts
    average = average_bytes(config, settings) // parts
    activations = saved_for_backward(config, layout)
    gathered = _gathered(config) if sharded else 0
    working = _loss_work(config, layout) + gathered
    accumulated = (_FLOAT * config.parameter_count() if sharded else gradients) if layout.passes > 1 else 0
    embedding = _FLOAT * config.vocabulary_size * config.hidden
    # Gradients grow while activations shrink, down to the first block. A tied embedding then has two gradients and
    # their sum, a third tensor.
    own = _FLOAT * hidden_parameters(config) // config.layers // parts
    first = _block_saved(config, layout) + _narrow_weights(config, layout) - own
    ends = max(accumulated, gradients) + gathered + max(first, embedding * (2 if config.tied else 0))
    backward = accumulated + activations + gathered + _backward_work(config, layout)
    # AdamW runs first and in place; its gradients are freed before Muon starts.
    with_muon = settings.optimizer == "muon"
    update = _FLOAT * hidden_parameters(config) // parts + _update_work(config, layout) if with_muon else 0
    return Memory(
        weights=weights,
        average=average,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        working=working,
        step=weights + average + optimizer + max(accumulated + activations + working, backward, ends, update),
    )


def _adapter_memory(config: ModelConfig, settings: TrainingSettings, layout: Layout, adapter: Adapter) -> Memory:
    """Return the memory of one device that trains an adapter on a frozen base.

    Frozen matrices have the type of the products, or 4 bits; gradients and moments are those of the adapter. The loss
    has no gradient for a frozen output projection, and autocast copies no frozen weight.
    """
    sharded = layout.parallel == "fsdp" and layout.devices > 1
    parts = layout.devices if sharded else 1
    size, tokens = layout.value_bytes, layout.rows * config.context
    blocks, trained = hidden_parameters(config), trained_parameters(config, adapter)
    tables = vocabulary_matrices(config)
    vectors = config.parameter_count() - blocks - tables
    stored = blocks * (_NF4_BYTES if adapter.method == "qlora" else size) + _FLOAT * (trained + vectors)
    if adapter.embeddings:
        stored -= _FLOAT * (vocabulary_parameters(config) - tables)  # biases, counted twice
    else:
        stored += size * tables
    weights = int(stored / parts) + _tables(config)
    gradients = _FLOAT * trained // parts
    average = average_bytes(config, settings, adapter) // parts
    activations = _adapter_saved(config, layout, adapter)
    chunk = min(tokens, _chunk_tokens(layout))
    working = (_FLOAT + size) * (tokens * config.hidden + chunk * config.vocabulary_size)
    if adapter.embeddings:
        working += 2 * size * tables
    if layout.device != "cpu" and config.vocabulary_size % PADDED_ROWS:
        working += size * config.vocabulary_size * config.hidden  # a copy of the frozen output projection
    if sharded:
        working += int(stored - blocks * size * (1 - 2 / config.layers))
    backward = 4 * _FLOAT * tokens * config.hidden
    block = 2 * size * tokens * config.feed_forward
    if layout.checkpointing:
        block += _adapted_block(config, layout, adapter)
    if adapter.method == "qlora":
        block += size * max(rows * columns for rows, columns in block_matrices(config))
    return Memory(
        weights=weights,
        average=average,
        gradients=gradients,
        optimizer=2 * gradients,
        activations=activations,
        working=working,
        step=weights + average + 3 * gradients + activations + max(working, backward, block),
    )


def _adapter_saved(config: ModelConfig, layout: Layout, adapter: Adapter) -> int:
    """Return the bytes that a forward pass with an adapter saves, without the weights."""
    tokens, size = layout.rows * config.context, layout.value_bytes
    block = _FLOAT * tokens * config.hidden if layout.checkpointing else _adapted_block(config, layout, adapter)
    output = _FLOAT * vocabulary_parameters(config) if adapter.embeddings else 0
    indices = 8 * layout.rows * (config.context + 1)
    return config.layers * block + indices + _norm_saved(config, tokens) + size * tokens * config.hidden + output


def _adapted_block(config: ModelConfig, layout: Layout, adapter: Adapter) -> int:
    """Return what a block with an adapter saves: without inputs of frozen matrices alone, with those of the adapter."""
    tokens, size, shapes = layout.rows * config.context, layout.value_bytes, targeted(config, adapter)
    numbers = len(shapes) * adapter.rank
    if not {"q_proj", "k_proj", "v_proj"} & {*adapter.targets}:
        numbers -= config.hidden
    if not {"gate_proj", "up_proj"} & {*adapter.targets}:
        numbers -= config.hidden
    if "down_proj" not in adapter.targets:
        numbers -= config.feed_forward
    dropped = (size + 1) * sum(columns for _, columns in shapes) if adapter.dropout else 0
    return _block_saved(config, layout) + tokens * (size * numbers + dropped)


def moments(config: ModelConfig, settings: TrainingSettings, adapter: Adapter | None = None) -> int:
    """Return the bytes of the optimizer's state: two moments per parameter with AdamW, one with Muon."""
    with_muon = hidden_parameters(config) if settings.optimizer == "muon" else 0
    return _FLOAT * (2 * trained_parameters(config, adapter) - with_muon)


def average_bytes(config: ModelConfig, settings: TrainingSettings, adapter: Adapter | None = None) -> int:
    """Return the bytes of the average of the trained weights; 0 without averaging."""
    return 0 if settings.averaging is None else _FLOAT * trained_parameters(config, adapter)


def saved_for_backward(config: ModelConfig, layout: Layout) -> int:
    """Return the bytes that a forward pass saves, without the weights.

    Activation checkpointing (Chen et al. 2016) saves only the input of a block. Of narrow weights, autocast's own
    copies remain until the end of the pass.
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
    """Return the bytes of autocast's copies of the weights of one block."""
    if layout.value_bytes == _FLOAT:
        return 0
    biases = sum(rows for rows, _ in block_matrices(config)) if config.family == "classic" else 0
    return layout.value_bytes * (hidden_parameters(config) // config.layers + biases)


def _block_saved(config: ModelConfig, layout: Layout) -> int:
    tokens, size = layout.rows * config.context, layout.value_bytes
    queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
    numbers = 2 * config.hidden  # outputs of both norms
    numbers += 2 * queries + 2 * keys  # queries, keys, values, attention output
    numbers += (4 if config.family == "modern" else 1) * config.feed_forward
    statistics = 0
    if config.family == "modern":
        numbers += queries + keys  # before their norms
        heads = config.heads + config.kv_heads
        statistics += (size if layout.device == "cpu" else _FLOAT) * heads
    if layout.device == "cpu" and config.context <= CPU_OPS_CONTEXT and not layout.compiled:
        numbers += config.heads * config.context  # attention weights
    else:
        statistics += _FLOAT * config.heads
        if layout.device == "cpu" and config.family == "modern":
            numbers += queries  # the fused kernel's output before and after reordering
    dropped = 2 * config.hidden * (size if layout.device == "cpu" else 1) if config.dropout else 0
    return tokens * (size * numbers + statistics + dropped) + 2 * _norm_saved(config, tokens)


def _norm_saved(config: ModelConfig, tokens: int) -> int:
    """Return what a norm of the residual stream saves: the stream, and its scale or its mean and scale."""
    return _FLOAT * tokens * (config.hidden + (1 if config.family == "modern" else 2))


def _loss_work(config: ModelConfig, layout: Layout) -> int:
    """Return what the loss needs besides what it saves: hidden states, a narrow embedding, logits of a chunk."""
    tokens, size = layout.rows * config.context, layout.value_bytes
    chunk = min(tokens, _chunk_tokens(layout))
    embedding = size * config.vocabulary_size * config.hidden
    logits, next_logits = (size * count * config.vocabulary_size for count in (chunk, min(chunk, tokens - chunk)))
    narrow = size * tokens * config.hidden + embedding if size < _FLOAT else 0
    # Probabilities in float32 and logits; then the next chunk's logits, or the product added to the gradient.
    products = _FLOAT * chunk * config.vocabulary_size + logits + max(embedding, next_logits)
    return _FLOAT * tokens * config.hidden + narrow + products


def _backward_work(config: ModelConfig, layout: Layout) -> int:
    """Return the most that gradients take beside the saved activations, which are freed on the way.

    The peak is at the loss, at the last norm (four copies of the stream), or in the feed-forward of the last block.
    """
    tokens, size = layout.rows * config.context, layout.value_bytes
    of_loss = _FLOAT * config.vocabulary_size * config.hidden + (size + _FLOAT) * tokens * config.hidden
    of_norm = (4 * _FLOAT - size) * tokens * config.hidden
    of_block = 2 * size * tokens * config.feed_forward - (_FLOAT * tokens * config.hidden if size == _FLOAT else 0)
    if layout.checkpointing:
        # What the recomputed block saves, minus autocast's copies and, if other passes have accumulated into it, the
        # gradient of the output projection.
        freed = config.layers * _narrow_weights(config, layout)
        if not config.tied and layout.passes > 1:
            freed += _FLOAT * config.vocabulary_size * config.hidden
        of_block += _block_saved(config, layout) + _narrow_weights(config, layout) - freed
    return max(of_loss, of_norm, of_block)


def _update_work(config: ModelConfig, layout: Layout) -> int:
    """Return what Muon needs for its largest batch of matrices: two copies, and two of their squares."""
    alike = Counter((min(shape), max(shape)) for shape in block_matrices(config))
    works = []
    elements = MUON_BATCH_ELEMENTS if layout.device == "cpu" else ACCELERATOR_MUON_BATCH_ELEMENTS
    for (m, n), count in alike.items():
        together = min(config.layers * count, max(1, elements // (m * n)))
        works.append(together * layout.value_bytes * 2 * (m * n + m * m))
    return max(works)


def _chunk_tokens(layout: Layout) -> int:
    return CHUNK_TOKENS if layout.device == "cpu" else ACCELERATOR_CHUNK_TOKENS


def _gathered(config: ModelConfig) -> int:
    blocks = config.layers * sum(rows * columns for rows, columns in block_matrices(config))
    return _FLOAT * (config.parameter_count() - blocks + 2 * blocks // config.layers)


def _tables(config: ModelConfig) -> int:
    """Return the bytes of the position table."""
    width = 2 * config.head_size if config.family == "modern" else config.hidden
    return _FLOAT * config.context * width
