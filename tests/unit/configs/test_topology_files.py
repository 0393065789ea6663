"""Files of machines: each number has a source, numbers are plausible, faulty files are refused."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.faults import faults_in
from configs.topology import (
    CLUSTER,
    Link,
    Topology,
    load_topology,
    shipped_path,
    shipped_topologies,
)
from configs.training import TrainingExperiment

MACHINES = (
    "aurora",
    "dgx-a100",
    "dgx-h100",
    "frontier",
    "frontier-calibrated",
    "perlmutter",
    "summit",
)
"""Shipped topologies of real machines."""

DEFINED = re.compile(r"^# \[(\w+)\] \S")
CITED = re.compile(r"\[(\w+)\]")
PLAIN = ("description:", "- name:", "name:")
"""Keys of text, whose digits are no numbers."""

FAULTY: list[tuple[str, object]] = [
    ("gb_per_s", 0),
    ("gb_per_s", -5),
    ("gb_per_s", "fast"),
    ("gb_per_s", "200"),
    ("gb_per_s", float("nan")),
    ("shared_by", 0),
    ("efficiency", 0),
    ("efficiency", 1.2),
    ("latency_us", -1),
    ("interference", 2),
    ("algorithm", "tree"),
]


def _gb_per_s(link: Link | None) -> float:
    """Return what one rank gets when all that share the link use it."""
    assert link is not None
    return link.gb_per_s * link.efficiency / link.shared_by


def _raw(**changes: object) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "name": "m",
        "levels": [
            {"name": "package", "ranks": 2, "link": {"gb_per_s": 200}},
            {"name": "node", "ranks": 8, "link": {"gb_per_s": 50}},
        ],
        "network": {"gb_per_s": 25, "shared_by": 2},
    }
    return raw | changes


def _faults(raw: dict[str, Any]) -> list[str]:
    return [str(fault) for fault in faults_in(Topology, raw)]


def _unsourced(text: str) -> list[str]:
    """List the lines with a number that cite no source which the file's head defines."""
    lines = text.splitlines()
    defined = {match[1] for line in lines if (match := DEFINED.match(line))}
    faulty: list[str] = []
    for line in lines:
        value, _, comment = line.partition("#")
        is_number = any(sign.isdigit() for sign in value.partition(":")[2])
        if not is_number or value.strip().startswith(PLAIN):
            continue
        cited = set(CITED.findall(comment))
        if not cited or not cited <= defined:
            faulty.append(line)
    return faulty


def test_the_machines_of_the_documents_are_shipped() -> None:
    """No file is forgotten, and no file stands without the tests below."""
    assert shipped_topologies() == sorted([*MACHINES, "mini"])


@pytest.mark.parametrize("name", [*MACHINES, "mini"])
def test_each_number_names_its_source(name: str) -> None:
    """Each line with a number cites a source of the head, and each source of the head is cited."""
    text = shipped_path(name).read_text(encoding="utf-8")

    assert _unsourced(text) == []

    body = [line for line in text.splitlines() if not line.startswith("#")]
    defined = {match[1] for line in text.splitlines() if (match := DEFINED.match(line))}
    assert defined == set(CITED.findall("\n".join(body)))


def test_a_number_without_a_source_is_found() -> None:
    """The test above can fail: without a comment, without a tag, with an unknown tag."""
    head = "# [a] A datasheet.\nname: X 9\n"
    lines = ["ranks: 2", "ranks: 2  # a datasheet", "ranks: 2  # [b]", "ranks: 2  # [a] and [b]"]

    assert _unsourced(head + "ranks: 2  # [a]\n") == []
    for line in lines:
        assert _unsourced(head + line) == [line]


@pytest.mark.parametrize("name", MACHINES)
def test_links_become_slower_outwards(name: str) -> None:
    """Each level of a machine has a link, and the network is the slowest, for one rank."""
    machine = load_topology(name)

    speeds = [_gb_per_s(machine.link(level)) for level in machine.level_names()]

    assert all(inner > outer for inner, outer in itertools.pairwise(speeds)), speeds
    assert speeds[-1] > 1
    assert speeds[0] < 1000


@pytest.mark.parametrize("name", MACHINES)
def test_devices_are_plausible(name: str) -> None:
    """Memory of 16 to 80 GB, read in 10 to 60 ms; what is reached is below the peak; power is."""
    device = load_topology(name).device

    assert device.memory_bytes is not None
    assert device.memory_gb_per_s is not None
    assert device.power_w is not None
    assert 16e9 <= device.memory_bytes <= 80e9
    assert 0.010 < device.memory_bytes / (device.memory_gb_per_s * 1e9) < 0.060
    for bound in (device.quantize_gb_per_s, device.optimizer_gb_per_s):
        assert bound is None or bound < device.memory_gb_per_s
    assert device.peak_tflops["float64"] < device.peak_tflops["bfloat16"]
    assert 200 < device.power_w < 1500


@pytest.mark.parametrize("name", MACHINES)
def test_rates_are_below_the_peak_and_grow_with_size(name: str) -> None:
    """Sizes ascend, for interpolation; larger is not slower; all are 0.2 to 0.8 of the peak."""
    device = load_topology(name).device

    rates = device.rates["bfloat16"]

    assert rates
    for smaller, larger in itertools.pairwise(rates):
        assert smaller.gflops < larger.gflops
        assert smaller.tflops <= larger.tflops
    for rate in rates:
        assert 0.2 < rate.tflops / device.peak_tflops["bfloat16"] < 0.8


@pytest.mark.parametrize("name", MACHINES)
def test_sizes_are_those_of_the_shapes_in_the_comments(name: str) -> None:
    """FLOPs of one block's forward pass: s (24 h^2 + 4 s h) times the micro-batch."""
    shape = re.compile(
        r"gflops: ([\d.]+)  # .*?(\d+) \* \(24 \* (\d+)\^2 \+ 4 \* (\d+) \* (\d+)\) \* (\d+)$"
    )
    text = shipped_path(name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "gflops:" in line]

    found = [shape.search(line) for line in lines]

    assert len(found) == len(load_topology(name).device.rates["bfloat16"])
    for match in found:
        assert match is not None
        sequence, hidden, again, hidden_again, micro_batch = map(int, match.groups()[1:])
        assert (sequence, hidden) == (again, hidden_again)
        flops = sequence * (24 * hidden**2 + 4 * sequence * hidden) * micro_batch
        assert float(match[1]) == pytest.approx(flops / 1e9, abs=0.06)


def test_frontier_is_as_its_guide_says() -> None:
    """200, 50 and 12.5 GB/s per GCD at their peaks: 16 to 4 to 1."""
    frontier = load_topology("frontier")
    links = [frontier.link(level) for level in ("package", "node", CLUSTER)]

    peaks = [link.gb_per_s / link.shared_by for link in links if link is not None]

    assert peaks == [200, 50, 12.5]


def test_what_has_no_switch_is_a_mesh() -> None:
    """The GPUs of three machines are joined each with each; the others have switches or rings."""
    meshes = {
        (name, level)
        for name in MACHINES
        for level in load_topology(name).level_names()
        if (link := load_topology(name).link(level)) is not None and link.mesh
    }

    assert meshes == {("perlmutter", "node"), ("summit", "package"), ("aurora", "node")}


def test_only_the_fitted_machine_says_with_which_prefetch() -> None:
    """What docs/frontier.md assumes of the calibrated Frontier; nothing of the others."""
    fitted = {name: load_topology(name).fitted_prefetch for name in (*MACHINES, "mini")}

    assert {name: value for name, value in fitted.items() if value is not None} == {
        "frontier-calibrated": 0
    }


def test_the_pretend_machine_says_nothing_that_was_not_measured() -> None:
    """Its links and rates are those of the computer that it runs on."""
    mini = load_topology("mini")

    assert [mini.link(level) for level in mini.level_names()] == [None, None, None]
    assert mini.device == load_topology("mini").device.model_validate({})


@pytest.mark.parametrize(("key", "value"), FAULTY)
def test_faulty_links_are_refused(key: str, value: object) -> None:
    """One fault, of the network and of a level alike: where, what was found, what is allowed."""
    link = {"gb_per_s": 25, key: value}
    levels = [{"name": "node", "ranks": 8, "link": link}]

    (of_network,) = _faults(_raw(network=link))
    (of_level,) = _faults(_raw(levels=levels))

    assert of_network.startswith(f"network.{key}: {value!r} is ")
    assert of_level.startswith(f"levels.0.link.{key}: {value!r} is ")
    assert "; use a" in of_network or "; known: ring, recursive, direct" in of_network


def test_a_link_without_bandwidth_is_refused() -> None:
    """A link that is told has a bandwidth; a latency alone predicts nothing."""
    (fault,) = _faults(_raw(network={"latency_us": 3}))

    assert fault.startswith("network.gb_per_s: ")


def test_a_machine_without_links_loads() -> None:
    """Partitions need levels only; whoever predicts says what is missing."""
    topology = Topology.model_validate(
        {"name": "m", "levels": [{"name": "node", "ranks": 8}], "device": {}}
    )

    assert topology.link("node") is None
    assert topology.link(CLUSTER) is None


@pytest.mark.parametrize("ranks", [2, 3, 4, 9])
def test_a_level_that_does_not_divide_the_next_is_refused(ranks: int) -> None:
    """A node of 4, 6 or 9 ranks is not made of whole packages of 4, or of one package only."""
    levels = [{"name": "package", "ranks": 4}, {"name": "node", "ranks": ranks}]

    (fault,) = _faults(_raw(levels=levels))

    assert fault == (
        f"levels.1.ranks: {ranks} ranks are no multiple (2, 3, ...) of the 4 of a package, the "
        "level before"
    )


def test_rates_that_do_not_ascend_are_refused() -> None:
    """Interpolated as they stand they would give any number."""
    rates = [{"gflops": size, "tflops": 1.0} for size in (100, 10, 10)]

    faults = _faults(_raw(device={"rates": {"bfloat16": rates}}))

    assert faults == [
        f"device.rates.bfloat16.{number}.gflops: 10 is not above {before}, the size before; list "
        "the sizes ascending, each once"
        for number, before in ((1, 100), (2, 10))
    ]


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """Two bandwidths and a misspelt key: with the file's name, and in plain words."""
    path = tmp_path / "mine.yaml"
    raw = _raw(network={"gb_per_s": 0, "latency": 3})
    raw["levels"][0]["link"] = {"gb_per_s": "fast"}
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")

    with pytest.raises(ValueError, match="is faulty") as error:
        load_topology(str(path))
    (of_training,) = faults_in(TrainingExperiment, {"kind": "training", "topology": str(path)})

    told = str(error.value)
    assert told.startswith(f"{path} is faulty: (1) levels.0.link.gb_per_s: 'fast' is not allowed; ")
    assert "network.gb_per_s: 0 is not allowed; use a" in told
    assert "network.latency: unknown key (did you mean 'latency_us'?)" in told
    assert (of_training.path, of_training.message) == ("topology", told)


def test_levels_that_do_not_nest_are_told_beside_faulty_links(tmp_path: Path) -> None:
    """A bandwidth that is missing, one that is 0, and a node of 8 that has no packages of 3."""
    path = tmp_path / "mine.yaml"
    levels = [
        {"name": "package", "ranks": 3, "link": {"latency_us": 2.0}},
        {"name": "node", "ranks": 8, "link": {"gb_per_s": 50}},
    ]
    path.write_text(yaml.safe_dump({"levels": levels, "network": {"gb_per_s": 0}}))

    with pytest.raises(ValueError, match="is faulty") as error:
        load_topology(str(path))

    told = str(error.value).removeprefix(f"{path} is faulty: ").split("; (")
    assert len(told) == 3
    assert told[0].startswith("(1) levels.0.link.gb_per_s: missing")
    assert told[1].startswith("2) network.gb_per_s: 0 is not allowed")
    assert told[2].startswith("3) levels.1.ranks: 8 ranks are no multiple (2, 3, ...) of the 3 of")


def test_faulty_sizes_are_told_once(tmp_path: Path) -> None:
    """Beside a faulty link as without one; what would nest is not known then."""
    path = tmp_path / "mine.yaml"
    levels = [{"name": "package", "ranks": "two", "link": {}}, {"name": "node"}]
    path.write_text(yaml.safe_dump({"levels": levels}))

    with pytest.raises(ValueError, match="is faulty") as error:
        load_topology(str(path))

    found = re.findall(r"\(\d+\) (\S+):", str(error.value))
    assert found == ["levels.0.ranks", "levels.0.link.gb_per_s", "levels.1.ranks"]


@pytest.mark.parametrize("text", ["levels: 3", "levels: [3]", "levels: [{name: [1]}]", "a: 1"])
def test_a_file_without_levels_is_refused(tmp_path: Path, text: str) -> None:
    """Whatever stands in their place."""
    path = tmp_path / "mine.yaml"
    path.write_text(text)

    with pytest.raises(ValueError, match=r"is faulty: \(1\) \S"):
        load_topology(str(path))
