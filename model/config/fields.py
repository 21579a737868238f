"""How a parameter is declared: its place in the form, its default, what it means, and its bounds."""

from typing import Any

from pydantic import Field


def field(position: int, default: Any, description: str, **bounds: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"position": position}, **bounds)
