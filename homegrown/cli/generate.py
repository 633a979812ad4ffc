"""`homegrown generate`: generate text from a prompt."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from homegrown.cli.options.model import load, max_tokens_option, model_options, sampling, sampling_options, utf8
from homegrown.store.artifacts import Store
from homegrown.util.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from homegrown.inference.engine import Request
    from homegrown.model.transformer import Transformer


@click.command()
@model_options
@click.option(
    "--prompt", default="", help="Text to continue; - reads standard input.", show_default="start of a document"
)
@max_tokens_option
@sampling_options
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Random seed.")
@click.option("--stop", multiple=True, metavar="TEXT", help="Stop string; repeatable.")
@click.option("--schema", type=click.Path(path_type=Path), metavar="FILE", help="JSON schema that the output fits.")
@click.option("--beams", type=click.IntRange(min=1), help="Beam search with this many beams.")
@click.option(
    "--logprobs",
    "top_logprobs",
    type=click.IntRange(min=0),
    help="Top tokens to print with log-probabilities.",
)
@click.pass_obj
def generate(
    store: Store,
    /,
    name: str | None,
    precision: str | None,
    prompt: str,
    max_tokens: int,
    seed: int,
    stop: tuple[str, ...],
    schema: Path | None,
    beams: int | None,
    top_logprobs: int | None,
    **options: Any,
) -> None:
    """Generate text from a prompt.

    MODEL: pretrain@3, quantize@2:int8 or starter; by default the latest of pretrain.
    """
    if beams:
        _check_beams(click.get_current_context())
    parameters = sampling(options)
    text = utf8(sys.stdin.read if prompt == "-" else lambda: prompt)
    grammar = None if schema is None else _grammar(schema)
    model, tokenizer, _ = load(store, name, precision)

    from homegrown.inference.engine import Request
    from homegrown.inference.grammar import Grammars
    from homegrown.tokenizer.special import special_ids, text_prompt

    stop_ids = frozenset({special_ids(tokenizer).eos})
    request = Request(
        prompt_ids=text_prompt(tokenizer, text),
        max_tokens=max_tokens,
        sampling=parameters,
        seed=seed,
        stop=stop,
        stop_ids=stop_ids,
        top_logprobs=top_logprobs,
        grammar=None if grammar is None else Grammars(tokenizer, stop_ids).compile(grammar),
    )
    if beams:
        _beam_search(model, tokenizer, request, text, beams, max_tokens)
    else:
        _sample(model, tokenizer, request, text, max_tokens)


def _grammar(file: Path) -> str:
    """Return the grammar of a file's JSON schema; raises UserError if it has none."""
    from homegrown.inference.grammar import json_grammar

    try:
        return json_grammar(json.loads(file.read_text("utf-8")))
    except OSError as error:
        raise UserError(f"--schema cannot be read ({error}); name a file.") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); write a JSON schema.") from error
    except RecursionError as error:
        raise UserError(f"{file} is nested too deeply; write a flatter schema.") from error
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _sample(model: "Transformer", tokenizer: "Tokenizer", request: "Request", text: str, max_tokens: int) -> None:
    from homegrown.inference.engine import Engine
    from homegrown.inference.streaming import stream
    from homegrown.tokenizer.detokenizer import vocabulary_bytes

    table = vocabulary_bytes(tokenizer)
    engine = Engine(model, rows=1, capacity=len(request.prompt_ids) + max_tokens)

    def shown(token: int, logprob: float) -> str:
        piece = table[token].decode("utf-8", "backslashreplace") or tokenizer.id_to_token(token)
        return f"{piece!r} {logprob:.3f}"

    most = model.config.context - len(request.prompt_ids)
    # Output that fits a schema is printed alone, for other programs.
    before = "" if request.grammar else text  # printed with the first token, so that a refused prompt is not printed
    for chunk in stream(engine, request, table):
        if request.top_logprobs is None:
            click.echo(before + chunk.text, nl=False)
            before = ""
        for token in chunk.tokens:
            top = [shown(*one) for one in token.top_logprobs]
            click.echo("   ".join([shown(token.id, token.logprob or 0.0), *top]))
    if request.top_logprobs is None:
        click.echo()
    if chunk.finish_reason == "length" and most < max_tokens:
        click.echo(_full(model, most, max_tokens), err=True)
    elif chunk.finish_reason == "length" and request.grammar:
        click.echo(f"(The output is incomplete after {max_tokens} tokens; raise --max-length.)", err=True)


def _beam_search(
    model: "Transformer", tokenizer: "Tokenizer", request: "Request", text: str, beams: int, max_tokens: int
) -> None:
    from homegrown.inference.beams import beam_search

    found = beam_search(model, request.prompt_ids, beams=beams, max_tokens=max_tokens, stop_ids=request.stop_ids)
    click.echo(text + tokenizer.decode(found[0].tokens))
    most = model.config.context - len(request.prompt_ids)
    if len(found[0].tokens) == most < max_tokens:
        click.echo(_full(model, most, max_tokens), err=True)


def _full(model: "Transformer", most: int, max_tokens: int) -> str:
    return f"(The context of {model.config.context} tokens is full: only {most} of {max_tokens} tokens fit.)"


def _check_beams(context: click.Context) -> None:
    """Raise UserError for given options that a beam search, which always takes the most likely text, ignores."""
    used = ("name", "precision", "prompt", "max_tokens", "beams")
    given = [
        max(option.opts, key=len)
        for option in context.command.params
        if option.name not in used and context.get_parameter_source(option.name or "") != ParameterSource.DEFAULT
    ]
    if given:
        raise UserError(f"--beams does not support {', '.join(given)}; remove {'it' if len(given) == 1 else 'them'}.")
