"""How every request body is checked: its fields, their types, and the messages that name them.

A null field has its default. Fields that change nothing here (`user`, `store`, `metadata`) are ignored; any other
unknown field could change the output and is refused.
"""

from collections.abc import Mapping
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


def expected(message: str) -> WrapValidator:
    """Replace the messages of all branches of a union, which name types of Python, by one."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", "{message}", {"message": message}) from None

    return WrapValidator(validate)


def _not_boolean(value: Any) -> Any:
    """Refuse true and false, which Python counts as numbers."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "Give a number, not true or false")
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
    within: ClassVar[str | None] = None
    """The field of the body that has the object; None for the body."""

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
            shown = []
            for name in unknown:
                close = get_close_matches(name, known, 1, _CLOSE)
                shown.append(f"{name} (did you mean {close[0]}?)" if close else name)
            message = f"Unsupported: {', '.join(shown)}; remove what could change the answer."
            raise Refused(message, "invalid", cls.within or unknown[0])
        return given


def _equal(value: Any, neutral: Any) -> bool:
    """Return whether a value is the neutral one, without the null fields of an object; true is not a 1."""
    given = {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value
    return bool(given == neutral) and (isinstance(neutral, bool) or not isinstance(given, bool))


_Form = TypeVar("_Form", bound=Fields)


def reason(error: ErrorDetails) -> str:
    """Return what is wrong with a field, without the names of Python's types."""
    kind, limits = error["type"], error.get("ctx", {})
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "Give an object"
    if kind == "too_short" and limits["field_type"] == "List":
        return f"Give at least {limits['min_length']}"
    if kind == "too_long" and limits["field_type"] == "List":
        return f"Give at most {limits['max_length']}, not {limits['actual_length']}"
    return error["msg"]


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
        place = ".".join(str(part) for part in (names.get(str(field), field), *rest))
        raise Refused(f"{place}: {reason(first)}.", "invalid", place) from None
