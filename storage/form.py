"""The base of parameters that Prefect shows in a form, in the order in which a class declares its fields."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema


class Shorthand(BaseModel):
    """Parameters whose most important field can be given alone, as a plain text."""

    shorthand: ClassVar[str] = ""
    """Name of that field; empty if there is none."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, values: Any) -> Any:
        return {cls.shorthand: values} if cls.shorthand and isinstance(values, str) else values


class Form(Shorthand):
    """Frozen parameters without unknown names; their JSON schema gives each field's `position` in the form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shown_first: ClassVar[tuple[str, ...]] = ()
    """Fields that come before all others."""
    shown_last: ClassVar[tuple[str, ...]] = ()
    """Fields that come after all others."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> dict[str, Any]:
        form = handler(schema)
        fields = handler.resolve_ref_schema(form).get("properties", {})
        declared = [name for name in fields if name not in (*cls.shown_first, *cls.shown_last)]
        order = [*cls.shown_first, *declared, *cls.shown_last]
        for position, name in enumerate(name for name in order if name in fields):
            fields[name]["position"] = position
        return form
