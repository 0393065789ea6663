"""Parameters that the flows have in common, as Prefect's form shows them.

Prefect takes the title of a parameter from its name; only a title among the extra keys of its
schema replaces it. Descriptions are those of the flow's docstring.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema

from configs.presets import shipped_studies
from configs.topology import shipped_topologies
from configs.words import NameOrPath


def titled(title: str, **extra: Any) -> FieldInfo:  # noqa: ANN401  JSON
    """Return the annotation that titles a parameter in Prefect's form.

    Args:
        title: What the form shows.
        extra: Further keys of the parameter's schema.
    """
    field: FieldInfo = Field(json_schema_extra={"title": title, **extra})
    return field


def _none_if_empty(value: object) -> object:
    return None if value in ("", 0, []) else value


_MayBeEmpty = BeforeValidator(_none_if_empty)
"""An input that is left empty is None. Prefect's form would show an optional one as two tabs, and
sends a default of null whether or not it is allowed: hence defaults that are empty."""

RunsDir = Annotated[
    Path | SkipJsonSchema[None], _MayBeEmpty, titled("Directory of runs", default="")
]
StudyDir = Annotated[
    Path | SkipJsonSchema[None],
    _MayBeEmpty,
    titled("Directory of a study to continue", default=""),
]
NumParallel = Annotated[
    Annotated[int, Field(ge=1, le=10_000)] | SkipJsonSchema[None],
    _MayBeEmpty,
    titled("Local jobs at a time", default=0, minimum=0),
]
Points = Annotated[
    list[Annotated[int, Field(ge=0)]] | SkipJsonSchema[None],
    _MayBeEmpty,
    titled("Points to run", default=[]),
]
NamedTopology = Annotated[str, NameOrPath(tuple(shipped_topologies()), "A machine of your own")]
NamedStudy = Annotated[str, NameOrPath(shipped_studies(), "A study of your own")]
