"""Which text a GPT is trained on, and how it becomes tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Fault, Number, Record, Whole, raise_faults, tagged_by

CACHE_ENVIRONMENT = "WATERSHED_CACHE"
"""Environment variable that names the directory of token files; default ``~/.cache/watershed``."""
BYTES = "bytes"
"""The tokenizer that needs no file: a token is a byte."""


class Text(Record):
    """A text and its tokens; packed into a file of tokens once, which all ranks map."""

    name: Literal["arithmetic", "shakespeare", "file", "hub"] = Field(
        default="arithmetic",
        description="arithmetic is made here, and needs no download; shakespeare is Tiny "
        "Shakespeare; file and hub are what source names.",
    )
    source: str | None = Field(
        default=None,
        description="A text file or a directory of text files (file), the name of a data set on "
        "the Hugging Face hub or its local directory (hub), or where Tiny Shakespeare lies.",
    )
    column: str = Field(default="text", description="Column of a data set that holds the text.")
    tokenizer: str = Field(
        default=BYTES,
        description="bytes, or the path of a tokenizer.json of the tokenizers library.",
    )
    validation_fraction: Annotated[Number, Field(ge=0, le=0.5)] = Field(
        default=0.05, description="Share of the tokens, at the end, that is only validated on."
    )
    max_tokens: Whole | None = Field(
        default=None, ge=2, description="Use only the first so many tokens (for trials)."
    )

    @model_validator(mode="after")
    def _source_fits(self) -> "Text":
        raise_faults("Text", list(self._faults()))
        return self

    def _faults(self) -> Iterator[Fault]:
        if self.name == "arithmetic" and self.source is not None:
            message = "arithmetic is made here and comes from nowhere; remove this key, or use "
            yield Fault(
                path="source", message=f"{message}file or hub as the name", related=("name",)
            )
        if self.name in {"file", "hub"} and self.source is None:
            what = {
                "file": "a text file, or a directory of .txt files",
                "hub": "a data set on the Hugging Face hub, or its local directory",
            }
            message = f"{self.name} needs {what[self.name]}; name it here"
            yield Fault(path="source", message=message, related=("name",))

    @property
    def tokenizer_path(self) -> Path | None:
        """File of the tokenizer; None for bytes."""
        return None if self.tokenizer == BYTES else Path(self.tokenizer).expanduser()


TextField = Annotated[Text, tagged_by("name", "arithmetic")]
