"""`homegrown generate`: have a model continue a text."""

import sys
from typing import TYPE_CHECKING, Any

import click

from homegrown.cli.options.model import load, model_options, sampling, sampling_options, utf8
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from homegrown.inference.engine import Request
    from homegrown.model.transformer import Transformer


@click.command()
@model_options
@click.option(
    "--prompt", default="", help="Text to continue; - reads it from the input; without one, a new document begins."
)
@click.option("--max-length", default=200, show_default=True, type=click.IntRange(min=1), help="Most tokens to write.")
@sampling_options
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="The same seed writes the same text."
)
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given more than once.")
@click.option("--beams", type=click.IntRange(min=1), help="Search for the likeliest text with so many beams instead.")
@click.option("--length-penalty", default=1.0, show_default=True, help="Of beam search; above 0 favours longer texts.")
@click.option(
    "--logprobs", type=click.IntRange(min=0), help="Print each token's log-probability, and so many likeliest instead."
)
@click.pass_obj
def generate(
    store: Store,
    /,
    artifact: str | None,
    variant: str | None,
    device: str,
    precision: str | None,
    prompt: str,
    max_length: int,
    seed: int,
    stop: tuple[str, ...],
    beams: int | None,
    length_penalty: float,
    logprobs: int | None,
    **options: Any,
) -> None:
    """Have a model continue a text, which is printed as it is written."""
    if beams and (stop or logprobs is not None):
        raise UserError("--beams finds a text as a whole; leave out --stop and --logprobs.")
    chosen = sampling(options)
    text = utf8(sys.stdin.read if prompt == "-" else lambda: prompt)
    model, tokenizer = load(store, artifact, variant, device, precision)

    from homegrown.inference.engine import Request
    from homegrown.tokenizer.special import special_ids

    marks = special_ids(tokenizer)
    request = Request(
        prompt=[marks.bos, *tokenizer.encode(text, add_special_tokens=False).ids],
        max_new_tokens=max_length,
        sampling=chosen,
        seed=seed,
        stop_ids=frozenset({marks.eos}),
        likeliest=logprobs,
    )
    if beams:
        _search(model, tokenizer, request, text, beams, length_penalty)
    else:
        _write(model, tokenizer, request, text, stop)


def _write(model: "Transformer", tokenizer: "Tokenizer", request: "Request", text: str, stop: tuple[str, ...]) -> None:
    from homegrown.inference.engine import Engine
    from homegrown.inference.streaming import stream
    from homegrown.tokenizer.detokenizer import vocabulary_bytes

    table = vocabulary_bytes(tokenizer)
    engine = Engine(model, rows=1, capacity=len(request.prompt) + request.max_new_tokens)

    def shown(token: int, value: float) -> str:
        piece = table[token].decode("utf-8", "backslashreplace") or tokenizer.id_to_token(token)
        return f"{piece!r} {value:.3f}"

    before = text  # which is not printed where it is refused
    for piece in stream(engine, request, table, stop):
        own = piece.written.probabilities
        if own is None:
            click.echo(before + piece.text, nl=False)
            before = ""
        else:
            others = [shown(token, value) for token, value in own.likeliest]
            click.echo("   ".join([shown(piece.written.token, own.chosen), *others]))
    if request.likeliest is None:
        click.echo()


def _search(
    model: "Transformer", tokenizer: "Tokenizer", request: "Request", text: str, beams: int, length_penalty: float
) -> None:
    from homegrown.inference.beams import beam_search

    found = beam_search(
        model,
        request.prompt,
        beams=beams,
        max_new_tokens=request.max_new_tokens,
        length_penalty=length_penalty,
        stop_ids=request.stop_ids,
    )
    click.echo(text + tokenizer.decode(found[0].tokens))
