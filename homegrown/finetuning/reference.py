"""Pairs with the log-probability that the base gives each answer, which the loss of DPO compares with."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from homegrown.config.finetune_recipe import ConversationRows, PreferenceSettings, ReferenceSettings
from homegrown.data.index import TokenFile, read_index, write_index
from homegrown.data.loader import TokenSplit
from homegrown.data.preferences import prepare_pairs
from homegrown.finetuning.base_model import load_frozen
from homegrown.finetuning.pairs import answer_nats
from homegrown.model import weights
from homegrown.model.transformer import Transformer
from homegrown.training.precision import Precision, choose_precision
from homegrown.util.files import replacing
from homegrown.util.progress import Outcome, Progress, silent

Values = npt.NDArray[np.float64]

_ROWS = 4  # in a forward pass


def prepare(
    out: Path,
    base: Path,
    settings: PreferenceSettings,
    *,
    rows: ConversationRows,
    reference: ReferenceSettings,
    device: str,
    progress: Progress = silent,
) -> Outcome:
    """Pack pairs with the tokenizer of the model in `base`, and that model's log-probability of each answer.

    Raises:
        UserError: as `homegrown.data.preferences.prepare_pairs`, or a file of the model is damaged.
    """
    outcome = prepare_pairs(out, base, settings, rows=rows, progress=progress)
    index = read_index(out)
    precision = choose_precision(reference.precision, device)
    model = load_frozen(base, weights.load_config(base / "config.json"), reference, device=device).to(device)
    model.set_context(index.context or 0)
    splits = {}
    for split, files in index.splits.items():
        kept, name = out / f"reference-{split}.bin", f"log-probabilities of the base, {split}"
        report = partial(progress, step=name)
        values = _log_probabilities(model, TokenSplit(out, split), len(files), precision, kept, report)
        splits[split] = [_with_values(out, file, of_shard) for file, of_shard in zip(files, values, strict=True)]
    write_index(out, index.model_copy(update={"splits": splits}))
    for split in splits:
        (out / f"reference-{split}.bin").unlink(missing_ok=True)
    return outcome


def _with_values(out: Path, file: TokenFile, values: Values) -> TokenFile:
    """Write the values of the documents of a shard, and return the shard with them."""
    name = file.tokens_file.replace("tokens-", "values-").replace(".bin", ".npy")
    with replacing(out / name) as temporary, temporary.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)
    return file.model_copy(update={"values_file": name})


def _log_probabilities(
    model: Transformer, split: TokenSplit, shards: int, precision: Precision, kept: Path, progress: Progress
) -> list[Values]:
    """Return the log-probability of the answer of each document of a split, an array for each shard.

    The file `kept` has those of the rows so far, from which an interrupted call resumes with the same batches.
    """
    context = split.context or 0
    rows = [split.row_documents(row) for row in range(split.windows(context))]
    ends = np.cumsum([0, *(len(documents) for _, documents in rows)])
    known = np.fromfile(kept) if kept.exists() else np.empty(0)
    done = (int(np.searchsorted(ends, len(known), side="right")) - 1) // _ROWS * _ROWS
    with kept.open("ab") as stream:
        stream.truncate(int(ends[done]) * known.itemsize)
        for start in range(done, len(rows), _ROWS):
            indices = range(start, min(len(rows), start + _ROWS))
            windows = torch.from_numpy(split.read(indices, context)).to(model.device)
            with torch.no_grad(), precision.autocast():
                nats = answer_nats(model, windows).sums
            stream.write((-nats.double()).cpu().numpy().tobytes())
            stream.flush()
            os.fsync(stream.fileno())
            progress(indices[-1] + 1, len(rows))
    found = np.fromfile(kept)
    of_shard = np.repeat([shard for shard, _ in rows], np.diff(ends))
    document = np.concatenate([np.empty(0, np.int64), *(documents for _, documents in rows)])
    return [found[of_shard == shard][np.argsort(document[of_shard == shard])] for shard in range(shards)]
