"""Writing new tokens after prompts: the engine run to the end of all of them."""

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
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    stop_ids: AbstractSet[int] = frozenset(),
) -> list[list[int]]:
    """Return the new tokens after each of `prompts`, which may differ in length.

    A sequence ends at `max_new_tokens`, at the end of the model's context, or before a token of `stop_ids`, which is
    not returned. Each prompt has random numbers of its own, which depend on `seed`, the prompt, and how many equal
    prompts stand before it, and not on its other neighbours.

    Raises UserError if a prompt is empty or longer than the context.
    """
    for prompt in prompts:
        check(model, prompt)
    written: list[list[int]] = [[] for _ in prompts]
    seeds = _seeds(prompts, seed)
    open_rows = [row for row, prompt in enumerate(prompts) if len(prompt) < model.config.context and max_new_tokens > 0]
    if not open_rows:
        return written
    was_training = model.training
    model.eval()
    longest = max(len(prompts[row]) for row in open_rows)
    engine = Engine(model, rows=len(open_rows), capacity=longest + max_new_tokens)
    places = {}
    for row in open_rows:
        request = Request(
            prompt=prompts[row], max_new_tokens=max_new_tokens, sampling=sampling, seed=seeds[row], stop_ids=stop_ids
        )
        places[engine.add(request)] = row
    while news := engine.step():
        for one in news:
            if one.finish != "stop":
                written[places[one.sequence]].append(one.token)
    model.train(was_training)
    return written


def _seeds(prompts: Sequence[Sequence[int]], seed: int) -> list[int]:
    seen: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for prompt in map(tuple, prompts):
        seeds.append(derive(seed, "generation", seen[prompt], *prompt))
        seen[prompt] += 1
    return seeds
