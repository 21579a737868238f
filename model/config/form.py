"""The base of parameters that Prefect shows in a form, in the order in which a class declares its fields."""

import math
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema


class Form(BaseModel):
    """Frozen parameters without unknown names; their JSON schema gives each field's `position` in the form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shown_last: ClassVar[tuple[str, ...]] = ()
    """Fields that come after all others."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> dict[str, Any]:
        found = handler(schema)
        fields = handler.resolve_ref_schema(found).get("properties", {})

        def rank(name: str) -> tuple[int, float]:
            """Sort key of a field: the fields of a corpus and of a tokenizer come first, by their own positions."""
            end = cls.shown_last.index(name) + 1 if name in cls.shown_last else 0
            return end, fields[name].get("position", math.inf)

        for position, name in enumerate(sorted(fields, key=rank)):
            fields[name]["position"] = position
        return found
