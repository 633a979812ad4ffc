"""The page's controls: which models write, how they choose their tokens, and how long a text may get."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from homegrown.inference.sampling import Sampling
from homegrown.serving.completion import Completion
from homegrown.serving.page.answer import Answer
from homegrown.serving.service import Service
from homegrown.tokenizer.chat import Message

_ALTERNATIVES = 5
"""Likeliest tokens that a tooltip names."""

_NOTHING = "—"
"""What the second list of models says when only one is to write."""

_LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Settings:
    """What the controls said when a button was pressed."""

    models: tuple[str, ...]
    """One, or two that write side by side."""
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    seed: int
    system: str

    def answer(self, service: Service, model: str, prompt: str | Sequence[Message], note: str = "") -> Answer:
        """Return an answer to a prompt, to be written as the controls say; `note` is shown below it."""
        completion = Completion(
            prompt=prompt,
            max_tokens=self.max_tokens,
            sampling=self.sampling,
            stop=self.stop,
            seed=self.seed,
            logprobs=_ALTERNATIVES,
        )
        return Answer(service, model, completion, note)


class Controls:
    """The controls as components of the page that is being built; `inputs` are what a handler gets, in this order."""

    def __init__(self, names: Sequence[str]):
        """Put the controls where the page is being built; `names` are the models to choose from."""
        self.model = gr.Dropdown(list(names), value=names[0], label="Model", filterable=False, elem_id="model")
        self.beside = gr.Dropdown(
            [("nothing", _NOTHING), *((name, name) for name in names)],
            value=_NOTHING,
            label="Beside it",
            info="Another version or variant, which writes to the same prompt with the same seed.",
            filterable=False,
            elem_id="beside",
        )
        length = gr.Slider(50, 500, 200, step=1, label="Maximum length", info="Most tokens to write.")
        temperature = gr.Slider(
            0.1, 2.0, 0.8, step=0.1, label="Temperature", info="Low: the likeliest; high: surprises."
        )
        top_k = gr.Slider(10, 100, 50, step=1, label="Top-k", info="Choose among so many likeliest tokens.")
        with gr.Accordion("More settings", open=False, elem_id="more"):
            top_p = gr.Slider(
                0.05, 1, 1, step=0.05, label="Top-p", info="Among the fewest that reach this probability."
            )
            min_p = gr.Slider(
                0, 1, 0, step=0.01, label="Min-p", info="Least probability, as a share of the likeliest's."
            )
            typical = gr.Slider(
                0.05, 1, 1, step=0.05, label="Typical-p", info="Tokens about as surprising as is usual."
            )
            repetition = gr.Slider(
                0.5, 2, 1, step=0.05, label="Repetition penalty", info="Divides tokens already there."
            )
            frequency = gr.Slider(
                -2, 2, 0, step=0.1, label="Frequency penalty", info="Taken off for each time written."
            )
            presence = gr.Slider(-2, 2, 0, step=0.1, label="Presence penalty", info="Taken off tokens written before.")
            seed = gr.Textbox(
                "",
                label="Seed",
                info="The same seed writes the same text; empty: a new one each time.",
                max_length=len(str(_LARGEST_SEED)),
                elem_id="seed",
            )
            stop = gr.Textbox("", label="Stop strings", info="One a line; the text ends before them.", lines=2)
            system = gr.Textbox("", label="System prompt", info="What the model is told before a chat.", lines=2)
        self.inputs = [
            self.model, self.beside, length, temperature, top_k, top_p, min_p, typical, repetition, frequency, presence,
            seed, stop, system,
        ]  # fmt: skip

    @staticmethod
    def compares(beside: str) -> bool:
        """Say whether the second list names a model."""
        return beside != _NOTHING

    @staticmethod
    def read(values: Sequence[Any]) -> Settings:
        """Return what the values of `inputs` mean; raises gr.Error, which the page shows, if one means nothing."""
        model, beside, length, temperature, top_k, top_p, min_p, typical = values[:8]
        repetition, frequency, presence, seed, stop, system = values[8:]
        return Settings(
            models=(model,) if beside == _NOTHING else (model, beside),
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
        return secrets.randbelow(_LARGEST_SEED)
    if not text.strip().isdecimal():
        raise gr.Error("The seed has to be a whole number, or nothing for a new one each time.", print_exception=False)
    return int(text)
