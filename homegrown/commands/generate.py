"""`homegrown generate`: have a model continue a text."""

import click

from homegrown.artifacts import Store
from homegrown.errors import UserError


@click.command()
@click.argument("artifact", default="pretrain", metavar="[STAGE[@VERSION]]")
@click.option("--prompt", default="", help="Text to continue; without one, a new document begins.")
@click.option("--max-length", default=200, show_default=True, type=click.IntRange(min=1), help="Most tokens to write.")
@click.option(
    "--temperature", default=0.8, show_default=True, type=click.FloatRange(min=0), help="0: the likeliest token."
)
@click.option(
    "--top-k", default=40, show_default=True, type=click.IntRange(min=0), help="Choose among so many; 0: all."
)
@click.option("--seed", default=0, show_default=True, help="The same seed writes the same text.")
@click.pass_obj
def generate(
    store: Store, artifact: str, prompt: str, max_length: int, temperature: float, top_k: int, seed: int
) -> None:
    """Have a pretrained model continue a text."""
    from homegrown.model import generation, weights
    from homegrown.tokens import special
    from homegrown.tokens import tokenizer as tokens

    folder = store.resolve(artifact).path / "model"
    if not folder.is_dir():
        raise UserError(f"{artifact} holds no model; name a version of pretrain.")
    model, tokenizer = weights.load(folder), tokens.load(folder)
    marks = special.special_ids(tokenizer)
    ids = [marks.bos, *tokenizer.encode(prompt, add_special_tokens=False).ids]
    written = generation.generate(
        model,
        [ids],
        max_new_tokens=max_length,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        stop_ids=frozenset({marks.eos}),
    )
    click.echo(prompt + tokenizer.decode(written[0]))
