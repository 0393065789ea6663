"""A field that is one of some words that are known at run time: a drop-down in a form."""

from dataclasses import dataclass

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from configs.faults import nearest
from configs.scripts import refused


@dataclass(frozen=True)
class OneOf:
    """Restricts text to some words; to be put into an ``Annotated[str, ...]``.

    Attributes:
        words: What is allowed.
    """

    words: tuple[str, ...]

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "enum": list(self.words)}

    def _known(self, word: str) -> str:
        if word not in self.words:
            message = f"'{word}' is unknown{nearest(word, self.words)}"
            raise refused(f"{message}; known: {', '.join(self.words)}")
        return word


@dataclass(frozen=True)
class NameOrPath:
    """Shows text in a form as a drop-down of names, or as the path of a file; allows any text.

    Attributes:
        words: The names.
        title: Of the path.
    """

    words: tuple[str, ...]
    title: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        named = {"title": "Shipped", "type": "string", "enum": list(self.words)}
        path = {
            "title": self.title,
            "description": "Path of its YAML file, on the machine that runs the flow.",
            "type": "string",
            "pattern": r"/|\.ya?ml$",
        }
        return {"anyOf": [named, path]}
