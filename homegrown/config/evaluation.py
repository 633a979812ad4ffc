"""Settings of the measurements of a model: evaluation on held-out text, and lm-evaluation-harness."""

from typing import Annotated

from pydantic import Field

from homegrown.config.settings import Count, LocalPath, Positive, Settings


class EvaluationSettings(Settings):
    """Evaluation of every variant of the weights on held-out text."""

    perplexity_tokens: Positive | None = Field(
        description="Approximate tokens of the test split to predict, spread evenly; null: all."
    )
    stride: Positive | None = Field(
        default=None,
        description="Stride of the sliding window, in tokens; null: half of model.context. A smaller stride predicts "
        "from more context at a higher cost.",
    )
    samples: Positive = Field(description="Held-out documents to complete for BLEU and ROUGE.")
    prompt_tokens: Positive = Field(description="Tokens of the prompt.")
    continuation_tokens: Positive = Field(description="Tokens of the completion and of its reference.")


class HarnessSettings(Settings):
    """A measurement of a model by lm-evaluation-harness."""

    tasks: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, description="Names of tasks, each once.")
    include: LocalPath | None = Field(
        default=None, exclude=True, description="Folder with tasks as YAML; its files enter the key by content."
    )
    max_documents: Positive | None = Field(default=None, description="Maximum documents per task; null: all.")
    few_shot: Count = Field(default=0, description="Answered examples before each question.")
    download: bool = Field(
        default=False, exclude=True, description="Whether the text of tasks may be fetched from the Hugging Face hub."
    )
