"""SmolLM2 fine-tuned on GSM8K, in our engine and in llama.cpp: `python -m benchmarks.gsm8k CONVERSATIONS`.

Runs `homegrown finetune starter` on the questions as a user types it, and exports the result as GGUF in float32.
llama.cpp then answers the first held-out questions from that file. Its prompts and its greedy tokens are compared with
ours. The last line is JSON: the measurements before and after, and the number of equal answers.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from benchmarks.serving import llama_server
from homegrown.finetuning.answers_report import read_results
from homegrown.finetuning.questions import Question, held_out
from homegrown.inference.generation import generate
from homegrown.model import weights
from homegrown.store.artifacts import Store
from homegrown.store.lookup import find_model
from homegrown.tokenizer.chat import load_chat

PATTERN = "#### (-?[0-9.,]+)"
CONTEXT, ANSWER_TOKENS, COMPARED = 1024, 256, 20


def main(conversations: Path, artifacts: Path, steps: int | None, samples: int, threads: int) -> None:
    """Fine-tune, export and compare; print the last line."""
    command = [sys.executable, "-m", "homegrown.cli.main", "--artifacts", str(artifacts)]
    start = time.perf_counter()
    changes = [f"evaluation.pattern={json.dumps(PATTERN)}", f"evaluation.samples={samples}"]
    changes += [f"training.max_steps={steps}"] if steps else []
    given = [part for change in changes for part in ("--set", change)]
    subprocess.run([*command, "finetune", "starter", "--data", str(conversations), *given], check=True)
    seconds = time.perf_counter() - start
    subprocess.run([*command, "export", "finetune", "--to", "gguf", "--type", "f32"], check=True)
    store = Store(artifacts)
    before, after = (asdict(row) for row in read_results(store.resolve("answers").path))
    file = next(store.resolve("export").path.rglob("*.gguf"))
    questions = held_out(store.resolve("instructions").path, samples)[:COMPARED]
    prompts, answers = compare(find_model(store, "finetune").path / "model", file, questions, threads)
    found = {
        "minutes": round(seconds / 60, 1),
        **{f"before_{name}": before[name] for name in ("loss", "formatted", "right")},
        **{f"after_{name}": after[name] for name in ("loss", "formatted", "right")},
        "compared": len(questions),
        "equal_prompts": prompts,
        "equal_answers": answers,
    }
    print(json.dumps(found))


def compare(model: Path, file: Path, questions: Sequence[Question], threads: int) -> tuple[int, int]:
    """Return for how many questions llama.cpp has the same prompt, and for how many the same greedy tokens."""
    chat = load_chat(model)
    prompts = [chat.encode(question.messages, reply=True, tools=question.tools) for question in questions]
    ours = generate(weights.load(model), prompts, max_tokens=ANSWER_TOKENS, stop_ids=chat.stop_ids)
    theirs_prompts, theirs = [], []
    with llama_server(file, "f32", 1, CONTEXT, connections=1, threads=threads) as url:
        for question, prompt in zip(questions, prompts, strict=True):
            text = post(url, "/apply-template", messages=[message.plain() for message in question.messages])["prompt"]
            ids = post(url, "/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
            theirs_prompts.append(ids)
            answer = post(url, "/completion", prompt=prompt, n_predict=ANSWER_TOKENS, temperature=0, return_tokens=True)
            theirs.append([token for token in answer["tokens"] if token not in chat.stop_ids])
    return (
        sum(one == other for one, other in zip(prompts, theirs_prompts, strict=True)),
        sum(one == other for one, other in zip(ours, theirs, strict=True)),
    )


def post(url: str, path: str, **body: Any) -> dict[str, Any]:
    """Return the response of llama.cpp's server."""
    connection = http.client.HTTPConnection(urlparse(url).netloc)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("conversations", type=Path)
    parser.add_argument("--artifacts", type=Path, help="store; default: a temporary one")
    parser.add_argument("--steps", type=int, help="training steps instead of the recipe's")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main(
            options.conversations,
            options.artifacts or Path(temporary) / "artifacts",
            options.steps,
            options.samples,
            options.threads,
        )
