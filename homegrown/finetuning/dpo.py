"""Direct preference optimization (Rafailov et al. 2023): a base model trained on pairs of answers.

Also the process of each worker: `python -m homegrown.finetuning.dpo JOB`.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from homegrown.config.finetune_recipe import (
    ConversationRows,
    DpoSettings,
    FinetuneSettings,
    FinetuneTraining,
    PreferenceSettings,
    ReferenceSettings,
)
from homegrown.config.recipe import Parallel
from homegrown.finetuning.job import MODEL, FinetuneJob, TunedModel
from homegrown.util.progress import Outcome, Progress, silent

if TYPE_CHECKING:  # writing a job needs no PyTorch
    from tokenizers import Tokenizer

    from homegrown.data.index import TokenFile
    from homegrown.data.loader import TokenSplit
    from homegrown.finetuning.questions import Question
    from homegrown.model.transformer import Transformer
    from homegrown.training.next_token import Objective
    from homegrown.training.precision import Precision

Values = npt.NDArray[np.float64]

_ROWS = 4  # in a forward pass of the reference


class DpoJob(FinetuneJob):
    """A job of DPO; `packed`: folder of the packed pairs, with the reference's log-probability of each answer."""

    loss_unit: ClassVar[str] = "nats per pair"
    dpo: DpoSettings

    def task(self, train: "TokenSplit", tokenizer: "Tokenizer") -> "PreferringModel":
        """See `TrainingJob`."""
        return PreferringModel(self, train, tokenizer)


class PreferringModel(TunedModel):
    """A base model trained to prefer the chosen answers; a `TrainingTask`."""

    sequences_in_a_row = 2

    def __init__(self, job: DpoJob, train: "TokenSplit", tokenizer: "Tokenizer"):
        """Check the base; raises UserError as `TunedModel` does."""
        super().__init__(job, train, tokenizer)
        self._beta = job.dpo.beta

    def objective(self, model: "Transformer") -> "Objective":
        """See `TrainingTask`."""
        from homegrown.finetuning.pairs import PreferencePairs

        return PreferencePairs(model, self._beta)

    def questions(self, most: int) -> "list[Question]":
        """See `TunedModel`: the held-out prompts."""
        from homegrown.finetuning.questions import held_out_pairs

        return [question for question, _ in held_out_pairs(self._job.packed, most)]


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
    from homegrown.data.index import read_index, write_index
    from homegrown.data.loader import TokenSplit
    from homegrown.data.preferences import prepare_pairs
    from homegrown.finetuning.base_model import load_frozen
    from homegrown.model import weights
    from homegrown.training.precision import choose_precision

    outcome = prepare_pairs(out, base, settings, rows=rows, progress=progress)
    index = read_index(out)
    precision = choose_precision(reference.precision, "cuda" if device == "cuda" else "cpu")
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


def _with_values(out: Path, file: "TokenFile", values: Values) -> "TokenFile":
    """Write the values of the documents of a shard, and return the shard with them."""
    from homegrown.util.files import replacing

    name = file.tokens_file.replace("tokens-", "values-").replace(".bin", ".npy")
    with replacing(out / name) as temporary, temporary.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)
    return file.model_copy(update={"values_file": name})


def dpo(
    out: Path,
    base: Path,
    preferences: Path,
    settings: FinetuneSettings,
    training: FinetuneTraining,
    objective: DpoSettings,
    *,
    system: str | None,
    seed: int,
    device: str,
    processes: int,
    parallel: Parallel = "ddp",
    progress: Progress = silent,
) -> Outcome:
    """Train the model in the folder `base` on the pairs packed by `prepare`.

    Writes what fine-tuning on conversations writes, and resumes as it does. The loss of a step is a mean over pairs.

    Raises:
        UserError: a library is missing, a setting does not fit the base or the machine, or training diverges.
        RuntimeError: a worker failed for another reason; the message names its log file.
    """
    from homegrown.data.loader import TokenSplit
    from homegrown.finetuning.tuning import check
    from homegrown.model import weights
    from homegrown.tokenizer.chat_files import save_system
    from homegrown.training.run import run_job

    check(weights.load_config(base / "config.json"), settings)
    out.mkdir(parents=True, exist_ok=True)
    train = TokenSplit(preferences, "train")
    job = DpoJob(
        packed=preferences.resolve(),
        tokenizer=base.resolve(),
        base=base.resolve(),
        training=training.resolved(train.windows(train.context or 0)),
        finetuning=settings,
        dpo=objective,
        seed=seed,
        device=device,
        parallel=parallel,
    )
    summary = run_job(job, out, processes, progress, "homegrown.finetuning.dpo")
    if settings.method == "full":
        save_system(out / MODEL, system)
    return Outcome(rows_in=train.tokens, rows_out=int(summary["tokens"]), unit="tokens", metrics=summary)


def _log_probabilities(
    model: "Transformer", split: "TokenSplit", shards: int, precision: "Precision", kept: Path, progress: Progress
) -> list[Values]:
    """Return the log-probability of the answer of each document of a split, an array for each shard.

    The file `kept` has those of the rows so far, from which an interrupted call resumes with the same batches.
    """
    import torch

    from homegrown.finetuning.pairs import answer_nats

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


if __name__ == "__main__":
    from homegrown.training.stopping import end_process
    from homegrown.training.worker import main

    main(Path(sys.argv[1]), DpoJob)
    end_process()
