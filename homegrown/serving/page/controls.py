"""The page's controls: the models, the sampling parameters, and the maximum length."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from homegrown.inference.engine import Request
from homegrown.inference.sampling import Sampling
from homegrown.serving.page.answer import Answer
from homegrown.serving.service import Prompt, Service

_TOP_LOGPROBS = 5
"""Top tokens in a tooltip."""

_NO_MODEL = "—"
"""The value of the second list without a model."""

_MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Settings:
    """The values of the controls when a button was pressed."""

    models: tuple[str, ...]
    """One, or two to compare."""
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    seed: int
    system: str

    def answer(self, service: Service, model: str, prompt: Prompt, note: str = "") -> Answer:
        """Return an answer to a prompt with these settings; `note` is shown below it."""
        request = Request(
            prompt_ids=(),
            max_tokens=self.max_tokens,
            sampling=self.sampling,
            seed=self.seed,
            stop=self.stop,
            top_logprobs=_TOP_LOGPROBS,
        )
        return Answer(service, model, prompt, request, note)


class Controls:
    """The controls as components of the page; a handler receives `inputs` in this order."""

    def __init__(self, names: Sequence[str]):
        """Add the controls to the page; `names` are the models to choose from."""
        self.model = gr.Dropdown(list(names), value=names[0], label="Model", filterable=False, elem_id="model")
        self.compare = gr.Dropdown(
            [("none", _NO_MODEL), *((name, name) for name in names)],
            value=_NO_MODEL,
            label="Compare with",
            info="A second model with the same prompt and seed.",
            filterable=False,
            elem_id="compare",
        )
        length = gr.Slider(50, 500, 200, step=1, label="Maximum length", info="Maximum tokens to generate.")
        temperature = gr.Slider(
            0.1, 2.0, 0.7, step=0.1, label="Temperature", info="Lower is more predictable, higher more varied."
        )
        top_k = gr.Slider(10, 100, 50, step=1, label="Top-k", info="Number of most likely tokens to sample from.")
        with gr.Accordion("More settings", open=False, elem_id="more"):
            top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="Nucleus sampling threshold.")
            min_p = gr.Slider(0, 1, 0, step=0.01, label="Min-p", info="Minimum probability relative to the top token.")
            typical = gr.Slider(0.05, 1, 1, step=0.05, label="Typical-p", info="Locally typical sampling threshold.")
            repetition = gr.Slider(
                0.5, 2, 1, step=0.05, label="Repetition penalty", info="Penalty factor for repeated tokens."
            )
            frequency = gr.Slider(
                -2, 2, 0, step=0.1, label="Frequency penalty", info="Penalty per occurrence of a generated token."
            )
            presence = gr.Slider(
                -2, 2, 0, step=0.1, label="Presence penalty", info="Penalty for tokens generated before."
            )
            seed = gr.Textbox(
                "",
                label="Seed",
                info="The same seed gives the same output; empty: random.",
                max_length=len(str(_MAX_SEED)),
                elem_id="seed",
            )
            stop = gr.Textbox("", label="Stop strings", info="One per line; they end the output.", lines=2)
            system = gr.Textbox("", label="System prompt", info="System message of the chat.", lines=2)
        self.inputs = [
            self.model, self.compare, length, temperature, top_k, top_p, min_p, typical, repetition, frequency,
            presence, seed, stop, system,
        ]  # fmt: skip

    @staticmethod
    def compares(name: str) -> bool:
        """Return whether this value of the second list is a model."""
        return name != _NO_MODEL

    @staticmethod
    def read(values: Sequence[Any]) -> Settings:
        """Return the settings from the values of `inputs`; raises gr.Error, which the page shows, if one is invalid."""
        model, compare, length, temperature, top_k, top_p, min_p, typical = values[:8]
        repetition, frequency, presence, seed, stop, system = values[8:]
        return Settings(
            models=(model,) if compare == _NO_MODEL else (model, compare),
            max_tokens=int(length),
            sampling=Sampling(
                temperature=temperature,
                top_k=int(top_k),
                top_p=top_p,
                min_p=min_p,
                typical_p=typical,
                repetition_penalty=repetition,
                frequency_penalty=frequency,
                presence_penalty=presence,
            ),
            stop=tuple(line for line in stop.splitlines() if line),
            seed=_seed(seed),
            system=system.strip(),
        )


def _seed(text: str) -> int:
    if not text.strip():
        return secrets.randbelow(_MAX_SEED)
    if not text.strip().isdecimal():
        raise gr.Error("The seed is not a whole number; enter one, or leave it empty.", print_exception=False)
    return int(text)
