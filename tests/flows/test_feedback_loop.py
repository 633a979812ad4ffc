"""Chat, prefer, correct, train: what people choose on the page changes the model, as seen on held-out pairs."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from homegrown.cli.main import cli
from homegrown.config.pipelines import load_finetuning
from homegrown.finetuning.win_rate import read_results
from homegrown.rating.feedback import Feedback
from homegrown.serving.api import application
from homegrown.serving.loading import Limits, load, source
from homegrown.serving.service import Model, Service
from homegrown.store import lookup
from homegrown.store.artifacts import Store
from tests.finetuning.conversations import COLOURS, training
from tests.flows.test_finetune import add_base

QUESTIONS = 60
WANTED = "it is "
MODEL = "finetune@1"


def write_mixed(path: Path) -> None:
    """Questions that are answered in two ways, as often one as the other."""
    dice = random.Random(5)
    colours = [COLOURS[number % 4] for number in range(200)]
    rows = [
        {"question": f"box {number}?", "answer": dice.choice([f"{WANTED}{colour}", f"{colour} it is"])}
        for number, colour in enumerate(colours)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def share(browser: TestClient, questions: list[str]) -> float:
    """The share of sampled answers that begin as wanted."""
    body = {"model": MODEL, "max_tokens": 12, "temperature": 1}
    answers = [
        text_of(browser, {**body, "messages": ask(question), "seed": seed}) for seed, question in enumerate(questions)
    ]
    return sum(one.startswith(WANTED) for one in answers) / len(answers)


def text_of(browser: TestClient, body: dict[str, Any]) -> str:
    return str(browser.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"])


def ask(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def browser_of(store: Store, name: str) -> TestClient:
    """The server of a model under the name MODEL, without its command."""
    found = lookup.find_model(store, name)
    [(_, engine, chat)] = load(
        *(store, source(name, found, found.path / "model", None), "homegrown", "cpu"),
        *(Limits(rows=4, context=None, threads=1), lambda message: None),
    )
    service = Service([Model(MODEL, 0)], queue=8)
    service.ready(MODEL, engine, chat)
    return TestClient(application(service, key=None, hosts=["testserver"], store=store))


@pytest.mark.minutes
def test_what_is_preferred_becomes_more_frequent(in_prefect: Store, tmp_path: Path) -> None:
    from flows.finetune import finetune

    add_base(in_prefect)
    write_mixed(tmp_path / "mixed.jsonl")
    files = f"instructions.files=[{json.dumps(str(tmp_path / 'mixed.jsonl'))}]"
    small = ["evaluation.samples=2", "evaluation.answer_tokens=3", "compute.workers=1"]
    recipe = load_finetuning("tiny", [files, *small, "base=pretrain@1"])
    steps = training(max_steps=150, validate_every=150, checkpoint_every=150, sample_every=150, sample_tokens=1)
    finetune(recipe=recipe.model_copy(update={"training": steps}))

    asked, unseen = ([f"box {number}?" for number in range(start, start + QUESTIONS)] for start in (300, 500))
    with browser_of(in_prefect, MODEL) as browser:
        before = share(browser, unseen)
        for number, question in enumerate(asked):
            body = {"model": MODEL, "messages": ask(question), "max_tokens": 12, "temperature": 1}
            one, other = (
                {"text": text_of(browser, {**body, "seed": seed}), "model": MODEL, "seed": seed}
                for seed in (2 * number, 2 * number + 1)
            )
            good = [answer for answer in (one, other) if str(answer["text"]).startswith(WANTED)]
            if len(good) == 1:
                bad = other if good[0] is one else one
                given = {"kind": "choice", "answer": good[0], "other": bad}
            elif not good and str(one["text"]).endswith(" it is"):
                colour = str(one["text"]).removesuffix(" it is")
                given = {"kind": "edit", "answer": {**one, "text": f"{WANTED}{colour}"}, "other": one}
            else:
                continue
            done = browser.post("/page/feedback", json={**given, "prompt": ask(question)})
            assert done.status_code == 200, done.text

    pairs = Feedback(in_prefect).pairs()
    assert len(pairs.pairs) >= 20 and {pair.kind for pair in pairs.pairs} == {"choice", "edit"}
    changes = [
        *("training.max_steps=30", "training.batch_size=8", "training.warmup_steps=3", "training.learning_rate=0.0005"),
        *("training.validate_every=10", "training.checkpoint_every=30", "training.sample_every=30"),
        *("training.precision=fp32", *small),
    ]
    words = [word for change in changes for word in ("--set", change)]
    done = CliRunner().invoke(cli, ["--artifacts", str(in_prefect.root), "finetune", "tiny", "--feedback", *words])
    assert done.exit_code == 0, done.output
    assert f"Feedback on {MODEL} ({len(pairs.pairs)})" in done.output and "win rate" in done.output
    # The pairs that the table is about are those held out, and none of them trained.
    metrics = in_prefect.resolve("preferences").manifest.metrics
    assert metrics["validation_pairs"] == pairs.held_out
    assert metrics["train_pairs"] == len(pairs.pairs) - pairs.held_out
    old, new = read_results(in_prefect.resolve("win-rate").path)
    assert new.win_rate > 0.8 and new.reward_margin > 0 == old.reward_margin
    with browser_of(in_prefect, "dpo@1") as browser:
        assert share(browser, unseen) > before + 0.15
