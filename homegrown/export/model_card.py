"""The model card of an export: recipe, data funnel, metrics and lineage from the artifacts' manifests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from homegrown.export.huggingface import modern_type
from homegrown.model.config import ModelConfig
from homegrown.model.weights import load_config
from homegrown.store.artifacts import KEY_DIGITS
from homegrown.store.manifest import Artifact
from homegrown.util.files import read_parquet
from homegrown.util.progress import Metric

_CORPUS = ("ingest", "dedup", "filter", "shard")
_COLUMNS = {
    "variant": "variant",
    "bits_per_byte": "bits per byte",
    "perplexity": "perplexity",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "disk_megabytes": "MB on disk",
}
_TRAINING = {"pretrain": "pretraining", "finetune": "fine-tuning", "dpo": "preference optimization"}
_TUNED = {"finetune": "fine-tuned on conversations", "dpo": "trained on preferences (DPO)"}
_ARCHITECTURES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
_IMPLEMENTATIONS = {
    "modern": "which transformers, vLLM, MLX and (as a GGUF export) llama.cpp run",
    "classic": "which transformers and vLLM run; MLX and llama.cpp have no equivalent",
}


def model_card(model: Artifact, lineage: Sequence[Artifact], evaluation: Artifact | None, dtype: str) -> str:
    """Return the Markdown of a hub's README.md, with YAML front matter.

    Args:
        model: The pretrained, fine-tuned or merged artifact.
        lineage: Its ancestors that still exist, the nearest first.
        evaluation: The evaluation of this model, or None.
        dtype: Type of the exported weights.
    """
    config = load_config(model.path / "model" / "config.json")
    chain = [*reversed(lineage), model]
    tags = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["homegrown"]}
    return "\n\n".join(
        [
            f"---\n{yaml.safe_dump(tags, sort_keys=False)}---",
            "# A language model grown with Homegrown",
            _facts(config, dtype),
            _kind(config, chain),
            "## Use",
            _USE,
            "## Data",
            *_data(chain),
            "## Metrics",
            *_metrics(chain, evaluation),
            "## Recipe",
            f"```yaml\n{yaml.safe_dump(_recipe(chain), sort_keys=False, allow_unicode=True)}```",
            "## Lineage",
            "An artifact's key is a digest of its settings, its code and the keys of its inputs.",
            _lineage(chain, model),
        ]
    )


def _kind(config: ModelConfig, chain: Sequence[Artifact]) -> str:
    """Return a paragraph on what runs the model and how it was trained."""
    name = _ARCHITECTURES[modern_type(config)] if config.family == "modern" else "OPT"
    runs = f"Its architecture is {name}, {_IMPLEMENTATIONS[config.family]}."
    stages = {one.manifest.stage for one in chain}
    origin = "It starts from a published model" if "base" in stages else "It was pretrained on the text below only"
    tuned = [text for stage, text in _TUNED.items() if stage in stages]
    if tuned:
        return f"{runs} {origin} and was {' and then '.join(tuned)}; use its chat template."
    return f"{runs} {origin}. It continues text and is not tuned to follow instructions."


_USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("this-folder")
model = AutoModelForCausalLM.from_pretrained("this-folder")
tokens = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**tokens, max_new_tokens=50)[0], skip_special_tokens=True))
```"""


def _facts(config: ModelConfig, dtype: str) -> str:
    shape = f"{config.layers} layers of width {config.hidden}, {config.heads} heads"
    if config.kv_heads != config.heads:
        shape += f" ({config.kv_heads} for keys and values)"
    rows = {
        "parameters": f"{config.parameter_count():,}",
        "family": config.family,
        "shape": f"{shape}, feed-forward {config.feed_forward}",
        "context": f"{config.context:,} tokens",
        "vocabulary": f"{config.vocabulary_size:,} tokens, byte-level BPE",
        "weights": dtype,
    }
    return _table(["", ""], list(rows.items()))


def _data(chain: list[Artifact]) -> list[str]:
    """Return the sources, and how many documents each stage of the corpus dropped and why."""
    found = {one.manifest.stage: one.manifest for one in chain}
    if "ingest" not in found:
        return ["The artifacts of its corpus no longer exist."]
    sources = found["ingest"].settings["settings"]["sources"]
    listed = [f"- `{one['name']}`: {_source(one)}" for one in sources]
    rows = []
    for stage in _CORPUS:
        if stage in found:
            manifest = found[stage]
            dropped = {name: count for name, count in manifest.metrics.items() if _drops(name) and count}
            why = ", ".join(f"{name.removeprefix('dropped_')} {_shown(count)}" for name, count in dropped.items())
            rows.append([stage, f"{manifest.rows_in:,}", f"{manifest.rows_out:,}", why])
    parts = ["\n".join(listed), _table(["stage", "documents in", "documents out", "dropped by"], rows)]
    if "pack" in found:
        metrics = found["pack"].metrics
        splits = [f"{_shown(metrics[f'{split}_tokens'])} {split}" for split in ("train", "validation", "test")]
        parts.append(f"As tokens: {', '.join(splits)}.")
    return parts


def _drops(metric: str) -> bool:
    """Return whether a metric counts dropped documents."""
    return metric.startswith("dropped_") or metric in ("quarantined", "exact_duplicates", "near_duplicates")


def _source(source: dict[str, Any]) -> str:
    where = {
        "files": f"files at `{_passed_on(source.get('path'))}`",
        "packages": "the documentation of installed Python packages",
        "hub": f"the dataset `{_passed_on(source.get('dataset'))}`",
    }
    limit = f", at most {source['limit_mb']:g} MB" if source["limit_mb"] else ""
    return where[source["kind"]] + limit


def _metrics(chain: Sequence[Artifact], evaluation: Artifact | None) -> list[str]:
    parts = []
    for model in chain:
        if model.manifest.stage in _TRAINING:
            trained = [[name.replace("_", " "), _shown(value)] for name, value in model.manifest.metrics.items()]
            parts += [f"Of {_TRAINING[model.manifest.stage]}:", _table(["", model.name], trained)]
    if evaluation is not None:
        table = read_parquet(evaluation.path / "results")
        names = [name for name in _COLUMNS if name in table.column_names]
        rows = [[_shown(row[name]) for name in names] for row in table.select(names).to_pylist()]
        parts += [f"On held-out text ({evaluation.name}):", _table([_COLUMNS[name] for name in names], rows)]
    return parts


def _recipe(chain: list[Artifact]) -> dict[str, Any]:
    """Return the settings of all stages as a recipe."""
    seeds = [one.manifest.settings["seed"] for one in chain if "seed" in one.manifest.settings]
    recipe: dict[str, Any] = {"seed": seeds[-1]} if seeds else {}
    for artifact in chain:
        settings = artifact.manifest.settings
        if "model" in settings:
            recipe["model"] = settings["model"]
        section = "training" if artifact.manifest.stage == "pretrain" else artifact.manifest.stage
        if "settings" in settings:
            recipe[section] = _passed_on(settings["settings"])
        if "training" in settings:
            recipe[f"{section}_training"] = _passed_on(settings["training"])
    return recipe


def _passed_on(value: Any) -> Any:
    """Return settings with local folders removed, because a card is published."""
    if isinstance(value, dict):
        return {name: _passed_on(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_passed_on(inner) for inner in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")):
        return f"…/{Path(value).name}"
    return value


def _lineage(chain: list[Artifact], model: Artifact) -> str:
    rows = [
        [
            one.name,
            f"`{one.manifest.key[:KEY_DIGITS]}`",
            f"`{one.manifest.code[:KEY_DIGITS]}`",
            f"{one.manifest.started:%Y-%m-%d %H:%M} UTC",
            ", ".join(one.manifest.inputs) or "raw text",
        ]
        for one in chain
    ]
    libraries = model.manifest.libraries
    versions = ", ".join(f"{name} {libraries[name]}" for name in ("python", "torch", "tokenizers") if name in libraries)
    return _table(["artifact", "key", "code", "started", "inputs"], rows) + f"\n\nTrained with {versions}."


def _shown(value: Metric | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([text.replace("|", "\\|") for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
