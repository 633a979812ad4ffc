"""Public specifications of GPUs that people train on, for plans without the machine at hand."""

from dataclasses import dataclass, replace

from homegrown.planning.machine import LocalGpu, Machine
from homegrown.util.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """Peak TFLOP/s of dense bfloat16 with float32 accumulation, memory bandwidth in 10^9 bytes per second.

    `watts` is the board's maximum power by its maker.
    """

    name: str
    teraflops: float
    memory_gib: int
    gigabytes_per_second: float
    watts: float

    @property
    def memory_bytes(self) -> int:
        """Memory of the board, in bytes; makers say gigabytes and mean 2^30."""
        return self.memory_gib * GIB


GPUS = {
    # NVIDIA T4 datasheet, 2019. It has no bfloat16; the figure is of float16.
    "t4": Gpu("NVIDIA T4", 65, 16, 320, 70),
    # NVIDIA GA102 whitepaper, 2021, appendix A (3090); for the 3060: 112 tensor cores, 128 FLOP a clock, 1.777 GHz.
    "rtx3060": Gpu("NVIDIA GeForce RTX 3060", 25.5, 12, 360, 170),
    "rtx3090": Gpu("NVIDIA GeForce RTX 3090", 71, 24, 936, 350),
    # AWS, A10G datasheet, 2021.
    "a10g": Gpu("NVIDIA A10G", 70, 24, 600, 300),
    # NVIDIA A100 datasheet, 2021, the SXM modules.
    "a100-40": Gpu("NVIDIA A100 40 GB", 312, 40, 1555, 400),
    "a100-80": Gpu("NVIDIA A100 80 GB", 312, 80, 2039, 400),
    # NVIDIA Ada whitepaper, 2023, appendix A (4090); L4 and L40S datasheets, 2023, without sparsity.
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", 165.2, 24, 1008, 450),
    "l4": Gpu("NVIDIA L4", 121, 24, 300, 72),
    "l40s": Gpu("NVIDIA L40S", 362, 48, 864, 350),
    # NVIDIA H100 and H200 datasheets, 2023, the SXM modules, without sparsity.
    "h100": Gpu("NVIDIA H100 SXM", 989, 80, 3350, 700),
    "h200": Gpu("NVIDIA H200 SXM", 989, 141, 4800, 700),
    # NVIDIA RTX Blackwell whitepaper, 2025, appendix A.
    "rtx5090": Gpu("NVIDIA GeForce RTX 5090", 209.5, 32, 1792, 575),
    # NVIDIA HGX B200 datasheet, 2024, an eighth of it, without sparsity.
    "b200": Gpu("NVIDIA B200", 2250, 180, 8000, 1000),
    # AMD Instinct MI300X datasheet, 2023, without sparsity.
    "mi300x": Gpu("AMD Instinct MI300X", 1307.4, 192, 5300, 750),
}


_OTHER_FORMS = ("pcie", "nvl", "laptop", "maxq", "mig", "super")


def find(name: str) -> Gpu:
    """Return the GPU with a name such as "h100" or "RTX 4090"; raises UserError for an unknown name."""
    wanted = plain(name)
    for key, gpu in GPUS.items():
        if wanted in (plain(key), plain(gpu.name)):
            return gpu
    raise UserError(f"--gpu {name}: unknown GPU; choose one of {', '.join(GPUS)}.")


def require(gpu: Gpu, machine: Machine) -> None:
    """Raise UserError unless this machine has the GPU."""
    if any(recognized(one.name, one.memory_bytes) is gpu for one in machine.gpus):
        return
    own = ", ".join(dict.fromkeys(one.name for one in machine.gpus)) or "no GPU"
    raise UserError(
        f"This machine has {own}, not the {gpu.name} of --gpu; print its recipe with --dry-run, or leave --gpu out."
    )


def machine_with(gpu: Gpu, count: int, machine: Machine) -> Machine:
    """Return a machine like this one with so many of the GPU instead of its own."""
    return replace(machine, gpus=(LocalGpu(gpu.name, gpu.memory_bytes, "", gpu.watts),) * count)


def smallest(memory_bytes: float) -> Gpu | None:
    """Return the GPU with the least memory that is enough, the slowest of equals; None if none has enough."""
    enough = [gpu for gpu in GPUS.values() if gpu.memory_bytes >= memory_bytes]
    return min(enough, key=lambda gpu: (gpu.memory_gib, gpu.teraflops), default=None)


def recognized(name: str, memory_bytes: int) -> Gpu | None:
    """Return the GPU of the table that a driver calls `name`, such as "NVIDIA H100 80GB HBM3"; None if unsure.

    Boards of another form than the table's run at other clocks.
    """
    said = plain(name)
    if any(form in said for form in _OTHER_FORMS):
        return None
    models = {key: plain(key.split("-")[0]) for key in GPUS}
    found = [model for model in models.values() if model in said]
    alike = [GPUS[key] for key, model in models.items() if model == max(found, key=len, default="")]
    return min(alike, key=lambda gpu: abs(gpu.memory_bytes - memory_bytes), default=None)


def plain(name: str) -> str:
    """Return a name in lower case, letters and digits only."""
    return "".join(character for character in name.lower() if character.isalnum())
