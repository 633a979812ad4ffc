"""Settings of the stage filter: one class per set of rules, with the published value of each rule as its default."""

from typing import Literal

from pydantic import Field

from homegrown.config.settings import Amount, Count, LocalPath, Positive, Settings, Share


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
