"""Declares a parameter with its position in the form, default, description and bounds."""

from typing import Any

from pydantic import Field


def field(position: int, default: Any, description: str, **bounds: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"position": position}, **bounds)
