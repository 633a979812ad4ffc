"""The recipe: every setting of a run, typed, one model per stage.

The values themselves, `tiny` to `large`, live in `pipelines.yaml`, the one place that Prefect, the command line and
the tests read. A field has a default only where a published or measured value stands behind it; what makes one
pipeline differ from another has none, so a recipe that leaves it out is refused and never silently small.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from homegrown.config import addresses

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Parallel = Literal["ddp", "fsdp"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]

# Prefect's server refuses by the schema what holds a credential, before it is kept anywhere.
_WITHOUT_CREDENTIAL = Field(max_length=addresses.LONGEST, json_schema_extra={"not": {"pattern": addresses.CREDENTIAL}})
Address = Annotated[str, _WITHOUT_CREDENTIAL, AfterValidator(addresses.checked)]
LocalPath = Annotated[str, _WITHOUT_CREDENTIAL, AfterValidator(addresses.local)]


class Settings(BaseModel):
    """Base of all settings: immutable; a misspelt name is an error, and an infinite or undefined number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


# --- corpus -----------------------------------------------------------------------------------------------------------


class Source(Settings):
    """What every source has: a name, and a limit so that one source cannot drown the others."""

    name: Name = Field(description="Name of the source, kept with each document.")
    limit_mb: float | None = Field(
        default=None, gt=0, description="Stop after this much text, in megabytes (10^6 bytes)."
    )
    weight: float = Field(
        default=1,
        gt=0,
        le=1,
        description="Share of the documents to keep, chosen by a hash of their ids; limit_mb counts what is kept. Not "
        "over 1: repeated documents would be dropped as duplicates.",
    )


Extractor = Literal["trafilatura", "resiliparse"]


class FilesSource(Source):
    """A file, a folder (searched through) or a glob, on this machine or at an address that `fsspec` knows (s3://...).

    Plain text, JSON, CSV, Parquet, Arrow, HTML, SGML and XML, WARC, EPUB, PDF, packed with gzip, zstd, bzip2 or xz, and
    zip and tar archives of them; the format is told by the name's ending (`homegrown.corpus.readers.formats`).
    """

    kind: Literal["files"] = "files"
    path: Address = Field(description="File, folder or glob, relative to the working directory, or an fsspec address.")
    text_column: str = Field(
        default="text", description="Column, key or element that holds the text, in formats that have such."
    )
    separator: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="What lies between documents in plain text, such as <|endoftext|>, an empty line or a line's end; "
        "null: a file is a document.",
    )
    document_element: str = Field(
        default="doc",
        pattern=r"^[A-Za-z_][\w.:-]*$",
        description="Element that is a document in SGML and XML; a file without it is one document.",
    )
    html_extractor: Extractor = Field(
        default="trafilatura",
        description="What finds a page's main text: trafilatura is better, resiliparse faster.",
    )


class PackagesSource(Source):
    """The documentation (docstrings) of the Python packages installed on this machine."""

    kind: Literal["packages"] = "packages"


class HubSource(Source):
    """A dataset of the Hugging Face hub, or a local folder that `datasets` can load, streamed."""

    kind: Literal["hub"] = "hub"
    dataset: LocalPath = Field(description="Repository, such as roneneldan/TinyStories, or a local folder.")
    config: str | None = Field(default=None, pattern=r"^[\w.+ -]+$", description="Configuration of the dataset.")
    split: str = Field(default="train", pattern=r"^[\w.+:%\[\] -]+$", description="Split to read.")
    revision: str | None = Field(
        default=None,
        pattern=r"^\w[\w-]*(?:[./][\w-]+)*$",
        description="Commit or tag; name one for a run that can be repeated.",
    )
    text_column: str = Field(default="text", description="Column that holds the text.")


AnySource = Annotated[FilesSource | PackagesSource | HubSource, Field(discriminator="kind")]


class IngestSettings(Settings):
    """Where the text comes from."""

    sources: list[AnySource] = Field(min_length=1)
    shard_mb: float = Field(
        default=16, gt=0, description="Text in one shard, in megabytes; a shard is the unit of work."
    )
    max_document_mb: float = Field(default=20, gt=0, description="A longer document is quarantined.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources must have different names, not {', '.join(names)}")
        return self


class DedupSettings(Settings):
    """Exact and MinHash-LSH near-duplicates (Broder 1997; Lee et al. 2022)."""

    bands: Positive = Field(default=21, description="Bands of the signature; a pair that agrees in one is a candidate.")
    rows: Positive = Field(default=6, description="Rows in a band; bands x rows permutations.")
    bands_for: Share | None = Field(
        default=None,
        description="Choose bands and rows for this Jaccard similarity, within bands x rows; null: take them as given.",
    )
    threshold: Share = Field(default=0.7, description="Jaccard similarity from which two documents are duplicates.")
    verification: Literal["jaccard", "signature"] = Field(
        default="jaccard",
        description="What candidates are compared by: their sets of shingles, or only signatures (faster, less disk).",
    )
    keep: Literal["longest", "first", "best_quality"] = Field(
        default="longest", description="Which document of a cluster stays; first: in the order of the sources."
    )


class GopherQuality(Settings):
    """Gopher's quality rules (Rae et al. 2021, section A1.1); null switches one off. Words: between white space."""

    min_words: Count | None = 50
    max_words: Count | None = 100_000
    min_mean_word_length: Amount | None = Field(default=3, description="In characters.")
    max_mean_word_length: Amount | None = 10
    max_hashes_per_word: Amount | None = Field(default=0.1, description="#, by the number of words.")
    max_ellipses_per_word: Amount | None = 0.1
    max_bullet_lines: Share | None = Field(default=0.9, description="Share of lines that begin with • or -.")
    max_ellipsis_lines: Share | None = Field(default=0.3, description="Share of lines that end with an ellipsis.")
    min_alphabetic_words: Share | None = Field(default=0.8, description="Share of words with a letter.")
    min_stop_words: Count | None = Field(default=2, description="Of: the, be, to, of, and, that, have, with.")


class GopherRepetition(Settings):
    """Gopher's repetition rules (Rae et al. 2021, table A1); null switches one off."""

    max_duplicate_paragraphs: Share | None = 0.3
    max_duplicate_paragraph_characters: Share | None = 0.2
    max_duplicate_lines: Share | None = 0.3
    max_duplicate_line_characters: Share | None = 0.2
    max_top_2gram: Share | None = Field(default=0.2, description="Share of characters in the commonest 2-gram.")
    max_top_3gram: Share | None = 0.18
    max_top_4gram: Share | None = 0.16
    max_duplicate_5grams: Share | None = Field(default=0.15, description="Share of characters in repeated 5-grams.")
    max_duplicate_6grams: Share | None = 0.14
    max_duplicate_7grams: Share | None = 0.13
    max_duplicate_8grams: Share | None = 0.12
    max_duplicate_9grams: Share | None = 0.11
    max_duplicate_10grams: Share | None = 0.1


class C4(Settings):
    """C4's rules (Raffel et al. 2020) as FineWeb applies them; null or false switches one off.

    Lines are taken out first; the document that is kept is what is left. The other rules are for that.
    """

    remove_unpunctuated_lines: bool = Field(
        default=False, description="Lines that end in none of . ? ! and quotes: C4 takes them out, FineWeb does not."
    )
    remove_javascript_lines: bool = Field(default=True, description='Lines with "javascript".')
    remove_policy_lines: bool = Field(default=True, description='Lines with "privacy policy", "uses cookies" and such.')
    remove_citations: bool = Field(default=True, description="Marks such as [1] and [citation needed] in a line.")
    line_min_words: Count | None = Field(default=3, description="Lines with fewer words are taken out.")
    line_max_word_length: Positive | None = Field(default=1000, description="Lines with a longer word are taken out.")
    min_sentences: Positive = Field(default=5, description="1 drops only what has no text left.")
    max_lorem_ipsums: Count | None = Field(default=0, description='Lines with "lorem ipsum".')
    max_curly_brackets: Count | None = 0


class FineWeb(Settings):
    """FineWeb's own rules (Penedo et al. 2024), applied to what C4's leave; null switches one off."""

    min_punctuated_lines: Share | None = Field(default=0.12, description="Share of lines that end a sentence.")
    max_short_lines: Share | None = Field(default=0.67, description="Share of lines of at most 30 characters.")
    max_duplicate_line_characters: Share | None = 0.01
    max_newlines_per_word: Amount | None = 0.3


class WordList(Settings):
    """Unwanted words of a list of your own; C4 drops a page with any (Raffel et al. 2020)."""

    path: LocalPath = Field(description="UTF-8 text file with one word or phrase to a line; case does not count.")
    max_listed_words: Share = Field(default=0, description="Share of a document's words that may be on the list.")


class FilterSettings(Settings):
    """Rules that a document must pass, in their order; a set that is null is off as a whole."""

    min_characters: Count = Field(description="Shortest document kept.")
    max_characters: Positive = Field(description="Longest document kept.")
    min_alphabetic_share: Share | None = Field(description="Least share of letters, white space not counted.")
    gopher_quality: GopherQuality | None
    gopher_repetition: GopherRepetition | None
    c4: C4 | None
    fineweb: FineWeb | None
    word_list: WordList | None = None
    languages: list[str] = Field(default=[], description="ISO 639-1 codes to keep; empty: all, without asking.")
    redact: list[Literal["email", "ip", "phone"]] = Field(
        default=[], description="Personal data to replace with a placeholder in the documents that are kept."
    )


class ShardSettings(Settings):
    """Shuffling and splitting into train, validation and test."""

    validation_share: float = Field(gt=0, lt=0.5, description="Share of documents held out to watch training.")
    test_share: float = Field(gt=0, lt=0.5, description="Share of documents held out for evaluation.")
    shard_mb: float = Field(default=16, gt=0, description="Text in one shard, in megabytes.")
    max_similarity: Share = Field(
        default=0.5, description="A training document this similar (Jaccard) to a held-out one is dropped."
    )
    decontaminate: list[LocalPath] = Field(
        default=[],
        description="Files of evaluations; a training document that shares a run of words with one is dropped.",
    )


# --- tokens -----------------------------------------------------------------------------------------------------------


class TokenizerSettings(Settings):
    """Byte-level BPE."""

    path: LocalPath | None = Field(
        default=None,
        description="A tokenizer.json (or a folder with one) to use instead of training one: a byte-level BPE of "
        "Hugging Face's form, such as GPT-2's, Llama 3's or Qwen's.",
    )
    vocabulary_size: int = Field(
        ge=263,
        le=1_000_000,
        description="Tokens to train, the 7 special ones and 256 bytes included; of no effect with `path`.",
    )
    sample_mb: float = Field(gt=0, description="Most text to train and count on, in megabytes: it bounds memory.")


class PackSettings(Settings):
    """Token shards."""

    layout: Literal["contiguous", "best_fit"] = Field(
        default="contiguous",
        description="contiguous: windows of the context over all documents end to end; best_fit: whole documents in "
        "rows of the context, at most 1% padding, and no attention from one document to another.",
    )


class RowSettings(Settings):
    """What packing must know of the model: in the layout best_fit its context, else nothing."""

    context: int | None


# --- model and training -----------------------------------------------------------------------------------------------


class ModelSettings(Settings):
    """The transformer's shape. Both families are decoder-only."""

    family: Literal["modern", "classic"] = Field(description="modern: Qwen3's layout; classic: the guide's own.")
    hidden: Positive = Field(description="Width of the embedding and the residual stream.")
    layers: Positive
    heads: Positive = Field(description="Query heads.")
    kv_heads: Positive = Field(description="Key and value heads; equal to heads for plain multi-head attention.")
    feed_forward: Positive = Field(description="Inner width of the feed-forward block.")
    context: Positive = Field(description="Longest sequence, in tokens.")
    tied: bool = Field(
        default=True, description="One matrix for embedding and output; the classic family always has two."
    )

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden / heads ({self.hidden // self.heads}) must be even, for rotary positions")
        for name in ("hidden", "feed_forward"):
            if getattr(self, name) % 64:
                raise ValueError(f"{name} ({getattr(self, name)}) must be a multiple of 64, which 4-bit weights need")
        if self.family == "classic" and self.kv_heads != self.heads:
            raise ValueError("the classic family has as many kv_heads as heads")
        return self


class TrainingSettings(Settings):
    """The pretraining loop."""

    max_steps: Positive = Field(description="Optimizer steps.")
    batch_size: Positive = Field(description="Sequences in one optimizer step, over all workers and accumulation.")
    micro_batch_size: Positive | Literal["auto"] = Field(
        default="auto",
        description="Sequences in one forward pass of one worker; auto: as many as memory holds, measured on a GPU, or "
        "on a CPU as many as it computes fastest.",
    )
    initialisation: Literal["auto", "random", "heads", "bigrams"] = Field(
        default="auto",
        description="heads: some attention heads begin by looking at the tokens before; bigrams: besides, embedding "
        "and output projection begin with what follows what in the training text, which is counted in seconds, and "
        "learn at an eighth of learning_rate; auto: bigrams where the model is modern, not tied, and reads its text "
        "hardly more than once, else heads; random where it is classic.",
    )
    optimizer: Literal["muon", "adamw"] = Field(
        default="muon", description="muon: for the hidden matrices, with AdamW for the rest; adamw: for everything."
    )
    learning_rate: float = Field(gt=0, description="Peak learning rate of AdamW.")
    matrix_learning_rate: float = Field(default=0.02, gt=0, description="Peak learning rate of Muon.")
    momentum: Share = Field(default=0.95, description="Muon's; short runs learn faster with less.")
    orthogonalization_steps: Positive = Field(
        default=5, description="Newton-Schulz steps of Muon; 3 nearly halve its cost, which small batches feel."
    )
    final_learning_rate_share: Share = Field(default=0.1, description="Share of the peak left at the last step.")
    schedule: Literal["wsd", "cosine", "linear"] = Field(
        default="cosine", description="wsd: warm up, stay at the peak, then fall in a line."
    )
    decay_share: float = Field(default=0.5, gt=0, le=1, description="Share of the steps in which wsd falls.")
    warmup_steps: Count
    weight_decay: float = Field(ge=0, description="Decoupled decay of the matrices; gains and biases have none.")
    beta1: Share = 0.9
    beta2: Share = 0.95
    clip_norm: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    spike_deviations: float | None = Field(
        default=6,
        gt=0,
        description="Skip an update whose loss or gradient norm is so many standard deviations above the mean of the "
        "last 128 steps; null: only what is no number.",
    )
    rollback_after: Positive = Field(default=8, description="Skipped updates in a row, to go back to a checkpoint.")
    max_rollbacks: Count = Field(default=5, description="Rollbacks after which training is given up.")
    dropout: float = Field(ge=0, lt=1)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="auto: bf16 where the device computes in it, fp16 on older GPUs, else fp32."
    )
    compile: Literal["auto", "always", "never"] = Field(
        default="auto", description="torch.compile; auto: where the run is long enough to gain what compiling costs."
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Compute each block again in the backward pass instead of keeping what it computed: a third more "
        "work for a fraction of the memory (Chen et al. 2016).",
    )
    validate_every: Positive = Field(description="Steps between validations.")
    validation_tokens: Positive = Field(description="Most tokens of the validation split to use each time.")
    patience: Positive | None = Field(
        default=None, description="Stop after this many validations without improvement; null: never."
    )
    checkpoint_every: Positive = Field(description="Steps between checkpoints: at most so much work is lost.")
    keep_checkpoints: Positive = Field(default=2, description="Newest checkpoints to keep, besides the best one.")
    sample_every: Positive = Field(description="Steps between samples.")
    sample_prompts: list[str] = Field(description="Prompts of the samples; an empty one starts a document.")
    sample_tokens: Positive = 64

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.micro_batch_size != "auto" and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be less than max_steps ({self.max_steps})")
        return self


# --- after training ---------------------------------------------------------------------------------------------------

BitsAndBytes = Literal["int8", "nf4", "nf4-double", "fp4", "fp4-double"]
PyTorch = Literal["int8-dynamic", "torchao-int8", "torchao-int4"]
Gguf = Literal["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"]
Variant = Literal[BitsAndBytes, PyTorch, Gguf]


class QuantizationSettings(Settings):
    """Which smaller variants of the weights to make."""

    variants: list[Variant] = Field(
        description="int8, nf4, fp4: bitsandbytes, -double with scales that are quantized too; int8-dynamic: PyTorch; "
        "torchao-…: torchao, weights only; the rest: GGUF files for llama.cpp, Ollama and the like."
    )
    validation_tokens: Positive = Field(
        description="Most tokens of the validation split on which a variant's bits per byte are measured."
    )


class EvaluationSettings(Settings):
    """What is measured on held-out text, for every variant of the weights."""

    perplexity_tokens: Positive | None = Field(
        description="About how many tokens of the test split to predict, spread evenly; null: the whole split."
    )
    stride: Positive | None = Field(
        default=None,
        description="Tokens by which the window slides over the text; null: half of model.context. Smaller: every "
        "token is predicted from more of the text before it, at a higher cost.",
    )
    samples: Positive = Field(description="Held-out documents to continue, for BLEU and ROUGE.")
    prompt_tokens: Positive = Field(description="Tokens of the document that are given.")
    continuation_tokens: Positive = Field(description="Tokens to write, and of the reference to compare with.")


class ComputeSettings(Settings):
    """How to use this machine and others. Enters no artifact's key: it changes how long a run takes, not its result."""

    executor: Literal["processes", "dask"] = Field(
        default="processes",
        description="What runs the shards of a stage: processes of this machine, or the workers of a Dask cluster.",
    )
    address: str | None = Field(
        default=None,
        pattern=r"^(?:tcp|tls|ucx|ws|wss)://[\w.-]+(?::\d+)?$|^(?:tcp|tls|ucx|ws|wss)://\[[0-9a-fA-F:.]+\](?::\d+)?$",
        description="The Dask scheduler's, as in tcp://127.0.0.1:8786. It can run any code here, so one on another "
        "machine counts only when the environment names it too, in DASK_SCHEDULER_ADDRESS; null: that one.",
    )
    workers: Count = Field(
        default=0,
        description="processes: how many for the shards of a stage, 0: one for each processor. dask: how many workers "
        "to wait for before a stage begins, 0: one; whatever joins later works too.",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: Positive = Field(default=1, description="Training processes (one for each GPU).")
    parallel: Parallel = Field(
        default="ddp",
        description="How processes share the training: ddp: each holds the whole model; fsdp: each a part of it, for a "
        "model that does not fit one GPU.",
    )
    memory_gb: float = Field(default=2, gt=0, description="Memory that DuckDB may use before it spills to disk.")


class Recipe(Settings):
    """A whole run, from raw text to the evaluation table."""

    name: Name
    seed: Count = Field(description="All randomness comes from it.")
    ingest: IngestSettings
    dedup: DedupSettings
    filter: FilterSettings
    shard: ShardSettings
    tokenizer: TokenizerSettings
    pack: PackSettings
    model: ModelSettings
    training: TrainingSettings
    quantization: QuantizationSettings
    evaluation: EvaluationSettings
    compute: ComputeSettings

    @property
    def rows(self) -> RowSettings:
        """What `pack` takes from `model`: with contiguous tokens another context packs nothing anew."""
        return RowSettings(context=self.model.context if self.pack.layout == "best_fit" else None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.evaluation.prompt_tokens + self.evaluation.continuation_tokens > self.model.context:
            raise ValueError(
                f"prompt_tokens + continuation_tokens of evaluation must fit model.context ({self.model.context})"
            )
        if (self.evaluation.stride or 0) > self.model.context:
            raise ValueError(f"evaluation.stride must be at most model.context ({self.model.context})")
        if self.shard.validation_share + self.shard.test_share >= 0.5:
            raise ValueError("shard.validation_share + shard.test_share must leave at least half for training")
        if self.training.initialisation == "bigrams" and (self.model.tied or self.model.family == "classic"):
            raise ValueError(
                "training.initialisation 'bigrams' needs model.family 'modern' and model.tied false; choose 'auto'"
            )
        if self.training.initialisation == "heads" and self.model.family == "classic":
            raise ValueError("training.initialisation 'heads' needs model.family 'modern'; choose 'random'")
        return self


# --- export -----------------------------------------------------------------------------------------------------------

ExportFormat = Literal["hf", "gguf", "onnx"]
WeightType = Literal["f32", "bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "int8"]

WEIGHT_TYPES: dict[ExportFormat, tuple[WeightType, ...]] = {
    "hf": ("f32", "bf16", "f16"),
    "gguf": ("q8_0", "f32", "bf16", "f16", "q6_k", "q5_k_m", "q4_k_m", "q4_0"),
    "onnx": ("f32", "int8"),
}
"""The types of weights that each format has, the one that is taken unless another is named first."""


class ExportSettings(Settings):
    """A model in a form that other programs run."""

    format: ExportFormat = Field(description="hf: transformers, vLLM, MLX; gguf: llama.cpp, Ollama, LM Studio; onnx.")
    type: WeightType = Field(description="Type of the weights.")

    @model_validator(mode="after")
    def _has_it(self) -> Self:
        if self.type not in WEIGHT_TYPES[self.format]:
            raise ValueError(f"{self.format} has the types {', '.join(WEIGHT_TYPES[self.format])}, not {self.type}")
        return self


# --- lm-evaluation-harness --------------------------------------------------------------------------------------------


class HarnessSettings(Settings):
    """A measurement of a model by lm-evaluation-harness."""

    tasks: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, description="Names of tasks, each once.")
    include: LocalPath | None = Field(
        default=None, exclude=True, description="Folder with tasks as YAML; its files enter the key by content."
    )
    max_documents: Positive | None = Field(default=None, description="Maximum documents per task; null: all.")
    few_shot: Count = Field(default=0, description="Answered examples before each question.")
    download: bool = Field(
        default=False, exclude=True, description="Whether the text of tasks may be fetched from the Hugging Face hub."
    )
