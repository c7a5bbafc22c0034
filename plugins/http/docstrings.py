"""The docstrings below the fields of a request's body: they describe the fields in the OpenAPI document.

They are read from the source when the document is asked for. pydantic (``use_attribute_docstrings``) would read them when each
class is made, for which every start of a broker waits.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import GetJsonSchemaHandler


class Documented:
    """Of a model: its fields are described by their docstrings, but for those that say something else."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(schema)
        fields = handler.resolve_ref_schema(made).get("properties", {})
        for kind in cls.__mro__[: cls.__mro__.index(Documented)]:
            for name, text in _of_module(kind.__module__).get(kind.__name__, {}).items():
                fields[name].setdefault("description", text)
        return made


@cache
def _of_module(name: str) -> dict[str, dict[str, str]]:
    """Class → field → docstring."""
    classes = (node for node in ast.parse(inspect.getsource(sys.modules[name])).body if isinstance(node, ast.ClassDef))
    return {node.name: dict(_below_fields(node)) for node in classes}


def _below_fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in pairwise(node.body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(below, ast.Expr) or not isinstance(below.value, ast.Constant):
            continue
        if isinstance(field.target, ast.Name) and isinstance(below.value.value, str):
            yield field.target.id, inspect.cleandoc(below.value.value)
