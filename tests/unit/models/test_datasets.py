"""Data sets from the bundle, from local directories and text files."""

import io
from pathlib import Path

import datasets  # type: ignore[import-untyped]
import huggingface_hub
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch
from PIL import Image

from configs.data import Data
from configs.models import Quadratic
from models.datasets import Dataset, load
from models.errors import DatasetError

PLAY = "\n\n".join(
    f"{name}:\n{line}"
    for name, line in [
        ("Ann", "a" * 300),
        ("Bob", "b" * 50),
        ("Ann", "c" * 3000),
        ("Cy", "d" * 2000),
    ]
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the library caches out of the user's cache, and the user's data out of the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("WATERSHED_DATA", raising=False)


def write_images(
    directory: Path, column: str, shape: tuple[int, ...], label: str = "label"
) -> None:
    """Write splits of 6 and 4 PNG images whose pixels all have the value 10 * index."""
    directory.mkdir(parents=True)
    for split, count in (("train", 6), ("test", 4)):
        images = []
        for index in range(count):
            file = io.BytesIO()
            Image.fromarray(np.full(shape, 10 * index, dtype=np.uint8)).save(file, "PNG")
            images.append({"bytes": file.getvalue(), "path": None})
        table = pa.table({column: images, label: [index % 10 for index in range(count)]})
        pq.write_table(table, directory / f"{split}-00000-of-00001.parquet")


def test_digits_are_bundled_and_split_once() -> None:
    """Digits lie in [0, 1], a fifth is for tests and in no other part, and no load differs."""
    first, again = load(Data(name="digits")), load(Data(name="digits"))

    assert first.train_inputs.shape == (1438, 64)
    assert first.test_inputs.shape == (359, 64)
    assert first.train_inputs.dtype == torch.float32
    assert float(first.train_inputs.min()) == 0
    assert float(first.train_inputs.max()) == 1
    assert first.num_labels == 10
    assert first.labels.tolist() == first.train_targets.tolist()
    rows = {tuple(row) for row in first.train_inputs.tolist()}
    assert not rows & {tuple(row) for row in first.test_inputs.tolist()}
    assert torch.equal(first.train_inputs, again.train_inputs)


def test_quadratic_has_one_sample_a_worker() -> None:
    """Each row is the centre and the curvature of one worker, in float64."""
    several = load(Quadratic(centres=((1.0, 2.0), (3.0, 4.0)), curvatures=(0.5, 2.0)))
    numbers = load(Quadratic(centres=(0.0, 100.0), curvatures=3.0))

    assert several.train_inputs.tolist() == [[1.0, 2.0, 0.5], [3.0, 4.0, 2.0]]
    assert numbers.train_inputs.tolist() == [[0.0, 3.0], [100.0, 3.0]]
    assert several.train_inputs.dtype == torch.float64
    assert torch.equal(several.test_inputs, several.train_inputs)


def test_max_samples_takes_the_first_training_samples() -> None:
    """Only training samples are left out, and labels go with them."""
    whole, part = load(Data(name="digits")), load(Data(name="digits", max_samples=50))

    assert torch.equal(part.train_inputs, whole.train_inputs[:50])
    assert part.labels.tolist() == whole.labels[:50].tolist()
    assert torch.equal(part.test_inputs, whole.test_inputs)


@pytest.mark.parametrize("below", ["", "plain_text"])
def test_grey_images_are_normalised(tmp_path: Path, below: str) -> None:
    """MNIST's layout is read, at the top or a level below, into (1, 28, 28) by (x/255 - m) / s."""
    write_images(tmp_path / "mnist" / below, "image", (28, 28))

    dataset = load(Data(name="mnist", source=str(tmp_path / "mnist")))

    assert dataset.train_inputs.shape == (6, 1, 28, 28)
    assert dataset.test_inputs.shape == (4, 1, 28, 28)
    expected = (torch.arange(6) * 10 / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(dataset.train_inputs[:, 0, 3, 5], expected)
    assert dataset.train_targets.tolist() == dataset.labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_colour_images_have_their_channels_first(tmp_path: Path) -> None:
    """CIFAR-10's layout is read into (3, 32, 32), each channel normalised by its own numbers."""
    directory = tmp_path / "cifar10"
    write_images(directory, "img", (32, 32, 3))

    dataset = load(Data(name="cifar10", source=str(directory)))

    assert dataset.train_inputs.shape == (6, 3, 32, 32)
    means, deviations = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(dataset.train_inputs[2, :, 9, 9], (20 / 255 - means) / deviations)


def test_own_images_have_their_own_shape_classes_and_normalisation(tmp_path: Path) -> None:
    """Of any size, read by the same layout; training samples have mean 0 and deviation 1."""
    write_images(tmp_path / "mine", "photo", (5, 7, 3))

    dataset = load(Data(name="images", source=str(tmp_path / "mine"), shape=(3, 5, 7), classes=6))

    assert dataset.train_inputs.shape == (6, 3, 5, 7)
    assert dataset.num_labels == 6
    pixels = torch.arange(6.0)
    expected = (pixels - pixels.mean()) / pixels.std(correction=0)
    torch.testing.assert_close(dataset.train_inputs[:, 1, 4, 6], expected)
    torch.testing.assert_close(dataset.test_inputs[:, 0, 0, 0], expected[:4])
    with pytest.raises(DatasetError, match="labels from 0 to 5; those of images are 0 to 4"):
        load(Data(name="images", source=str(tmp_path / "mine"), shape=(3, 5, 7), classes=5))
    with pytest.raises(DatasetError, match="found an image of 7 x 5, expected 5 x 5"):
        load(Data(name="images", source=str(tmp_path / "mine"), shape=(3, 5, 5), classes=6))


def test_labels_that_the_data_set_does_not_have_are_named(tmp_path: Path) -> None:
    """Ten classes are numbered from 0: another one is told before anything is trained."""
    for split in ("train", "test"):
        library = datasets.Dataset.from_dict(
            {"image": [Image.fromarray(np.zeros((28, 28), dtype=np.uint8))], "label": [11]},
            features=datasets.Features(
                {"image": datasets.Image(), "label": datasets.Value("int64")}
            ),
        )
        library.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")

    with pytest.raises(DatasetError, match=r"labels from 11 to 11; those of mnist are 0 to 9"):
        load(Data(name="mnist", source=str(tmp_path)))


def test_each_pixel_keeps_its_place(tmp_path: Path) -> None:
    """Row, column and channel of a pixel are those of the image."""
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    for split in ("train", "test"):
        library = datasets.Dataset.from_dict(
            {"img": [Image.fromarray(pixels)], "label": [7]},
            features=datasets.Features(
                {"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
            ),
        )
        library.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")

    dataset = load(Data(name="cifar10", source=str(tmp_path / "data")))

    found = dataset.train_inputs[0] * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    found = (found + torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) * 255
    torch.testing.assert_close(found, torch.from_numpy(pixels).permute(2, 0, 1).float())


def test_nothing_is_written_beside_the_source(tmp_path: Path) -> None:
    """A read-only directory can be read, and has the same files afterwards."""
    directory = tmp_path / "mnist"
    write_images(directory, "image", (28, 28))
    before = sorted(directory.rglob("*"))
    directory.chmod(0o555)

    dataset = load(Data(name="mnist", source=str(directory)))

    directory.chmod(0o755)
    assert len(dataset.train_inputs) == 6
    assert sorted(directory.rglob("*")) == before


def test_the_environment_names_the_directory_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a source, the directory of that name below WATERSHED_DATA is taken."""
    write_images(tmp_path / "mnist", "image", (28, 28))
    (tmp_path / "tinyshakespeare.txt").write_text(PLAY)
    monkeypatch.setenv("WATERSHED_DATA", str(tmp_path))

    images, text = load(Data(name="mnist")), load(Data(name="shakespeare"))

    assert len(images.train_inputs) == 6
    assert text.train_inputs.shape[1:] == (80,)


def test_a_missing_directory_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what was looked for, the layout, and both ways to point to it."""
    with pytest.raises(DatasetError, match=r"absent does not exist.*train-\*\.parquet"):
        load(Data(name="mnist", source=str(tmp_path / "absent")))

    monkeypatch.setenv("WATERSHED_DATA", str(tmp_path))
    with pytest.raises(DatasetError, match=r"holds no cifar10.*data\.source.*WATERSHED_DATA=<dir"):
        load(Data(name="cifar10"))
    with pytest.raises(DatasetError, match=r"holds no tinyshakespeare\.txt.*a text file"):
        load(Data(name="shakespeare"))


@pytest.mark.parametrize("name", ["cifar10", "shakespeare"])
def test_an_unreachable_hub_is_explained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without source, environment and network, the message names the hub and both local ways."""
    for settings in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(settings, "HF_HUB_OFFLINE", True)

    with pytest.raises(DatasetError, match=rf"{name}: cannot read .*/.*data\.source.*WATERSHED"):
        load(Data(name=name))


def test_another_layout_is_explained(tmp_path: Path) -> None:
    """Images of another size, missing labels and a missing split are each named."""
    write_images(tmp_path / "size", "image", (32, 32))
    write_images(tmp_path / "unlabelled", "image", (28, 28), label="digit")
    write_images(tmp_path / "half", "image", (28, 28))
    (tmp_path / "half" / "test-00000-of-00001.parquet").unlink()

    with pytest.raises(DatasetError, match="found an image of 32 x 32, expected 28 x 28"):
        load(Data(name="mnist", source=str(tmp_path / "size")))
    with pytest.raises(DatasetError, match=r"has columns \['image', 'digit'\]"):
        load(Data(name="mnist", source=str(tmp_path / "unlabelled")))
    with pytest.raises(DatasetError, match=r"cannot read .*half: .*test"):
        load(Data(name="mnist", source=str(tmp_path / "half")))


def test_plays_are_divided_by_speaking_role(tmp_path: Path) -> None:
    """Contexts of 80 characters stay within the speeches of one role, their owner."""
    path = tmp_path / "play.txt"
    path.write_text(PLAY)

    dataset = load(Data(name="shakespeare", source=str(path)))

    assert dataset.num_labels == len({"a", "b", "c", "d", "\n"})
    assert dataset.owners is not None
    # Ann says "aa...a\ncc...c\n", Bob too little for one window, Cy only d and a newline.
    newline, a, _, c, d = range(5)
    ann, cy = dataset.owners == 0, dataset.owners == 2
    assert ann.sum() + cy.sum() == len(dataset.train_inputs)
    assert set(dataset.train_inputs[ann].flatten().tolist()) == {newline, a, c}
    assert set(dataset.train_inputs[cy].flatten().tolist()) == {d}
    first, later = dataset.train_inputs[ann][0].tolist(), dataset.train_inputs[ann][12].tolist()
    assert first == [a] * 80
    assert later == ([a] * 300 + [newline] + [c] * 3000)[240:320]
    assert dataset.labels.tolist() == dataset.train_targets.tolist()


def test_training_and_test_text_do_not_overlap(tmp_path: Path) -> None:
    """The last tenth of each role's text is in no training window."""
    path = tmp_path / "play.txt"
    path.write_text("Ann:\n" + "x" * 1800 + "y" * 200 + "\n\nBob:\n" + "x" * 900 + "y" * 100)

    dataset = load(Data(name="shakespeare", source=str(path)))

    assert set(dataset.train_inputs.flatten().tolist()) == {1}
    assert set(dataset.test_inputs.flatten().tolist()) == {2}


def test_a_text_without_roles_is_refused(tmp_path: Path) -> None:
    """A text that is no play, or too short a one, is refused with the form that is needed."""
    prose, short = tmp_path / "prose.txt", tmp_path / "short.txt"
    prose.write_text("Once upon a time.\n")
    short.write_text("Ann:\nHello.\n\nBob:\nHello.\n")

    with pytest.raises(DatasetError, match="found no speaking role"):
        load(Data(name="shakespeare", source=str(prose)))
    with pytest.raises(DatasetError, match="no role says enough for a context of 80 characters"):
        load(Data(name="shakespeare", source=str(short)))


def test_moving_keeps_integers() -> None:
    """Floating-point inputs take the asked type; characters stay small integers."""
    inputs, symbols = torch.rand(3, 2), torch.zeros(3, 5, dtype=torch.uint8)
    targets = torch.zeros(3, dtype=torch.int64)
    labels = targets.numpy()

    numbers = Dataset(inputs, targets, inputs, targets, labels, 1).to(torch.float64)
    text = Dataset(symbols, targets, symbols, targets, labels, 1).to(torch.float64)

    assert numbers.train_inputs.dtype == numbers.test_inputs.dtype == torch.float64
    assert text.train_inputs.dtype == torch.uint8
