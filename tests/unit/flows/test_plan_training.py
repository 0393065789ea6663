"""``watershed plan-training``: what it prints, what it writes, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.loading import load_study
from configs.quantities import bytes_of, count_of
from configs.training import TrainingExperiment
from flows.command_line import main
from flows.plan_wishes import read_wish
from tasks.zero.planning.plans import PlanError

SMALL = ["--model", "gpt-125m", "--devices", "16", "--batch-tokens", "64K"]
FRONTIER = ["--topology", "frontier", "--devices", "384", "--batch-tokens", "4M"]
MACHINE: dict[str, Any] = {
    "levels": [
        {"name": "package", "ranks": 2, "link": {"gb_per_s": 2.0, "latency_us": 50.0}},
        {"name": "node", "ranks": 4, "link": {"gb_per_s": 1.0, "latency_us": 50.0}},
    ],
    "network": {"gb_per_s": 0.1, "shared_by": 4, "latency_us": 100.0},
    "device": {
        "memory_bytes": 10**9,
        "memory_gb_per_s": 5.0,
        "rates": {"float32": [{"gflops": 0.01, "tflops": 0.02}]},
    },
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def planned(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs the command, and returns its exit code and what it printed."""

    def run(*options: str) -> tuple[int, str, str]:
        code = main(["plan-training", *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_plan_is_told_in_tables_of_100_columns(planned: Run) -> None:
    """Ranking, named rows, front and reasons are there, and no line is cut or too wide."""
    code, out, _ = planned("--model", "gpt-20b", *FRONTIER, "--top", "4")

    assert code == 0
    assert "3,932,160 tokens (4,000,000 were asked for): 5 sequences of 2,048 a device" in out
    for words in ("The fastest", "Named rows", "Less memory, less speed", "Why"):
        assert words in out
    for row in ("zero3", "zeropp", "hfsdp", "zero_topo", "mics = hsdp"):
        assert f"\n {row} " in out
    assert "Do not fit: ddp, zero1." in out
    assert "times as fast as zero_topo" in out
    assert "cluster" in out.split("Bytes a device and step")[1]
    assert max(map(len, out.splitlines())) <= 100
    assert "\N{HORIZONTAL ELLIPSIS}" not in out


def test_the_plan_for_machines_is_that_for_people(planned: Run) -> None:
    """The JSON has the winner, its prediction, the rows and the front, in plain numbers."""
    code, out, _ = planned("--model", "gpt-20b", *FRONTIER, "--json", "--exact")

    plan = json.loads(out)
    assert code == 0
    assert plan["batch_tokens"] == 384 * 2048 * 5
    best = plan["best"]
    assert best["tokens_per_s"] == pytest.approx(plan["batch_tokens"] / best["step_s"])
    assert best["prediction"]["step_s"] == pytest.approx(best["step_s"], rel=1e-4)
    assert {wire for name, wire in best["transport"].items() if name in {"weights", "sync"}} == {
        "full"
    }
    assert all(one["step_s"] >= best["step_s"] * (1 - 1e-6) for one in plan["rows"])
    assert plan["front"][0]["memory_bytes"] > plan["front"][-1]["memory_bytes"]


def test_what_is_written_is_a_study_that_can_be_run(
    planned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is accepted by ``check``, has the plan's numbers, and asks for the right nodes."""
    path = tmp_path / "20b on frontier.yaml"
    code, out, _ = planned("--model", "gpt-20b", *FRONTIER, "--write", str(path), "--json")
    assert code == 0
    assert main(["check", str(path)]) == 0
    capsys.readouterr()

    study = load_study(path)
    (point,) = study.points()
    best = json.loads(out)["best"]
    experiment = point.experiment
    assert isinstance(experiment, TrainingExperiment)
    assert experiment.degrees.model_dump() == best["partition"]
    assert experiment.transport.model_dump() == best["transport"]
    assert experiment.tokens_per_step == json.loads(out)["batch_tokens"]
    assert experiment.recompute == best["recompute"]
    assert study.launcher.kind == "slurm"
    assert (study.launcher.nodes, study.launcher.tasks_per_node) == (48, 8)
    assert study.launcher.gpus_per_node == 8
    text = path.read_text()
    assert "# Planned by: watershed plan-training --model gpt-20b" in text
    assert f"{best['tokens_per_s']:,.0f} tokens/s" in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_peaks_without_latency_are_told_wherever_a_plan_is(planned: Run, tmp_path: Path) -> None:
    """The terminal, the file and the JSON say what is missing, and which machine to plan on."""
    path = tmp_path / "plan.yaml"
    options = [*SMALL, "--topology", "frontier"]

    code, out, _ = planned(*options)
    written = planned(*options, "--json", "--write", str(path))

    assert code == written[0] == 0
    caution, worse = json.loads(written[1])["cautions"]
    assert caution.startswith(
        "Caution: the file of frontier gives no latency for package, node and cluster, and for "
        "cluster the peak bandwidth."
    )
    assert "plan on frontier-calibrated" in caution
    assert worse.startswith("On a worse network (node and cluster: 0.5 of the bandwidth, 20 us")
    comment = " ".join(line.lstrip("# ") for line in path.read_text().splitlines())
    for told in (caution, worse):
        assert told in " ".join(out.split())
        assert told in comment
    assert max(map(len, path.read_text().split("name:")[0].splitlines())) <= 100


def test_links_without_latency_that_are_measured_are_told_without_peaks(planned: Run) -> None:
    """Inside a node of Frontier bandwidths are no peaks."""
    options = ["--model", "gpt-1m", "--batch-tokens", "64K", "--devices", "4", "--json"]

    code, out, _ = planned(*options, "--topology", "frontier")

    assert code == 0
    assert json.loads(out)["cautions"][0].startswith(
        "Caution: the file of frontier gives no latency for package and node. Splits over all"
    )


def test_the_plan_says_what_the_worse_network_changes(planned: Run) -> None:
    """Who is first there, and what the best one loses: the numbers of the table's column."""
    options = ["--topology", "frontier", "--devices", "8192", "--batch-tokens", "84M"]
    code, out, _ = planned("--model", "gpt-20b", *options, "--json")

    plan = json.loads(out)
    assert code == 0
    worse = plan["worse_network"]
    first, best = worse["best"], plan["best"]
    assert (worse["levels"], worse["is_order_kept"]) == (["node", "cluster"], False)
    rows = {row["step_s"]: row for row in plan["rows"]}
    assert rows[first["step_s"]]["worse_step_s"] == first["worse_step_s"]
    shown = [best, *plan["listed"], *plan["rows"]]
    assert first["worse_step_s"] == min(one["worse_step_s"] for one in shown)
    told = plan["cautions"][1]
    assert f"{first['called']} is first there, with {first['worse_step_s']:.4g} s a step" in told
    assert f"{best['worse_step_s'] / first['worse_step_s']:.3g} times as long" in told


def test_a_measured_machine_is_not_called_a_peak(planned: Run, tmp_path: Path) -> None:
    """Links with latencies are taken as they are; the worse network is told all the same."""
    machine = tmp_path / "mine.yaml"
    machine.write_text(yaml.safe_dump(MACHINE))
    options = ["--topology", str(machine), "--devices", "8", "--dtype", "float32"]

    code, out, err = planned(
        "--model", "gpt-1m", *options, "--sequence", "128", "--batch-tokens", "4096"
    )

    assert code == 0, err
    assert "Caution" not in out
    assert "On a worse network (node and cluster" in out


def test_a_calibrated_machine_can_be_planned_as_it_was_calibrated(
    planned: Run, tmp_path: Path
) -> None:
    """Without --prefetch 0 the plan says that it leaves what the links were fitted with."""
    path = tmp_path / "plan.yaml"
    options = [*SMALL, "--topology", "frontier-calibrated"]

    usual = planned(*options, "--json")
    fitted = planned(*options, "--json", "--prefetch", "0", "--write", str(path))

    assert usual[0] == fitted[0] == 0
    assert json.loads(usual[1])["cautions"][0] == (
        "Caution: the links of frontier-calibrated were fitted to published speeds with prefetch "
        "0, and the best one has 1: its time promises nothing. --prefetch 0 plans as it was fitted."
    )
    found = json.loads(fitted[1])
    assert not any(told.startswith("Caution") for told in found["cautions"])
    assert found["prefetches"] == [0]
    assert {one["prefetch"] for one in (found["best"], *found["listed"], *found["rows"])} == {0}
    assert "--prefetch 0" in path.read_text()
    assert "  prefetch: 0" in path.read_text()


@pytest.mark.parametrize("text", ["", "1,", "-1", "65", "one", "0.5", "0,1,2,3,4,5,6,7,8"])
def test_a_prefetch_that_cannot_be_is_refused(planned: Run, text: str) -> None:
    """Whole numbers with commas, not too many and none too large; with how to write them."""
    code, out, err = planned("--model", "gpt-20b", *FRONTIER, f"--prefetch={text}")

    assert (code, out) == (2, "")
    assert err.startswith(f"--prefetch: {text!r} is not what may be chosen from; write up to 8 ")
    assert err.strip().endswith("like 0,1,2")


def test_the_prefetches_of_a_plan_are_those_of_a_training() -> None:
    """What a training takes can be planned, and what it refuses cannot."""
    schema = TrainingExperiment.model_json_schema()["properties"]["prefetch"]
    raw = {"model": "gpt-1m", "topology": "frontier", "ranks": 8}

    wish = read_wish(raw, "1M", None, f" 2,0,2, {schema['maximum']}", is_exact=True, top=3)

    assert wish.prefetches == (schema["minimum"], 2, schema["maximum"])
    with pytest.raises(PlanError, match="prefetch: '65'"):
        read_wish(raw, "1M", None, str(schema["maximum"] + 1), is_exact=True, top=3)


def test_a_machine_without_a_peak_is_this_one(
    planned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A calibrated file of this machine gives local processes; the study may stand elsewhere."""
    machine = tmp_path / "mine.yaml"
    machine.write_text(yaml.safe_dump(MACHINE))
    path = tmp_path / "elsewhere" / "8.yaml"
    path.parent.mkdir()
    options = ["--topology", str(machine), "--devices", "8", "--dtype", "float32"]
    code, _, err = planned(
        "--model", "gpt-1m", *options, "--sequence", "128", "--batch-tokens", "4096",
        "--write", str(path),
    )  # fmt: skip

    assert code == 0, err
    assert main(["check", str(path)]) == 0
    capsys.readouterr()
    study = load_study(path)
    assert study.name == "8"
    assert study.launcher.kind == "local"
    assert isinstance(study.experiment, TrainingExperiment)
    assert study.experiment.device == "cpu"


def test_a_file_is_replaced_only_with_force(planned: Run, tmp_path: Path) -> None:
    """A file that is there stays as it is, unless --force is given."""
    path = tmp_path / "plan.yaml"
    path.write_text("mine\n")
    options = ["--model", "gpt-1.3b", *FRONTIER, "--write", str(path)]

    code, _, err = planned(*options)
    assert code == 1
    assert "is there already; name another file, or add --force" in err
    assert path.read_text() == "mine\n"

    assert planned(*options, "--force")[0] == 0
    assert path.read_text().startswith("# Planned by")
    assert planned("--model", "gpt-1.3b", *FRONTIER, "--write", str(tmp_path / "no" / "x"))[0] == 1


def test_all_faults_are_told_at_once_by_option(planned: Run) -> None:
    """Every option that is wrong has a line of its own, with the nearest known word."""
    code, out, err = planned(
        "--model", "gpt-20x", "--topology", "frontie", "--devices", "384", "--dtype", "bfloat",
        "--engine", "our", "--batch-tokens", "4Q", "--memory", "60XB",
    )  # fmt: skip

    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 6
    assert any(line.startswith("--model: 'gpt-20x'") and "'gpt-20b'?" in line for line in lines)
    assert any(line.startswith("--topology: 'frontie'") for line in lines)
    assert any(line.startswith("--dtype: 'bfloat'") for line in lines)
    assert any(line.startswith("--engine: 'our'") and "'ours'?" in line for line in lines)
    assert any(line.startswith("--batch-tokens: '4Q'") and "like 4M" in line for line in lines)
    assert any(line.startswith("--memory: '60XB'") and "like 60GB" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--devices", "381", "--batch-tokens", "4M"], "--devices: 381 ranks do not fill nodes of"),
        (["--devices", "384", "--batch-tokens", "4K"], "--batch-tokens: 4,000 tokens are less"),
        (["--devices", "4", "--batch-tokens", "4M"], "8 devices are the fewest that would do"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(
    planned: Run, options: list[str], words: str
) -> None:
    """Devices that fill no node, a batch or a machine that is too small."""
    code, out, err = planned("--model", "gpt-20b", "--topology", "frontier", *options)

    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_a_machine_without_numbers_is_refused_with_calibrate(planned: Run) -> None:
    """The shipped mini has no links and no rates: each is named."""
    options = ["--topology", "mini", "--devices", "8", "--batch-tokens", "32K"]
    code, _, err = planned("--model", "gpt-1m", *options, "--memory", "1GB")

    assert code == 2
    assert "topology.network: " in err
    assert "topology.device.rates: " in err
    assert err.count("watershed calibrate") == len(err.splitlines())
    assert "--memory: how much memory" in planned("--model", "gpt-1m", *options)[2]


def test_quantities_are_read_as_people_write_them() -> None:
    """Counts and sizes with units; anything else says how to write it."""
    assert [count_of(text) for text in ("4M", "4_000_000", "4,000,000", "0.5m", "512k")] == [
        4_000_000, 4_000_000, 4_000_000, 500_000, 512_000,
    ]  # fmt: skip
    assert [bytes_of(text) for text in ("60GB", "1 GiB", "1000")] == [60 * 10**9, 2**30, 1000]
    for text in ("", "M", "-4M", "0", "4Mi", "1e6"):
        with pytest.raises(ValueError, match="write it like 4M"):
            count_of(text)
