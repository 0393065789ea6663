"""Checks of a valid training against the machine: does it fit, are its files there.

What only a library can tell (whether ``tokenizers`` takes a tokenizer's rules), the job reports.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from configs.base import Fault
from configs.data import LocationError, locate, may_be_hub_name
from configs.engines import engine_faults
from configs.hub_cache import Reader, hub_fault, hub_note, reader_of, unseen_note
from configs.launchers import LauncherConfig
from configs.text import CACHE_ENVIRONMENT, Text
from configs.tokenizer_file import TokenizerFileError, vocabulary_of
from configs.training import TrainingExperiment
from configs.training_memory import (
    DeviceMemory,
    least_ranks,
    predicted_memory,
    whole_model_bytes,
)

_BYTE_VOCABULARY = 256
_PROCESS_BYTES = 300_000_000
"""What Python and torch take in each process, before they train anything."""
_NOTABLE_BYTES = 1_000_000_000
_UNIQUE = ("GPU-", "MIG-")
"""Names of devices that are not their numbers begin so."""
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_SAVINGS = ("hfsdp", "zeropp", "zero3")
"""Rows that need less memory than ZeRO-topo, the least slow first."""


def training_faults(experiment: TrainingExperiment, launcher: LauncherConfig) -> list[Fault]:
    """Find why a training cannot run.

    Args:
        experiment: The training.
        launcher: Where it is to run.

    Returns:
        The faults, with paths in the experiment.
    """
    return [
        *engine_faults(experiment),
        *_text_faults(experiment.data, reader_of(launcher)),
        *_tokenizer_faults(experiment),
        *device_faults(experiment, launcher, gpus_here()),
        *_memory_faults(experiment, launcher),
    ]


def training_notes(
    experiment: TrainingExperiment, launcher: LauncherConfig, num_cores: int
) -> list[str]:
    """Say what the author of a training should know.

    Args:
        experiment: The training.
        launcher: Where it is to run.
        num_cores: Cores of this machine.

    Returns:
        The notes.
    """
    notes = []
    is_here = launcher.kind == "local" and not may_use_gpus(experiment, gpus_here())
    if is_here and experiment.ranks > num_cores:
        notes.append(
            f"{experiment.ranks} ranks share {num_cores} cores of this machine; fine for a trial, "
            "no measure of speed"
        )
    needed = predicted_memory(experiment)
    if needed.total >= _NOTABLE_BYTES:
        count = experiment.model.num_parameters
        notes.append(f"{count:,} parameters need about {_in_words(needed)} on each device")
    notes += _whole_model_notes(experiment, launcher)
    notes += _text_notes(experiment.data, reader_of(launcher))
    return notes


def _whole_model_notes(experiment: TrainingExperiment, launcher: LauncherConfig) -> Iterator[str]:
    each = whole_model_bytes(experiment, on_host=True)
    if each < _NOTABLE_BYTES:
        return
    together = experiment.ranks
    if launcher.kind != "local":
        together = experiment.topology.node_ranks(experiment.ranks)
    yield (
        f"engine {experiment.engine} builds the whole model in the host's memory on every rank "
        f"before it splits it: {_gigabytes(each)} each, {_gigabytes(together * each)} for "
        f"{together} ranks of a node; what is predicted besides is of engine ours"
    )


def _memory_faults(experiment: TrainingExperiment, launcher: LauncherConfig) -> Iterator[Fault]:
    needed, has = predicted_memory(experiment), device_bytes(experiment, launcher)
    if has is None:
        return
    if needed.total <= has:
        yield from _whole_model_faults(experiment, launcher, has)
        return
    message = f"{experiment.model.num_parameters:,} parameters do not fit: they need about "
    message += f"{_in_words(needed)}, but {_told_memory(experiment, has)}; "
    yield Fault(path="model", message=message + _what_would_fit(experiment, has))


def _whole_model_faults(
    experiment: TrainingExperiment, launcher: LauncherConfig, has: int
) -> Iterator[Fault]:
    """Find a model whose shards would fit, but not the whole that another engine begins with."""
    is_bound = is_bound_to_devices(experiment, launcher)
    whole = whole_model_bytes(experiment, on_host=not is_bound)
    if whole <= has:
        return
    message = f"{experiment.engine} takes all {experiment.model.num_parameters:,} parameters to "
    message += f"every {'device' if is_bound else 'rank'} before it splits them: "
    message += f"{_gigabytes(whole)}, but {_told_memory(experiment, has)}; "
    yield Fault(
        path="engine",
        message=f"{message}use engine ours, or a smaller model",
        related=("model", "ranks"),
    )


def _told_memory(experiment: TrainingExperiment, has: int) -> str:
    if _is_of_device(experiment, has):
        return f"a device has {_gigabytes(has)}"
    return (
        f"by launcher: local each of {experiment.ranks} ranks has {_gigabytes(has)}, its share of "
        "this machine's memory"
    )


def _is_of_device(experiment: TrainingExperiment, has: int) -> bool:
    """Whether what a rank has is a device's; else it is its share of this machine."""
    return has == experiment.topology.device.memory_bytes


def _in_words(memory: DeviceMemory) -> str:
    errors = f", of them errors of error_feedback {_gigabytes(memory.errors)}"
    return (
        f"{_gigabytes(memory.total)} (states {_gigabytes(memory.states)}"
        f"{errors if memory.errors else ''}, gathered {_gigabytes(memory.gathered)}, "
        f"activations {_gigabytes(memory.activations)})"
    )


def _gigabytes(num_bytes: int) -> str:
    gigabytes = num_bytes / 1e9
    return f"{gigabytes:,.0f} GB" if gigabytes >= 1000 else f"{gigabytes:.3g} GB"


def _what_would_fit(experiment: TrainingExperiment, has: int) -> str:
    """Find the smallest change by which a training fits; if there is none, say what to do."""
    for change, words in _changes(experiment):
        if predicted_memory(experiment.model_copy(update=change)).total <= has:
            return f"{words} would fit"
    instead = "launcher: slurm, where ranks have devices of their own"
    if _is_of_device(experiment, has):
        instead = _enough_devices(experiment, has)
    least = "not even zero3 with recompute and micro_batch 1 would"
    return f"{least}; use a smaller model, or {instead}"


def _enough_devices(experiment: TrainingExperiment, has: int) -> str:
    """Say how many devices would do: as it is, and with what saves most if those are fewer."""
    as_is = least_ranks(experiment, has)
    changed = [
        (least, words)
        for change, words in _changes(experiment)
        if (least := least_ranks(experiment.model_copy(update=change), has))
    ]
    found = [f"{as_is:,} devices"] if as_is else []
    fewest, words = min(changed, key=itemgetter(0), default=(0, ""))
    if fewest and (as_is is None or fewest < as_is):
        found.append(f"{fewest:,} devices with {words}")
    return ", or ".join(found) or "devices with more memory: no number of these would do"


def _changes(experiment: TrainingExperiment) -> Iterator[tuple[dict[str, Any], str]]:
    """List changes that save memory, from those that cost least to those that cost most."""
    passes: list[tuple[dict[str, Any], list[str]]] = [({}, [])]
    if experiment.micro_batch > 1:
        accumulation = experiment.accumulation * experiment.micro_batch
        one = {"micro_batch": 1, "accumulation": accumulation}
        passes.append((one, [f"micro_batch: 1 with accumulation: {accumulation}"]))
    if not experiment.recompute:
        passes += [
            (one | {"recompute": True}, [*words, "recompute: true"]) for one, words in passes
        ]
    if experiment.transport.error_feedback:
        plain = {"transport": experiment.transport.model_copy(update={"error_feedback": False})}
        passes += [
            (one | plain, [*words, "transport.error_feedback: false"]) for one, words in passes
        ]
    for row in ("", *filter(partial(_has_row, experiment), _SAVINGS)):
        chosen = {"partition": row} if row else {}
        named = [f"partition: {row}"] if row not in {"", experiment.partition} else []
        for change, words in passes:
            if told := [*named, *words]:
                yield chosen | change, " and ".join(told)


def _has_row(experiment: TrainingExperiment, row: str) -> bool:
    """Say whether the engine can split by a row."""
    changed = experiment.model_copy(update={"partition": row})
    return not any(fault.path == "partition" for fault in engine_faults(changed))


def device_faults(
    experiment: TrainingExperiment, launcher: LauncherConfig, num_gpus: int | None
) -> list[Fault]:
    """Find ranks of this machine that would have no GPU of their own.

    Args:
        experiment: The training.
        launcher: Where it is to run.
        num_gpus: Of this machine; None if nobody can say.
    """
    if num_gpus is None or experiment.device == "cpu" or launcher.kind != "local":
        return []
    if num_gpus >= experiment.ranks or (experiment.device == "auto" and num_gpus == 0):
        return []
    message = too_few_gpus(num_gpus, experiment.ranks)
    return [Fault(path="device", message=message, related=("ranks",))]


def too_few_gpus(num_gpus: int, num_ranks: int) -> str:
    """Say that ranks of one machine need a GPU each, and what to do.

    Args:
        num_gpus: There are so many.
        num_ranks: For so many ranks.
    """
    return (
        f"{num_gpus} GPUs are seen on this machine, for {num_ranks} ranks, each of which needs one "
        "of its own; set device: cpu, or use no more ranks than GPUs, or a launcher with more nodes"
    )


def gpus_here(
    devices: Path = Path("/dev"), variables: Mapping[str, str] = os.environ
) -> int | None:
    """Count the GPUs that processes of this machine see, without torch.

    Args:
        devices: Where device files are.
        variables: Of the environment.

    Returns:
        Those of NVIDIA; None where there are others.
    """
    if (devices / "kfd").exists():
        return None
    present = sum(path.name[6:].isdecimal() for path in devices.glob("nvidia*"))
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    # As CUDA reads it: the first that is no device ends the list, such as -1 or NoDevFiles.
    seen = itertools.takewhile(partial(_is_gpu, present=present), visible.split(","))
    return min(present, len(list(seen)))


def _is_gpu(word: str, *, present: int) -> bool:
    word = word.strip()
    return word.startswith(_UNIQUE) or (word.isdecimal() and int(word) < present)


def device_bytes(experiment: TrainingExperiment, launcher: LauncherConfig) -> int | None:
    """Return the memory that a rank may use, in bytes; None if nobody has said.

    On this machine its processes share the memory that there is.

    Args:
        experiment: The training.
        launcher: Where it is to run.
    """
    known = experiment.topology.device.memory_bytes
    if is_bound_to_devices(experiment, launcher):
        return known
    here = max(0, _machine_bytes() // experiment.ranks - _PROCESS_BYTES)
    return here if known is None else min(here, known)


def is_bound_to_devices(experiment: TrainingExperiment, launcher: LauncherConfig) -> bool:
    """Say whether each rank has a device of its own, so that more ranks have more memory.

    Args:
        experiment: The training.
        launcher: Where it is to run.
    """
    return launcher.kind != "local" or may_use_gpus(experiment, gpus_here())


def may_use_gpus(experiment: TrainingExperiment, num_gpus: int | None) -> bool:
    """Say whether a training on this machine may be one on GPUs, as far as is known without torch.

    Args:
        experiment: The training.
        num_gpus: Of this machine; None if nobody can say.
    """
    if experiment.device == "auto":
        return num_gpus is None or num_gpus > 0
    return experiment.device == "cuda"


def _machine_bytes() -> int:
    """Memory of this machine, or of this container if that has less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CONTAINER_LIMIT.read_text().strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdigit() else whole


def _text_faults(text: Text, reader: Reader) -> Iterator[Fault]:
    """Check that a text is where it should be."""
    if message := _source_fault(text, reader):
        yield Fault(path="data.source", message=message)


def _source_fault(text: Text, reader: Reader) -> str:
    """Say what is wrong with where a text comes from; empty if nothing is."""
    try:
        hub_name = _hub_name(text, reader)
    except LocationError as error:
        return "" if text.source is None and reader.unseen_data else str(error)
    if hub_name and not _is_packed(text, reader):
        return hub_fault(hub_name, reader)
    if text.name not in {"file", "hub"} or text.source is None:
        return ""
    path = Path(text.source).expanduser()
    wanted = "a text file, or a directory of .txt files"
    if text.name == "hub":
        wanted = "a directory with a data set, or one on the Hugging Face hub (owner/name)"
    if not path.exists() and not (text.name == "hub" and may_be_hub_name(text.source)):
        return f"{text.source} does not exist; name {wanted}"
    if text.name == "file" and path.is_dir() and not any(path.rglob("*.txt")):
        return f"{text.source} holds no .txt file; name {wanted}"
    return ""


def _hub_name(text: Text, reader: Reader) -> str:
    """Return the name by which the hub is asked for a text; empty if it is not.

    Raises:
        LocationError: Tiny Shakespeare is not where it should be.
    """
    if text.name == "shakespeare":
        place = locate(text.name, text.source, reader.environment)
        return place if isinstance(place, str) else ""
    name = text.source or ""
    is_asked = text.name == "hub" and may_be_hub_name(name) and not Path(name).expanduser().exists()
    return name if is_asked else ""


def _text_notes(text: Text, reader: Reader) -> Iterator[str]:
    if _source_fault(text, reader):
        return
    if text.name == "shakespeare" and text.source is None and reader.unseen_data:
        yield unseen_note(reader.unseen_data)
    elif (hub_name := _hub_name(text, reader)) and not _is_packed(text, reader):
        yield from filter(None, [hub_note(hub_name, reader)])


def _is_packed(text: Text, reader: Reader) -> bool:
    """Whether there are tokens of such a text, of which the job can say whether they are these."""
    cache = Path(reader.environment.get(CACHE_ENVIRONMENT) or "~/.cache/watershed")
    return any(cache.expanduser().glob(f"*-{text.name}.tokens"))


def _tokenizer_faults(experiment: TrainingExperiment) -> Iterator[Fault]:
    """Check that a tokenizer is one, and that the model has a row for each of its tokens."""
    vocabulary, path = experiment.model.vocabulary, experiment.data.tokenizer_path
    try:
        needed = _BYTE_VOCABULARY if path is None else vocabulary_of(path)
    except TokenizerFileError as error:
        message = f"{error}; name a tokenizer.json of the tokenizers library, or use bytes"
        yield Fault(path="data.tokenizer", message=message)
        return
    if vocabulary < needed:
        tokens = "bytes that there are" if path is None else f"that the tokens of {path} need"
        instead = "" if path is None else ", or another tokenizer"
        message = f"{vocabulary} is less than the {needed} {tokens}; use {needed} or more{instead}"
        yield Fault(path="model.vocabulary", message=message, related=("data.tokenizer",))
