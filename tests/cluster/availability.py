"""Whether a real Slurm cluster can be started here, and what to say if not."""

import os
import shutil
from collections.abc import Collection

from tests.availability import Verdict
from tests.cluster.daemons import PATH

_PROGRAMS = (
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "slurmdbd",
    "mariadbd",
    "mariadb-install-db",
)


def judge(*, is_root: bool, missing: Collection[str], is_required: bool) -> Verdict:
    """Decide whether the tests run, are skipped or fail.

    Args:
        is_root: Whether this process may start Slurm's daemons.
        missing: Programs that are not installed.
        is_required: Whether a skip would be a failure.

    Returns:
        The decision.
    """
    wants = []
    if missing:
        wants.append(
            f"{', '.join(missing)} not found; on Debian or Ubuntu: sudo make cluster-packages"
            " (slurmctld slurmd slurm-client munge slurmdbd mariadb-server)"
        )
    if not is_root:
        wants.append("Slurm's daemons need root; run the tests as root, in a container say")
    if not wants:
        return Verdict(runs=True)
    message = f"no real Slurm cluster here: {'; '.join(wants)}"
    return Verdict(runs=False, is_failure=is_required, message=message)


def here() -> Verdict:
    """Decide for this machine; the variable REQUIRE_SLURM=1 makes a skip a failure.

    Returns:
        The decision.
    """
    return judge(
        is_root=os.geteuid() == 0,
        missing=[name for name in _PROGRAMS if shutil.which(name, path=PATH) is None],
        is_required=os.environ.get("REQUIRE_SLURM") == "1",
    )
