"""Data of the Hugging Face hub where the hub is not reached: are they in the cache?

The ``datasets`` library keeps what it has loaded in ``HF_DATASETS_CACHE``, by default ``datasets``
below ``HF_HOME``. Offline it looks nowhere else (``CachedDatasetModuleFactory``).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.data import DATA_ENVIRONMENT
from configs.launchers import LauncherConfig, SlurmLauncherConfig

HOW_TO = "docs/how-to/offline-nodes.md"
_CACHE = "HF_DATASETS_CACHE"
_OFFLINE = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""The first that is set decides; as in ``datasets.config``."""
_TRUE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class Reader:
    """Who reads the data: a job, here or on a node.

    Attributes:
        environment: Its variables, as far as they are known.
        is_here: Whether it reads on this machine, so that what is not seen here is not there.
    """

    environment: Mapping[str, str]
    is_here: bool

    def sees(self, directory: Path) -> bool:
        """Say whether it can be told from here what the reader finds in a directory."""
        return self.is_here or directory.is_dir()

    @property
    def unseen_data(self) -> str:
        """``WATERSHED_DATA`` of the reader, if only the nodes see it; else empty."""
        root = self.environment.get(DATA_ENVIRONMENT, "")
        return root if root and not self.sees(Path(root)) else ""


def reader_of(launcher: LauncherConfig) -> Reader:
    """Return who reads the data of a study.

    Args:
        launcher: How its jobs are started; its variables go before those of this shell.
    """
    if isinstance(launcher, SlurmLauncherConfig):
        return Reader(os.environ | launcher.environment, is_here=False)
    return Reader(dict(os.environ), is_here=True)


def offline_variable(environment: Mapping[str, str]) -> str:
    """Return the variable by which the hub is not to be asked, as ``NAME=VALUE``; empty for none.

    Args:
        environment: Environment variables.
    """
    name = next((one for one in _OFFLINE if environment.get(one)), "")
    is_on = environment.get(name, "").upper() in _TRUE
    return f"{name}={environment[name]}" if is_on else ""


def cache_of(environment: Mapping[str, str]) -> Path:
    """Return where the ``datasets`` library keeps what it has loaded.

    Args:
        environment: Environment variables.
    """
    if named := environment.get(_CACHE):
        return Path(named).expanduser()
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    home = environment.get("HF_HOME") or f"{base}/huggingface"
    return Path(home).expanduser() / "datasets"


def place_in(cache: Path, hub_name: str) -> Path:
    """Return where a data set is in a cache.

    Args:
        cache: From ``cache_of``.
        hub_name: ``owner/name``, or a name.
    """
    *owner, name = hub_name.split("/")
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    name = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()
    return cache / "___".join([*owner, name])


def is_cached(cache: Path, hub_name: str) -> bool:
    """Say whether a cache has a data set, whichever version.

    Args:
        cache: From ``cache_of``.
        hub_name: ``owner/name``, or a name.
    """
    # configuration / version / hash
    return any(path.is_dir() for path in place_in(cache, hub_name).glob("*/*/*"))


def hub_fault(hub_name: str, reader: Reader) -> str:
    """Say why a reader will not get data of the hub.

    Args:
        hub_name: Their name.
        reader: Who reads them.

    Returns:
        What was looked for, where, and what to do; empty if nothing is known against it.
    """
    offline, cache = offline_variable(reader.environment), cache_of(reader.environment)
    if not offline or is_cached(cache, hub_name) or not reader.sees(cache.parent):
        return ""
    variable = f"HF_HOME={cache.parent}"
    if reader.environment.get(_CACHE):
        variable = f"{_CACHE}={cache}"
    fetching = f"from datasets import load_dataset; load_dataset({hub_name!r})"
    return (
        f"{hub_name} is not in the cache, and with {offline} it is not fetched from the Hugging "
        f"Face hub; looked for {place_in(cache, hub_name)}. Where there is a network, run: "
        f'{variable} python -c "{fetching}"; or name a directory in data.source; or '
        f"set {DATA_ENVIRONMENT}. See {HOW_TO}"
    )


def unseen_note(root: str) -> str:
    """Say that a directory of data was not looked into.

    Args:
        root: ``Reader.unseen_data``.
    """
    return f"{DATA_ENVIRONMENT}={root} of the jobs is not seen from here; see {HOW_TO}"


def hub_note(hub_name: str, reader: Reader) -> str:
    """Say what the author of a study should know of data of the hub that jobs read.

    Args:
        hub_name: Their name.
        reader: Who reads them.

    Returns:
        The note; empty if there is none, or ``hub_fault`` has something to say.
    """
    cache = cache_of(reader.environment)
    if is_cached(cache, hub_name) or hub_fault(hub_name, reader):
        return ""
    if reader.is_here:
        return (
            f"{hub_name} is not in the cache here; jobs fetch it from the Hugging Face hub; to "
            f"read a directory, set {DATA_ENVIRONMENT} or data.source"
        )
    if offline := offline_variable(reader.environment):
        return (
            f"with {offline} jobs look for {place_in(cache, hub_name)}, which is not seen from "
            f"here; see {HOW_TO}"
        )
    return f"jobs fetch {hub_name} from the Hugging Face hub; for nodes without a network: {HOW_TO}"
