"""Tensors of several workers on disk: torch.distributed.checkpoint over safetensors files instead of pickles.

Every worker writes its parts to a file of its own, with the offset of each part in the file's header, in the format of
PyTorch's `HuggingFaceStorageReader`. Any number of workers can then read the parts that they need.
"""

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future


def save(tensors: Mapping[str, Tensor], folder: Path, group: ProcessGroup | None, finish: Callable[[], None]) -> None:
    """Write `tensors` to `folder`, all workers of `group` together; then the first of them calls `finish`.

    Each worker writes its parts of sharded tensors (DTensor), and one worker writes each of the others.

    Raises:
        torch.distributed.checkpoint.CheckpointException: one of the workers failed; raised in all.
    """
    state_dict_saver.save(dict(tensors), storage_writer=_SafetensorsWriter(folder, finish), process_group=group)


def load(tensors: Mapping[str, Tensor], folder: Path, group: ProcessGroup | None, *, alone: bool = False) -> None:
    """Load `tensors`, sharded or not, from `folder` by their names.

    All workers of `group` call it together, unless one is `alone`.
    """
    reader = HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # on purpose, for one worker alone
        state_dict_loader.load(dict(tensors), storage_reader=reader, process_group=group, no_dist=alone)


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the unsharded shapes of the tensors in `folder`."""
    saved = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: tuple(tensor.size) for name, tensor in saved.items()}  # type: ignore[union-attr]


class _SafetensorsWriter(StorageWriter):
    """The writer that `torch.distributed.checkpoint.save` calls for the workers' parts."""

    def __init__(self, folder: Path, finish: Callable[[], None]):
        self._folder, self._finish = folder, finish

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Do nothing: a writer serves one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        last = len(plans)
        return [replace(plan, storage_data=f"part-{n}-of-{last}.safetensors") for n, plan in enumerate(plans, start=1)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        # In order of names: a resumed run has them in another one, and its files are to be the same.
        items = sorted(plan.items, key=lambda item: item.index.fqn)
        tensors = {item.index.fqn: _data(planner, item) for item in items}
        places = {item.index.fqn: {"saved_offsets": list(item.index.offset or ())} for item in items}
        save_file(tensors, self._folder / plan.storage_data, {"DCP_SHARDING_INFO": json.dumps(places)})
        written: Future[list[WriteResult]] = Future()
        written.set_result(
            [WriteResult(item.index, tensors[item.index.fqn].nbytes, plan.storage_data) for item in plan.items]
        )
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        self._finish()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False


def _data(planner: SavePlanner, item: WriteItem) -> Tensor:
    data = planner.resolve_data(item)
    assert isinstance(data, Tensor)
    return data.detach().contiguous()
