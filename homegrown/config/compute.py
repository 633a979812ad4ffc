"""Settings of the machines that a run uses."""

from typing import Literal

from pydantic import Field

from homegrown.config.settings import Count, Positive, Settings

Parallel = Literal["ddp", "fsdp"]


class ComputeSettings(Settings):
    """Use of this machine and others. It is not part of any artifact's key: it changes the duration, not the result."""

    executor: Literal["processes", "dask"] = Field(
        default="processes",
        description="Executor of the shards of a stage: local processes, or workers of a Dask cluster.",
    )
    address: str | None = Field(
        default=None,
        pattern=r"^(?:tcp|tls|ucx|ws|wss)://[\w.-]+(?::\d+)?$|^(?:tcp|tls|ucx|ws|wss)://\[[0-9a-fA-F:.]+\](?::\d+)?$",
        description="Address of the Dask scheduler, such as tcp://127.0.0.1:8786. It can run any code here, so one on "
        "another machine must also be in the environment as DASK_SCHEDULER_ADDRESS; null: that one.",
    )
    workers: Count = Field(
        default=0,
        description="processes: number of processes for shards, 0: one per processor. dask: number of workers to wait "
        "for, 0: one; workers that join later are used too.",
    )
    device: Literal["auto", "cpu", "cuda", "xpu", "mps"] = Field(
        default="auto",
        description="Device, as PyTorch names its types: cuda is NVIDIA's and AMD's, xpu Intel's, mps Apple's; auto: "
        "an accelerator if there is one.",
    )
    processes: Positive = Field(default=1, description="Training processes of a machine, one per GPU.")
    nodes: Positive = Field(
        default=1, description="Machines that train together; the others run `homegrown worker --join`."
    )
    rendezvous: str = Field(
        default="127.0.0.1:29400",
        pattern=r"^[\w.-]+:\d{1,5}$",
        description="Address at which this machine waits for the other nodes. Whoever reaches it can run any code.",
    )
    parallel: Parallel = Field(
        default="ddp",
        description="Data parallelism of the training: ddp: the full model in each process; fsdp: a shard of it, for "
        "models that do not fit one GPU.",
    )
    memory_gb: float = Field(default=2, gt=0, description="Memory of DuckDB, in gigabytes, before it spills to disk.")
