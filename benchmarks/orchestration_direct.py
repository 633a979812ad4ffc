"""The stages of a recipe as plain calls into the engine, one after the other: what Prefect is measured against."""

from collections.abc import Callable
from pathlib import Path

from homegrown.config.pipelines import load_recipe


def run_directly(root: Path, changes: tuple[str, ...]) -> None:
    """Run all stages of `tiny` with `changes`, each in its folder below `root`."""
    from homegrown.corpus.dedup import dedup
    from homegrown.corpus.filter import filter_documents
    from homegrown.corpus.ingest import ingest
    from homegrown.corpus.shard import shard
    from homegrown.data.packing import pack
    from homegrown.evaluation.evaluate import evaluate
    from homegrown.quantization.quantize import quantize
    from homegrown.tokenizer.train import train_tokenizer
    from homegrown.training.pretraining import pretrain
    from homegrown.util import devices, parallel
    from homegrown.util.progress import silent

    recipe = load_recipe("tiny", changes)
    seed, memory, device = recipe.seed, recipe.compute.memory_gb, devices.resolve(recipe.compute.device)

    def pooled(stage: Callable[..., object], *arguments: object, **named: object) -> None:
        with parallel.process_pool(recipe.compute.workers) as executor:
            stage(*arguments, **named, executor=executor, progress=silent)

    def out(stage: str) -> Path:
        folder = root / stage
        folder.mkdir(parents=True)
        return folder

    documents, unique, passing = out("ingest"), out("dedup"), out("filter")
    shards, tokenizer, tokens = out("shard"), out("tokenizer"), out("pack")
    weights, variants, results = out("pretrain"), out("quantize"), out("evaluate")
    pooled(ingest, documents, recipe.ingest)
    pooled(dedup, unique, documents, recipe.dedup, seed=seed, memory_gb=memory)
    pooled(filter_documents, passing, unique, recipe.filter)
    pooled(shard, shards, passing, recipe.shard, seed=seed)
    train_tokenizer(tokenizer, shards, recipe.tokenizer, progress=silent)
    pooled(pack, tokens, shards, tokenizer, recipe.pack, context=recipe.rows.context)
    pretrain(
        weights,
        tokens,
        tokenizer,
        recipe.new_model,
        recipe.training,
        seed=seed,
        device=device,
        processes=recipe.compute.processes,
        parallel=recipe.compute.parallel,
        progress=silent,
    )
    quantize(variants, weights, tokens, recipe.quantization, device=device, progress=silent)
    evaluate(
        results,
        weights,
        variants,
        tokens,
        shards,
        tokenizer,
        recipe.evaluation,
        seed=seed,
        device=device,
        progress=silent,
    )
