"""Texts packed into token files, and the batches that are cut from them."""

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from configs.gpt import Gpt
from configs.text import Text
from models.arithmetic_text import arithmetic_text
from models.errors import DatasetError
from models.permutation import permuted
from models.tokens import Batches, TokenFile, check_vocabulary, default_cache_dir, pack

WORDS = {"[UNK]": 0, "one": 1, "two": 2, "three": 7}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return where token files go; it is made by who needs it."""
    return tmp_path / "cache"


def write_tokenizer(path: Path, vocabulary: dict[str, int]) -> str:
    """Write a tokenizer of whole words, as the ``tokenizers`` library would; return its path."""
    content = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    path.write_text(json.dumps(content))
    return str(path)


def write_text(path: Path, text: str) -> Text:
    """Write a text; return its configuration."""
    path.write_bytes(text.encode())
    return Text(name="file", source=str(path))


def token_file(tokens: list[int] | np.ndarray, vocabulary: int = 256) -> TokenFile:
    """Return tokens as if they had been packed."""
    return TokenFile(Path("some.tokens"), np.asarray(tokens, np.uint16), vocabulary, "")


def test_bytes_of_a_file_are_its_tokens(tmp_path: Path, cache: Path) -> None:
    """A text file is packed byte by byte, line ends and letters of two bytes included."""
    text = "ab\r\nß\n" + "x" * 200_000 + "\n" + "end"

    file = TokenFile.open(pack(write_text(tmp_path / "a.txt", text), cache))

    assert file.tokens.tobytes() == np.frombuffer(text.encode(), np.uint8).astype("<u2").tobytes()
    assert file.vocabulary == 256
    assert isinstance(file.tokens, np.memmap)


def test_text_files_of_a_directory_are_read_in_order(tmp_path: Path, cache: Path) -> None:
    """All .txt files below are joined by name, each beginning on a line of its own."""
    (tmp_path / "texts" / "sub").mkdir(parents=True)
    for name, text in (("b.txt", "2\n"), ("a.txt", "1"), ("c.txt", ""), ("sub/d.txt", "3")):
        (tmp_path / "texts" / name).write_text(text)
    (tmp_path / "texts" / "notes.md").write_text("no")

    file = TokenFile.open(pack(Text(name="file", source=str(tmp_path / "texts")), cache))

    assert bytes(file.tokens.astype(np.uint8)) == b"1\n2\n3"


def test_a_data_set_of_the_hub_layout_is_streamed(tmp_path: Path, cache: Path) -> None:
    """The named column of a local data set is packed row by row; missing rows are left out."""
    directory = tmp_path / "corpus"
    directory.mkdir()
    table = pa.table({"content": ["one", None, "two\n", "three"], "id": [1, 2, 3, 4]})
    pq.write_table(table, directory / "train-00000-of-00001.parquet")
    data = Text(name="hub", source=str(directory), column="content")

    file = TokenFile.open(pack(data, cache))

    assert bytes(file.tokens.astype(np.uint8)) == b"one\ntwo\nthree"
    with pytest.raises(DatasetError, match="columns content, id, none called text"):
        pack(data.model_copy(update={"column": "text"}), cache)
    with pytest.raises(DatasetError, match=r"column id .* holds int, not text"):
        pack(data.model_copy(update={"column": "id"}), cache)


def test_tiny_shakespeare_is_found_in_the_directory_of_all_data(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a source it is read from WATERSHED_DATA; where it is missing, that is said."""
    (tmp_path / "tinyshakespeare.txt").write_text("First Citizen:\nSpeak.\n")
    monkeypatch.setenv("WATERSHED_DATA", str(tmp_path))

    file = TokenFile.open(pack(Text(name="shakespeare"), cache))

    assert bytes(file.tokens.astype(np.uint8)) == b"First Citizen:\nSpeak.\n"
    monkeypatch.setenv("WATERSHED_DATA", str(cache))
    with pytest.raises(DatasetError, match="holds no tinyshakespeare"):
        pack(Text(name="shakespeare"), cache)


def test_arithmetic_is_right_and_always_the_same() -> None:
    """Every line is a right sum or difference of numbers below 1000; 1 to 2 MB, the same twice."""
    text = "".join(arithmetic_text())

    assert text == "".join(arithmetic_text())
    assert 1e6 < len(text) < 2e6
    for line in text.splitlines()[::97]:
        term, result = line.split("=")
        sign = "+" if "+" in term else "-"
        left, right = map(int, term.split(sign))
        assert 0 <= min(left, right) <= max(left, right) < 1000
        assert int(result) == (left + right if sign == "+" else left - right) >= 0


def test_a_tokenizer_file_makes_the_tokens(tmp_path: Path, cache: Path) -> None:
    """Tokens are the tokenizer's, its vocabulary ends behind its largest number, none is added."""
    data = write_text(tmp_path / "a.txt", "one two\nthree four\n" * 100_000)
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json", WORDS)

    file = TokenFile.open(pack(data.model_copy(update={"tokenizer": tokenizer}), cache))

    assert file.vocabulary == 8
    assert file.tokens.reshape(-1, 4).shape == (100_000, 4)
    assert np.all(file.tokens.reshape(-1, 4) == [1, 2, 7, 0])


def test_large_vocabularies_take_four_bytes(tmp_path: Path, cache: Path) -> None:
    """Two bytes hold a vocabulary of 65 536; one more is packed in four."""
    data = write_text(tmp_path / "a.txt", "one two")
    kinds = {}
    for largest in (2**16 - 1, 2**16):
        tokenizer = write_tokenizer(tmp_path / f"{largest}.json", {"[UNK]": 0, "two": largest})
        file = TokenFile.open(pack(data.model_copy(update={"tokenizer": tokenizer}), cache))
        kinds[file.tokens.dtype.itemsize] = file.tokens.tolist()

    assert kinds == {2: [0, 2**16 - 1], 4: [0, 2**16]}


def test_a_wrong_tokenizer_file_is_refused(tmp_path: Path, cache: Path) -> None:
    """A file that is missing, and one of another kind, are each named."""
    data = write_text(tmp_path / "a.txt", "text")
    other = data.model_copy(update={"tokenizer": str(tmp_path / "a.txt")})
    missing = data.model_copy(update={"tokenizer": str(tmp_path / "none.json")})

    with pytest.raises(DatasetError, match=r"cannot read .*none\.json: No such file.*or use bytes"):
        pack(missing, cache)
    with pytest.raises(DatasetError, match=r"a\.txt is no tokenizer\.json"):
        pack(other, cache)


def test_a_text_is_packed_once(tmp_path: Path, cache: Path) -> None:
    """A packed text is found again; another limit or a changed file is packed anew."""
    data = write_text(tmp_path / "a.txt", "0123456789")
    first = pack(data, cache)
    written = first.stat().st_ino

    again = pack(data, cache)
    limited = TokenFile.open(pack(data.model_copy(update={"max_tokens": 4}), cache))
    changed = TokenFile.open(pack(write_text(tmp_path / "a.txt", "01234567890"), cache))

    assert (again, again.stat().st_ino) == (first, written)
    assert bytes(limited.tokens.astype(np.uint8)) == b"0123"
    assert len(changed.tokens) == 11
    assert len({TokenFile.open(first).fingerprint, limited.fingerprint, changed.fingerprint}) == 3


def test_equal_texts_have_equal_fingerprints(tmp_path: Path, cache: Path) -> None:
    """The fingerprint is of the tokens, not of where they came from."""
    paths = [pack(write_text(tmp_path / name, "same"), cache) for name in ("a.txt", "b.txt")]

    files = [TokenFile.open(path) for path in paths]

    assert paths[0] != paths[1]
    assert files[0].fingerprint == files[1].fingerprint


def pack_behind(barrier: object, data: Text, cache: Path, answers: object) -> None:
    """Pack when all others are ready, and tell which file it was (in a process of its own)."""
    barrier.wait()  # type: ignore[attr-defined]  # the class depends on the way of starting
    path = pack(data, cache)
    answers.put((str(path), path.stat().st_ino))  # type: ignore[attr-defined]


def test_many_processes_may_pack_at_once(tmp_path: Path, cache: Path) -> None:
    """Of six processes that start together one packs; nothing but the file and a lock is left."""
    data = write_text(tmp_path / "a.txt", "some text\n" * 300_000)
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(6), context.SimpleQueue()
    processes = [
        context.Process(target=pack_behind, args=(barrier, data, cache, answers)) for _ in range(6)
    ]

    for process in processes:
        process.start()
    found = {answers.get() for _ in processes}
    for process in processes:
        process.join()

    assert len(found) == 1
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".tokens"]
    assert len(TokenFile.open(Path(found.pop()[0])).tokens) == 3_000_000


def test_an_empty_text_is_refused(tmp_path: Path, cache: Path) -> None:
    """A text without a character leaves no token file behind."""
    with pytest.raises(DatasetError, match="is empty; use another"):
        pack(write_text(tmp_path / "a.txt", ""), cache)

    assert not list(cache.glob("*.tokens"))
    assert not list(cache.glob(".*"))


def test_what_is_no_text_is_refused(tmp_path: Path, cache: Path) -> None:
    """A missing file, a directory without texts and bytes that are no UTF-8 are each named."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")

    for name, problem in (
        ("none.txt", r"none\.txt does not exist"),
        ("empty", r"holds no \.txt file"),
        ("binary.txt", r"binary\.txt is no UTF-8 text"),
    ):
        with pytest.raises(DatasetError, match=problem):
            pack(Text(name="file", source=str(tmp_path / name)), cache)
    with pytest.raises(DatasetError, match=r"none does not exist; name a directory"):
        pack(Text(name="hub", source=str(tmp_path / "none")), cache)


def test_a_source_is_told_where_one_is_needed() -> None:
    """A file or hub without a source, and arithmetic with one, are faults of the configuration."""
    with pytest.raises(ValidationError, match="file needs a text file, or a directory"):
        Text(name="file")
    with pytest.raises(ValidationError, match="hub needs a data set"):
        Text(name="hub")
    with pytest.raises(ValidationError, match="arithmetic is made here"):
        Text(name="arithmetic", source="somewhere")


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A cache that is a file is refused, with the variable that names another."""
    data = write_text(tmp_path / "a.txt", "text")

    with pytest.raises(DatasetError, match=r"cannot write the token file .*WATERSHED_CACHE"):
        pack(data, tmp_path / "a.txt" / "cache")


def test_damaged_token_files_are_refused_and_packed_again(tmp_path: Path, cache: Path) -> None:
    """A file cut off, one of other content and none are told apart; packing mends them."""
    data = write_text(tmp_path / "a.txt", "0123456789")
    path = pack(data, cache)
    whole = path.read_bytes()

    for content, problem in (
        (whole[:-2], r"damaged: it has 4114 bytes, its header says 4116"),
        (whole[:100], "is no token file of this version"),
        (b"\x93NUMPY" + whole, "is no token file of this version"),
        (b"", "is no token file of this version"),
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=problem):
            TokenFile.open(path)
        assert pack(data, cache) == path
        assert path.read_bytes() == whole
    with pytest.raises(DatasetError, match=r"cannot read the token file .*No such file"):
        TokenFile.open(path.with_name("none"))


def test_the_cache_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """WATERSHED_CACHE names the directory, else it lies in the home directory."""
    monkeypatch.setenv("WATERSHED_CACHE", "/some/where")
    assert default_cache_dir() == Path("/some/where")

    monkeypatch.delenv("WATERSHED_CACHE")
    monkeypatch.setenv("HOME", "/home/user")
    assert default_cache_dir() == Path("/home/user/.cache/watershed")


def test_tokens_must_have_a_row_in_the_embedding() -> None:
    """A vocabulary larger than the model's is refused with what to set; a smaller one is not."""
    check_vocabulary(token_file([1], vocabulary=256), Gpt(vocabulary=256))
    check_vocabulary(token_file([1], vocabulary=256), Gpt(vocabulary=300))

    with pytest.raises(DatasetError, match=r"vocabulary of 256, .* is 200; set model\.vocabulary"):
        check_vocabulary(token_file([1], vocabulary=256), Gpt(vocabulary=200))


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_an_order_holds_everything_once(size: int, seed: int, epoch: int) -> None:
    """The numbers at all places are all numbers, whatever the size and the seed."""
    places = np.arange(size, dtype=np.uint64)

    numbers = permuted(places, size, seed=(seed, epoch))

    assert np.array_equal(np.sort(numbers), places)


def test_orders_look_random() -> None:
    """In 2000 orders of 7, each number is at each place about as often; neighbours part."""
    counts = np.zeros((7, 7))
    for epoch in range(2000):
        counts[np.arange(7), permuted(np.arange(7, dtype=np.uint64), 7, seed=(0, epoch))] += 1

    long = permuted(np.arange(9999, dtype=np.uint64), 9999, seed=(0, 0)).astype(float)

    # A cell's deviation is sqrt(2000 * 6/49) = 15.6; five of them for the largest of 49.
    assert np.abs(counts - 2000 / 7).max() < 5 * 15.6
    assert abs(np.corrcoef(long[1:], long[:-1])[0, 1]) < 0.05
    assert abs(np.corrcoef(long, np.arange(9999))[0, 1]) < 0.05


def sequences_of(batches: list[Tensor], sequence: int) -> list[int]:
    """Return which sequences batches hold, of a file whose tokens count from 0."""
    rows = torch.cat(batches)
    assert rows.dtype == torch.int64
    assert torch.equal(rows, rows[:, :1] + torch.arange(sequence + 1))
    assert not (rows[:, 0] % sequence).any()
    return (rows[:, 0] // sequence).tolist()


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_step_is_the_same_however_it_is_shared_out(data: st.DataObject) -> None:
    """Any ranks, micro-batches and accumulation of one product see one set of sequences."""
    per_step = data.draw(st.sampled_from([1, 4, 6, 12, 24]), "sequences of a step")
    sequence = data.draw(st.integers(2, 9), "sequence")
    step = data.draw(st.integers(0, 10**6), "step")
    file = token_file(np.arange(data.draw(st.integers((per_step + 1) * sequence + 1, 3000))), 3000)
    batches = Batches(
        file, sequence=sequence, sequences_per_step=per_step, seed=3, validation_fraction=0
    )
    found = []
    for _ in range(2):
        num_ranks = data.draw(st.sampled_from([n for n in range(1, 25) if per_step % n == 0]))
        rest = per_step // num_ranks
        micro_batch = data.draw(st.sampled_from([n for n in range(1, 25) if rest % n == 0]))
        shares = [
            batches.step(step, rank, num_ranks, micro_batch, rest // micro_batch)
            for rank in range(num_ranks)
        ]
        assert {len(share) for share in shares} == {rest // micro_batch}
        assert {tuple(part.shape) for share in shares for part in share} == {
            (micro_batch, sequence + 1)
        }
        found.append(sorted(sequences_of([part for share in shares for part in share], sequence)))

    assert found[0] == found[1]
    assert len(found[0]) == per_step


@given(
    num_tokens=st.integers(100, 2000),
    sequence=st.integers(2, 12),
    per_step=st.integers(1, 4),
    fraction=st.sampled_from([0.0, 0.25, 0.5]),
)
@settings(max_examples=30, deadline=None)
def test_an_epoch_holds_every_sequence_once(
    num_tokens: int, sequence: int, per_step: int, fraction: float
) -> None:
    """Steps run through epochs without a gap, also inside a step, and never see validation."""
    batches = Batches(
        token_file(np.arange(num_tokens), num_tokens),
        sequence=sequence,
        sequences_per_step=per_step,
        seed=0,
        validation_fraction=fraction,
    )
    count = batches.num_sequences
    seen: list[int] = []
    for step in range(-(-2 * count // per_step)):
        (part,) = batches.step(step, 0, 1, per_step, 1)
        assert int(part.max()) < num_tokens - int(num_tokens * fraction)
        seen += sequences_of([part], sequence)

    assert sorted(seen[:count]) == sorted(seen[count : 2 * count]) == list(range(count))
    assert count * sequence < num_tokens - int(num_tokens * fraction) <= (count + 1) * sequence


def test_every_epoch_and_seed_has_an_order_of_its_own() -> None:
    """A second epoch, and another seed, see the sequences in another order."""
    orders = []
    for seed in (0, 1):
        batches = Batches(
            token_file(np.arange(401), 401),
            sequence=4,
            sequences_per_step=100,
            seed=seed,
            validation_fraction=0,
        )
        orders += [sequences_of(batches.step(epoch, 0, 1, 100, 1), 4) for epoch in (0, 1)]

    assert len({tuple(order) for order in orders}) == 4
    assert list(range(100)) not in orders


@pytest.mark.parametrize(
    ("num_ranks", "micro_batch", "most", "batches_per_rank", "size", "distinct"),
    [(1, 4, 100, 6, 4, 24), (4, 4, 100, 1, 4, 16), (2, 8, 10, 1, 5, 10), (40, 2, 100, 1, 1, 24)],
)
def test_validation_is_shared_out_evenly(
    *, num_ranks: int, micro_batch: int, most: int, batches_per_rank: int, size: int, distinct: int
) -> None:
    """All ranks have as many equal batches of the first validation sequences, and one at least."""
    file = token_file(np.arange(200), 200)
    batches = Batches(file, sequence=4, sequences_per_step=1, seed=0, validation_fraction=0.5)

    shares = [batches.validation(rank, num_ranks, micro_batch, most) for rank in range(num_ranks)]

    shapes = [[tuple(part.shape) for part in share] for share in shares]
    assert shapes == [[(size, 5)] * batches_per_rank] * num_ranks
    rows = torch.cat([part for share in shares for part in share])
    assert sorted(set(rows[:, 0].tolist())) == list(range(100, 100 + 4 * distinct, 4))


def test_a_text_may_have_no_share_for_validation() -> None:
    """With a fraction of 0 there is nothing to validate on, and all else is trained on."""
    file = token_file(np.arange(41), 41)

    batches = Batches(file, sequence=4, sequences_per_step=1, seed=0, validation_fraction=0)

    assert batches.validation(0, 2, 4, 64) == []
    assert batches.num_sequences == 10


def test_too_few_tokens_are_refused() -> None:
    """A step needs its sequences at least once, and a share for validation one whole sequence."""
    file = token_file(np.arange(100), 256)

    with pytest.raises(DatasetError, match=r"50 tokens .* 12 sequences of 4, .* takes 13; use a"):
        Batches(file, sequence=4, sequences_per_step=13, seed=0, validation_fraction=0.5)
    with pytest.raises(DatasetError, match=r"0\.05 of 100 tokens is 5, less than one sequence"):
        Batches(file, sequence=5, sequences_per_step=1, seed=0, validation_fraction=0.05)


def test_shares_must_make_up_the_step() -> None:
    """Ranks, micro-batch and accumulation of another product are a mistake of the caller."""
    file = token_file(np.arange(100), 256)
    batches = Batches(file, sequence=4, sequences_per_step=8, seed=0, validation_fraction=0)

    with pytest.raises(ValueError, match="2 ranks x 2 sequences x 1 micro-batches are not the 8"):
        batches.step(0, 0, 2, 2, 1)


def test_tokens_beyond_the_vocabulary_are_noticed() -> None:
    """A number that no tokenizer gave is reported before it reaches an embedding."""
    batches = Batches(
        token_file([1, 2, 300, 4, 5], 256),
        sequence=4,
        sequences_per_step=1,
        seed=0,
        validation_fraction=0,
    )

    with pytest.raises(DatasetError, match="holds token 300 of a vocabulary of 256"):
        batches.step(0, 0, 1, 1, 1)


def test_a_planted_link_is_not_followed(tmp_path: Path, cache: Path) -> None:
    """Neither in place of the lock nor of the file that is being written."""
    data = write_text(tmp_path / "a.txt", "some text")
    private = tmp_path / "private"
    private.write_text("precious")
    packed = pack(data, cache)
    packed.unlink()
    lock = packed.with_suffix(".lock")
    lock.unlink()

    lock.symlink_to(private)
    with pytest.raises(DatasetError, match=r"\.lock is a link, remove it; set WATERSHED_CACHE to"):
        pack(data, cache)
    lock.unlink()
    packed.with_name(f".{packed.name}.{os.uname().nodename}.{os.getpid()}").symlink_to(private)
    pack(data, cache)

    assert private.read_text() == "precious"
    assert TokenFile.open(packed).tokens.tobytes() != b""


def test_the_lock_cuts_no_file_off(tmp_path: Path, cache: Path) -> None:
    """It may have another name, of a private file."""
    data = write_text(tmp_path / "a.txt", "some text")
    private = tmp_path / "private"
    private.write_text("precious")
    packed = pack(data, cache)
    packed.unlink()
    packed.with_suffix(".lock").unlink()
    packed.with_suffix(".lock").hardlink_to(private)

    pack(data, cache)

    assert private.read_text() == "precious"


def _pack_as_another_user(data: Text, cache: Path) -> None:
    os.setuid(54_321)
    pack(data, cache)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_another_users_lock_that_is_closed_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a job of Slurm, with umask 077: the other user packs, too."""
    monkeypatch.chdir(tmp_path)  # the way there is closed to that user
    tmp_path.chmod(0o755)
    cache = Path("cache")
    data = write_text(Path("a.txt"), "some text")
    packed = pack(data, cache)
    packed.unlink()
    packed.with_suffix(".lock").chmod(0o600)
    cache.chmod(0o777)

    process = multiprocessing.get_context("fork").Process(
        target=_pack_as_another_user, args=(data, cache)
    )
    process.start()
    process.join()

    assert process.exitcode == 0
    assert packed.stat().st_uid == 54_321
