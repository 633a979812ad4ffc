"""The layer over accelerators: what it promises for each type, and training on one that only pretends."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from homegrown.planning import machine
from homegrown.quantization.variants import device_for
from homegrown.training.distributed import Worker
from homegrown.training.precision import choose_precision
from homegrown.training.pretraining import Job
from homegrown.util import devices
from homegrown.util.errors import UserError
from tests.training.side_by_side import Leg, run

GIB = 2**30
PRETENDED = ["cuda", "xpu", "mps", "hpu"]


@pytest.fixture(params=PRETENDED)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two accelerators of 16 GiB, as PyTorch's modules would describe them; `hpu` is in no table."""
    kind: str = request.param
    module = SimpleNamespace(
        get_device_properties=lambda index: SimpleNamespace(name=f"a {kind}", uuid=f"uuid-{index}"),
        get_device_capability=lambda _: (9, 0),
        is_bf16_supported=lambda including_emulation: True,
    )
    ask = torch.get_device_module
    monkeypatch.setattr(torch, "get_device_module", lambda name=None: module if name == kind else ask(name))
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16 * GIB)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: True)
    for name, value in {
        "is_available": True,
        "current_accelerator": torch.device(kind),
        "device_count": 2,
        "set_device_index": None,
        "get_memory_info": (12 * GIB, 16 * GIB),
    }.items():
        monkeypatch.setattr(torch.accelerator, name, lambda *_, value=value, **__: value)
    return kind


def test_auto_takes_the_accelerator_and_another_is_refused(kind: str) -> None:
    assert devices.resolve("auto") == devices.resolve(kind) == kind
    assert devices.resolve("cpu") == "cpu"
    other = next(one for one in PRETENDED if one != kind)
    with pytest.raises(UserError, match=rf"^compute\.device is '{other}', but PyTorch sees '{kind}'; set it to .*\.$"):
        devices.resolve(other)


def test_each_type_is_described_and_counted(kind: str) -> None:
    assert devices.describe(kind).startswith(f"a {kind}")
    assert devices.total_memory(kind) == 16 * GIB
    assert choose_precision("auto", kind).dtype == torch.bfloat16
    assert devices.computes_in_fp8(kind) == (kind == "cuda")
    with pytest.raises(UserError, match=r"^compute\.processes is 3, but PyTorch sees 2 accelerator"):
        devices.names(kind, 3)


def test_what_a_type_lacks_is_done_otherwise_and_named(kind: str) -> None:
    missing = devices.fallbacks(kind)
    complete = kind in ("cuda", "xpu")
    assert (missing == []) == complete
    assert device_for("nf4", kind) == (kind if complete else "cpu")
    assert device_for("int8-dynamic", kind) == "cpu"
    if complete:
        assert devices.names(kind, 2) == ["uuid-0", "uuid-1"]
    else:
        assert devices.compiler(kind) is None
        with pytest.raises(UserError, match=r"trains with one process; set it to 1\.$"):
            devices.names(kind, 2)


def test_the_machine_has_it_where_no_tool_of_nvidia_answers(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "_OTHER_DRIVERS", (tmp_path,))
    found = machine.this_machine()
    assert [(gpu.kind, gpu.memory_bytes) for gpu in found.gpus] == [(kind, 16 * GIB)] * 2
    assert found.device("auto") == kind


@pytest.mark.parametrize("kind", ["mps"], indirect=True)
def test_training_on_a_pretended_one_is_training_on_the_cpu(
    kind: str, alone, corpus, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its tensors are the CPU's, so that all but the kernels is an accelerator's: sums, batches, checkpoints.
    monkeypatch.setattr(devices, "select", lambda *_: torch.device("cpu"))
    monkeypatch.setattr(os, "environ", os.environ | dict.fromkeys(("RANK", "LOCAL_RANK"), "0"))
    os.environ.update(WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    settings = tiny[1].model_copy(update={"max_steps": 6, "micro_batch_size": "auto", "precision": "fp32"})
    job = Job(**corpus, model=tiny[0], training=settings, seed=1, device=kind)
    losses = {}
    for device in (kind, "cpu"):
        worker = Worker(device)
        worker.writers = dist.group.WORLD
        torch.set_num_threads(1)
        trainer = run(Leg(str(tmp_path / device)), job, worker)
        losses[device] = [row.loss for row in trainer.state.metrics]
    torch.use_deterministic_algorithms(False)
    assert losses[kind] == pytest.approx(losses["cpu"], rel=1e-5)
    assert len(losses[kind]) == 6
