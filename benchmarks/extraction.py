"""JSON from a small model of one's own, with and without a schema: `python -m benchmarks.extraction`.

Writes 200 made-up sentences about people, each with its facts as JSON, and teaches them to a model by `homegrown
finetune tiny`, as a user types it. `homegrown serve` then reads 50 other sentences over HTTP, greedy and sampled,
without and with a JSON schema. The last line is JSON: the shares of valid answers and of right facts.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jsonschema

from benchmarks.measuring import table
from homegrown.util.guard import listen

TAUGHT, ASKED, CLIENTS = 200, 50, 50

FIRST = "Anna Ben Carla David Elena Felix Greta Hugo Ida Jonas Klara Leo Maria Nils Olga Paul Rosa Simon Tara Victor"
LAST = "Adler Berg Costa Diaz Engel Fuchs Garcia Hansen Ivanov Jansen Keller Lopez Moreau Novak Olsen Park Rossi Weber"
CITIES = "Athens Berlin Cairo Dublin Geneva Helsinki Lima Lyon Madrid Nairobi Oslo Paris Quito Rome Seoul Tokyo Vienna"
JOBS = "baker carpenter dentist driver farmer gardener lawyer nurse painter pilot teacher waiter writer"
SENTENCES = (
    "{name}, {age}, lives in {city} and works as a {job}.",
    "{name} is {age} years old and a {job} in {city}.",
    "In {city} I met {name}, a {job} of {age}.",
    "The {job} {name} from {city} turned {age} last week.",
    "At the age of {age}, {name} became a {job} in {city}.",
)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "city": {"type": "string", "maxLength": 40},
        "job": {"type": "string", "maxLength": 40},
    },
    "required": ["name", "age", "city", "job"],
    "additionalProperties": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--artifacts", type=Path, default=Path("artifacts"), help="store with the base, as by make demo"
    )
    parser.add_argument("--steps", type=int, help="training steps instead of the recipe's")
    parser.add_argument("--asked", type=int, default=ASKED, help=f"other sentences to read (default {ASKED})")
    options = parser.parse_args()
    command = [sys.executable, "-m", "homegrown.cli.main", "--artifacts", str(options.artifacts)]
    examples = made_up(TAUGHT + options.asked)
    file = options.artifacts / ".state" / "extraction.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(conversation(*one)) + "\n" for one in examples[:TAUGHT]))
    steps = ["--set", f"training.max_steps={options.steps}"] if options.steps else []
    start = time.perf_counter()
    subprocess.run([*command, "finetune", "tiny", "--data", str(file), *steps], check=True)
    found: dict[str, float] = {"minutes": round((time.perf_counter() - start) / 60, 1)}
    rows = []
    with served(command) as url:
        for temperature in (0.0, 1.0):
            for schema in (None, SCHEMA):
                valid, right = measured(url, examples[TAUGHT:], temperature, schema)
                name = f"{'sampled' if temperature else 'greedy'}{'_schema' if schema else ''}"
                found |= {f"{name}_valid": valid, f"{name}_right": right}
                given = "with the schema" if schema else "without"
                rows.append((f"temperature {temperature:g}, {given}", f"{valid:.0%}", f"{right:.0%}"))
    table(f"{options.asked} other sentences", ("answers", "valid JSON", "right facts"), rows)
    print(json.dumps(found))


def made_up(count: int) -> list[tuple[str, dict[str, Any]]]:
    """Return different sentences with their facts, the same ones each time."""
    draw, found = random.Random(0), dict[str, dict[str, Any]]()
    while len(found) < count:
        name = f"{draw.choice(FIRST.split())} {draw.choice(LAST.split())}"
        city, job = draw.choice(CITIES.split()), draw.choice(JOBS.split())
        facts = {"name": name, "age": draw.randint(18, 90), "city": city, "job": job}
        found[draw.choice(SENTENCES).format(**facts)] = facts
    return list(found.items())


def conversation(sentence: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return a sentence and its facts as a conversation."""
    answer = {"role": "assistant", "content": json.dumps(facts)}
    return {"messages": [{"role": "user", "content": sentence}, answer]}


@contextmanager
def served(command: Sequence[str]) -> Iterator[str]:
    """Serve the latest fine-tuned model; yields the address once it is ready."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    # One thread: for a model of this size, a second one only waits for it.
    serve = [*command, "serve", "finetune", "--port", str(port), "--parallel", str(CLIENTS), "--threads", "1"]
    server = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        if not any("is ready" in line for line in server.stdout):
            raise RuntimeError("homegrown serve ended before the model was ready")
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
    finally:
        server.terminate()
        server.wait()


def measured(
    url: str, examples: Sequence[tuple[str, dict[str, Any]]], temperature: float, schema: dict[str, Any] | None
) -> tuple[float, float]:
    """Return the share of answers that fit the schema, and the share of facts that are right."""
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}} if schema else None

    def one(example: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        body = {
            "model": "finetune",
            "messages": [{"role": "user", "content": example[0]}],
            "temperature": temperature,
            "seed": 1,
            "max_tokens": 160,
            "response_format": form,
        }
        answer = httpx.post(url, json=body, timeout=None)
        answer.raise_for_status()
        return facts_of(answer.json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(one, examples))
    pairs = zip(answers, examples, strict=True)
    right = sum(answer.get(name) == value for answer, (_, facts) in pairs for name, value in facts.items())
    return sum(map(bool, answers)) / len(examples), right / (len(examples) * len(SCHEMA["properties"]))


def facts_of(text: str) -> dict[str, Any]:
    """Return the facts of an answer, none if it is not JSON that fits the schema."""
    try:
        found: dict[str, Any] = json.loads(text)
        jsonschema.validate(found, SCHEMA)
    except (ValueError, jsonschema.ValidationError):
        return {}
    return found


if __name__ == "__main__":
    main()
