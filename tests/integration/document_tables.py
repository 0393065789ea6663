"""What becomes of each command that the documents show; one without a place here is a fault.

1. ``watershed check``, ``plan`` and ``plan-training`` are run as they stand, in a directory with
   the files that the document shows, and those of ``FILES``. Where the document shows their output,
   it is compared.
2. The commands of ``SEQUENCES`` are run one after the other by a test that is marked slow, with the
   substitutions of ``SHORTER``: they start flows.
3. Commands of ``CHECKED`` take hours, GPUs or a cluster: their options are read by the real command
   line, their file and settings are checked by ``watershed check``, and no more.
4. All others are run by the test that ``RUN_ELSEWHERE`` names; with a star at its end, a row stands
   for all commands that begin so.
5. ``NOT_RUN`` has those that nothing runs, with the reason.

Whatever its place, every command is read by the command line of its program, see
``document_syntax``.
"""

from tests.integration.documents import ROOT

MENTIONS = frozenset({"watershed", "make", "prefect", "mlflow"})
"""Programs whose commands may be named in a sentence without being run there: only their syntax is
read. An argument in capitals, such as RUN, stands for any."""

HERE = frozenset({"check", "plan", "plan-training"})
"""Commands of ``watershed`` that start nothing and are run as they stand, if no row has them."""

_TRAINING = "{experiment: {kind: training, model: gpt-1m}, grid: {seed: [0, 1]}}"
_LONG = """
launcher: {kind: slurm, partition: batch}
experiment: {data: digits, rounds: 1000000}
grid: {seed: [0, 1, 2, 3]}
"""
_SAMPLE = '{"inputs": [' + str([0.5] * 64) + '], "params": {"output": "labels"}}'
_FAULTY = """
experiment:
  kind: federated
  workers: 100
  model: logistic
  data: {name: digits, partition: {kind: labels, labels_per_worker: 2}}
  algorithm: {name: afa_cd, collect: 120, server_lr: 0.9}
  worker: {optimizer: sgdd, lr: 0.05, batch_size: 8}
  local_steps: {kind: uniform, low: 1, high: 9}
  arrivals: {kind: uniform, max_dely: 5}
"""


def _machine(name: str) -> str:
    """Return a shipped machine's file, for one that ``watershed calibrate`` would write."""
    return (ROOT / "configs" / "topologies" / f"{name}.yaml").read_text(encoding="utf-8")


FILES = {
    "README.md": {"my-study.yaml": _FAULTY},
    "docs/how-to/frontier.md": {"frontier-measured.yaml": _machine("frontier-calibrated")},
    "docs/how-to/your-cluster.md": {"my-machine-measured.yaml": _machine("dgx-a100")},
    "docs/mlflow.md": {"input.json": _SAMPLE},
    "docs/nightly.md": {"my-study.yaml": _TRAINING},
    "docs/scaling.md": {"mini-measured.yaml": _machine("mini")},
    "docs/slurm.md": {"study.yaml": _LONG},
}
"""Files that a document speaks of and does not show."""

_FIVE_ROUNDS = "--set rounds=5 --set evaluate_every=5"
_FIVE_STEPS = "--set steps=5 --set optimizer.warmup_steps=2"
_SIZES = "--set steps=2 --set optimizer.warmup_steps=1 --set sizes="
_SMALL_BLOCKS = "--hidden 32,64 --tokens 16 --least-s 0.01"

_DIGITS = "watershed run configs/studies/digits.yaml"
_TINY = "watershed run configs/runs/gpt-tiny.yaml"
_MEASURED = f"{_TINY} --set topology=./mini-measured.yaml"
_TINY_BY = {
    name: f"{_TINY} --set partition={name} --set transport={transport}"
    for name, transport in (("hsdp", "full"), ("zero3", "full"), ("zeropp", "zeropp"))
}
_SCALING = "watershed run configs/studies/scaling-mini.yaml"
_SCALING_MEASURED = f"{_SCALING} --set topology=./mini-measured.yaml --set repeats=3"
_SCALING_FEDERATED = "watershed run configs/studies/scaling-federated.yaml"
_NIGHT = "watershed nightly configs/studies/nightly.yaml"
_NIGHTS = [f"{_NIGHT} --night 2026-11-{day}" for day in (20, 21, 22)]
_MY_NIGHT = (
    "watershed nightly my-study.yaml --metric tokens_per_s --metric train_loss --nights 14 "
    "--least-effect 0.03"
)
_PLAN = "watershed plan-training --model gpt-20b --topology frontier --devices 384"


def _with(words: str, *texts: str) -> dict[str, str]:
    """Return what is run instead of commands: the same with further words behind."""
    return {text: f"{text} {words}" for text in texts}


SHORTER = {
    "README.md": _with(_FIVE_STEPS, _TINY_BY["zeropp"]),
    "docs/cost-model.md": {
        **_with(_SMALL_BLOCKS, "watershed calibrate mini --ranks 8"),
        **_with(_FIVE_STEPS, _MEASURED),
    },
    "docs/mlflow.md": {
        "mlflow models predict -m runs:/RUN_ID/model --env-manager local -i input.json -t json": (
            "mlflow models predict -m models:/digits-classifier@champion --env-manager local "
            "-i input.json -t json"
        ),
        "watershed compare digits/0 digits/4 mnist-logistic/2 --html difference.html": (
            "watershed compare digits/0 digits/4 digits/2 --html difference.html"
        ),
    },
    "docs/nightly.md": _with(_FIVE_STEPS, _NIGHT, _MY_NIGHT),
    "docs/planner.md": {
        "watershed plan-training ... --exact --memory 56GB --write plan.yaml": (
            f"{_PLAN} --batch-tokens 4M --exact --memory 56GB --write plan.yaml"
        ),
    },
    "docs/scaling.md": {
        **_with(f"{_SIZES}[1,2]", _SCALING, _SCALING_MEASURED),
        **_with(f"{_SMALL_BLOCKS} --force", "watershed calibrate mini --ranks 8"),
        # The Slurm there has no srun; more ranks are run by tests/cluster/test_scaling.py.
        **_with(f"{_SIZES}[1]", f"{_SCALING} --set launcher=slurm"),
        **_with("--set rounds=100 --set repeats=1 --set local_steps=[1,2]", _SCALING_FEDERATED),
    },
    "docs/slurm.md": {
        "watershed logs -f study 3": "watershed logs study 3",  # -f would wait for its end
    },
    "docs/tutorial.md": {
        f"{_DIGITS} --set rounds=200": f"{_DIGITS} {_FIVE_ROUNDS}",
        **_with(_FIVE_STEPS, _TINY, _TINY_BY["zero3"]),
        # Nights of five train steps differ by more than those of a machine.
        **_with(f"{_FIVE_STEPS} --least-effect 0.9", *_NIGHTS),
    },
    "docs/zero.md": _with(_FIVE_STEPS, _TINY_BY["hsdp"]),
}
"""What is run instead of a command that is shown: fewer rounds, words for dots."""

SEQUENCES: dict[str, tuple[str, ...]] = {
    "README.md": (_TINY_BY["zeropp"],),
    "docs/commands.md": (f"{_DIGITS} --set rounds=50 --parallel 4",),
    "docs/cost-model.md": ("watershed calibrate mini --ranks 8", _MEASURED),
    "docs/tutorial.md": (
        f"{_DIGITS} --set rounds=200",
        "watershed resume digits",
        "watershed show digits",
        "watershed why digits",
        "watershed show runs/digits-20261123-033733/points/002-AFA-CD-arrivals-correlated",
        "watershed logs digits 2",
        _TINY,
        _TINY_BY["zero3"],
        "watershed compare gpt-tiny-20261123-033747 gpt-tiny-20261123-035435",
        *_NIGHTS,
    ),
    "docs/scaling.md": (
        _SCALING,
        f"{_SCALING} --set launcher=slurm",
        "watershed run configs/studies/frontier-20b.yaml",
        "watershed calibrate mini --ranks 8",
        _SCALING_MEASURED,
        _SCALING_FEDERATED,
    ),
    "docs/slurm.md": (
        "watershed run study.yaml -d",
        "watershed jobs",
        "watershed logs -f study 3",
        "watershed cancel study",
        "watershed adopt study",
        "watershed why study",
        "watershed retry study --only oom --set launcher.memory=16G",
    ),
    "docs/mlflow.md": (
        "watershed register digits/4 --name digits-classifier --alias champion",
        "mlflow models predict -m runs:/RUN_ID/model --env-manager local -i input.json -t json",
        "watershed compare digits/0 digits/4 mnist-logistic/2 --html difference.html",
    ),
    "docs/operate.md": ("mlflow db upgrade sqlite:///$PWD/runs/mlflow.db",),
    "docs/nightly.md": (
        _NIGHT,
        _MY_NIGHT,
        "watershed deploy --name nightly-scaling",
        "prefect deployment run nightly/nightly-scaling",
    ),
    "docs/worker.md": ("prefect work-pool create --type slurm gpu-jobs",),
    "docs/zero.md": (_TINY_BY["hsdp"],),
    "docs/how-to/your-data.md": (
        "python make_images.py",
        "python make_texts.py",
        "watershed run my-images.yaml",
        "watershed run my-texts.yaml",
    ),
}
"""Commands of a document in the order in which they are run, all in one directory."""

AFTER_A_STUDY = frozenset({"docs/mlflow.md", "docs/operate.md"})
"""Documents whose sequences follow a run of ``STUDY``."""

STUDY = """
name: digits
experiment: {workers: 10, rounds: 5, evaluate_every: 5, data: digits, algorithm: {collect: 5}}
grid: {seed: [0, 1, 2, 3, 4]}
"""

AT_A_SERVER = frozenset({"docs/nightly.md", "docs/worker.md"})
"""Documents whose sequences are for a Prefect server that is up."""

_CLUSTER = "a cluster; the options of Slurm are those of docs/slurm.md"
_HOURS = "minutes to hours"

CHECKED = {
    "watershed run cluster.yaml -d": _CLUSTER,
    "watershed run configs/runs/gpt-tiny-slurm.yaml*": _CLUSTER,
    "watershed run configs/studies/*": _HOURS,
    "watershed run offline.yaml *": "needs MNIST; other data are, see ``unshare`` below",
}
"""Commands whose file and settings are checked, and why they are not run."""

_BY_SLURM = "tests/cluster/test_job_commands.py::test_a_failing_script_is_explained_and_retried"
_CALIBRATE = "tests/cluster/test_calibrate.py::test_a_cluster_is_measured_by_a_job"
_DEPLOYED = "tests/integration/test_nightly.py::test_the_nightly_is_deployed_as_it_is_written"
_OF_A_SERVER = "tests/integration/test_anarchic.py::test_by_hand_a_server_and_its_workers_do_a_run"
_SERVED = (
    "tests/integration/test_logged_models.py::"
    "test_a_logged_model_is_served_where_watershed_is_not_installed"
)
_UP = "tests/integration/test_up.py::test_it_prints_three_addresses_that_answer"
_POSTGRES = "tests/integration/test_up.py::test_both_servers_keep_their_data_in_postgresql"
_OWN = "tests/integration/test_documents.py"
_FOLLOWED = f"{_OWN}::test_a_document_is_followed"
_ADDED = f"{_OWN}::test_what_the_how_tos_add_works"
_DATA = f"{_OWN}::test_own_data_need_no_code_and_no_network"

RUN_ELSEWHERE = {
    "createdb *": _POSTGRES,
    "make up": _UP,
    "make run": (
        "tests/integration/test_command_line.py::test_a_study_runs_with_nothing_started_beforehand"
    ),
    "prefect worker start --pool gpu-jobs": (
        "tests/cluster/test_prefect_worker.py::test_a_federated_study_is_a_job"
    ),
    "prefect worker start --pool watershed": (
        "tests/integration/test_up.py::test_a_study_from_the_browser_runs_in_the_data_directory"
    ),
    "python -c from flows.nightly *": _DEPLOYED,
    "curl http://127.0.0.1:5001/invocations *": _SERVED,
    "mlflow models serve *": _SERVED,
    "python -m flows.command_reference *": (
        "tests/unit/flows/test_command_reference.py::test_the_document_is_what_the_commands_say"
    ),
    "python -m flows.form_reference *": (
        "tests/unit/flows/test_form_reference.py::test_the_document_is_what_the_deployments_say"
    ),
    "python -m configs.reference *": (
        "tests/unit/configs/test_reference.py::test_the_document_is_what_the_schemas_say"
    ),
    "python -m tasks.federated.*": _OF_A_SERVER,
    "python -m tasks.zero.calibrate_job": _CALIBRATE,
    "python -m tasks.zero.frontier_document": (
        "tests/unit/zero/test_frontier.py::test_the_document_holds_what_is_computed"
    ),
    "python -m tasks.zero.train_job RUN/job.json": (
        "tests/integration/test_training_job.py::"
        "test_a_training_leaves_its_journal_model_and_result"
    ),
    "python -m tests.proof.convergence *": (
        "tests/proof/test_convergence.py::test_the_file_holds_what_the_program_gives"
    ),
    "python -m tasks.services.sqlite_writers *": (
        "tests/integration/test_flow_runs.py::"
        "test_flow_runs_that_are_asked_for_at_once_are_all_accepted"
    ),
    "sbatch job.sh": (
        "tests/unit/slurm/test_unknown_jobs.py::"
        "test_a_script_that_was_submitted_by_hand_is_nobodys_to_cancel"
    ),
    "scontrol show reservation": (
        "tests/cluster/test_maintenance.py::test_a_night_in_a_maintenance_is_skipped"
    ),
    "unshare *": _DATA,
    "watershed check median.yaml": _ADDED,
    "watershed check mlp.yaml": _ADDED,
    "watershed check my-images.yaml*": _DATA,
    "watershed check my-texts.yaml": _DATA,
    "watershed calibrate *": _CALIBRATE,
    "watershed compare digits-*": _FOLLOWED,
    "watershed cancel cluster": _BY_SLURM,
    "watershed jobs cluster": _BY_SLURM,
    "watershed logs cluster 0": _BY_SLURM,
    "watershed retry cluster *": _BY_SLURM,
    _TINY: ("tests/integration/test_training_run.py::test_the_trial_training_learns"),
    _NIGHT: _FOLLOWED,
    "watershed run median.yaml": _ADDED,
    "watershed run mlp.yaml": _ADDED,
    "watershed up": _UP,
    "watershed up --external": (
        "tests/integration/test_up.py::test_two_machines_do_not_serve_one_pool"
    ),
    "watershed why cluster": _BY_SLURM,
}
"""Commands that another test runs, and which one."""

_SET = "changes the shell"
_SUITE = "it is the suite, or a long part of it"

NOT_RUN = {
    ". .venv/bin/activate": _SET,
    ". fetch/bin/activate": _SET,
    "export *": _SET,
    "make bench*": _SUITE,
    "make proof-*": _SUITE,
    "make setup": "make test begins with it",
    "make test": _SUITE,
    "pg_dump *": "PostgreSQL's own",
    "pip *": "needs a package index, and changes the environment",
    "pytest *": _SUITE,
    "python -c from datasets import *": "downloads",
    "python3 -m venv *": "for what pip fetches",
    "sqlite3 *": "SQLite's own",
    "ssh *": "needs another machine",
}
"""Commands that nothing runs, and why."""
