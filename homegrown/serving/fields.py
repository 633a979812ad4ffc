"""How every request body is checked: its fields, their types, and the error messages about them.

A null field has its default. Fields that change nothing here (`user`, `store`, `metadata`) are ignored; any other
unknown field could change the output and is refused.
"""

import json
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from homegrown.serving.refusal import Refused

_CLOSE = 0.75
"""The similarity of an unknown name to the one that was probably meant."""


_LONGEST = 60
"""Characters of a value that an error message shows."""

_INTEGER, _NUMBER, _OBJECT = "an integer", "a number", "an object"
_WANTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), _INTEGER),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number", "boolean"), _NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), _OBJECT),
    "string_type": "a string",
    "list_type": "a list",
    "greater_than_equal": "at least {ge:.12g}",
    "greater_than": "more than {gt:.12g}",
    "less_than_equal": "at most {le:.12g}",
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
    "literal_error": "{expected}",
    "expected": "{wanted}",
}
"""What to give instead of a value, for each kind of error of pydantic and of this module."""


def expected(wanted: str) -> WrapValidator:
    """Replace the errors of all branches of a union, which name types of Python, by what to give instead."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            kinds = {one["type"] for one in error.errors(include_url=False, include_context=False)}
            kind = "string_unicode" if "string_unicode" in kinds else "expected"
            raise PydanticCustomError(kind, "", {"wanted": wanted}) from None

    return WrapValidator(validate)


def _not_boolean(value: Any) -> Any:
    """Refuse true and false, which Python counts as numbers."""
    if isinstance(value, bool):
        raise PydanticCustomError("boolean", "")
    return value


Int = Annotated[int, BeforeValidator(_not_boolean)]
Number = Annotated[float, BeforeValidator(_not_boolean)]
# Strict, which refuses true and false without a call of Python's for each token.
Tokens = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]


class Fields(BaseModel, allow_inf_nan=False):
    """An object of a body: a null field has its default, and an unknown field that could have an effect is refused."""

    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Unknown fields that change nothing."""
    neutral: ClassVar[Mapping[str, Any]] = {}
    """Unknown fields that change nothing with this value."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = [
            name
            for name in given
            if name not in known and name not in cls.without_effect
            if name not in cls.neutral or not _equal(given[name], cls.neutral[name])
        ]
        if unknown:
            raise PydanticCustomError("unsupported", "", {"unknown": unknown, "known": known})
        return given


def _equal(value: Any, neutral: Any) -> bool:
    """Return whether a value is the neutral one, without the null fields of an object; true is not a 1."""
    given = {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value
    return bool(given == neutral) and (isinstance(neutral, bool) or not isinstance(given, bool))


_Form = TypeVar("_Form", bound=Fields)


def invalid(error: ErrorDetails, place: Sequence[str | int]) -> Refused:
    """Return the refusal of a body for an error of pydantic about the field at a place, as the client named it."""
    field, kind, limits = ".".join(map(str, place)), error["type"], error.get("ctx", {})
    if kind == "unsupported":
        names = [".".join(map(str, (*place, name))) for name in limits["unknown"]]
        close = [get_close_matches(name, limits["known"], 1, _CLOSE) for name in limits["unknown"]]
        shown = [f"{name} (did you mean {one[0]}?)" if one else name for name, one in zip(names, close, strict=True)]
        message = f"Unsupported: {', '.join(shown)}; remove what could change the answer."
        return Refused(message, "invalid", names[0])
    if not field:
        return Refused("The body is not a JSON object; send one.", "invalid")
    if kind == "missing":
        return Refused(f"{field} is missing; add it.", "invalid", field)
    if kind == "string_unicode":
        return Refused(f"{field} has an unpaired surrogate; send valid Unicode.", "invalid", field)
    wanted = _WANTED[kind].format(**limits) if kind in _WANTED else f"another value ({error['msg']})"
    given = _shown(error["input"])
    return Refused(f"{field} is {'invalid' if wanted.startswith(given) else given}; give {wanted}.", "invalid", field)


def _shown(value: Any) -> str:
    """Return a value of JSON as error messages show it."""
    if isinstance(value, dict):
        return _OBJECT
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.12g}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def translated(kind: type[_Form], fields: Mapping[str, Any], names: Mapping[str, str]) -> _Form:
    """Return the body that another API's request becomes; `names` are those of its fields where they differ.

    Raises:
        Refused: a field is malformed; the message has the name that was sent.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field, *rest = first["loc"]
        raise invalid(first, (names.get(str(field), field), *rest)) from None
