"""Batch generation: one engine that runs until all its prompts are finished."""

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from homegrown.inference.engine import Engine, Request, check
from homegrown.inference.sampling import GREEDY, Sampling
from homegrown.model.transformer import Transformer
from homegrown.util.seeds import derive


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    stop_ids: AbstractSet[int] = frozenset(),
) -> list[list[int]]:
    """Return the generated tokens of each of `prompts`, which may differ in length.

    A sequence ends at `max_tokens`, at the end of the model's context, or before a token of `stop_ids`. The random
    numbers of a prompt depend on `seed`, the prompt, and the number of equal prompts before it, and on nothing else.

    Raises UserError if a prompt is empty or longer than the context.
    """
    for prompt in prompts:
        check(model, prompt)
    completions: list[list[int]] = [[] for _ in prompts]
    seeds = _seeds(prompts, seed)
    unfinished = [row for row, prompt in enumerate(prompts) if len(prompt) < model.config.context and max_tokens > 0]
    if not unfinished:
        return completions
    was_training = model.training
    model.eval()
    longest = max(len(prompts[row]) for row in unfinished)
    engine = Engine(model, rows=len(unfinished), capacity=longest + max_tokens)
    rows = {}
    for row in unfinished:
        request = Request(
            prompt_ids=prompts[row], max_tokens=max_tokens, sampling=sampling, seed=seeds[row], stop_ids=stop_ids
        )
        rows[engine.add(request)] = row
    while generated := engine.step():
        for sequence, token in generated.items():
            if token.finish_reason != "stop":
                completions[rows[sequence]].append(token.id)
    model.train(was_training)
    return completions


def _seeds(prompts: Sequence[Sequence[int]], seed: int) -> list[int]:
    seen: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for prompt in map(tuple, prompts):
        seeds.append(derive(seed, "generation", seen[prompt], *prompt))
        seen[prompt] += 1
    return seeds
