"""`homegrown serve` from the command line."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest
import torch
from click.testing import CliRunner
from openai import OpenAI

from homegrown.cli.main import cli
from homegrown.serving.loading import Limits, choose, gguf_file, load, source
from homegrown.serving.own_engine import OwnEngine
from homegrown.store.artifacts import Store
from homegrown.store.garbage import garbage
from homegrown.util.errors import UserError
from tests.waiting import wait_for


def refused(store: Store, *arguments: str) -> str:
    result = CliRunner().invoke(cli, ["--artifacts", str(store.root), "serve", *arguments])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_mistake_is_one_error_message(trained: Store) -> None:
    assert "There is no version 7 of pretrain" in refused(trained, "pretrain@7")
    assert "has no quantized variants" in refused(trained, "pretrain:int9")
    assert "has no quantized variants" in refused(trained, "pretrain:")
    assert "There is no artifact of stage ''" in refused(trained, "")
    assert "name one, such as quantize@1:int8." in refused(trained, "quantize")
    assert "llama.cpp cannot run quantize@1:int8" in refused(trained, "quantize:int8", "--engine", "llama.cpp")
    assert "is not a host name" in refused(trained, "--allow-host", "https://llm.example.org")
    assert "--allow-origin * is not an origin" in refused(trained, "--allow-origin", "*")
    assert "names a model that is not served; use one of pretrain@1" in refused(trained, "--alias", "a=b")
    for alias in ("pretrain@1", "", " ", "=pretrain"):
        assert f"--alias {alias} is not a new name" in refused(trained, "--alias", alias)
    assert "names a model that is not served" in refused(trained, "--alias", "a=")
    two = ("pretrain", "quantize:int8", "--alias")
    assert "--alias a=quantize:int8 is not a new name" in refused(trained, *two, "a", "--alias", "a=quantize:int8")
    assert "--alias pretrain=quantize:int8 is not a new name" in refused(trained, *two, "pretrain=quantize:int8")
    assert "--lora pretrain@1 has no adapter; name a LoRA" in refused(trained, "--lora", "pretrain@1")
    (trained.resolve("pretrain").path / "adapter").mkdir()
    assert "--lora needs a model without a variant" in refused(trained, "pretrain:q8_0", "--lora", "pretrain@1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Cannot listen on 127.0.0.1:{port}" in refused(trained, "--port", str(port))


def test_a_ctx_size_beyond_the_context_ends_the_server(trained: Store) -> None:
    assert "the model's context is 128" in refused(trained, "-c", "4096", "--port", str(free_port())).splitlines()[-1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def test_the_faster_engine_is_chosen(trained: Store) -> None:
    artifact = trained.resolve("pretrain")
    folder = artifact.path / "model"
    plain, small = source(artifact.name, artifact, folder, None), source(artifact.name, artifact, folder, "q8_0")
    assert [choose(one, "auto", "cpu") for one in (plain, small)] == ["homegrown", "llama.cpp"]
    assert choose(small, "auto", "cuda") == choose(small, "homegrown", "cpu") == "homegrown"
    assert choose(plain, "llama.cpp", "cpu") == "llama.cpp"
    with pytest.raises(UserError, match=r"has no variant q9; use a version of quantize, or a kind of GGUF file \(f32"):
        source(artifact.name, artifact, folder, "q9")


def test_weights_can_be_served_in_bfloat16(trained: Store) -> None:
    artifact = trained.resolve("pretrain")
    plain, small = (source(artifact.name, artifact, artifact.path / "model", kind) for kind in (None, "q8_0"))
    assert [choose(one, "auto", "cpu", "bf16") for one in (plain, small)] == ["homegrown", "homegrown"]
    with pytest.raises(UserError, match="--precision needs the engine homegrown"):
        choose(plain, "llama.cpp", "cpu", "bf16")
    limits = Limits(rows=1, context=None, threads=1, precision="bf16")
    [(_, engine, _)] = load(trained, plain, "homegrown", "cpu", limits, lambda message: None)
    assert isinstance(engine, OwnEngine)
    model = engine._engine.model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.model.positions.dtype == torch.float32
    engine.close()


def test_a_gguf_file_is_written_once(trained: Store) -> None:
    artifact = trained.resolve("pretrain")
    wanted = source(artifact.name, artifact, artifact.path / "model", "q8_0")
    file = gguf_file(trained, wanted)
    assert file.read_bytes()[:4] == b"GGUF"
    before = file.stat().st_mtime_ns
    assert gguf_file(trained, wanted) == file and file.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_shuts_it_down_at_once(trained: Store, number: signal.Signals) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "homegrown.cli.main",
        "--artifacts",
        str(trained.root),
        "serve",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [*command, "pretrain", "pretrain:q8_0", "--parallel", "2", "--alias", "small=pretrain:q8_0"],
        env=os.environ | {"HOMEGROWN_API_KEY": "secret", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_for(lambda: process.poll() is not None or healthy(port))
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="secret", max_retries=0)
        assert [one.id for one in client.models.list()] == ["pretrain@1", "pretrain@1:q8_0", "small"]
        served = trained.resolve("pretrain@1").path
        assert served not in {item.path for item in garbage(trained, 0, [])}
        for name in ("pretrain@1", "pretrain@1:q8_0", "pretrain", "pretrain:q8_0", "small"):
            assert client.completions.create(model=name, prompt="x", max_tokens=3).usage
        # The last of 64 choices, two at a time, is far from its end when the signal comes.
        asked = {"model": "pretrain@1", "prompt": "x", "max_tokens": 120, "temperature": 0.01, "n": 16}
        streams = [client.completions.create(**asked, stream=True) for _ in range(4)]  # type: ignore[call-overload]
        next(streams[0])
        process.send_signal(number)
        with pytest.raises(openai.APIError, match="The server was stopped"):
            list(streams[-1])
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert served in {item.path for item in garbage(trained, 0, [])}
        assert "Traceback" not in output
        assert "pretrain@1 is ready (homegrown, context 128, 2 requests at once)." in output
        assert "pretrain@1:q8_0 is ready (llama.cpp, context 128, 2 requests at once)." in output
    finally:
        process.kill()
        process.wait()


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:  # not listening yet, or busy loading
        return False
