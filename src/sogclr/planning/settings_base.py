"""Check and store the settings of all commands that train."""

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from ..common.errors import UserError, flag
from ..common.stored_fields import build_from_json

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that decide the result of a run. A resumed run keeps them.

    Attributes:
        kind: The kind of run that they belong to, as settings.json names it.
    """

    group: ClassVar[str] = ""
    kind: ClassVar[str]

    def check_choices(self) -> None:
        """Refuse a value that is not one of the choices of its setting.

        Raises:
            UserError: The value is unknown; the message lists the choices.
        """
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is not Literal:
                continue
            choices, value = get_args(kind), getattr(self, name)
            if value not in choices:
                raise UserError(
                    f"{flag(name)}: {value!r} is unknown; give one of {', '.join(choices)}"
                )

    @classmethod
    def from_arguments(cls, arguments: Any) -> Self:
        """Select these settings from all arguments of a command."""
        return cls(**{f.name: getattr(arguments, f.name) for f in fields(cls)})

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data, for settings.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Any, name: str = "settings") -> Self:
        """Build the settings from the output of `as_dict`, stored as JSON and read again.

        Args:
            stored: the settings, which may come from a stranger.
            name: the name of the settings, for messages.

        Raises:
            UserError: a setting is missing, unknown, or has a value of another type.
        """
        return build_from_json(cls, stored, name)
