"""Parsers of what Slurm's commands print, against answers recorded on a cluster of Slurm 22.05.8.

The samples are the whole answers to the very calls of ``SlurmCli``, by a user of id 65534, on four
nodes; only names of hosts and directories were changed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.slurm.errors import SlurmError
from tasks.slurm.parsing import (
    ACCOUNTING_FIELDS,
    Unreadable,
    parse_accounting,
    parse_partitions,
    parse_queue,
    parse_settings,
    parse_submitted,
    words,
)
from tasks.slurm.sightings import Accounted, Partition, Queued
from tasks.slurm.states import SlurmState

SAMPLES = Path(__file__).parent / "samples"


def sample(name: str) -> str:
    """Return a recorded answer."""
    return (SAMPLES / f"{name}.txt").read_bytes().decode()


def queue_text(*records: Sequence[str]) -> str:
    """Print records as squeue does."""
    return "".join("\x1f".join(record) + "\x1f\x1e\n" for record in records)


def accounting_text(*rows: dict[str, str]) -> str:
    """Print records as sacct does; what a row does not name is empty."""
    return "".join(
        "".join(row.get(field, "") + "\x1f" for field in ACCOUNTING_FIELDS) + "\n" for row in rows
    )


def sinfo_text(*records: Sequence[str]) -> str:
    """Print records as sinfo does."""
    return queue_text(*records)


# --- sbatch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["12\n", "12;frontier\n", "Welcome to the machine\n4\nchecks passed\n\n12\n"]
)
def test_an_id_is_read_behind_a_banner_and_before_the_name_of_a_cluster(text: str) -> None:
    """The id is the last line that can be one, without the name of the cluster."""
    assert parse_submitted(text) == "12"


@pytest.mark.parametrize("text", ["", "12", "1", "Submitted batch job 12\n"])
def test_an_id_that_may_be_cut_off_is_none(text: str) -> None:
    """Without the end of its line an id may lack digits, and is refused."""
    with pytest.raises(Unreadable, match="the answer of sbatch is cut off"):
        parse_submitted(text)


# --- squeue ---------------------------------------------------------------------------------------


def test_the_recorded_queue() -> None:
    """Every kind of job in the recorded listing is read as what it was."""
    queued = parse_queue(sample("squeue"))

    by_name = {each.name: each for each in queued}
    assert by_name["ws-nodefail-1"] == Queued(
        "13", "ws-nodefail-1", SlurmState.PENDING, "BeginTime", restarts=1, partition="batch"
    )
    assert by_name["ws-big-1"] == Queued(
        "25", "ws-big-1", SlurmState.COMPLETED, partition="batch", nodes="node[02-03]"
    )
    assert by_name["ws-timeout-1"].state is SlurmState.TIMEOUT
    assert by_name["ws-preempted-1"].restarts == 1
    assert by_name["ws-preemptfinal-1"].state is SlurmState.PREEMPTED
    assert by_name["ws-nodefinal-1"].state is SlurmState.NODE_FAIL
    assert by_name["ws-failed-1"].reason == "NonZeroExitCode"
    assert by_name["odd | name, %j 'q' é"].slurm_job == "23"


def test_tasks_that_wait_together_are_listed_one_by_one() -> None:
    """The recorded array of 13 tasks, two of which may run at a time, has 13 entries."""
    queued = parse_queue(sample("squeue"))

    states = {each.slurm_job: each.state.name for each in queued if each.name == "ws-array-1"}
    waiting = [*range(2, 10), 20, 25, 30]
    assert states == {f"16_{task}": "PENDING" for task in waiting} | {
        "16_0": "RUNNING",
        "16_1": "RUNNING",
    }


@pytest.mark.parametrize(
    ("tasks", "numbers"),
    [("3", [3]), ("5-9:2,11%3", [5, 7, 9, 11]), ("0-2,4%1", [0, 1, 2, 4]), ("8-5", [])],
)
def test_ranges_of_tasks(tasks: str, numbers: list[int]) -> None:
    """Ranges, steps and the limit behind the percent sign are understood."""
    queued = parse_queue(queue_text([f"7_[{tasks}]", "PENDING", "None", "0", "p", "", "n"]))

    assert [each.slurm_job for each in queued] == [f"7_{number}" for number in numbers]


@pytest.mark.parametrize("job", ["7_[1-5,...]", "7_[1-5,7", "7_[]", "x", "", "7_[0-99999999]"])
def test_an_id_that_is_not_understood_is_no_job_less(job: str) -> None:
    """An id that cannot be read, or has lost some tasks, makes the whole answer unreadable."""
    text = queue_text([job, "PENDING", "None", "0", "p", "", "n"])

    with pytest.raises(Unreadable, match="the answer of squeue is cut off or cannot be read"):
        parse_queue(text)


def test_a_name_may_hold_anything() -> None:
    """A job of the user whose name holds separators and line breaks does no harm."""
    text = queue_text(
        ["1", "RUNNING", "None", "0", "p", "n1", "a\x1fb\x1e\n2\x1fc"],
        ["3", "RUNNING", "None", "0", "p", "n1", "ws-1"],
    )

    assert [(each.slurm_job, each.name) for each in parse_queue(text)] == [
        ("1", "a\x1fb\x1e\n2\x1fc"),
        ("3", "ws-1"),
    ]


def test_a_state_of_another_version_is_unknown() -> None:
    """A state that we do not know is no error and no state that means something."""
    queued = parse_queue(queue_text(["1", "QUANTUM", "None", "0", "p", "n1", "n"]))

    assert queued[0].state is SlurmState.UNKNOWN


@pytest.mark.parametrize("state", [state for state in SlurmState if state.isupper()])
def test_every_state_of_slurm_is_known(state: SlurmState) -> None:
    """Slurm's states are read as they are; our own two are none that a listing can name."""
    queued = parse_queue(queue_text(["1", state.value, "None", "0", "p", "", "n"]))

    assert queued[0].state is state
    assert (
        SlurmState.UNKNOWN
        is parse_queue(queue_text(["1", "absent", "None", "0", "p", "", "n"]))[0].state
    )


# --- sacct ----------------------------------------------------------------------------------------


def accounted(name: str) -> list[Accounted]:
    """Return what the recorded accounting tells of a job."""
    return [each for each in parse_accounting(sample("sacct")) if each.name == name]


def test_a_recorded_job_of_several_steps() -> None:
    """Memory is that of the largest step, the rest stands in the record of the job itself."""
    jobs = accounted("ws-completed-1")

    (job,) = jobs
    assert job == Accounted(
        slurm_job="5",
        name="ws-completed-1",
        state=SlurmState.COMPLETED,
        partition="batch",
        nodes="node01",
        num_nodes=1,
        num_cpus=1,
        submitted_s=job.submitted_s,
        eligible_s=job.submitted_s,
        started_s=job.started_s,
        ended_s=(job.started_s or 0) + 6,
        elapsed_s=6,
        cpu_s=job.cpu_s,
        max_rss_bytes=job.max_rss_bytes,
    )
    largest = max(
        int(record.split("\x1f")[ACCOUNTING_FIELDS.index("MaxRSS")] or 0)
        for record in sample("sacct").splitlines()
        if record.startswith("5.")
    )
    assert job.max_rss_bytes == largest > 1_000_000
    assert job.cpu_s is not None
    assert 0 < job.cpu_s < 1


@pytest.mark.parametrize(
    ("name", "state", "exit_code", "signal"),
    [
        ("ws-failed-1", SlurmState.FAILED, 3, 0),
        ("ws-killed-1", SlurmState.FAILED, 0, 9),
        ("ws-output-1", SlurmState.FAILED, 0, 53),
        ("ws-timeout-1", SlurmState.TIMEOUT, 0, 0),
        ("ws-nodefinal-1", SlurmState.NODE_FAIL, 0, 0),
        ("ws-preemptfinal-1", SlurmState.PREEMPTED, 0, 0),
    ],
)
def test_recorded_ends(name: str, state: SlurmState, exit_code: int, signal: int) -> None:
    """The recorded ends are told with state, exit code and signal."""
    (job,) = accounted(name)

    assert (job.state, job.exit_code, job.signal) == (state, exit_code, signal)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("ws-requeued-1", SlurmState.REQUEUED),
        ("ws-preempted-1", SlurmState.PREEMPTED),
        ("ws-nodefail-1", SlurmState.NODE_FAIL),
    ],
)
def test_recorded_incarnations(name: str, first: SlurmState) -> None:
    """A job that was queued again is told once for each life, the older one first."""
    before, after = accounted(name)

    assert (before.state, after.state) == (first, SlurmState.PENDING)
    assert before.ended_s is not None
    assert after.submitted_s in {before.ended_s, before.ended_s + 1}
    assert after.started_s is None
    # For so long, in seconds, Slurm holds a job that is queued again.
    assert (after.eligible_s or 0) - (after.submitted_s or 0) == 121


def test_who_cancelled_is_told() -> None:
    """The id of the user who cancelled stands beside the state, also if the job never ran."""
    (ran,), (never_ran,) = accounted("ws-cancelled-1"), accounted("ws-neverran-1")

    assert (ran.state, ran.cancelled_by) == (SlurmState.CANCELLED, 65534)
    assert (never_ran.state, never_ran.cancelled_by) == (SlurmState.CANCELLED, 65534)
    assert (never_ran.nodes, never_ran.started_s, never_ran.eligible_s) == ("", None, None)


def test_tasks_that_never_ran_are_told_one_by_one() -> None:
    """The recorded array that was cancelled has an entry for each task, run or not."""
    tasks = {each.slurm_job: each.nodes for each in accounted("ws-arraycancel-1")}

    assert tasks == {"17_0": "node01"} | {f"17_{task}": "" for task in range(1, 6)}


def test_gpus_of_all_nodes_are_counted() -> None:
    """The recorded job of two nodes with two GPUs each has four."""
    (job,) = accounted("ws-gpu-1")

    assert (job.num_nodes, job.num_gpus) == (2, 4)


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        ("cpu=8,gres/gpu=2,gres/gpu:a100=2,node=1", 2),
        ("cpu=8,gres/gpu:a100=2,gres/gpu:v100=1", 3),
        ("cpu=8,gres/gpumem=4", 0),
        ("", 0),
    ],
)
def test_gpus_of_an_allocation(tres: str, gpus: int) -> None:
    """GPUs are counted once, whether the cluster counts them in all, by type, or both."""
    (job,) = parse_accounting(accounting_text({"JobID": "1", "AllocTRES": tres}))

    assert job.num_gpus == gpus


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00.003", 0.003),
        ("01:02.5", 62.5),
        ("10:00:01", 36_001.0),
        ("2-03:04:05", 183_845.0),
        ("INVALID", None),
        ("", None),
    ],
)
def test_cpu_time(text: str, seconds: float | None) -> None:
    """CPU times are read with and without days, hours and fractions."""
    (job,) = parse_accounting(accounting_text({"JobID": "1", "TotalCPU": text}))

    assert job.cpu_s == seconds


def test_cpu_time_and_energy_of_steps_count_where_the_job_tells_none() -> None:
    """CPU time adds up over steps; energy does not, as the meter is the node's."""
    (job,) = parse_accounting(
        accounting_text(
            {"JobID": "1", "TotalCPU": "00:00:00", "ConsumedEnergyRaw": "0"},
            {"JobID": "1.batch", "TotalCPU": "00:10", "ConsumedEnergyRaw": "500", "MaxRSS": "10"},
            {"JobID": "1.0", "TotalCPU": "00:20", "ConsumedEnergyRaw": "700", "MaxRSS": "4K"},
        )
    )

    assert (job.cpu_s, job.energy_j, job.max_rss_bytes) == (30.0, 700, 4096)


@pytest.mark.parametrize("energy", ["", "0", "18446744073709551614"])
def test_no_meter_is_no_energy(energy: str) -> None:
    """Nothing, zero and Slurm's "no value" all mean that nothing was measured."""
    (job,) = parse_accounting(accounting_text({"JobID": "1", "ConsumedEnergyRaw": energy}))

    assert job.energy_j is None


def test_incarnations_are_sorted_by_submission() -> None:
    """The older incarnation of an id comes first, whatever the order of the answer."""
    rows = [
        {"JobID": "1", "Submit": "200", "JobName": "later"},
        {"JobID": "1.batch", "JobName": "batch"},
        {"JobID": "1", "Submit": "100", "JobName": "sooner"},
    ]

    assert [each.name for each in parse_accounting(accounting_text(*rows))] == ["sooner", "later"]


def test_a_step_without_its_job_is_passed_over() -> None:
    """A listing that begins with a step does not fail."""
    assert parse_accounting(accounting_text({"JobID": "1.batch"})) == []


# --- sinfo, scontrol ------------------------------------------------------------------------------


def test_the_recorded_partitions() -> None:
    """The three recorded partitions are read with limits, sizes and the default one."""
    batch, debug, preempt = parse_partitions(sample("sinfo"))

    assert batch == Partition(
        "batch",
        is_default=True,
        num_nodes=4,
        cpus_per_node=16,
        memory_mb_per_node=64_000,
        gpus_per_node=4,
    )
    assert (debug.name, debug.time_limit_s, debug.is_default) == ("debug", 1800, False)
    assert (preempt.time_limit_s, preempt.max_nodes) == (None, None)


def test_unlike_nodes_of_a_partition_are_put_together() -> None:
    """Nodes add up; of CPUs, memory and GPUs the largest node counts."""
    text = sinfo_text(
        ["gpu", "up", "1-12:00:00", "10", "64", "256000", "1-4", "gpu:a100:4(S:0-1),nvme:1"],
        ["gpu", "up", "1-12:00:00", "2K", "128", "512000", "1-4", "gpu:2,gpu:v100:3"],
        ["old", "drain", "n/a", "0", "0", "0", "1-infinite", "(null)"],
    )

    gpu, old = parse_partitions(text)

    assert gpu == Partition(
        "gpu",
        time_limit_s=129_600,
        num_nodes=2058,
        cpus_per_node=128,
        memory_mb_per_node=512_000,
        gpus_per_node=5,
        max_nodes=4,
    )
    assert (old.is_up, old.time_limit_s, old.gpus_per_node) == (False, None, 0)


@pytest.mark.parametrize(("nodes", "expected"), [("9.5K", 9728), ("16+", 16), ("n/a", 0)])
def test_numbers_as_slurm_shortens_them(nodes: str, expected: int) -> None:
    """Thousands are 1,024, and a plus sign says that there are larger ones."""
    (partition,) = parse_partitions(sinfo_text(["p", "up", "infinite", nodes, "1", "1", "1", ""]))

    assert partition.num_nodes == expected


def test_the_recorded_settings() -> None:
    """Settings are read by their names."""
    settings = parse_settings(sample("config"))

    assert settings["ClusterName"] == "mini"
    assert settings["MaxArraySize"] == "20001"


def test_a_setting_that_is_cut_off_is_left_out() -> None:
    """A value whose line does not end may lack digits, so it is not taken."""
    assert parse_settings("ClusterName = mini\nMaxArraySize = 200") == {"ClusterName": "mini"}


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (
            "sbatch: error: invalid partition specified: nope\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            "invalid partition specified: nope; Batch job submission failed: Invalid partition "
            "name specified",
        ),
        (
            "sacct: fatal: Bad job array element specified: 9\n",
            "Bad job array element specified: 9",
        ),
        ("Job has already finished for job 3\n\n", "Job has already finished for job 3"),
        ("", ""),
    ],
)
def test_words_are_slurms_own(stderr: str, said: str) -> None:
    """What a command said is kept word by word, without its own name."""
    assert words(stderr) == said


# --- properties -----------------------------------------------------------------------------------

PARSERS: list[tuple[str, Callable[[str], object]]] = [
    ("squeue", parse_queue),
    ("sacct", parse_accounting),
    ("sinfo", parse_partitions),
]


@pytest.mark.parametrize(("name", "parse"), PARSERS)
@given(text=st.text(st.sampled_from("\x1f\x1e\n0123[]_-:,%+.KM aPN"), max_size=300))
def test_no_text_makes_a_parser_fail_otherwise(
    name: str, parse: Callable[[str], object], text: str
) -> None:
    """Whatever is printed, the only exceptions are ours."""
    del name
    try:
        parse(text)
    except SlurmError as error:
        assert isinstance(error, Unreadable)  # noqa: PT017  there need not be one


@pytest.mark.parametrize(("name", "parse"), PARSERS)
@given(data=st.data())
def test_fields_of_any_text_are_read_or_refused(
    name: str, parse: Callable[[str], object], data: st.DataObject
) -> None:
    """A record of the right shape with any text in one of its fields is read, or refused by us."""
    end = "\x1f\n" if name == "sacct" else "\x1f\x1e\n"
    fields = sample(name).split(end)[0].split("\x1f")
    number = data.draw(st.integers(0, len(fields) - 1))
    fields[number] = data.draw(st.text(max_size=30))

    try:
        parse("\x1f".join(fields) + end)
    except SlurmError as error:
        assert isinstance(error, Unreadable)  # noqa: PT017


@pytest.mark.parametrize(("name", "end"), [("squeue", "\x1e\n"), ("sinfo", "\x1e\n")])
def test_a_listing_that_is_cut_anywhere_is_noticed(name: str, end: str) -> None:
    """Cut at any byte, a listing is refused, unless it is cut between two records."""
    raw = sample(name).encode()
    parse = dict(PARSERS)[name]
    whole = 0

    for length in range(len(raw)):
        text = raw[:length].decode(errors="replace")
        if not text or text.endswith(end):
            parse(text)
            whole += 1
        else:
            with pytest.raises(Unreadable):
                parse(text)

    assert whole == raw.count(end.encode())  # every cut between two records, and the empty text


def test_an_accounting_that_is_cut_anywhere_tells_nothing_wrong() -> None:
    """Cut at any byte, the accounting is refused, or tells less than the whole, never otherwise."""
    raw = sample("sacct").encode()
    whole = {(each.slurm_job, each.submitted_s): each for each in parse_accounting(raw.decode())}

    for length in range(len(raw)):
        text = raw[:length].decode(errors="replace")
        if text and not text.endswith("\x1f\n"):
            with pytest.raises(Unreadable):
                parse_accounting(text)
            continue
        for part in parse_accounting(text):
            full = whole[part.slurm_job, part.submitted_s]
            # Steps follow their job, so its memory may be missing, or that of its first steps.
            assert (part.state, part.name, part.ended_s) == (full.state, full.name, full.ended_s)
            assert (part.max_rss_bytes or 0) <= (full.max_rss_bytes or 0)


@given(
    st.lists(
        st.tuples(st.integers(1, 10**6), st.sampled_from(["RUNNING", "COMPLETED"]), st.text()),
        max_size=20,
    )
)
def test_what_is_printed_is_read_back(jobs: list[tuple[int, str, str]]) -> None:
    """Ids, states and names come back as they were printed, whatever the names are."""
    printed = [(job, state, name) for job, state, name in jobs if "\x1f\x1e\n" not in name + "\x1f"]
    records = [[str(job), state, "None", "0", "p", "n1", name] for job, state, name in printed]

    queued = parse_queue(queue_text(*records))

    assert [(int(q.slurm_job), q.state.value, q.name) for q in queued] == printed


def test_the_samples_cover_the_states() -> None:
    """Each state that our rules tell apart and a small cluster can show is among the samples."""
    states = Counter(each.state.name for each in parse_accounting(sample("sacct")))
    states += Counter(each.state.name for each in parse_queue(sample("squeue")))

    assert {
        *("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"),
        *("TIMEOUT", "NODE_FAIL", "PREEMPTED", "REQUEUED"),
    } <= states.keys()
