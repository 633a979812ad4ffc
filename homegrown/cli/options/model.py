"""Models for the commands that have them write: found by an artifact's name, loaded with their tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from homegrown.store.artifacts import Store
from homegrown.store.lookup import with_model
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from homegrown.inference.sampling import Sampling
    from homegrown.model.transformer import Transformer


precision_option = click.option(
    "--precision", type=click.Choice(["float32", "bf16"]), help="Type of unquantized weights; else as stored."
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument and the options that `load` takes."""
    for decorate in (
        precision_option,
        click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"])),
        click.option("--variant", help="Quantized variant, such as int8, of an artifact of quantize."),
        click.argument("artifact", required=False, metavar="[STAGE[@VERSION][:VARIANT]]"),
    ):
        command = decorate(command)
    return command


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `sampling` takes."""
    for decorate in (
        click.option("--presence-penalty", default=0.0, help="Taken off tokens written before.", show_default=True),
        click.option(
            "--frequency-penalty", default=0.0, help="Taken off for each time written before.", show_default=True
        ),
        click.option("--repetition-penalty", default=1.0, help="Divides tokens in the text so far.", show_default=True),
        click.option("--typical-p", default=1.0, help="Locally typical sampling; 1: off.", show_default=True),
        click.option(
            "--min-p", default=0.0, help="Least probability, as a share of the likeliest's.", show_default=True
        ),
        click.option(
            "--top-p", default=1.0, help="Choose among the fewest that reach this probability.", show_default=True
        ),
        click.option("--top-k", default=40, help="Choose among so many; 0: all.", show_default=True),
        click.option("--temperature", default=0.8, help="0: the likeliest token.", show_default=True),
    ):
        command = decorate(command)
    return command


def sampling(options: dict[str, Any]) -> "Sampling":
    """Return the sampling that the options of `sampling_options` say; raises UserError if one is out of range."""
    from homegrown.inference.sampling import Sampling

    return Sampling(**options)


def utf8(read: Callable[[], str]) -> str:
    """Return the text that `read` reads of what was typed; raises UserError if its bytes are no UTF-8."""
    try:
        text = read()
        text.encode()  # where the locale lets such bytes pass, they stand in the text as halves of characters
    except UnicodeError as error:
        raise UserError("The text is not UTF-8; save it, or have the terminal send it, as UTF-8.") from error
    return text


def load(
    store: Store, artifact: str | None, variant: str | None, device: str, precision: str | None
) -> tuple["Transformer", "Tokenizer"]:
    """Load a model and its tokenizer: the latest of pretrain, or of quantize if a variant is named, by default.

    Raises:
        UserError: there is no such model, or this machine cannot compute with it.
    """
    from homegrown.model import weights
    from homegrown.quantization.variants import device_of, load_variant
    from homegrown.tokenizer import loading as tokens
    from homegrown.util import devices

    folder = model_folder(store, artifact, variant)
    model = load_variant(folder, device_of(folder, devices.resolve(device)))
    if precision:
        model = weights.in_precision(model, precision)
    return model, tokens.load(folder)


def model_folder(store: Store, artifact: str | None, variant: str | None) -> Path:
    """Return the folder of the model that `load` loads; raises UserError if there is none.

    The variant may stand in the artifact's name, as in `quantize@2:int8`.
    """
    if artifact and ":" in artifact:
        artifact, _, named = artifact.partition(":")
        if variant not in (None, named):
            raise UserError(f"Two variants are named, {named} and {variant}; name one.")
        variant = named
    name = ("pretrain" if variant is None else "quantize") if artifact is None else artifact
    path = with_model(store, store.resolve(name)).path
    made = sorted(folder.parent.name for folder in path.glob("*/quantization.json"))
    if variant is None and (path / "model").is_dir():
        return path / "model"
    if not made:
        raise UserError(
            f"{name} holds no model; name a version of pretrain or finetune."
            if variant is None
            else f"{name} holds no quantized variant; name a version of quantize."
        )
    if variant not in made:
        raise UserError(f"{name} holds the variants {', '.join(made)}; name one of them, as in {name}:{made[0]}.")
    return path / variant
