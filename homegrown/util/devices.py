"""Which processor a stage computes on."""

from homegrown.util.errors import UserError


def resolve(device: str) -> str:
    """Return "cpu" or "cuda" for the setting `compute.device`; "auto" takes a GPU where there is one.

    Raises:
        UserError: "cuda" is asked for and PyTorch sees no GPU.
    """
    if device == "cpu":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise UserError("compute.device is 'cuda', but PyTorch sees no GPU; set it to 'auto' or 'cpu'.")
    return "cpu"


def gpu_names(count: int) -> list[str]:
    """Return the hardware's own names (UUIDs) of the first `count` visible GPUs, the same in every process.

    Raises:
        UserError: fewer GPUs are visible.
    """
    import torch

    visible = torch.cuda.device_count()
    if count > visible:
        raise UserError(f"compute.processes is {count}, but PyTorch sees {visible} GPU(s); one process needs one each.")
    return [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
