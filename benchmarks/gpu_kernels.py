"""Attention kernels and FP8 products beside what training uses now: speed, and the loss after the same steps.

    python -m benchmarks.gpu_kernels [--preset small medium large] [--steps 60] [--rows 8] [--layers 8]

Each variant trains the same slice of a preset's model, of `--layers` blocks in its own widths, on the same batches of
Wikipedia from the same weights: as training does it, with one attention kernel of PyTorch's forced (cuDNN's,
FlashAttention 2), with FlashAttention 4 where the package flash-attn-4 is installed, and with FP8 products by torchao
(one scale for each tensor). A variant that the device cannot run has the reason in its row. Speeds are those of the
median step, after the compilation. `--device cpu --preset tiny` runs the script on a processor, FP8 emulated.

Needs ../shared/corpora beside the repository. The last line is one JSON object: tokens per second and loss of each
preset and variant, divided by those of training as it is.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch.nn import attention

from benchmarks.measuring import CORPORA, table
from benchmarks.scaling import tokens_of
from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import Recipe
from homegrown.data.loader import Batches, TokenSplit
from homegrown.model.config import ModelConfig
from homegrown.model.transformer import Transformer
from homegrown.training import fp8
from homegrown.training.compilation import compile_model
from homegrown.training.next_token import NextToken
from homegrown.training.objective import clip_gradients
from homegrown.training.optimizer import optimizers, set_lr
from homegrown.training.precision import choose_precision
from homegrown.training.schedule import lr_share

AS_IT_IS = "as it is"
SEED = 1


@dataclass(frozen=True)
class Variant:
    """A change of the model before it is compiled, and the context in which it trains."""

    name: str
    change: Callable[[Transformer, str], None] = lambda model, device: None
    during: Callable[[], AbstractContextManager[None]] = nullcontext


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["small", "medium", "large"], help="recipes of pipelines.yaml")
    parser.add_argument("--steps", type=int, default=60, help="steps of each variant (default 60)")
    parser.add_argument("--rows", type=int, default=8, help="sequences of a step (default 8)")
    parser.add_argument("--layers", type=int, default=8, help="most layers of a slice (default 8)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no CUDA device on this machine; nothing was measured.")
        return
    if not CORPORA.is_dir():
        raise SystemExit(f"{CORPORA} is missing; this benchmark needs its texts.")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for preset in arguments.preset:
        recipe = load_recipe(preset, [])
        rows, base = [], None
        for variant in VARIANTS:
            try:
                speed, loss = train(
                    variant, recipe, arguments.device, arguments.steps, arguments.rows, arguments.layers
                )
            except (RuntimeError, ImportError) as error:
                rows.append((variant.name, "-", "-", str(error).splitlines()[0][:60]))
                continue
            base = base or (speed, loss)
            ratios = {"speed": round(speed / base[0], 3), "loss": round(loss / base[1], 4)}
            found.setdefault(preset, {})[variant.name] = ratios
            rows.append((variant.name, f"{speed:,.0f}", f"{loss:.4f}", f"{ratios['speed']:.2f} times as fast"))
        table(f"{preset}, {arguments.steps} steps", ("", "tokens/s", "loss", ""), rows)
    print(json.dumps(found))


def train(variant: Variant, recipe: Recipe, device: str, steps: int, rows: int, layers: int) -> tuple[float, float]:
    """Return the tokens per second and the mean loss of the last tenth of the steps, in nats a token."""
    shape = recipe.new_model.model_copy(update={"layers": min(layers, recipe.new_model.layers)})
    config = ModelConfig.from_settings(shape, recipe.tokenizer.vocabulary_size, dropout=0.0)
    settings = recipe.training.model_copy(update={"max_steps": steps, "warmup_steps": steps // 10, "batch_size": rows})
    packed = tokens_of("wikipedia", config.vocabulary_size) / "packed"
    batches = Batches(TokenSplit(packed, "train"), config.context, rows, SEED)
    torch.manual_seed(SEED)
    model = Transformer(config)
    model.initialize()
    model = model.to(device)
    made = optimizers(model, settings)
    variant.change(model, device)
    if device != "cpu":
        compile_model(model)
    objective = NextToken(model)
    dtype = choose_precision("bf16" if device != "cpu" else settings.precision, device).dtype
    losses, took = [], []
    with variant.during(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
        for step in range(steps):
            began = time.perf_counter()
            loss = objective(torch.from_numpy(batches.batch(step)).to(device)) / (rows * config.context)
            loss.backward()
            clip_gradients(made, settings.clip_norm)
            set_lr(made, lr_share(step + 1, settings))
            for optimizer in made:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())  # waits for the device
            took.append(time.perf_counter() - began)
    return rows * config.context / statistics.median(took), statistics.fmean(losses[-max(1, steps // 10) :])


@contextmanager
def kernel(backend: attention.SDPBackend) -> Iterator[None]:
    """Allow this attention kernel alone."""
    with attention.sdpa_kernel(backend):
        yield


@contextmanager
def flash_4() -> Iterator[None]:
    """Use FlashAttention 4, which flash-attn-4 brings, as PyTorch's flash kernel, and this one alone."""
    if find_spec("flash_attn") is None:
        raise ImportError("flash-attn-4 is not installed")
    attention.activate_flash_attention_impl("FA4")
    try:
        with kernel(attention.SDPBackend.FLASH_ATTENTION):
            yield
    finally:
        attention.restore_flash_attention_impl()


def eight_bits(model: Transformer, device: str) -> None:
    """Let the matrices of the blocks multiply in FP8, as `training.precision: fp8` does; emulated on a CPU."""
    if device == "cpu":
        os.environ[fp8.EMULATED] = "1"
    fp8.convert(model, model.config.context)


VARIANTS = [
    Variant(AS_IT_IS),
    Variant("cuDNN's attention", during=lambda: kernel(attention.SDPBackend.CUDNN_ATTENTION)),
    Variant("FlashAttention 2", during=lambda: kernel(attention.SDPBackend.FLASH_ATTENTION)),
    Variant("FlashAttention 4", during=flash_4),
    Variant("FP8 products", change=eight_bits),
]


if __name__ == "__main__":
    main()
