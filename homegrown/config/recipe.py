"""The recipe: every setting of a run, typed, one model per stage, each in its own module of this package.

The values of the presets are in `pipelines.yaml` alone, which Prefect, the command line and the tests read. A field
has a default only if a published or measured value supports it. Settings that distinguish pipelines have none: a
recipe without them is refused instead of being silently small.
"""

from typing import Self

from pydantic import Field, model_validator

from homegrown.config.adaptation import AdaptationSettings, ReplaySettings
from homegrown.config.compute import ComputeSettings
from homegrown.config.corpus import DedupSettings, IngestSettings, ShardSettings
from homegrown.config.evaluation import EvaluationSettings
from homegrown.config.export import QuantizationSettings
from homegrown.config.filter import FilterSettings
from homegrown.config.model import ModelSettings
from homegrown.config.settings import Count, LocalPath, Name, Settings
from homegrown.config.tokens import PackSettings, RowSettings, TokenizerSettings
from homegrown.config.training import TrainingSettings


class Recipe(Settings):
    """A complete run, from raw text to the evaluation table."""

    name: Name
    seed: Count = Field(description="Seed of all randomness.")
    base: LocalPath | None = Field(
        default=None,
        min_length=1,
        description="Model to continue from: an artifact, such as pretrain@3 or a key, the folder of a Hugging Face "
        "model, or a GGUF file; its tokenizer and its shape are used. null: a new model.",
    )
    adaptation: AdaptationSettings | None = Field(
        default=None, description="What is trained of the base; null: no base."
    )
    replay: ReplaySettings | None = Field(
        default=None, description="Other text mixed into the training text; null: none."
    )
    ingest: IngestSettings
    dedup: DedupSettings
    filter: FilterSettings
    shard: ShardSettings
    tokenizer: TokenizerSettings
    pack: PackSettings
    model: ModelSettings | None = Field(default=None, description="Shape of a new model; null: that of the base.")
    training: TrainingSettings
    quantization: QuantizationSettings
    evaluation: EvaluationSettings
    compute: ComputeSettings

    @property
    def context(self) -> int:
        """Tokens per training sequence."""
        if self.adaptation is not None:
            return self.adaptation.context
        return self.new_model.context

    @property
    def new_model(self) -> ModelSettings:
        """The shape of the new model of a recipe without a base."""
        if self.model is None:
            raise ValueError("the recipe has a base")
        return self.model

    @property
    def rows(self) -> RowSettings:
        """Settings of `model` for `pack`: contiguous tokens do not depend on the context."""
        return RowSettings(context=self.context if self.pack.layout == "best_fit" else None)

    def _source_names(self) -> set[str]:
        """Return the names of all sources of the training text."""
        names = {source.name for source in self.ingest.sources}
        if self.replay is not None:
            names |= {source.name for source in self.replay.sources}
            names |= {"conversations"} if self.replay.conversations else set()
        return names

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.base is None and (self.model is None or self.adaptation is not None):
            raise ValueError("a recipe without a base needs model, and adaptation null")
        if self.base is not None and (self.adaptation is None or self.model is not None):
            raise ValueError("a recipe with a base needs adaptation, and model null: the shape is the base's")
        if self.base is None and self.replay is not None:
            raise ValueError("replay needs a base; set base, or replay to null")
        if self.base is not None and self.tokenizer.path is not None:
            raise ValueError("tokenizer.path must be null with a base: the tokenizer is the base's")
        if self.base is not None and self.training.initialisation != "auto":
            raise ValueError("training.initialisation must be auto with a base, whose weights training starts from")
        if self.adaptation and self.adaptation.method != "full" and self.training.optimizer != "adamw":
            raise ValueError("training.optimizer must be adamw with an adapter (adaptation.method lora or qlora)")
        if (
            self.adaptation
            and self.adaptation.method == "qlora"
            and self.compute.parallel == "fsdp"
            and self.compute.processes > 1
        ):
            raise ValueError("adaptation.method 'qlora' is not supported with compute.parallel fsdp; choose ddp")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if problem := self.training.uneven(self.compute.processes):
            raise ValueError(problem)
        setting = "model.context" if self.base is None else "adaptation.context"
        if self.evaluation.prompt_tokens + self.evaluation.continuation_tokens > self.context:
            raise ValueError(f"prompt_tokens + continuation_tokens of evaluation must fit {setting} ({self.context})")
        if (self.evaluation.stride or 0) > self.context:
            raise ValueError(f"evaluation.stride must be at most {setting} ({self.context})")
        if self.shard.validation_share + self.shard.test_share >= 0.5:
            raise ValueError("shard.validation_share + shard.test_share must be below 0.5")
        for number, phase in enumerate(self.pack.mixture or []):
            if problem := _misnamed(set(phase.weights), self._source_names()):
                raise ValueError(f"pack.mixture.{number}.weights {problem}")
        if self.model is None:
            return self
        if self.training.initialisation == "bigrams" and (self.model.tied or self.model.family == "classic"):
            raise ValueError(
                "training.initialisation 'bigrams' needs model.family 'modern' and model.tied false; choose 'auto'"
            )
        if self.training.initialisation == "heads" and self.model.family == "classic":
            raise ValueError("training.initialisation 'heads' needs model.family 'modern'; choose 'random'")
        return self


def _misnamed(weighted: set[str], sources: set[str]) -> str | None:
    if unknown := weighted - sources:
        return f"names {', '.join(sorted(unknown))}, but the sources are {', '.join(sorted(sources))}"
    if missing := sources - weighted:
        return f"lacks {', '.join(sorted(missing))}; add a weight, such as epochs 1, or epochs 0 to leave it out"
    return None
