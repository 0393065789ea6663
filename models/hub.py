"""Raw samples from a local directory, a text file or the Hugging Face hub.

Decoded images are kept in the cache of the ``datasets`` library (``HF_HOME``), never beside the
source, which may be read-only; decoding MNIST takes 8 s, reading it again under one.
"""

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import configs.data
from configs.data import Data, LocationError, how_to_provide
from models.errors import DatasetError


def locate(name: str, source: str | None) -> Path | str:
    """Find where a data set that is not bundled is to be read from.

    Args:
        name: Its name in the configuration.
        source: ``data.source``: a path or a hub name; None for the default place.

    Returns:
        An existing path, or a name on the hub.

    Raises:
        DatasetError: Nothing is at the path given, or below ``WATERSHED_DATA``.
    """
    try:
        return configs.data.locate(name, source)
    except LocationError as error:
        raise DatasetError(str(error)) from error


def read_images(
    source: Path | str, data: Data, split: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one split of a data set of labelled images.

    Args:
        source: A directory in the Hugging Face layout, or a hub name.
        data: The data set, which says the shape (channels, height, width) and the classes.
        split: ``train`` or ``test``.

    Returns:
        Pixels, shape (N, channels, height, width), and labels, shape (N,).

    Raises:
        DatasetError: It cannot be read, or has no images of that shape, or no labels.
    """
    import datasets  # type: ignore[import-untyped]  # noqa: PLC0415  costs 2 s: not for digits

    name, shape = data.name, data.facts.shape
    with _cache() as cache, _explained(source, name):
        table = datasets.load_dataset(str(source), split=split, cache_dir=cache)
        # Files that were not written by the library say only that a column is a record of bytes.
        column = next(
            (
                key
                for key, kind in table.features.items()
                if isinstance(kind, datasets.Image) or (isinstance(kind, dict) and "bytes" in kind)
            ),
            None,
        )
        if column is None or "label" not in table.features:
            raise DatasetError(how_to_provide(name, f"{source} has columns {list(table.features)}"))
        pixels = datasets.Sequence(datasets.Value("uint8"), length=int(np.prod(shape)))
        table = table.select_columns([column, "label"]).cast_column(
            column, datasets.Image(decode=False)
        )
        table = table.map(
            _decode,
            batched=True,
            fn_kwargs={"column": column, "shape": shape},
            remove_columns=[column],
            features=datasets.Features({"pixels": pixels, "label": datasets.Value("int64")}),
        )
        chunks = [chunk.flatten().to_numpy() for chunk in table.data.column("pixels").chunks]
        labels = table.data.column("label").to_numpy()
    images, classes = np.concatenate(chunks).reshape(-1, *shape), np.array(labels, dtype=np.int64)
    num_labels = data.facts.num_labels or 0
    if len(classes) and not 0 <= classes.min() <= classes.max() < num_labels:
        found = f"{split} of {source} has labels from {classes.min()} to {classes.max()}"
        raise DatasetError(f"{found}; those of {name} are 0 to {num_labels - 1}: number them so")
    return images, classes


def read_text(source: Path | str, name: str) -> str:
    """Read a text.

    Args:
        source: A text file, a directory in the Hugging Face layout, or a hub name.
        name: Name of the data set.

    Returns:
        The whole text.

    Raises:
        DatasetError: It cannot be read.
    """
    with _explained(source, name):
        if isinstance(source, Path) and source.is_file():
            return source.read_text(encoding="utf-8")
        import datasets  # noqa: PLC0415  see above

        with _cache() as cache:
            table = datasets.load_dataset(str(source), split="train", cache_dir=cache)
            if "text" not in table.features:
                raise DatasetError(
                    how_to_provide(name, f"{source} has columns {list(table.features)}")
                )
            return "\n".join(table["text"])


def _decode(
    batch: dict[str, list[dict[str, bytes]]], column: str, shape: tuple[int, int, int]
) -> dict[str, list[NDArray[np.uint8]]]:
    from PIL import Image  # noqa: PLC0415  see above

    channels, height, width = shape
    pixels = []
    for encoded in batch[column]:
        image = Image.open(io.BytesIO(encoded["bytes"])).convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            raise DatasetError(
                f"found an image of {image.width} x {image.height}, expected {width} x {height}; "
                "is this another data set?"
            )
        rows = np.asarray(image).reshape(height, width, channels)
        pixels.append(rows.transpose(2, 0, 1).reshape(-1))
    return {"pixels": pixels}


@contextmanager
def _cache() -> Iterator[str]:
    """The cache of the ``datasets`` library, or a temporary one where that cannot be written."""
    import datasets  # noqa: PLC0415  see above

    datasets.disable_progress_bars()
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    if os.access(existing, os.W_OK):
        yield str(cache)
    else:
        with tempfile.TemporaryDirectory(prefix="watershed-data-") as temporary:
            yield temporary


@contextmanager
def _explained(source: Path | str, name: str) -> Iterator[None]:
    """Say what to do when reading fails.

    Hub and file formats raise errors of many libraries (httpx, huggingface_hub, pyarrow, datasets)
    that share no base class.

    Args:
        source: What is being read.
        name: Name of the data set.

    Yields:
        Nothing.

    Raises:
        DatasetError: Reading failed.
        MemoryError: The data do not fit; not translated, as no other place would help.
    """
    try:
        yield
    except (DatasetError, MemoryError):
        raise
    except Exception as error:  # the library raises whatever its many readers and clients raise
        first_line = (str(error).splitlines() or ["no reason given"])[0]
        found = f"cannot read {source}: {type(error).__name__}: {first_line}"
        raise DatasetError(how_to_provide(name, found)) from error
