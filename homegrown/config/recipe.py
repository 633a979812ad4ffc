"""The recipe: every setting of a run, typed, one model per stage.

The values of the presets are in `pipelines.yaml` alone, which Prefect, the command line and the tests read. A field
has a default only if a published or measured value supports it. Settings that distinguish pipelines have none: a
recipe without them is refused instead of being silently small.
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

# Prefect's server checks this schema and so refuses a credential before storing it.
_WITHOUT_CREDENTIAL = Field(max_length=addresses.LONGEST, json_schema_extra={"not": {"pattern": addresses.CREDENTIAL}})
Address = Annotated[str, _WITHOUT_CREDENTIAL, AfterValidator(addresses.checked)]
LocalPath = Annotated[str, _WITHOUT_CREDENTIAL, AfterValidator(addresses.local)]


class Settings(BaseModel):
    """Base of all settings: immutable; unknown names and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    def unkeyed(self) -> frozenset[str]:
        """Return the names of settings that do not change the result; an artifact's key leaves them out."""
        return frozenset()


# --- corpus -----------------------------------------------------------------------------------------------------------


class Source(Settings):
    """Settings of every source: a name, and limits that balance sources."""

    name: Name = Field(description="Name of the source in the documents.")
    limit_mb: float | None = Field(
        default=None, gt=0, description="Maximum text, in megabytes (10^6 bytes); null: no limit."
    )
    weight: float = Field(
        default=1,
        gt=0,
        le=1,
        description="Share of the documents to keep, chosen by a hash of their ids; limit_mb counts the kept ones. At "
        "most 1: deduplication would drop repeated documents; pack.mixture repeats.",
    )


Extractor = Literal["trafilatura", "resiliparse"]


class FilesSource(Source):
    """A file, a folder with its subfolders, or a glob, on this machine or at an `fsspec` address (s3://...).

    Reads plain text, JSON, CSV, Parquet, Arrow, HTML, SGML and XML, WARC, EPUB and PDF, compressed with gzip, zstd,
    bzip2 or xz, and in zip and tar archives. The file name's suffix determines the format
    (`homegrown.corpus.readers.formats`).
    """

    kind: Literal["files"] = "files"
    path: Address = Field(description="File, folder or glob, relative to the working directory, or fsspec address.")
    text_column: str = Field(
        default="text",
        description="Column, key or element with the text, in formats that have them; a.b is b in a.",
    )
    url_column: str = Field(
        default="url",
        description="Column or key with the URL of a document, for lists of filter; documents without it have none.",
    )
    separator: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Separator of documents in plain text, such as <|endoftext|> or an empty line; null: one document "
        "per file.",
    )
    document_element: str = Field(
        default="doc",
        pattern=r"^[A-Za-z_][\w.:-]*$",
        description="Element of a document in SGML and XML; a file without it is one document.",
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="Delimiter of .csv and .tsv files; null: comma, semicolon, tab, bar or none, by the first rows.",
    )
    quoting: bool = Field(
        default=True, description="Whether quotation marks enclose fields of .csv and .tsv files; false: they are text."
    )
    header: bool | None = Field(
        default=None,
        description="Whether the first row of .csv and .tsv files names the columns; false: text_column is a number "
        "from 1; null: by text_column.",
    )
    encoding: str | None = Field(
        default=None,
        description="Encoding of the files, such as shift_jis; null: by mark, declaration, or their bytes.",
    )
    html_extractor: Extractor = Field(
        default="trafilatura",
        description="Extractor of a web page's main text: trafilatura is better, resiliparse is faster.",
    )


class PackagesSource(Source):
    """The docstrings of the Python packages installed on this machine."""

    kind: Literal["packages"] = "packages"
    constraints: LocalPath | None = Field(
        default=None,
        description="Constraints file of pip: only packages that it lists are read, and other ones come and go without "
        "another text; null: all installed packages.",
    )


class HubSource(Source):
    """A dataset of the Hugging Face hub, or a local folder that `datasets` can load, streamed."""

    kind: Literal["hub"] = "hub"
    dataset: LocalPath = Field(description="Repository, such as roneneldan/TinyStories, or local folder.")
    config: str | None = Field(default=None, pattern=r"^[\w.+ -]+$", description="Configuration of the dataset.")
    split: str = Field(default="train", pattern=r"^[\w.+:%\[\] -]+$", description="Split to read.")
    revision: str | None = Field(
        default=None,
        pattern=r"^\w[\w-]*(?:[./][\w-]+)*$",
        description="Commit, tag or branch, pinned to a commit when the run starts; null: main.",
    )
    text_column: str = Field(default="text", description="Column with the text.")
    url_column: str = Field(
        default="url",
        description="Column with the URL of a document, for lists of filter; documents without it have none.",
    )


AnySource = Annotated[FilesSource | PackagesSource | HubSource, Field(discriminator="kind")]


class IngestSettings(Settings):
    """Sources of text."""

    sources: list[AnySource] = Field(min_length=1)
    shard_mb: float = Field(default=16, gt=0, description="Text per shard, in megabytes; a shard is the unit of work.")
    max_document_mb: float = Field(
        default=20, gt=0, description="Size above which a document is quarantined, in megabytes."
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"names of sources must differ; they are {', '.join(names)}")
        return self


class ParagraphSettings(Settings):
    """Paragraphs that many documents share: each stays in one of them."""

    unit: Literal["paragraph", "line"] = Field(default="paragraph", description="paragraph: text between blank lines.")
    min_documents: int = Field(default=5, ge=2, description="Different documents with it; CCNet's value is 2.")
    min_characters: Count = Field(default=60, description="Length from which a paragraph is compared.")


class DedupSettings(Settings):
    """Exact and MinHash-LSH near-duplicates (Broder 1997; Lee et al. 2022)."""

    bands: Positive = Field(default=21, description="Bands of the signature; a pair with an equal band is a candidate.")
    rows: Positive = Field(default=6, description="Rows per band; a signature has bands x rows permutations.")
    bands_for: Share | None = Field(
        default=None,
        description="Jaccard similarity to choose bands and rows for, within bands x rows; null: as set.",
    )
    threshold: Share = Field(default=0.7, description="Minimum Jaccard similarity of duplicates.")
    verification: Literal["jaccard", "signature"] = Field(
        default="jaccard",
        description="Comparison of candidates: by sets of shingles, or by signatures (faster, less disk).",
    )
    linkage: Literal["star", "single"] = Field(
        default="star",
        description="star: a dropped document is similar to the kept one; single: a chain of similar ones leaves one.",
    )
    keep: Literal["longest", "first", "best_quality"] = Field(
        default="longest", description="Document of a cluster to keep; first: in the order of the sources."
    )
    paragraphs: ParagraphSettings | None = Field(
        default=None, description="Cut paragraphs that many documents share, before near-duplicates; null: keep them."
    )


class GopherQuality(Settings):
    """Gopher's quality rules (Rae et al. 2021, section A1.1); null disables a rule. White space separates words."""

    min_words: Count | None = 50
    max_words: Count | None = 100_000
    min_mean_word_length: Amount | None = Field(default=3, description="Characters per word.")
    max_mean_word_length: Amount | None = 10
    max_hashes_per_word: Amount | None = Field(default=0.1, description="Number of # per word.")
    max_ellipses_per_word: Amount | None = 0.1
    max_bullet_lines: Share | None = Field(default=0.9, description="Share of lines that start with • or -.")
    max_ellipsis_lines: Share | None = Field(default=0.3, description="Share of lines that end with an ellipsis.")
    min_alphabetic_words: Share | None = Field(default=0.8, description="Share of words with a letter.")
    min_stop_words: Count | None = Field(default=2, description="Number of: the, be, to, of, and, that, have, with.")


class GopherRepetition(Settings):
    """Gopher's repetition rules (Rae et al. 2021, table A1); null disables a rule."""

    max_duplicate_paragraphs: Share | None = 0.3
    max_duplicate_paragraph_characters: Share | None = 0.2
    max_duplicate_lines: Share | None = 0.3
    max_duplicate_line_characters: Share | None = 0.2
    max_top_2gram: Share | None = Field(default=0.2, description="Share of characters in the most common 2-gram.")
    max_top_3gram: Share | None = 0.18
    max_top_4gram: Share | None = 0.16
    max_duplicate_5grams: Share | None = Field(default=0.15, description="Share of characters in repeated 5-grams.")
    max_duplicate_6grams: Share | None = 0.14
    max_duplicate_7grams: Share | None = 0.13
    max_duplicate_8grams: Share | None = 0.12
    max_duplicate_9grams: Share | None = 0.11
    max_duplicate_10grams: Share | None = 0.1


class C4(Settings):
    """C4's rules (Raffel et al. 2020) as FineWeb applies them; null or false disables a rule.

    Lines are removed first, also from kept documents. The other rules apply to the remaining text.
    """

    remove_unpunctuated_lines: bool = Field(
        default=False, description="Remove lines that do not end in . ? ! or a quote; C4 does, FineWeb does not."
    )
    remove_javascript_lines: bool = Field(default=True, description='Remove lines with "javascript".')
    remove_policy_lines: bool = Field(default=True, description='Remove lines with phrases like "privacy policy".')
    remove_citations: bool = Field(default=True, description="Remove marks such as [1] and [citation needed].")
    line_min_words: Count | None = Field(default=3, description="Remove lines with fewer words.")
    line_max_word_length: Positive | None = Field(default=1000, description="Remove lines with a longer word.")
    min_sentences: Positive = Field(default=5, description="1 drops only documents without text.")
    max_lorem_ipsums: Count | None = Field(default=0, description='Number of lines with "lorem ipsum".')
    max_curly_brackets: Count | None = 0


class FineWeb(Settings):
    """FineWeb's own rules (Penedo et al. 2024) for the text that C4's rules leave; null disables a rule."""

    min_punctuated_lines: Share | None = Field(default=0.12, description="Share of lines that end a sentence.")
    max_short_lines: Share | None = Field(default=0.67, description="Share of lines of at most 30 characters.")
    max_duplicate_line_characters: Share | None = 0.01
    max_newlines_per_word: Amount | None = 0.3


class Junk(Settings):
    """Gibberish, words in random order and menus, alike in every language; null disables a rule."""

    min_letter_patterns: Amount | None = Field(
        default=2.2,
        description="Repeated sequences of three letters, relative to random order: text has about 10, gibberish 1.",
    )
    max_disorder: Amount | None = Field(
        default=0.6,
        description="Words equal to the preceding one, sentences of one or two words and small letters after the end "
        "of a sentence, relative to random order: prose has about 0.",
    )
    min_running_text: Share | None = Field(
        default=0.3, description="Share of the words in lines of at least 5 words or with the end of a sentence."
    )


class WordList(Settings):
    """Unwanted words of your own list; C4 drops a page with any of its words (Raffel et al. 2020)."""

    path: LocalPath = Field(description="UTF-8 text file with one word or phrase per line; case is ignored.")
    max_listed_words: Share = Field(default=0, description="Share of a document's words on the list.")


class Example(Settings):
    """Likeness to documents that you call good, learned from them and the corpus (DCLM's recipe, Li et al. 2024)."""

    good: LocalPath = Field(
        description="Folder of good documents: .txt and .md files, or .jsonl and .parquet with text; at least 20."
    )
    min_percentile: Share = Field(
        default=0.9, description="Percentile in the corpus of a document's likeness; DCLM keeps the top tenth."
    )


_LISTS = "UTF-8 text files with one domain or URL per line and # comments; a domain covers its subdomains."


class BlockedUrls(Settings):
    """Lists of domains and URLs whose documents are dropped; documents without a URL pass."""

    paths: list[LocalPath] = Field(min_length=1, description=_LISTS)
    max_matches: Count = Field(default=0, description="Number of lines that cover a document's URL.")


class AllowedUrls(Settings):
    """Lists of domains and URLs whose documents are kept, and no other ones; documents without a URL pass."""

    paths: list[LocalPath] = Field(min_length=1, description=_LISTS)
    min_matches: Count = Field(default=1, description="Number of lines that cover a document's URL.")


class FilterSettings(Settings):
    """Rules that a document must pass, in order; null disables a set of rules."""

    min_characters: Count = Field(description="Minimum length of a document, in characters.")
    max_characters: Positive = Field(description="Maximum length of a document, in characters.")
    min_alphabetic_share: Share | None = Field(description="Minimum share of letters, without white space.")
    junk: Junk | None = None
    gopher_quality: GopherQuality | None
    gopher_repetition: GopherRepetition | None
    c4: C4 | None
    fineweb: FineWeb | None
    word_list: WordList | None = None
    example: Example | None = None
    blocked_urls: BlockedUrls | None = None
    allowed_urls: AllowedUrls | None = None
    language: Literal["auto"] | None = Field(
        default=None,
        description="auto: thresholds with the published value are FineWeb-2's for the language of each document, "
        "except English; null: the same for all.",
    )
    min_language_score: Share | None = Field(
        default=None, description="Minimum probability of the most likely language; null: any."
    )
    languages: list[str] = Field(default=[], description="Languages to keep, as ISO 639-1 codes; empty: all.")
    redact: list[Literal["email", "ip", "phone"]] = Field(
        default=[], description="Personal data to replace with placeholders in kept documents."
    )


class ShardSettings(Settings):
    """Shuffling and the split into train, validation and test."""

    validation_share: float = Field(gt=0, lt=0.5, description="Share of documents held out for validation.")
    test_share: float = Field(gt=0, lt=0.5, description="Share of documents held out for evaluation.")
    shard_mb: float = Field(default=16, gt=0, description="Text per shard, in megabytes.")
    max_similarity: Share = Field(
        default=0.5, description="Jaccard similarity to a held-out document at which a training document is dropped."
    )
    decontaminate: list[LocalPath] = Field(
        default=[],
        description="Files of evaluations; training documents that share 13 words in a row with one are dropped.",
    )


# --- tokens -----------------------------------------------------------------------------------------------------------


def _distinct_tokens(tokens: list[str]) -> list[str]:
    if len(set(tokens)) < len(tokens):
        raise ValueError("the same token is listed twice")
    return tokens


SpecialTokens = Annotated[
    list[Annotated[str, Field(min_length=2, max_length=100, pattern=r"^\S(.*\S)?$")]], AfterValidator(_distinct_tokens)
]


class TokenizerSettings(Settings):
    """Byte-level BPE."""

    path: LocalPath | None = Field(
        default=None,
        description="Existing tokenizer.json, or its folder, instead of a trained one: a byte-level BPE in Hugging "
        "Face's format, such as GPT-2's, Llama 3's or Qwen's.",
    )
    vocabulary_size: int = Field(
        ge=263,
        le=1_000_000,
        description="Vocabulary size, with 7 special tokens and 256 bytes; ignored with `path`.",
    )
    sample_mb: float = Field(gt=0, description="Maximum text to train and count on, in megabytes; it bounds memory.")
    special: Literal["chat", "guide"] = Field(
        default="chat",
        description="Special tokens of a new vocabulary; chat: those of documents and messages; guide: the guide's "
        "seven, <PAD> <UNK> <CLS> <SEP> <MASK> <BOS> <EOS>.",
    )
    special_tokens: SpecialTokens = Field(
        default=[],
        description="Tokens of your own, such as <|de|>, that text is searched for; after the special ones, or added "
        "to the vocabulary of a base.",
    )

    @model_validator(mode="after")
    def _large_enough(self) -> Self:
        if self.path is None and self.vocabulary_size < 263 + len(self.special_tokens):
            raise ValueError("vocabulary_size must cover 7 special tokens, special_tokens and 256 bytes")
        return self


class Weight(Settings):
    """The weight of a source: a number of tokens, or how often its text is read."""

    tokens: Amount | None = Field(default=None, description="Tokens of the source in a phase.")
    epochs: Amount | None = Field(default=None, description="Readings of the source's text; more than 1 repeats it.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.tokens is None) == (self.epochs is None):
            raise ValueError("a weight needs either tokens or epochs")
        return self


class Phase(Settings):
    """A part of the training with its own weights of sources."""

    share: float = Field(default=1, gt=0, le=1, description="Share of the training steps.")
    weights: dict[Name, Weight] = Field(
        min_length=1,
        description="Weight of each source by its name; 0 leaves it out. Training reads the sources in these "
        "proportions, for as many steps as max_steps gives the phase.",
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not any(weight.tokens or weight.epochs for weight in self.weights.values()):
            raise ValueError("all weights of a phase are 0; raise one")
        return self


def _whole(phases: list[Phase] | None) -> list[Phase] | None:
    if phases is not None and abs((total := sum(phase.share for phase in phases)) - 1) > 1e-9:
        raise ValueError(f"the shares of the phases add up to {total:.6g}; make it 1")
    return phases


Mixture = Annotated[Annotated[list[Phase], Field(min_length=1)] | None, AfterValidator(_whole)]


class PackSettings(Settings):
    """Token shards."""

    layout: Literal["contiguous", "best_fit"] = Field(
        default="contiguous",
        description="contiguous: windows of the context over the concatenated documents; best_fit: complete documents "
        "in rows of the context, at most 1% padding, and no attention between documents.",
    )
    mixture: Mixture = Field(
        default=None,
        description="Phases of the training, each with the weights of the sources; null: all text, each document once "
        "per epoch.",
    )


class RowSettings(Settings):
    """The context of the model, which packing needs only for the layout best_fit."""

    context: int | None


# --- model and training -----------------------------------------------------------------------------------------------


class ModelSettings(Settings):
    """The shape of the decoder-only transformer."""

    family: Literal["modern", "classic"] = Field(description="modern: Qwen3's layout; classic: the guide's.")
    hidden: Positive = Field(description="Width of the embedding and the residual stream.")
    layers: Positive
    heads: Positive = Field(description="Query heads.")
    kv_heads: Positive = Field(description="Key and value heads; equal to heads for plain multi-head attention.")
    feed_forward: Positive = Field(description="Inner width of the feed-forward layers.")
    context: Positive = Field(description="Context length, in tokens.")
    tied: bool = Field(default=True, description="Tied embedding and output projection; classic never ties them.")

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
                raise ValueError(f"{name} ({getattr(self, name)}) must be a multiple of 64 for 4-bit weights")
        if self.family == "classic" and self.kv_heads != self.heads:
            raise ValueError("kv_heads must equal heads in the classic family")
        return self


Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class AdaptationSettings(Settings):
    """Continued pretraining: what is trained of a base model."""

    method: Literal["lora", "qlora", "full"] = Field(
        description="lora: an adapter on a frozen base, merged into it at the end; qlora: an adapter on a base in 4 "
        "bits (nf4), for less memory; full: all weights."
    )
    rank: Positive = Field(default=16, description="Rank of the adapter's matrices.")
    alpha: float = Field(default=32, gt=0, description="Scale of the adapter: alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's inputs.")
    targets: list[Projection] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        min_length=1,
        description="Projections of each block that get an adapter.",
    )
    embeddings: bool = Field(
        default=False, description="Train embedding and output projection too, beside the adapter."
    )
    context: Positive = Field(description="Tokens per training sequence, at most the base's context.")

    def misfit(self, context: int) -> str | None:
        """Return a message if the training sequences are longer than the `context` of the base."""
        if self.context <= context:
            return None
        return f"adaptation.context is {self.context}, but the base has a context of {context}; lower it"


class ReplaySettings(Settings):
    """Other text mixed into the training text of continued pretraining, against forgetting."""

    sources: list[AnySource] = Field(default=[], description="Other text.")
    conversations: list[Address] = Field(
        default=[],
        description="Files, folders or globs of conversations, rendered in the base's chat template.",
    )
    share: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Share of the training text in bytes; 0.05 after Ibrahim et al. 2024, more for a text unlike the "
        "base's.",
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.sources and not self.conversations:
            raise ValueError("replay needs sources or conversations; add some, or set replay to null")
        return self


class TrainingSettings(Settings):
    """The pretraining loop."""

    max_steps: Positive = Field(description="Optimizer steps.")
    batch_size: Positive = Field(description="Sequences per optimizer step, over all processes and accumulation.")
    micro_batch_size: Positive | Literal["auto"] = Field(
        default="auto",
        description="Sequences per forward pass of one process; auto: as many as fit a GPU's memory, or as a CPU "
        "computes fastest.",
    )
    initialisation: Literal["auto", "random", "heads", "bigrams"] = Field(
        default="auto",
        description="heads: some attention heads start by attending to the preceding tokens; bigrams: in addition, "
        "embedding and output projection start from the bigrams of the training text and learn at an eighth of "
        "learning_rate; auto: bigrams for a modern, untied model that reads its text about once, else heads; random "
        "for classic.",
    )
    optimizer: Literal["muon", "adamw"] = Field(
        default="muon", description="muon: Muon for hidden matrices and AdamW for the rest; adamw: AdamW for all."
    )
    learning_rate: float = Field(gt=0, description="Peak learning rate of AdamW.")
    matrix_learning_rate: float = Field(default=0.02, gt=0, description="Peak learning rate of Muon.")
    momentum: Share = Field(default=0.95, description="Momentum of Muon; lower is faster in short runs.")
    orthogonalization_steps: Positive = Field(
        default=5, description="Newton-Schulz steps of Muon; 3 nearly halve its cost, which matters for small batches."
    )
    final_learning_rate_share: Share = Field(default=0.1, description="Share of the peak rate after the last step.")
    schedule: Literal["wsd", "cosine", "linear"] = Field(
        default="cosine", description="wsd: warm-up, stable, linear decay."
    )
    decay_share: float = Field(default=0.5, gt=0, le=1, description="Share of the steps in the decay of wsd.")
    decay_steps: Positive | None = Field(
        default=None, description="Steps in the decay of wsd, instead of decay_share; null: decay_share."
    )
    averaging: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of the steps so far over which weights are averaged, the latest ones; the average is "
        "validated, sampled and the result; null: the weights of the last step.",
    )
    warmup_steps: Count
    weight_decay: float = Field(ge=0, description="Decoupled weight decay of matrices; gains and biases have none.")
    beta2: Share = Field(default=0.95, description="Second beta of AdamW; the first is 0.9.")
    clip_norm: float = Field(default=1.0, gt=0, description="Maximum norm of the gradients of an optimizer.")
    spike_deviations: float | None = Field(
        default=6,
        gt=0,
        description="Standard deviations of loss or gradient norm above the mean of the last 128 steps at which an "
        "update is skipped; null: only updates that are not finite.",
    )
    rollback_after: Positive = Field(default=8, description="Skipped updates in a row before a rollback.")
    max_rollbacks: Count = Field(default=5, description="Rollbacks before training fails.")
    dropout: float = Field(ge=0, lt=1)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="auto: bf16 if the device supports it, fp16 on older GPUs, else fp32."
    )
    compile: Literal["auto", "always", "never"] = Field(
        default="auto", description="torch.compile; auto: if the run is long enough to repay compiling."
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Recompute each block in the backward pass instead of saving its activations: a third more work "
        "for a fraction of the memory (Chen et al. 2016).",
    )
    validate_every: Positive = Field(description="Steps between validations.")
    validation_tokens: Positive = Field(description="Maximum tokens per validation.")
    patience: Positive | None = Field(
        default=None,
        description="Validations without improvement before early stopping, which keeps the best step; null: train to "
        "max_steps and keep the last.",
    )
    checkpoint_every: Positive = Field(description="Steps between checkpoints; a crash loses at most these.")
    keep_checkpoints: Positive = Field(
        default=2,
        description="Latest checkpoints to keep, besides the best one; a finished run of wsd keeps the last one and "
        "the latest before its decay, which longer runs extend.",
    )
    sample_every: Positive = Field(description="Steps between samples.")
    sample_prompts: list[str] = Field(description="Prompts of the samples; an empty one starts a document.")
    sample_tokens: Positive = 64

    def unkeyed(self) -> frozenset[str]:
        """See `Settings`: those that change no weights; `validate_every` does only where `patience` counts."""
        names = {"keep_checkpoints", "checkpoint_every", "sample_every", "sample_prompts", "sample_tokens"}
        return frozenset(names if self.patience is not None else {*names, "validate_every"})

    def uneven(self, processes: int, name: str = "compute.processes") -> str | None:
        """Return a message if so many processes, of the setting `name`, cannot share the batch evenly."""
        if self.batch_size % processes:
            return f"{name} ({processes}) must divide training.batch_size ({self.batch_size}); change one of the two"
        if self.micro_batch_size != "auto" and (passes := self.batch_size // self.micro_batch_size) % processes:
            return (
                f"{name} ({processes}) must divide training.batch_size / training.micro_batch_size ({passes}); change "
                "one of the three"
            )
        return None

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
    """Quantized variants of the weights to make."""

    variants: list[Variant] = Field(
        description="int8, nf4, fp4: bitsandbytes, -double with quantized scales; int8-dynamic: PyTorch; torchao-…: "
        "torchao, weights only; others: GGUF files for llama.cpp, Ollama and the like."
    )
    validation_tokens: Positive = Field(description="Maximum validation tokens for a variant's bits per byte.")


class EvaluationSettings(Settings):
    """Evaluation of every variant of the weights on held-out text."""

    perplexity_tokens: Positive | None = Field(
        description="Approximate tokens of the test split to predict, spread evenly; null: all."
    )
    stride: Positive | None = Field(
        default=None,
        description="Stride of the sliding window, in tokens; null: half of model.context. A smaller stride predicts "
        "from more context at a higher cost.",
    )
    samples: Positive = Field(description="Held-out documents to complete for BLEU and ROUGE.")
    prompt_tokens: Positive = Field(description="Tokens of the prompt.")
    continuation_tokens: Positive = Field(description="Tokens of the completion and of its reference.")


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


class Recipe(Settings):
    """A complete run, from raw text to the evaluation table."""

    name: Name
    seed: Count = Field(description="Seed of all randomness.")
    base: LocalPath | None = Field(
        default=None,
        min_length=1,
        description="Model to continue from: an artifact, such as pretrain@3 or a key, the folder of a Hugging Face "
        "model, or a GGUF file; its tokenizer and its shape are used. null: a new model.",
    )
    adaptation: AdaptationSettings | None = Field(
        default=None, description="What is trained of the base; null: no base."
    )
    replay: ReplaySettings | None = Field(
        default=None, description="Other text mixed into the training text; null: none."
    )
    ingest: IngestSettings
    dedup: DedupSettings
    filter: FilterSettings
    shard: ShardSettings
    tokenizer: TokenizerSettings
    pack: PackSettings
    model: ModelSettings | None = Field(default=None, description="Shape of a new model; null: that of the base.")
    training: TrainingSettings
    quantization: QuantizationSettings
    evaluation: EvaluationSettings
    compute: ComputeSettings

    @property
    def context(self) -> int:
        """Tokens per training sequence."""
        if self.adaptation is not None:
            return self.adaptation.context
        return self.new_model.context

    @property
    def new_model(self) -> ModelSettings:
        """The shape of the new model of a recipe without a base."""
        if self.model is None:
            raise ValueError("the recipe has a base")
        return self.model

    @property
    def rows(self) -> RowSettings:
        """Settings of `model` for `pack`: contiguous tokens do not depend on the context."""
        return RowSettings(context=self.context if self.pack.layout == "best_fit" else None)

    def _source_names(self) -> set[str]:
        """Return the names of all sources of the training text."""
        names = {source.name for source in self.ingest.sources}
        if self.replay is not None:
            names |= {source.name for source in self.replay.sources}
            names |= {"conversations"} if self.replay.conversations else set()
        return names

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.base is None and (self.model is None or self.adaptation is not None):
            raise ValueError("a recipe without a base needs model, and adaptation null")
        if self.base is not None and (self.adaptation is None or self.model is not None):
            raise ValueError("a recipe with a base needs adaptation, and model null: the shape is the base's")
        if self.base is None and self.replay is not None:
            raise ValueError("replay needs a base; set base, or replay to null")
        if self.base is not None and self.tokenizer.path is not None:
            raise ValueError("tokenizer.path must be null with a base: the tokenizer is the base's")
        if self.base is not None and self.training.initialisation != "auto":
            raise ValueError("training.initialisation must be auto with a base, whose weights training starts from")
        if self.adaptation and self.adaptation.method != "full" and self.training.optimizer != "adamw":
            raise ValueError("training.optimizer must be adamw with an adapter (adaptation.method lora or qlora)")
        if (
            self.adaptation
            and self.adaptation.method == "qlora"
            and self.compute.parallel == "fsdp"
            and self.compute.processes > 1
        ):
            raise ValueError("adaptation.method 'qlora' is not supported with compute.parallel fsdp; choose ddp")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if problem := self.training.uneven(self.compute.processes):
            raise ValueError(problem)
        setting = "model.context" if self.base is None else "adaptation.context"
        if self.evaluation.prompt_tokens + self.evaluation.continuation_tokens > self.context:
            raise ValueError(f"prompt_tokens + continuation_tokens of evaluation must fit {setting} ({self.context})")
        if (self.evaluation.stride or 0) > self.context:
            raise ValueError(f"evaluation.stride must be at most {setting} ({self.context})")
        if self.shard.validation_share + self.shard.test_share >= 0.5:
            raise ValueError("shard.validation_share + shard.test_share must be below 0.5")
        for number, phase in enumerate(self.pack.mixture or []):
            if problem := _misnamed(set(phase.weights), self._source_names()):
                raise ValueError(f"pack.mixture.{number}.weights {problem}")
        if self.model is None:
            return self
        if self.training.initialisation == "bigrams" and (self.model.tied or self.model.family == "classic"):
            raise ValueError(
                "training.initialisation 'bigrams' needs model.family 'modern' and model.tied false; choose 'auto'"
            )
        if self.training.initialisation == "heads" and self.model.family == "classic":
            raise ValueError("training.initialisation 'heads' needs model.family 'modern'; choose 'random'")
        return self


def _misnamed(weighted: set[str], sources: set[str]) -> str | None:
    if unknown := weighted - sources:
        return f"names {', '.join(sorted(unknown))}, but the sources are {', '.join(sorted(sources))}"
    if missing := sources - weighted:
        return f"lacks {', '.join(sorted(missing))}; add a weight, such as epochs 1, or epochs 0 to leave it out"
    return None


# --- export -----------------------------------------------------------------------------------------------------------

ExportFormat = Literal["hf", "gguf", "onnx"]
WeightType = Literal["f32", "bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "int8"]

WEIGHT_TYPES: dict[ExportFormat, tuple[WeightType, ...]] = {
    "hf": ("f32", "bf16", "f16"),
    "gguf": ("q8_0", "f32", "bf16", "f16", "q6_k", "q5_k_m", "q4_k_m", "q4_0"),
    "onnx": ("f32", "int8"),
}
"""Weight types of each format, the default first."""


class ExportSettings(Settings):
    """A model in the format of other programs."""

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
