"""Arguments and options of the commands that generate text, and the loading of their model."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from homegrown.config.starter import STARTER
from homegrown.store.artifacts import Store
from homegrown.store.lookup import with_model
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from homegrown.inference.sampling import Sampling
    from homegrown.model.transformer import Transformer


precision_option = click.option(
    "--precision", type=click.Choice(["float32", "bf16"]), help="Type of unquantized weights; default as stored."
)

max_tokens_option = click.option(
    "--max-length",
    "max_tokens",
    default=200,
    show_default=True,
    type=click.IntRange(min=1),
    help="Maximum tokens to generate.",
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument and the option that `load` takes."""
    return click.argument("name", required=False, metavar="[MODEL]")(precision_option(command))


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `sampling` takes."""
    for name, default, description in reversed(
        (
            ("--temperature", 0.7, "Sampling temperature; 0 is greedy."),
            ("--top-k", 50, "Top tokens to sample from; 0 is all."),
            ("--top-p", 1.0, "Nucleus sampling threshold."),
            ("--min-p", 0.0, "Minimum probability relative to the top token."),
            ("--typical-p", 1.0, "Locally typical sampling threshold."),
            ("--repetition-penalty", 1.0, "Penalty factor for repeated tokens."),
            ("--frequency-penalty", 0.0, "Penalty per occurrence of a generated token."),
            ("--presence-penalty", 0.0, "Penalty for tokens generated before."),
        )
    ):
        command = click.option(name, default=default, show_default=True, help=description)(command)
    return command


def sampling(options: dict[str, Any]) -> "Sampling":
    """Return the sampling parameters from `sampling_options`; raises UserError if one is out of range."""
    from homegrown.inference.sampling import Sampling

    return Sampling(**options)


def utf8(read: Callable[[], str]) -> str:
    """Return the text that `read` returns; raises UserError if it is not UTF-8."""
    try:
        text = read()
        text.encode()  # some locales let invalid bytes pass, as surrogates
    except UnicodeError as error:
        raise UserError("The text is not UTF-8; save it, or set the terminal, as UTF-8.") from error
    return text


def load(store: Store, name: str | None, precision: str | None) -> tuple["Transformer", "Tokenizer", Path]:
    """Return a model, on a GPU if there is one, its tokenizer and its folder; by default the latest of pretrain.

    Raises:
        UserError: there is no such model, or this machine cannot run it.
    """
    from homegrown.model import weights
    from homegrown.quantization.variants import device_of, load_variant
    from homegrown.tokenizer import loading as tokens
    from homegrown.util import devices

    folder = model_folder(store, name)
    model = load_variant(folder, device_of(folder, devices.resolve("auto")))
    if precision:
        model = weights.in_precision(model, precision)
    return model, tokens.load(folder), folder


def stored_name(store: Store, name: str) -> str:
    """Return the name of an artifact: that of the starter is known once it is imported, and any other as it is.

    Raises:
        UserError: the starter is not installed.
    """
    if name != STARTER:
        return name

    from rich.console import Console

    from homegrown.export.bases import import_base

    with Console(stderr=True).status("Importing the starter"):
        return import_base(STARTER, store).name


def model_folder(store: Store, name: str | None) -> Path:
    """Return the folder of a model: `pretrain@3`, `quantize@2:int8` or `starter`; by default the latest of pretrain.

    Raises:
        UserError: there is no such model.
    """
    stage, colon, variant = ("pretrain" if name is None else name).partition(":")
    path = with_model(store, store.resolve(stored_name(store, stage))).path
    variants = sorted(folder.parent.name for folder in path.glob("*/quantization.json"))
    if not colon and (path / "model").is_dir():
        return path / "model"
    if not variants:
        missing = "quantized variants; name a version of quantize" if colon else "model; name a version of pretrain"
        raise UserError(f"{stage} has no {missing}.")
    if variant not in variants:
        raise UserError(f"{stage} has the variants {', '.join(variants)}; name one, such as {stage}:{variants[0]}.")
    return path / variant
