"""What jobs inherit: nothing of the process that happens to submit them."""

import pytest

from tasks.slurm.surroundings import of_command, of_plan

SESSION = {
    "HOME": "/home/u",
    "PATH": "/usr/bin",
    "LC_ALL": "de_DE.UTF-8",
    "BASH_ENV": "/etc/profile.d/modules.sh",
    "BASH_FUNC_module%%": "() { eval `modulecmd bash $*`; }",
    "MODULEPATH": "/apps/modules",
    "MODULES_CMD": "/usr/libexec/modulecmd.tcl",
    "LMOD_CMD": "/usr/share/lmod/lmod",
}
CLUSTER = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_CLUSTERS": "a"}
OPTIONS = {
    "SLURM_JOB_ID": "7",
    "SLURM_MEM_PER_CPU": "1G",
    "SBATCH_JOB_NAME": "mine",
    "SQUEUE_FORMAT": "%i",
    "SACCT_FORMAT": "jobid",
    "SINFO_FORMAT": "%P",
    "SCANCEL_INTERACTIVE": "1",
}
OF_THE_SHELL = {
    "HF_HOME": "/scratch/a",
    "HF_TOKEN": "hf_0123456789abcdefghij",
    "LD_LIBRARY_PATH": "/opt/a/lib",
    "PYTHONPATH": "/home/u/a",
    "PREFECT_API_KEY": "pnu_secret",
    "WATERSHED_DATA": "/shared/data",
    "WATERSHED_SUBMISSION": "9",
    "WATERSHED_STATE_DIR": "/state",
    "CUDA_VISIBLE_DEVICES": "3",
    "LOADEDMODULES": "python/3.11",
    "LMOD_FAMILY_COMPILER": "gcc",
}
OWN = SESSION | CLUSTER | OPTIONS | OF_THE_SHELL


def test_a_job_inherits_the_users_session_alone() -> None:
    """Sbatch hands its environment to the job: no option, no outer job, nothing of the shell."""
    assert of_command("sbatch", OWN) == SESSION | CLUSTER


def test_answers_look_alike_whatever_the_user_has_set() -> None:
    """Language, time zone, form of times and length of ranges are ours for the other commands."""
    ours = {"LC_ALL": "C", "TZ": "UTC", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}

    assert of_command("squeue", OWN) == SESSION | OF_THE_SHELL | CLUSTER | ours


def test_a_plan_takes_along_where_things_are() -> None:
    """From the process that plans the job; no secret, and nothing that is not of the job."""
    assert of_plan(OWN, set(), modules=False) == {
        "HF_HOME": "/scratch/a",
        "LD_LIBRARY_PATH": "/opt/a/lib",
        "PYTHONPATH": "/home/u/a",
        "WATERSHED_DATA": "/shared/data",
    }


@pytest.mark.parametrize(
    ("configured", "modules", "left_out"),
    [({"HF_HOME"}, False, "HF_HOME"), (set(), True, "LD_LIBRARY_PATH")],
)
def test_what_the_launcher_says_goes_first(
    configured: set[str], left_out: str, *, modules: bool
) -> None:
    """Its variables, and the libraries of its modules, are not set over."""
    assert left_out not in of_plan(OWN, configured, modules=modules)
