"""The stage `evaluate`: every variant of the weights and baselines on held-out text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from homegrown.config.evaluation import EvaluationSettings
from homegrown.evaluation.baselines import counting_models
from homegrown.evaluation.compressors import compressed_bits_per_byte
from homegrown.evaluation.continuations import continue_all, tokens_per_second
from homegrown.evaluation.costs import Costs
from homegrown.evaluation.evaluation_report import html, markdown
from homegrown.evaluation.examination import Examination, prepare
from homegrown.evaluation.general import prepare_general
from homegrown.evaluation.heldout import HeldOut
from homegrown.evaluation.memorization import Match, longest_matches, origin
from homegrown.evaluation.perplexity import predict
from homegrown.evaluation.results import Memory, OfGeneral, OfSource, Report, Result
from homegrown.evaluation.sample import write_sample
from homegrown.evaluation.scores import compare, of_continuations, of_costs, of_text
from homegrown.model.weights import in_precision, load_config
from homegrown.quantization.memory import loaded_megabytes
from homegrown.quantization.variants import ORIGINAL, device_of, disk_megabytes, load_variant, variants_of
from homegrown.tokenizer.special import special_ids
from homegrown.util.files import replacing, write_parquet
from homegrown.util.progress import Metric, Outcome, Progress, silent
from homegrown.util.seeds import derive

BASE = "base"
"""The row of the model that training continued from."""

TEXT = "held-out text"
"""The row of the references themselves: their repetition, and what of them is in the training data."""


def evaluate(
    out: Path,
    pretrained: Path,
    quantized: Path,
    packed: Path,
    shards: Path,
    tokenizer: Path,
    settings: EvaluationSettings,
    *,
    base: Path | None = None,
    context: int | None = None,
    seed: int,
    device: str,
    progress: Progress = silent,
) -> Outcome:
    """Measure the original weights, every quantized variant, their base and the baselines on the test split.

    The paths are the stages' folders; `base` is that of the model that training continued from. With it, the base and
    the original weights are measured on the general text too. Models read at most `context` tokens, by default their
    own context.

    Writes the tables of `results.Report`; `documents`, the cost of each document for each model, to compare
    evaluations; `report.md` and `report.html`.

    Raises:
        UserError: an input is missing or damaged, or the test split is too small for the settings.
    """
    folders = variants_of(pretrained, quantized)
    if base is not None:
        folders[BASE] = base / "model"
    context = context or load_config(folders[ORIGINAL] / "config.json").context
    examination = prepare(packed, shards, tokenizer, context, settings, seed)
    stride = examination.facts.stride
    general = None if base is None else prepare_general(examination.encoding, packed, context, stride)
    precision, of_general = "float32", dict[str, Costs]()
    steps = len(folders) + 2  # the rest takes about as long as two variants
    sample, measured = "", dict[str, _Measured]()
    for name, folder in folders.items():
        progress(len(measured), steps, variant=name)
        model = load_variant(folder, device_of(folder, device))
        if name == ORIGINAL:
            precision = "bf16" if next(model.parameters()).dtype == torch.bfloat16 else "float32"
            sample = write_sample(model, examination.encoding, seed)
        elif name == BASE:
            model = in_precision(model, precision)  # a base can be saved in another one
        if general and name in (ORIGINAL, BASE):
            of_general[name] = general.costs(model)
        costs = examination.costs(predict(model, examination.held_out.split, examination.windows))
        written = continue_all(model, examination.tasks, special_ids(examination.encoding).eos)
        row = Result(
            variant=name,
            kind="base" if name == BASE else "weights",
            tokens_per_second=tokens_per_second(model, examination.tasks[0]),
            disk_megabytes=disk_megabytes(folder),
            memory_megabytes=loaded_megabytes(model),
            device=model.device.type,
        )
        measured[name] = _Measured(costs, written, row)
        del model  # before the next one is loaded
    progress(len(folders), steps, step="baselines")
    costs_of = {name: one.costs for name, one in measured.items()} | counting_models(packed, examination)
    packers = compressed_bits_per_byte(shards)
    progress(len(folders) + 1, steps, step="memorization")
    draws = derive(seed, "bootstrap")
    report = replace(
        _report(examination, measured, costs_of, packers, sample, draws),
        general=_general(of_general, draws),
        facts=replace(examination.facts, general_left_out=general.left_out if general else 0),
    )
    report.write(out)
    write_parquet(out / "documents" / "part-00000.parquet", _documents(costs_of, examination.held_out))
    for file, content in (("report.md", markdown(report)), ("report.html", html(report))):
        with replacing(out / file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    progress(steps, steps)
    models = sum(row.kind != "text" for row in report.results)
    return Outcome(rows_in=len(folders), rows_out=models, unit="models", metrics=_metrics(report))


@dataclass(frozen=True)
class _Measured:
    """The predictions and completions of one variant of the weights; `row` has its speed and size."""

    costs: Costs
    written: list[list[int]]
    row: Result


def _report(
    examination: Examination,
    measured: Mapping[str, _Measured],
    costs_of: Mapping[str, Costs],
    packers: Mapping[str, float],
    sample: str,
    draws: int,
) -> Report:
    """Compare the completions with the references and the training data, and collect everything."""
    references = [task.reference for task in examination.tasks]
    texts = {name: one.written for name, one in measured.items()} | {TEXT: references}
    matches = _matches(examination, texts)
    rows, continuations = [], []
    for name, one in measured.items():
        compared = compare(name, examination, one.written, matches[name], matches[TEXT])
        continuations += compared
        rows.append(replace(one.row, **of_continuations(compared, draws)))  # type: ignore[arg-type]
    rows += [Result(variant=name, kind="baseline") for name in costs_of if name not in measured]
    base = costs_of[ORIGINAL]
    rows = [
        replace(row, **of_costs(costs_of[row.variant], None if row.variant == ORIGINAL else base, draws))  # type: ignore[arg-type]
        for row in rows
    ]
    rows += [Result(variant=name, kind="baseline", bits_per_byte=bits) for name, bits in packers.items()]
    rows.append(Result(variant=TEXT, kind="text"))
    results = [
        replace(row, **of_text(texts[row.variant], examination.decode(texts[row.variant]), matches[row.variant]))  # type: ignore[arg-type]
        if row.variant in texts
        else row
        for row in rows
    ]
    return Report(
        results=results,
        sources=_sources(costs_of, examination.held_out, draws),
        continuations=continuations,
        memorised=[_memory(examination, name, texts[name], matches[name]) for name in texts],
        facts=examination.facts,
        sample=sample,
    )


def _matches(examination: Examination, texts: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, list[Match]]:
    """Return the longest match of every text with the training shards, in one pass over these."""
    every = longest_matches(examination.packed, [tokens for written in texts.values() for tokens in written])
    count = len(examination.tasks)
    return {name: every[place * count : (place + 1) * count] for place, name in enumerate(texts)}


def _memory(examination: Examination, name: str, written: Sequence[Sequence[int]], matches: Sequence[Match]) -> Memory:
    """Return the longest of a variant's matches, and its training document."""
    longest, tokens = max(zip(matches, written, strict=True), key=lambda pair: pair[0].length)
    if not longest.length:
        return Memory(variant=name, tokens=0, text="", document="", source="")
    found = origin(examination.packed, examination.shards, examination.encoding, longest.end)
    text = examination.encoding.decode(tokens[longest.start : longest.start + longest.length])
    return Memory(variant=name, tokens=longest.length, text=text, document=found.document, source=found.source)


def _sources(costs_of: Mapping[str, Costs], held_out: HeldOut, draws: int) -> list[OfSource]:
    """Return a row for each model and each source, the largest source first."""
    sources = np.array(held_out.sources)
    any_costs = next(iter(costs_of.values()))
    sizes = {name: int(any_costs.bytes[sources == name].sum()) for name in sorted(set(held_out.sources))}
    rows = []
    for variant, costs in costs_of.items():
        for source in sorted((name for name in sizes if sizes[name]), key=lambda name: -sizes[name]):
            own = costs.of(sources == source)
            figures = of_costs(own, None, draws)
            rows.append(
                OfSource(
                    variant=variant,
                    source=source,
                    documents=int(np.count_nonzero(own.tokens)),
                    tokens=int(own.tokens.sum()),
                    bytes=int(own.bytes.sum()),
                    **figures,  # type: ignore[arg-type]
                )
            )
    return rows


def _general(costs_of: Mapping[str, Costs], draws: int) -> list[OfGeneral]:
    """Return the rows of the general text, the base first."""
    rows = []
    for variant in (BASE, ORIGINAL):
        if variant in costs_of:
            costs = costs_of[variant]
            figures = of_costs(costs, costs_of[BASE] if variant == ORIGINAL else None, draws)
            del figures["perplexity"]
            rows.append(
                OfGeneral(
                    variant=variant,
                    passages=len(costs.bytes),
                    tokens=int(costs.tokens.sum()),
                    bytes=int(costs.bytes.sum()),
                    **figures,  # type: ignore[arg-type]
                )
            )
    return rows


def _documents(costs_of: Mapping[str, Costs], held_out: HeldOut) -> pa.Table:
    """Return the cost of each document for each model, without documents of which nothing is predicted."""
    tables = [
        pa.table(
            {
                "variant": [variant] * held_out.split.documents,
                "document": np.arange(held_out.split.documents),
                "id": held_out.ids,
                "source": held_out.sources,
                "tokens": costs.tokens,
                "bytes": costs.bytes,
                "nats": costs.nats,
            }
        ).filter(pa.array(costs.tokens > 0))
        for variant, costs in costs_of.items()
    ]
    return pa.concat_tables(tables)


def _metrics(report: Report) -> dict[str, Metric]:
    original, facts = report.original, report.facts
    general = {row.variant: row.bits_per_byte for row in report.general}
    asked = {"documents_asked": facts.documents_asked} if facts.documents < facts.documents_asked else {}
    figures = {
        "perplexity": original.perplexity,
        "bits_per_byte": original.bits_per_byte,
        "bleu": original.bleu,
        "rouge_l": original.rouge_l,
        "memorised_longest": original.memorised_longest,
        "documents_continued": facts.documents,
        **asked,
        "general_bits_per_byte": general.get(ORIGINAL),
        "base_general_bits_per_byte": general.get(BASE),
        **{f"{row.variant}_bits_per_byte": row.bits_per_byte for row in report.results[1:]},
    }
    return {name.replace(" ", "_"): value for name, value in figures.items() if value is not None}
