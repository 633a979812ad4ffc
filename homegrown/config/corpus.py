"""Settings of the text: its sources, and the stages ingest, dedup and shard."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from homegrown.config.settings import Address, Count, LocalPath, Name, Positive, Settings, Share


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
