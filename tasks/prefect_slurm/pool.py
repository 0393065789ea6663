"""The form of a work pool of type ``slurm``, and what a flow run's job is made of it.

The fields of ``configs.launchers.SlurmResources`` are the form's, with their titles, descriptions
and bounds. All of them are *job variables*: the pool has defaults, a deployment may set others, and
so may a single run.
"""

import shlex
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import Flow, FlowRun, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorkerResult
from pydantic import BaseModel, Field, PrivateAttr, create_model

from configs.base import Fault
from configs.faults import faults_in
from configs.launchers import SlurmLauncherConfig, SlurmResources
from configs.scripts import Word, environment_faults
from tasks.prefect_slurm.environment import written_down

RESOURCES = tuple(name for name in SlurmResources.model_fields if name != "environment")
"""Fields of the form that the job's resources have; the environment is Prefect's own field."""

_OF_PREFECT = ("env", "command")
_MEANINGLESS = ("name", "labels")


class PoolFault(ValueError):  # noqa: N818  an error all the same
    """A flow run asks for what its pool cannot give; the message has all faults."""


class _Settings(BaseModel):
    """What the form has beside the resources."""

    runs_dir: Path | None = Field(
        default=None,
        title="Directory of the runs",
        description=(
            "Where each flow run has its directory (job.sh, output, how it ended): on a file "
            "system that the nodes share. Default: flow-runs in the directory of the ledger, below "
            "~/.local/state/watershed."
        ),
    )
    python: Word | None = Field(
        default=None,
        title="Python",
        description=(
            "Python on the nodes: absolute, or a name that modules put on PATH; Watershed and the "
            "flow are installed there. Default: the worker's."
        ),
    )
    secrets_file: Path | None = Field(
        default=None,
        title="File of secrets",
        description=(
            "NAME=VALUE lines (PREFECT_API_KEY, passwords), read on the node; mode 600. Default: "
            "none, then Prefect reads what stands in your profile (~/.prefect/profiles.toml)."
        ),
    )
    max_retries: int = Field(
        default=0,
        ge=0,
        le=100,
        title="Retries of the job",
        description=(
            "How often in a row the job is submitted again after a lost node or a failed launch; "
            "the flow run begins anew then. Of Slurm's own requeues those after a lost node count, "
            "but for one."
        ),
    )
    continue_at_time_limit: bool = Field(
        default=False,
        title="Go on after the time limit",
        description=(
            "Queue the job again when it was stopped shortly before its time limit. For flows that "
            "go on from what they have done, as Watershed's do; others would begin anew for ever."
        ),
    )


def _fields(record: type[BaseModel], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: (record.model_fields[name].annotation, record.model_fields[name]) for name in names
    }


_Form = create_model(
    "_Form",
    __base__=BaseVariables,
    **_fields(SlurmResources, RESOURCES),
    **_fields(_Settings, tuple(_Settings.model_fields)),
)


class SlurmVariables(_Form):
    """The form."""

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the schema that the form is made of.

        A discriminated union is shown as an editor of raw JSON, a plain one as a form in tabs: so
        the unions are told as plain ones. A job's name is Watershed's own, and Slurm has no labels.
        """
        schema: dict[str, Any] = super().model_json_schema(*args, **kwargs)
        properties = schema["properties"]
        last = {name: properties.pop(name) for name in _OF_PREFECT if name in properties}
        for name in _MEANINGLESS:
            properties.pop(name, None)
        properties.update(last)
        schema.pop("description", None)
        plain: dict[str, Any] = _plain(schema)
        return plain


def _plain(node: Any) -> Any:  # noqa: ANN401  a JSON schema
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    union = "oneOf" in node and "discriminator" in node
    return {
        "anyOf" if union and key == "oneOf" else key: _plain(value)
        for key, value in node.items()
        if not (union and key == "discriminator")
    }


class SlurmJobConfiguration(BaseJobConfiguration):
    """What the pool, the deployment and the run have come to."""

    resources: dict[str, Any] = Field(
        default_factory=dict,
        json_schema_extra={"template": {name: f"{{{{ {name} }}}}" for name in RESOURCES}},
    )
    runs_dir: str | None = None
    python: str | None = None
    secrets_file: str | None = None
    max_retries: int = 0
    continue_at_time_limit: bool = False

    _flow: str = PrivateAttr(default="")
    _own_environment: dict[str, str] = PrivateAttr(default_factory=dict)
    _own_command: str | None = PrivateAttr(default=None)

    @classmethod
    def json_template(cls) -> dict[str, Any]:
        """Return what the pool's variables are put into, without those that the form lacks."""
        template: dict[str, Any] = super().json_template()
        return {name: value for name, value in template.items() if name not in _MEANINGLESS}

    def prepare_for_flow_run(
        self,
        flow_run: FlowRun,
        deployment: DeploymentResponse | None = None,
        flow: Flow | None = None,
        work_pool: WorkPool | None = None,
        worker_name: str | None = None,
        worker_id: UUID | None = None,
    ) -> None:
        """Take the flow run's names; see ``BaseJobConfiguration``."""
        own = {name: value for name, value in self.env.items() if value is not None}
        self._own_environment, self._own_command = own, self.command
        self._flow = flow.name if flow is not None else ""
        super().prepare_for_flow_run(
            flow_run, deployment, flow, work_pool, worker_name, worker_id=worker_id
        )

    @property
    def flow_name(self) -> str:
        """Name of the flow."""
        return self._flow

    def asked(self) -> SlurmResources:
        """Return what the job asks of Slurm.

        Raises:
            PoolFault: The job variables are faulty; all of their faults are told.
        """
        found = [*faults_in(SlurmResources, self.resources), *self._faults()]
        if found:
            lines = "; ".join(map(str, found))
            raise PoolFault(
                f"{len(found)} of the job variables cannot be used: {lines}. Correct them in the "
                "work pool, the deployment or the run"
            )
        return SlurmResources.model_validate(self.resources)

    def _faults(self) -> list[Fault]:
        faults = [
            Fault(
                path=one.path.replace("environment", "env", 1),
                message=one.message.replace("job.sh", "job.json")
                + "; or put it into the pool's secrets_file",
            )
            for one in environment_faults(self._own_environment)
        ]
        for name in ("runs_dir", "secrets_file"):
            path = getattr(self, name)
            if path and not Path(path).expanduser().is_absolute():
                faults.append(
                    Fault(path=name, message=f"{path!r} is relative; write the whole path")
                )
        if self.python and "/" in self.python and not self.python.startswith("/"):
            faults.append(
                Fault(path="python", message=f"{self.python!r} is relative; write the whole path")
            )
        try:
            self.command_words()
        except ValueError as error:
            faults.append(Fault(path="command", message=f"{self._own_command!r}: {error}"))
        return faults

    def environment(self) -> dict[str, str]:
        """Return the variables of the flow run's process that may be written down."""
        told = {name: value for name, value in self.env.items() if value is not None}
        return written_down(told) | self._own_environment

    def command_words(self) -> tuple[str, ...]:
        """Return the pool's own command; empty for Prefect's."""
        return tuple(shlex.split(self._own_command)) if self._own_command else ()

    def launcher(self, resources: SlurmResources) -> SlurmLauncherConfig:
        """Return what follows a failure of the job."""
        return SlurmLauncherConfig(
            pack="single", max_retries=self.max_retries, requeue=resources.requeue
        )


class SlurmWorkerResult(BaseWorkerResult):
    """That a flow run's job is in the ledger; how it ends is told later."""
