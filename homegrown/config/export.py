"""Settings of a model's weights in other types and in the formats of other programs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from homegrown.config.settings import Positive, Settings

BitsAndBytes = Literal["int8", "nf4", "nf4-double", "fp4", "fp4-double"]
PyTorch = Literal["int8-dynamic", "torchao-int8", "torchao-int4"]
Gguf = Literal["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"]
Variant = Literal[BitsAndBytes, PyTorch, Gguf]


class QuantizationSettings(Settings):
    """Quantized variants of the weights to make."""

    variants: list[Variant] = Field(
        description="int8, nf4, fp4: bitsandbytes, -double with quantized scales; int8-dynamic: PyTorch; torchao-…: "
        "torchao, weights only; others: GGUF files for llama.cpp, Ollama and the like."
    )
    validation_tokens: Positive = Field(description="Maximum validation tokens for a variant's bits per byte.")


ExportFormat = Literal["hf", "gguf", "onnx"]
WeightType = Literal["f32", "bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "int8"]
WEIGHT_TYPES: dict[ExportFormat, tuple[WeightType, ...]] = {
    "hf": ("f32", "bf16", "f16"),
    "gguf": ("q8_0", "f32", "bf16", "f16", "q6_k", "q5_k_m", "q4_k_m", "q4_0"),
    "onnx": ("f32", "int8"),
}
"""Weight types of each format, the default first."""


class ExportSettings(Settings):
    """A model in the format of other programs."""

    format: ExportFormat = Field(description="hf: transformers, vLLM, MLX; gguf: llama.cpp, Ollama, LM Studio; onnx.")
    type: WeightType = Field(description="Type of the weights.")

    @model_validator(mode="after")
    def _has_it(self) -> Self:
        if self.type not in WEIGHT_TYPES[self.format]:
            raise ValueError(f"{self.format} has the types {', '.join(WEIGHT_TYPES[self.format])}, not {self.type}")
        return self
