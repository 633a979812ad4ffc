"""The stage `evaluate`: every variant of the weights measured on held-out text."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
from tokenizers import Tokenizer

from homegrown.evaluation.continuations import Task, choose_tasks, continue_all, tokens_per_second
from homegrown.evaluation.overlap import bleu, distinct_share, repeated_share, rouge
from homegrown.evaluation.perplexity import measure_perplexity
from homegrown.evaluation.report import Continuation, Report, Result, html, markdown
from homegrown.evaluation.sample import write_sample
from homegrown.files import replacing, write_parquet
from homegrown.formats.variants import ORIGINAL, device_of, disk_megabytes, load_variant, memory_megabytes, variants_of
from homegrown.outcome import Outcome
from homegrown.progress import Metric, Progress, silent
from homegrown.recipe import EvaluationSettings
from homegrown.tokens.loader import TokenSplit
from homegrown.tokens.special import special_ids
from homegrown.tokens.tokenizer import load, token_bytes


def evaluate(
    out: Path,
    pretrained: Path,
    quantized: Path,
    packed: Path,
    tokenizer: Path,
    settings: EvaluationSettings,
    *,
    seed: int,
    device: str,
    progress: Progress = silent,
) -> Outcome:
    """Measure the original weights and every quantized variant on the test split; the paths are the stages' folders.

    Writes the tables `results` (one row a variant) and `continuations`, `report.md`, `report.html` and `sample.txt`.

    Raises:
        UserError: an input is missing or damaged, or the test split is too small for the settings.
    """
    encoding, split = load(tokenizer), TokenSplit(packed, "test")
    sizes = token_bytes(encoding)
    tasks = choose_tasks(split, settings, seed)
    folders = variants_of(pretrained, quantized)
    results: list[Result] = []
    continuations: list[Continuation] = []
    sample, test_tokens = "", 0
    for name, folder in folders.items():
        progress(len(results), len(folders), variant=name)
        model = load_variant(folder, device_of(folder, device))
        if name == ORIGINAL:
            sample = write_sample(model, encoding, seed)
        predicted = measure_perplexity(model, split, sizes, settings.perplexity_tokens)
        written = continue_all(model, tasks, special_ids(encoding).eos)
        compared = _compare(name, tasks, written, encoding)
        results.append(
            Result(
                variant=name,
                perplexity=predicted.perplexity,
                bits_per_byte=predicted.bits_per_byte,
                bleu=bleu([item.reference for item in compared], [item.continuation for item in compared]),
                rouge_1=_mean([item.rouge_1 for item in compared]),
                rouge_2=_mean([item.rouge_2 for item in compared]),
                rouge_l=_mean([item.rouge_l for item in compared]),
                repeated_4grams=repeated_share(written, 4),
                distinct_2=distinct_share(written, 2),
                tokens_per_second=tokens_per_second(model, tasks[0]),
                disk_megabytes=disk_megabytes(folder),
                memory_megabytes=memory_megabytes(folder),
                device=model.device.type,
            )
        )
        continuations += compared
        test_tokens = predicted.tokens
        del model  # before the next one is loaded
    progress(len(results), len(folders))
    report = Report(
        results=results,
        continuations=continuations,
        sample=sample,
        test_tokens=test_tokens,
        documents=len(tasks),
        documents_asked=settings.samples,
        prompt_tokens=settings.prompt_tokens,
        continuation_tokens=settings.continuation_tokens,
    )
    write_parquet(out / "results" / "part-00000.parquet", pa.Table.from_pylist([asdict(row) for row in results]))
    write_parquet(
        out / "continuations" / "part-00000.parquet", pa.Table.from_pylist([asdict(row) for row in continuations])
    )
    for file, content in (
        ("report.md", markdown(report)),
        ("report.html", html(report)),
        ("sample.txt", sample + "\n"),
    ):
        with replacing(out / file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return Outcome(rows_in=len(folders), rows_out=len(results), unit="variants", metrics=_metrics(report))


def _compare(name: str, tasks: Sequence[Task], written: Sequence[list[int]], encoding: Tokenizer) -> list[Continuation]:
    rows = []
    for number, (task, tokens) in enumerate(zip(tasks, written, strict=True)):
        reference, text = encoding.decode(task.reference), encoding.decode(tokens)
        overlap = rouge(reference, text)
        rows.append(
            Continuation(
                variant=name,
                document=number,
                prompt=encoding.decode(task.prompt),
                reference=reference,
                continuation=text,
                bleu=bleu([reference], [text]),
                rouge_1=overlap.rouge_1,
                rouge_2=overlap.rouge_2,
                rouge_l=overlap.rouge_l,
            )
        )
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _metrics(report: Report) -> dict[str, Metric]:
    original = report.results[0]
    metrics: dict[str, Metric] = {
        "perplexity": original.perplexity,
        "bits_per_byte": original.bits_per_byte,
        "bleu": original.bleu,
        "rouge_l": original.rouge_l,
        "documents_continued": report.documents,
    }
    if report.documents < report.documents_asked:
        metrics["documents_asked"] = report.documents_asked
    return metrics | {f"{result.variant}_bits_per_byte": result.bits_per_byte for result in report.results[1:]}
