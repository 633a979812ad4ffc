"""Every command of the README and docs, run as it is written in a fresh clone with small recipes.

It takes minutes: python -m pytest -m minutes tests/test_documented_commands.py. What is not run has its reason below.
"""

import json
import os
import pydoc_data.topics
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import prefect.main  # noqa: F401  # replaces all log handlers: under CliRunner, absl's would close pytest's stderr
import pytest
import yaml
from click.testing import CliRunner

from homegrown.cli.main import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

PROGRAMS = (
    *("homegrown", ".venv/bin/homegrown", "prefect", "python", "make", "git", "pip", "curl", "mkdir", "cp", "export"),
    *("vllm", "mlx_lm.generate", "llama-server", "ollama", "dask", ".venv/bin/tensorboard", "sudo", "chgrp", "find"),
    *("docker", "echo"),
)
TEXTS = (
    *(
        "ingest →",
        "[base] →",
        "pipelines.yaml ",
        "pretrain: ",
        "pack:",
        "3 of 12 records",
        "--set finetuning.rank",
        "location /",
    ),
    *("const model", '{"question"', "PREFECT_API_URL=", "homegrown-uid", "Error: "),
)
"""Starts of blocks that are no commands."""

NOT_RUN = {
    r"^git clone|^make demo": "installs; a workflow does",
    r"pip install": "installs",
    r"s3://bucket|example\.com": "needs another machine",
    r"--host 192\.168": "needs an address of the reader",
    r"compute\.nodes=|worker --join": "needs another machine; tests/training/test_nodes.py has two launchers",
    r"compute\.executor=dask|dask ": "needs a cluster; tests/cluster has one",
    r"vllm|mlx_lm|llama-server|ollama create|lmstudio|tensorboard": "another program",
    r"export [A-Z_]+=": "sets a variable in the reader's shell",
    r"cp ~/Documents": "files of the reader",
    r"run large|--gpu rtx|compute\.processes=8 ": "needs GPUs",
    r"python -m benchmarks\.(?!guide)": "takes minutes or needs ../shared/corpora",
    r"prefect (server|worker) start|homegrown up": "`homegrown up` runs during the test",
    r"tiny-2026|5ecc965f|compare tiny latest|--keep-runs|export/gguf": "names an artifact or a run of the writer",
    r"homegrown rate|report ratings|feedback": "needs a person",
    r"docker |POSTGRES_PASSWORD|RUN_AS": "needs Docker",
    r"sudo |chgrp |chmod |HOMEGROWN_ARTIFACTS=/srv": "changes the machine",
    r"(run auto|adapt) .*(--time|--tokens)(?!.*--dry-run)|pretrain/auto": "trains for the given time",
    r"^python -c": "tests/export loads the folder",
    r"\\\"/data/answers": "a path of the writer",
    r"\$HOMEGROWN_API_KEY": "another program",
}
"""Commands that are not run, with the reason; each pattern has one."""

_SERVES = r"homegrown serve"
_SECONDS = 1200.0


@dataclass(frozen=True)
class Line:
    """A command as it is written, with what is expected of it."""

    page: Path
    text: str
    fails_with: str = ""

    @property
    def reason(self) -> str | None:
        """Why it is not run."""
        return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, self.text)), None)


def lines(page: Path) -> Iterator[Line]:
    """Yield the commands of a page; raises ValueError for a line that starts with no known program."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        if language not in ("", "bash", "sh") or block.startswith(TEXTS):
            continue
        if block.startswith("$ "):
            for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE):
                yield Line(page, command, output.strip() if output.startswith("Error: ") else "")
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip():
                if not re.sub(r"^([A-Z_]+=\S+ )+", "", line).startswith(tuple(f"{one} " for one in PROGRAMS)):
                    raise ValueError(f"{page.name}: {line!r} starts with no known program")
                yield Line(page, line)


def test_every_command_is_run_or_has_a_reason_and_every_reason_a_command() -> None:
    every = [line for page in PAGES for line in lines(page)]
    assert len(every) > 100
    for pattern in NOT_RUN:
        assert any(re.search(pattern, line.text) for line in every), pattern
    assert sum(line.reason is None for line in every) > 60


def test_a_typo_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```\nhomegrown runs\nhomegrwn runs\n```\n")
    with pytest.raises(ValueError, match="'homegrwn runs' starts with no known program"):
        list(lines(page))
    page.write_text("```\n$ homegrown run tiny --only x --from y\nError: Wrong.\n$ homegrown runs\nrun  recipe\n```\n")
    assert [(line.text, line.fails_with) for line in lines(page)] == [
        ("homegrown run tiny --only x --from y", "Error: Wrong."),
        ("homegrown runs", ""),
    ]


@pytest.mark.slow
def test_a_documented_mistake_has_the_documented_message(tmp_path: Path) -> None:
    mistakes = [line for page in PAGES for line in lines(page) if line.fails_with and line.reason is None]
    assert mistakes
    for line in mistakes:
        with mock.patch.dict(os.environ):  # commands set variables for their process
            done = CliRunner().invoke(cli, ["--artifacts", str(tmp_path / "artifacts"), *shlex.split(line.text)[1:]])
        assert (done.exit_code, done.output.strip()) == (1, line.fails_with), line.text


@dataclass
class Clone:
    """A fresh clone with small recipes, made-up data and trained models, and a running `homegrown up`."""

    folder: Path
    environment: dict[str, str]
    output: str = field(default="", init=False)

    def run(self, command: str, expected: tuple[int, ...] = (0,)) -> str | None:
        """Run a command; return what is wrong with its end."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
        )
        self.output = done.stdout
        if done.returncode not in expected:
            return f"{command}\n  exits with {done.returncode}: {done.stdout[-1500:]}"
        if "Traceback (most recent call last)" in done.stdout:
            return f"{command}\n  prints a traceback: {done.stdout[-1500:]}"
        return None

    def serve(self, command: str) -> str | None:
        """Run a server until it answers, then end it as Ctrl-C does."""
        port = free_port()
        command = f"exec {command.partition(' #')[0]} --port {port}"
        server = subprocess.Popen(["bash", "-c", command], cwd=self.folder, env=self.environment)
        try:
            until(lambda: answers(f"http://127.0.0.1:{port}/v1/models") or server.poll() is not None)
            if server.poll() is not None:
                return f"{command}\n  exits with {server.returncode}"
            server.send_signal(signal.SIGINT)
            return (
                None if server.wait(60) in (0, 130, -signal.SIGINT) else f"{command}\n  ends with {server.returncode}"
            )
        finally:
            server.kill()
            server.wait()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port: int = free.getsockname()[1]
        return port


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def until(what: Any) -> None:
    end = time.monotonic() + _SECONDS
    while not what():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.5)


_SMALL: dict[str, dict[str, Any]] = {
    "tokenizer": {"vocabulary_size": 768, "sample_mb": 1},
    "shard": {"validation_share": 0.08, "test_share": 0.1, "shard_mb": 0.1},
    "model": {"hidden": 64, "layers": 2, "heads": 2, "kv_heads": 1, "feed_forward": 128, "context": 64},
    "adaptation": {"context": 64},
    "training": {
        "max_steps": 4,
        "warmup_steps": 1,
        "batch_size": 2,
        "micro_batch_size": 2,
        "compile": "never",
        "validate_every": 4,
        "checkpoint_every": 4,
        "sample_every": 4,
        "sample_tokens": 2,
        "validation_tokens": 500,
    },
    "quantization": {"validation_tokens": 500},
    "evaluation": {
        "perplexity_tokens": 1000,
        "samples": 2,
        "prompt_tokens": 16,
        "continuation_tokens": 8,
        "loss_tokens": 500,
        "answer_tokens": 2,
    },
    "compute": {"workers": 1},
}


def shrink(file: Path) -> None:
    """Make every recipe of a deployment file small that is run; `large` is only planned, for several GPUs."""
    content = json.loads(json.dumps(yaml.safe_load(file.read_text())))  # without shared parts
    for deployment in content["deployments"]:
        if deployment["name"] == "large":
            continue
        recipe = deployment["parameters"].get("recipe", {})
        for group, values in _SMALL.items():
            if recipe.get(group):
                recipe[group] |= {name: value for name, value in values.items() if name in recipe[group]}
        if recipe.get("model"):
            classic = recipe["model"]["family"] == "classic"
            recipe["model"]["kv_heads"] = 2 if classic else 1
            recipe["training"]["max_steps"] = 130  # documented decays take 120
        for source in (recipe.get("ingest") or {}).get("sources", []):
            source["limit_mb"] = 0.3
    file.write_text(yaml.safe_dump({name: content[name] for name in content if name != "definitions"}))


def write_data(folder: Path) -> None:
    """Write the files that the documentation names."""
    texts = [text for _, text in sorted(pydoc_data.topics.topics.items()) if 500 < len(text) < 4000]
    for name, chosen in (("data/notes", texts[:60]), ("data/general", texts[60:66])):
        (folder / name).mkdir(parents=True)
        for number, text in enumerate(chosen):
            (folder / name / f"{number}.txt").write_text(text)
    (folder / "data/notes/today.txt").write_text(texts[0])
    (folder / "notes.txt").write_text("The first thing to")
    answers = [{"question": f"box {n}?", "answer": f"it is red #### {n}"} for n in range(40)]
    pairs = [{"prompt": f"box {n}?", "chosen": "it is red", "rejected": f"grey {n}"} for n in range(40)]
    for rows, names in (
        (answers, ("data/answers.jsonl", "data/conversations/1.jsonl", "my-conversations.jsonl", "gsm8k-train.jsonl")),
        (pairs, ("data/pairs.jsonl", "data/preferences/1.jsonl", "my-pairs.jsonl")),
    ):
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


PREPARED = (
    "homegrown run tiny",
    "homegrown run tiny --set seed=2 --from pretrain",
    "homegrown run tiny --set seed=3 --from pretrain",
    "homegrown finetune tiny --data data/answers.jsonl",
    "homegrown finetune tiny --data data/answers.jsonl --set seed=2",
    "homegrown dpo tiny --data data/pairs.jsonl",
    "homegrown export --to hf --out models/Qwen3-0.6B",
    "homegrown export --to gguf --out models/gguf && cp models/gguf/*.gguf models/model.gguf",
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    folder = tmp_path_factory.mktemp("clone") / "homegrown"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (folder / ".venv").symlink_to(sys.prefix)
    shrink(folder / "pipelines.yaml")
    write_data(folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "HOMEGROWN_"))}
    environment |= {
        "PATH": f"{folder}/.venv/bin:{environment['PATH']}",
        "PYTHONPATH": str(folder),
        "PREFECT_HOME": str(folder.parent / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "OMP_NUM_THREADS": "1",
    }
    made = Clone(folder, environment)
    log = (folder.parent / "up.log").open("w")
    up = subprocess.Popen(["homegrown", "up"], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        until(lambda: "Ctrl-C stops everything" in Path(log.name).read_text() or up.poll() is not None)
        assert up.poll() is None, Path(log.name).read_text()
        for command in PREPARED:
            problem = made.run(command)
            assert problem is None, problem
        yield made
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(120)
        shutil.rmtree(folder / "artifacts", ignore_errors=True)


@pytest.mark.minutes
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, clone: Clone) -> None:
    problems = []
    shutil.rmtree(clone.folder / "my-model", ignore_errors=True)  # an export is written to a new folder
    for line in lines(page):
        if line.reason is None:
            print(line.text, flush=True)
            problems.append(run(line, clone))
    assert not [problem for problem in problems if problem]


def run(line: Line, clone: Clone) -> str | None:
    command = line.text.partition("    #")[0].strip()
    if re.match(_SERVES, command) or command.startswith(".venv/bin/homegrown serve"):
        return clone.serve(command)
    if command.startswith("curl"):
        return with_server(command, clone)
    if command.startswith("prefect deployment run") and "--watch" not in command:
        command = f"{re.sub(r' +#.*', '', command)} --watch"
    if line.fails_with:
        problem = clone.run(command, expected=(1,))
        said, wanted = (" ".join(text.split()) for text in (clone.output, line.fails_with))
        return problem or (None if wanted in said else f"{command}\n  says {said}\n  instead of {wanted}")
    allowed = (0, 1) if re.search(r"doctor|work-pool create", command) else (0,)
    return clone.run(command, expected=allowed)


def with_server(command: str, clone: Clone) -> str | None:
    if answers("http://127.0.0.1:8080/v1/models"):
        return f"{command}\n  another server has its port"
    server = subprocess.Popen(["homegrown", "serve", "pretrain@3"], cwd=clone.folder, env=clone.environment)
    try:
        until(lambda: answers("http://127.0.0.1:8080/v1/models"))
        return clone.run(f"{command} --fail")
    finally:
        server.kill()
        server.wait()
