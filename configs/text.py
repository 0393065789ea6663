"""Which text a GPT is trained on, and how it becomes tokens."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from configs.base import Number, Record, Whole, tagged_by


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
        default="bytes",
        description="bytes, or the path of a tokenizer.json of the tokenizers library.",
    )
    validation_fraction: Annotated[Number, Field(ge=0, le=0.5)] = Field(
        default=0.05, description="Share of the tokens, at the end, that is only validated on."
    )
    max_tokens: Whole | None = Field(
        default=None, ge=2, description="Use only the first so many tokens (for trials)."
    )

    @property
    def tokenizer_path(self) -> Path | None:
        """File of the tokenizer; None for bytes."""
        return None if self.tokenizer == "bytes" else Path(self.tokenizer).expanduser()


TextField = Annotated[Text, tagged_by("name", "arithmetic")]
