"""Grammars that hold an output: JSON schemas, regular expressions, GBNF and Lark, by llguidance.

Every grammar is a text in llguidance's form of Lark, which the library inside llama.cpp reads too.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import jsonschema
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper, regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark
from tokenizers import Tokenizer
from torch import Tensor

from homegrown.tokenizer.detokenizer import vocabulary_bytes
from homegrown.util.errors import UserError

_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON in one line, as Python writes it; with a choice of white space, small models write nothing else."""

_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")
_OPEN = ("additionalProperties", "patternProperties", "$ref", *_LISTS)

_NEUTRAL: dict[str, Sequence[Any]] = {
    "uniqueItems": (False,),
    "propertyNames": ({}, {"type": "string"}),
    "format": ("binary", "directory-path", "file-path", "password", "path"),
}
"""Values of keywords that exclude nothing, as generators of schemas write them."""

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_LIMITS = np.where(_BITS, np.inf, -np.inf).astype(np.float32)
"""The maximum of the logits of 8 tokens for each byte of a mask."""


def json_grammar(schema: Any) -> str:
    """Return the grammar of JSON that fits a schema; raises UserError as `json_rule`."""
    return f"start: {json_rule(schema)}"


def json_rule(schema: Any) -> str:
    """Return what a rule for JSON that fits a schema consists of.

    An object with `properties` has no others, unless the schema says so with `additionalProperties`.

    Raises:
        UserError: the schema is malformed or has an unsupported keyword; the message names the place.
    """
    if not isinstance(schema, dict):
        raise UserError("The schema is not an object; give a JSON schema.")
    try:
        text = json.dumps(schema, ensure_ascii=False)
        text.encode()
        return _json_rule(text)
    except UnicodeEncodeError:
        raise UserError("The schema has an unpaired surrogate; send valid Unicode.") from None
    except RecursionError:
        raise UserError("The schema is nested too deeply; send a flatter one.") from None


@lru_cache(maxsize=32)  # the check takes milliseconds, and clients send the same schema with every request
def _json_rule(text: str) -> str:
    schema = json.loads(text)
    if not isinstance(schema.get("$schema", ""), str):
        raise UserError("The schema is malformed at $['$schema']: it is not a string.")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        # Without formats: it would hold patterns to Python's regular expressions, which those of JSON schemas are not.
        kind.check_schema(schema, format_checker=jsonschema.FormatChecker(()))
    except jsonschema.SchemaError as error:
        raise UserError(f"The schema is malformed at {error.json_path}: {error.message}.") from None
    schema = _changed(schema, _without_neutral)
    rule = _json(schema if _combined(schema) else _changed(schema, _closed))
    if place := _beyond(schema, "$"):
        raise UserError(f"The schema cannot be used at {place}: its numbers exceed 64 bits; reduce them.")
    if problem := _problem(f"start: {rule}"):
        raise UserError(f"The schema cannot be used at {_place(schema, '$')}: {_reason(problem)}.")
    return rule


def regex_grammar(pattern: str) -> str:
    """Return the grammar of text that fully matches a regular expression; raises UserError if it is malformed."""
    return checked(f"start: /{regex_to_lark(pattern)}/", "The regular expression")


def choice_grammar(choices: Sequence[str]) -> str:
    """Return the grammar of exactly one of these texts."""
    # One terminal: of alternatives in a rule, the parser takes 2,000.
    return checked(f"start: CHOICE\nCHOICE: {' | '.join(json.dumps(one) for one in choices)}", "The list of choices")


def text_grammar(text: str) -> str:
    """Return a grammar given in GBNF (llama.cpp's) or Lark; raises UserError if it is malformed."""
    try:
        lark: str = any_to_lark(text)
    except Exception as error:  # the converter has no class of its own
        raise UserError(f"The grammar cannot be used: {_reason(str(error))}.") from None
    return checked(lark, "The grammar")


def checked(grammar: str, what: str) -> str:
    """Return a grammar; raises UserError if it is malformed."""
    if problem := _problem(grammar):
        raise UserError(f"{what} cannot be used: {_reason(problem)}.")
    return grammar


@dataclass(frozen=True, eq=False)
class Grammar:
    """A grammar compiled for a vocabulary."""

    text: str
    vocabulary_size: int
    _start: LLMatcher
    _vocabulary: LLTokenizer

    def matcher(self) -> LLMatcher:
        """Return a matcher at the start of the output."""
        return self._start.deep_copy()

    def check(self) -> "Check":
        """Return a check of an output, for an engine that enforces the grammar by itself."""
        return Check(self.matcher(), self._vocabulary)


class Check:
    """Tells whether an output fits its grammar so far."""

    def __init__(self, matcher: LLMatcher, vocabulary: LLTokenizer):
        self._matcher, self._vocabulary = matcher, vocabulary

    def fits(self, text: str) -> bool:
        """Return whether the output still fits with more text."""
        ids = self._vocabulary.greedy_tokenize(text)
        return self._matcher.try_consume_tokens(ids) == len(ids)

    @property
    def complete(self) -> bool:
        """Whether the output can end here."""
        return self._matcher.is_accepting()


class Grammars:
    """Compiles grammars for the vocabulary of a model, in which `stop_ids` end an output that is complete."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: frozenset[int]):
        self._tokenizer, self._stop_ids = tokenizer, stop_ids
        self.compile = lru_cache(maxsize=32)(self._compile)

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        # At the first grammar: a second for a large vocabulary.
        stop_ids = sorted(self._stop_ids)
        return LLTokenizer(TokenizerWrapper(_Vocabulary(self._tokenizer, stop_ids[0])), eos_token=stop_ids)

    def _compile(self, text: str) -> Grammar:
        """Return a grammar for outputs of the model; raises UserError if it cannot be used."""
        matcher = LLMatcher(self._vocabulary, LLMatcher.grammar_from_lark(text), log_level=0)
        if matcher.is_error():
            raise UserError(f"The grammar cannot be used: {_reason(matcher.get_error())}.")
        start = matcher.deep_copy()
        start.compute_bitmask()
        if start.is_stopped() and not start.is_accepting():
            raise UserError("The grammar allows no output; check it for a rule that refers to itself.")
        return Grammar(text, self._vocabulary.vocab_size, matcher, self._vocabulary)


class _Vocabulary:
    """A vocabulary as llguidance reads it; special tokens are without bytes, and never part of an output."""

    bos_token_id = None
    special_token_ids: Sequence[int] = ()

    def __init__(self, tokenizer: Tokenizer, eos_token_id: int):
        self._tokenizer, self.eos_token_id, self.tokens = tokenizer, eos_token_id, vocabulary_bytes(tokenizer)

    def __call__(self, text: str | bytes) -> list[int]:
        text = text.decode() if isinstance(text, bytes) else text
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


class Masks:
    """The tokens that the grammars of an engine's rows allow next."""

    def __init__(self, rows: int, vocabulary_size: int):
        """Allocate the masks of a number of rows and a vocabulary."""
        self._size = vocabulary_size
        self._bits = np.zeros((rows, (vocabulary_size + 31) // 32), dtype=np.int32)

    def apply(self, logits: Tensor, matchers: Sequence[LLMatcher | None]) -> Tensor:
        """Return the logits [rows, vocabulary] with minus infinity for all that the grammars forbid."""
        rows, (address, size) = len(matchers), (self._bits.ctypes.data, self._bits.strides[0])
        for row, matcher in enumerate(matchers):
            # In this thread: beside the two of a CPU's step on two processors, another one takes ten times as long.
            if matcher:
                matcher.unsafe_compute_mask_ptr(address + row * size, size)
            else:
                self._bits[row] = -1
        limits = _LIMITS.take(self._bits[:rows].view(np.uint8), axis=0).reshape(rows, -1)[:, : self._size]
        # By a minimum: on a CPU, filling what a mask selects takes as long as the masks themselves.
        allowed = torch.minimum(logits[:, : self._size], torch.from_numpy(limits).to(logits.device))
        if logits.shape[1] == self._size:
            return allowed
        masked = logits.clone()  # a model's vocabulary may be longer than that of its tokenizer
        masked[:, : self._size] = allowed
        masked[[row for row in range(rows) if matchers[row]], self._size :] = -torch.inf
        return masked


def _problem(grammar: str) -> str:
    """Return what is wrong with a grammar, empty if nothing is."""
    return LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar))


def _reason(problem: str) -> str:
    """Return the gist of an error message of llguidance: without the text of the grammar, a line in all."""
    if problem.startswith("panic"):
        return "the library failed; simplify it"
    shown = problem.partition("<state>")[0].split("\n   1 |")[0].removeprefix("at 1(8): ")
    shown = shown.removeprefix("failed to compile JSON schema: ")
    if shown.startswith("oneOf constraints"):  # its advice is an option of its own
        return "oneOf is supported only where no value fits two of its parts; use anyOf"
    if shown.startswith("Unimplemented keys: "):
        return f"{shown.partition(': ')[2].strip('[].').replace(chr(34), '')} cannot be enforced; remove it"
    if shown.startswith("Unknown format: "):
        return f"the format {shown.partition(': ')[2].rstrip('.')} cannot be enforced; remove it"
    if shown.startswith("Resource '"):
        return f"{shown.split(chr(39))[1]} is outside the schema; move it to $defs"
    return " ".join(shown.split()).rstrip(".")[:300]


def _json(schema: Any) -> str:
    fixed = {**schema, "x-guidance": _FORM} if isinstance(schema, dict) else schema
    return f"%json {json.dumps(fixed)}"


def _parts(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yield the schemas directly inside one, each with its place after it."""
    if not isinstance(schema, dict):
        return
    for name in _MAPS:
        for key, part in (schema.get(name) or {}).items():
            yield f".{name}.{key}", part
    for name in _LISTS:
        for place, part in enumerate(schema.get(name) or ()):
            yield f".{name}[{place}]", part
    for name in _SINGLE:
        if isinstance(schema.get(name), dict):
            yield f".{name}", schema[name]


def _place(schema: Any, place: str) -> str:
    """Return the place of the innermost part of a schema that cannot be used."""
    root = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return _innermost(schema, place, root)


def _innermost(schema: Any, place: str, root: dict[str, Any]) -> str:
    for below, part in _parts(schema):
        rule = _json({**root, **part} if isinstance(part, dict) else part)
        if _problem(f"start: {rule}"):
            return _innermost(part, place + below, root)
    return place


def _combined(schema: Any) -> bool:
    """Return whether parts of a schema apply together to one object, so that none may close it."""
    if not isinstance(schema, dict):
        return False
    together = len(schema.get("allOf") or ()) + sum(name in schema for name in ("properties", "$ref", "anyOf", "oneOf"))
    return together > 1 or any(_combined(part) for _, part in _parts(schema))


def _beyond(schema: Any, place: str) -> str | None:
    """Return the place of a number without values in 64 bits, which llguidance would replace by the nearest."""
    if not isinstance(schema, dict):
        return None
    low = max((schema.get(name) or 0 for name in ("minimum", "exclusiveMinimum")), default=0)
    high = min((schema.get(name) or 0 for name in ("maximum", "exclusiveMaximum")), default=0)
    if low >= 2**63 or high < -(2**63):
        return place
    return next(filter(None, (_beyond(part, place + below) for below, part in _parts(schema))), None)


def _changed(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a schema with a change of each object in it."""
    if not isinstance(schema, dict):
        return schema
    changed = dict(schema)
    for name in _MAPS:
        if name in schema:
            changed[name] = {key: _changed(part, change) for key, part in schema[name].items()}
    for name in _LISTS:
        if name in schema:
            changed[name] = [_changed(part, change) for part in schema[name]]
    for name in _SINGLE:
        if name in schema:
            changed[name] = _changed(schema[name], change)
    return change(changed)


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose object with `properties` has no others, where it does not say."""
    is_open = "properties" not in schema or any(name in schema for name in _OPEN)
    return schema if is_open else {**schema, "additionalProperties": False}


def _without_neutral(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without the keywords that exclude nothing."""
    return {name: value for name, value in schema.items() if value not in _NEUTRAL.get(name, ())}
