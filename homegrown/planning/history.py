"""What earlier training runs of a recipe took, from their artifacts."""

from dataclasses import dataclass
from datetime import datetime

from homegrown.config.finetune_recipe import FinetuneRecipe
from homegrown.planning.compute import AnyRecipe
from homegrown.store.artifacts import Store
from homegrown.store.manifest import Manifest
from homegrown.store.runs import recorded


@dataclass(frozen=True)
class Past:
    """One training run of the same model with the same settings; None where an older version did not measure."""

    artifact: str
    started: datetime
    processors: int
    processes: int
    tokens_per_second: float
    model_flops_utilisation: float | None
    seconds: float
    peak_memory_bytes: int | None
    seconds_to_first_step: float | None


def past_runs(store: Store, recipe: AnyRecipe, most: int) -> list[Past]:
    """Return the last training runs with the recipe's model, vocabulary and training settings, newest first."""
    stage = "finetune" if isinstance(recipe, FinetuneRecipe) else "pretrain"
    wanted = _determining(recipe.model_dump(mode="json"))
    made = {one.manifest.key: one for one in store.all() if one.manifest.stage == stage}
    found: dict[str, Past] = {}
    for run in reversed(recorded(store).values()):
        key = run.keys.get(stage)
        if key in made and key not in found and _determining(run.recipe) == wanted:
            manifest = made[key].manifest
            found[key] = _past(made[key].name, manifest, int(run.recipe["compute"]["processes"]))
    return list(found.values())[:most]


def _determining(recipe: dict[str, dict[str, object]]) -> list[object]:
    """Return the parts of a recorded recipe that determine time and memory; its text does not."""
    parts = [recipe.get(name) for name in ("base", "adaptation", "finetuning", "model", "training")]
    return [*parts, recipe.get("tokenizer", {}).get("vocabulary_size")]


def _past(name: str, manifest: Manifest, processes: int) -> Past:
    def measured(metric: str) -> float | None:
        value = manifest.metrics.get(metric)
        return None if value is None else float(value)

    megabytes = measured("peak_memory_megabytes")
    return Past(
        artifact=name,
        started=manifest.started,
        processors=int(manifest.host["processors"]),
        processes=processes,
        tokens_per_second=measured("tokens_per_second") or 0.0,
        model_flops_utilisation=measured("model_flops_utilisation"),
        seconds=measured("seconds") or 0.0,
        peak_memory_bytes=None if megabytes is None else int(megabytes * 1e6),
        seconds_to_first_step=measured("seconds_to_first_step"),
    )
