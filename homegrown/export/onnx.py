"""ONNX export with a KV cache, for onnxruntime: one graph for prompts and single tokens."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from homegrown.export.huggingface import model_config
from homegrown.export.huggingface_tokenizer import write_json, write_tokenizer
from homegrown.model import weights
from homegrown.model.cache import KVCache, Span
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.chat import load_chat
from homegrown.util.errors import UserError
from homegrown.util.files import sync

_LARGEST_FILE = 1_900_000_000
"""Maximum bytes of weights inside an ONNX file, as protobuf is limited to 2 GB; larger ones get a second file."""


def file_name(*, int8: bool) -> str:
    """Return the path of the graph in its folder, where optimum and transformers.js look for it."""
    return "onnx/model_int8.onnx" if int8 else "onnx/model.onnx"


def cache_names(config: ModelConfig) -> list[str]:
    """Return the cache's inputs in order, past_key_values.N.key and .value; outputs start with `present` instead."""
    return [f"past_key_values.{layer}.{part}" for layer in range(config.layers) for part in ("key", "value")]


def write_onnx(model_folder: Path, out: Path, int8: bool) -> Path:
    """Write the model of a folder as `out/onnx/model.onnx` or `model_int8.onnx`, with its tokenizer and config.

    Inputs are int64 `input_ids` and `position_ids` [batch_size, sequence_length], int64 `attention_mask` [batch_size,
    past_sequence_length + sequence_length] with 0 for padding on the left, and those of `cache_names`, float32
    [batch_size, kv_heads, past_sequence_length, head_size], empty for a prompt. Outputs are `logits` float32
    [batch_size, sequence_length, vocabulary] and the cache with the new tokens.

    With `int8`, matrices are int8 with a scale for each output, and their inputs are quantized to 8 bits at run time
    (onnxruntime's dynamic quantization). The embedding stays float32.

    Returns the path of the graph, which is written atomically.

    Raises:
        UserError: before any work: a library is missing, or a file of the model is missing or damaged.
    """
    _check_libraries(int8)
    model = weights.load(model_folder, dtype=torch.float32)
    graph, large = out / file_name(int8=int8), 4 * model.config.parameter_count() > _LARGEST_FILE
    graph.parent.mkdir(parents=True, exist_ok=True)
    name = graph.name
    with TemporaryDirectory(prefix=f".{name}.", suffix=".tmp", dir=out) as scratch:
        made = Path(scratch) / name
        if int8:
            exported = Path(scratch) / "exported.onnx"
            _export(model, exported, large=large, own_output=True)
            _quantize(exported, made, large=large)
        else:
            _export(model, made, large=large, own_output=False)
        # The graph refers to the file of its weights, so that is moved first.
        for file in (made.with_name(f"{name}.data"), made):
            if file.exists():
                sync(file)
                file.replace(graph.with_name(file.name))
    write_tokenizer(model_folder, out, model.config.context)
    # optimum and transformers.js read the shape of the cache from it.
    write_json(out / "config.json", model_config(model.config, load_chat(model_folder)) | {"dtype": "float32"})
    return graph


class _GrownCache(KVCache):
    """A cache that appends new keys and values to its inputs without changing them."""

    def __init__(self, past: Sequence[Tensor], span: Span):
        self._past, self._span = past, span
        self.present: list[Tensor] = []

    def span(self, new: int, window: int | None = None) -> Span:
        """Return the span of this pass, for layers with this sliding window."""
        mask, extent = self._span.mask, self._span.extent
        if window is None or mask is None:
            return self._span
        recent = torch.arange(extent) > torch.arange(extent - new, extent)[:, None] - window
        return replace(self._span, mask=mask & recent)

    def write(self, layer: int, span: Span, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return all keys and values of the layer, [batch, kv_heads, extent, head_size], and store them."""
        keys, values = torch.cat([self._past[2 * layer], keys], 2), torch.cat([self._past[2 * layer + 1], values], 2)
        self.present += [keys, values]
        return keys, values

    def advance(self, counts: Sequence[int]) -> None:
        """Do nothing: the caller's attention mask counts tokens."""


class _Step(nn.Module):
    """The model as a pure function."""

    def __init__(self, model: Transformer, *, own_output: bool):
        super().__init__()
        self.decoder, self.bias = model.model, model.output_bias
        # A copy of a tied embedding can be quantized while the embedding stays float32.
        output = model.output_weight.detach().t()
        self.output = output.contiguous().clone() if own_output else output

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the logits and the cache; see `write_onnx`."""
        new, extent = input_ids.shape[1], attention_mask.shape[1]
        queries, keys = torch.arange(extent - new, extent), torch.arange(extent)
        mask = (keys <= queries[:, None]) & attention_mask[:, None, None, :].bool()
        cache = _GrownCache(past, Span(position_ids, extent, mask, causal=False))
        hidden = self.decoder(input_ids, cache, (), None)
        logits = hidden @ self.output
        return logits if self.bias is None else logits + self.bias, cache.present


def _export(model: Transformer, path: Path, *, large: bool, own_output: bool) -> None:
    config, names = model.config, cache_names(model.config)
    batch, new, past = 3, 5, 7  # examples: all different, and not 0 or 1, which the exporter treats as constants
    cached = [torch.zeros(batch, config.kv_heads, past, config.head_size) for _ in names]
    tokens, seen = torch.zeros(batch, new, dtype=torch.int64), torch.ones(batch, past + new, dtype=torch.int64)
    sizes = {name: torch.export.Dim(name) for name in ("batch_size", "sequence_length", "past_sequence_length")}
    rows = {0: sizes["batch_size"], 1: sizes["sequence_length"]}
    mask = {0: sizes["batch_size"], 1: torch.export.Dim("total_sequence_length")}
    kept = {0: sizes["batch_size"], 2: sizes["past_sequence_length"]}
    positions = torch.arange(past, past + new).repeat(
        batch, 1
    )  # not `tokens` again: the exporter would merge the two inputs
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            _Step(model, own_output=own_output).eval(),
            (tokens, seen, positions, cached),
            dynamo=True,
            dynamic_shapes=(rows, mask, rows, [kept] * len(names)),
            input_names=["input_ids", "attention_mask", "position_ids", *names],
            output_names=["logits", *[name.replace("past_key_values", "present") for name in names]],
            verbose=False,
        )
        assert program is not None
        program.save(path, external_data=large)


def _quantize(exported: Path, path: Path, *, large: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        # Unsigned, because products of unsigned and signed bytes saturate on processors without VNNI.
        quantize_dynamic(
            exported,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
            use_external_data_format=large,
        )


def _check_libraries(int8: bool) -> None:
    for library in ("onnx", "onnxscript", *(["onnxruntime"] if int8 else [])):
        try:
            import_module(library)
        except ImportError as error:
            raise UserError(
                f"ONNX export needs {library}, which cannot be imported ({error}); run pip install 'homegrown[onnx]'."
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' messages to their developers."""
    root, loud = logging.getLogger(), ("torch.onnx", "onnxscript", "onnx_ir")
    before = {name: logging.getLogger(name).level for name in loud}, root.level
    for logger in (*map(logging.getLogger, loud), root):
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before[0].items():
            logging.getLogger(name).setLevel(level)
        root.setLevel(before[1])
