"""What every configuration record has in common: frozen, unknown keys refused, finite numbers."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import (
    CoreSchema,
    InitErrorDetails,
    PydanticCustomError,
    ValidationError,
    core_schema,
)

from configs.titles import title_of


class Record(BaseModel):
    """A frozen configuration record: unknown keys are refused, NaN and infinity too."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        field_title_generator=lambda name, _: title_of(name),
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Title a record of a tagged union by its tag, and show the tag first."""
        named = handler(core_schema)
        schema = handler.resolve_ref_schema(named)
        fields: dict[str, JsonSchemaValue] = schema.get("properties", {})
        for name, field in fields.items():
            field.setdefault("title", title_of(name))  # Pydantic gives none to a reference
        tags = {
            name: field for name, field in fields.items() if isinstance(field.get("const"), str)
        }
        for field in tags.values():
            field.setdefault("description", "Chooses this record.")
        if tags:
            schema["properties"] = tags | fields
            if schema.get("title") == cls.__name__:
                schema["title"] = next(iter(tags.values()))["const"]
        return named


@dataclass(frozen=True)
class Tagged:
    """Lets a bare word stand for a record of a tagged union, and a tag be left out.

    Attributes:
        tag: Name of the discriminating field.
        default: Its value in a mapping without it.
    """

    tag: str
    default: str

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._expand, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # Prefect's form shows oneOf, and a discriminator, as raw JSON; anyOf as one tab a record.
        shown = handler(schema)
        if "oneOf" in shown:
            shown["anyOf"] = shown.pop("oneOf")
            shown.pop("discriminator", None)
        return shown

    def _expand(self, value: Any) -> Any:  # noqa: ANN401  raw YAML: any type arrives here
        if isinstance(value, str):
            return {self.tag: value}
        if isinstance(value, dict) and self.tag not in value:
            return {self.tag: self.default, **value}
        return value


def tagged_by(tag: str, default: str) -> Tagged:
    """Let a bare word stand for a record with that tag, and a tag be left out.

    ``model: logistic`` is the logistic model with its defaults; ``worker: {lr: 0.5}`` is the
    default optimiser with another rate.

    Args:
        tag: Name of the discriminating field, such as ``"name"`` or ``"kind"``.
        default: Its value in a mapping without it.

    Returns:
        An annotation to put beside ``Field(discriminator=tag)`` in an ``Annotated`` union.
    """
    return Tagged(tag, default)


class Fault(Record):
    """One thing wrong with a configuration, in words for its author."""

    path: str = Field(description="Dotted path of the field, as it stands in the file.")
    message: str = Field(description="What was found, what is allowed, what to do next.")
    related: tuple[str, ...] = Field(
        default=(),
        description="Other fields that were looked at; while one is faulty, this says nothing.",
    )

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def raise_faults(title: str, faults: list[Fault]) -> None:
    """Raise one ``ValidationError`` that carries every fault with its own path.

    A plain ``ValueError`` in a model validator reports one fault at the record's own path; users
    are to see all of them at once, each where it stands.

    Args:
        title: Name of the record that is at fault.
        faults: The faults; an empty list raises nothing.

    Raises:
        ValidationError: There is at least one fault.
    """
    if not faults:
        return
    details = [
        InitErrorDetails(
            type=PydanticCustomError(
                "fault",
                "{reason}",
                {
                    "reason": fault.message,
                    "path": _keys(fault.path),
                    "related": [_keys(path) for path in fault.related],
                },
            ),
            loc=_keys(fault.path),
            input=None,
        )
        for fault in faults
    ]
    error = ValidationError.from_exception_data(title, details)
    raise error


def _keys(path: str) -> tuple[str | int, ...]:
    return tuple(int(key) if key.isdigit() else key for key in path.split("."))


MOST_WORKERS = 10_000_000
MOST_ROUNDS = 10**9
LARGEST = 1e9
"""Bound of numbers that have no natural one: far beyond any use, far from overflow."""

Whole = Annotated[int, Strict()]
"""A whole number. Words and truth values are refused: ``workers: yes`` is not one worker."""
Number = Annotated[float, Strict()]
"""A number, also a whole one; no word, no truth value."""
Probability = Annotated[Number, Field(ge=0, le=1)]
PositiveFloat = Annotated[Number, Field(gt=0, le=LARGEST)]
Weight = Annotated[Number, Field(ge=0, le=LARGEST)]
WorkerId = Annotated[Whole, Field(ge=0, lt=MOST_WORKERS)]
