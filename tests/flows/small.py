"""A recipe and a corpus small enough to run the whole chain in a test."""

import json
import pydoc_data.topics
from pathlib import Path
from typing import Any

import yaml

from homegrown.config.pipelines import load_recipe
from homegrown.config.recipe import Recipe

CHANGES = (
    "ingest.shard_mb=0.15",
    "filter.min_characters=100",
    "shard.validation_share=0.08",
    "shard.test_share=0.1",
    "shard.shard_mb=0.1",
    "tokenizer.vocabulary_size=768",
    "tokenizer.sample_mb=1",
    "model.hidden=64",
    "model.layers=2",
    "model.heads=2",
    "model.kv_heads=1",
    "model.feed_forward=128",
    "model.context=64",
    "training.max_steps=12",
    "training.batch_size=4",
    "training.micro_batch_size=4",
    "training.warmup_steps=2",
    "training.validate_every=4",
    "training.validation_tokens=500",
    "training.checkpoint_every=4",
    "training.sample_every=6",
    "training.sample_prompts=['']",
    "training.sample_tokens=8",
    "quantization.variants=[q8_0, q4_0]",
    "quantization.validation_tokens=1000",
    "evaluation.perplexity_tokens=2000",
    "evaluation.samples=4",
    "evaluation.prompt_tokens=16",
    "evaluation.continuation_tokens=8",
    "compute.workers=1",
)


def write_corpus(folder: Path) -> None:
    """Write the help topics of the standard library, real English, a few hundred kilobytes, with some copies."""
    folder.mkdir(parents=True, exist_ok=True)
    topics = sorted(pydoc_data.topics.topics.items())
    paragraphs = [part for _, text in topics for part in text.split("\n\n\n") if len(part) > 80][::2]
    with (folder / "topics.jsonl").open("w", encoding="utf-8") as file:
        for text in [*paragraphs, *paragraphs[:20]]:
            file.write(json.dumps({"text": text}) + "\n")


def small_recipe(corpus: Path, *changes: str) -> Recipe:
    source = f"ingest.sources=[{{kind: files, name: topics, path: {json.dumps(str(corpus))}}}]"
    return load_recipe("tiny", [source, *CHANGES, *changes])


def write_project(folder: Path) -> None:
    """Write a project folder of its own, with a `pipelines.yaml` and a corpus, for the command line."""
    write_corpus(folder / "data")
    recipe: dict[str, Any] = small_recipe(Path("data")).model_dump(mode="json")
    deployments = [{"name": "tiny", "parameters": {"recipe": recipe}}]
    (folder / "pipelines.yaml").write_text(yaml.safe_dump({"deployments": deployments}))
