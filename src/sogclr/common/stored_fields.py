"""Build a dataclass from stored JSON: only its own fields, and only values of their types."""

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from .errors import UserError, one_line

__all__ = ["ANOTHER_VERSION", "build_from_json", "require_type"]

ANOTHER_VERSION = "read it with the version of sogclr that wrote it"

T = TypeVar("T")


def build_from_json(kind: type[T], stored: Any, name: str) -> T:
    """Build a dataclass from what JSON holds of it.

    Args:
        kind: the dataclass. All its fields must be stored. Lists become tuples where fields are.
        stored: the value that JSON holds.
        name: the name of the value, for messages.

    Raises:
        UserError: a field is missing or unknown, or its value has another type. A value that the
            dataclass itself refuses.
    """
    if not isinstance(stored, dict):
        raise UserError(f"{name}: must be an object, got {_shortened(stored)}")
    kinds = get_type_hints(kind)
    # `kind` is a dataclass, which the type of this function cannot say.
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in stored:
        if key not in names:
            raise UserError(f"{name}: {key!r} is unknown; {ANOTHER_VERSION}")
    for key in names:
        if key not in stored:
            raise UserError(f"{name}: {key!r} is missing; {ANOTHER_VERSION}")
    values = {key: _convert(kinds[key], stored[key], f"{name}: {key}") for key in names}
    return kind(**values)


def require_type(value: Any, kind: Any, name: str) -> None:
    """Refuse a value of another type.

    Args:
        value: the value.
        kind: the type, as in an annotation; a TypedDict also fixes the keys.
        name: the name of the value, for the message.

    Raises:
        UserError: the value has another type.
    """
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    try:
        check_type(value, kind, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        raise UserError(f"{name}: {one_line(error)}; {ANOTHER_VERSION}") from error
    if _has_stray_bool(value, kind):
        raise UserError(f"{name}: a number is needed, got {_shortened(value)}; {ANOTHER_VERSION}")


def _convert(kind: Any, value: Any, name: str) -> Any:
    if isinstance(kind, type) and is_dataclass(kind):
        return build_from_json(kind, value, name)
    if isinstance(value, list) and tuple in {get_origin(kind), *map(get_origin, get_args(kind))}:
        value = tuple(value)
    require_type(value, kind, name)
    return value


def _has_stray_bool(value: Any, kind: Any) -> bool:
    """Tell whether true or false stands where a number is needed: for Python they are integers."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if isinstance(value, bool):
        return not any(each in (bool, Any) or value in get_args(each) for each in kinds)
    if isinstance(value, dict):
        hints = [get_type_hints(each) for each in kinds if is_typeddict(each)]
        return any(
            _has_stray_bool(entry, hint.get(key, Any))
            for hint in hints
            for key, entry in value.items()
        )
    if isinstance(value, list | tuple):
        inner = [each for some in kinds for each in get_args(some) if each is not ...] or [Any]
        return any(all(_has_stray_bool(entry, each) for each in inner) for entry in value)
    return False


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
