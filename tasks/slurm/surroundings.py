"""What processes of Slurm inherit from ours: environment and umask, never by accident.

One process of a user submits the jobs of all of them (see ``leader``), so a job must not depend on
the shell of whichever that is. sbatch gets what belongs to the user's session; what a job needs
beside that stands in its plan, taken from the process that plans it.
"""

import re
from collections.abc import Container, Mapping

from configs.scripts import environment_faults

JOB_UMASK = 0o077
"""sbatch hands its umask to the job. Run directories are closed to others, so this closes no more
than they do."""

_OUR_CLUSTER = frozenset({"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_CONF_SERVER"})
_OPTIONS = ("SLURM_", "SLURMD_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_")

# The system of modules itself, but not which modules are loaded: without the variables that those
# have set, `module load` would take them for loaded and do nothing.
_OF_THE_SESSION = re.compile(
    r"HOME|USER|LOGNAME|SHELL|PATH|LANG|LANGUAGE|LC_\w+|TZ|BASH_ENV|MANPATH|KRB5CCNAME"
    r"|MODULEPATH|MODULESHOME|MODULES_(?!LM)\w+|LMOD_(?!FAMILY_)\w+"
    r"|BASH_FUNC_(?:module|ml|_module_raw|_moduleraw)(?:%%|\(\))"
)
_OF_THE_PLAN = re.compile(
    r"WATERSHED_(?:DATA|CACHE|INTERFACE)|HF_\w+|TRANSFORMERS_OFFLINE|PYTHONPATH|LD_LIBRARY_PATH"
)


def of_command(command: str, own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command of Slurm.

    Defaults that the user has set for the commands by variables are left out: they would change
    what a job asks for or how an answer looks.

    Args:
        command: Its name.
        own: Our own environment.

    Returns:
        The environment to run it in. Of sbatch, whose environment a job inherits, what belongs to
        the user's session, and which cluster it is.
    """
    if command == "sbatch":
        return {
            name: value
            for name, value in own.items()
            if name in _OUR_CLUSTER or _OF_THE_SESSION.fullmatch(name)
        }
    kept = {
        name: value
        for name, value in own.items()
        if name in _OUR_CLUSTER or not name.startswith(_OPTIONS)
    }
    return kept | {"LC_ALL": "C", "TZ": "UTC", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}


def of_plan(own: Mapping[str, str], configured: Container[str], *, modules: bool) -> dict[str, str]:
    """Return the variables of the process that plans a job which its plan takes along.

    Args:
        own: Our own environment.
        configured: Names that the launcher's ``environment`` sets; they are its own.
        modules: Whether the job loads modules, which say where libraries are.

    Returns:
        Where data, caches, libraries and packages are, as far as that is told by variables that a
        script may hold.
    """
    return {
        name: value
        for name, value in own.items()
        if _OF_THE_PLAN.fullmatch(name)
        and name not in configured
        and not (modules and name == "LD_LIBRARY_PATH")
        and not any(environment_faults({name: value}))
    }
