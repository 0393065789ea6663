"""What all run forms have: fields that may be left empty, the launcher, overrides, and faults.

See ``configs.forms``.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, JsonValue
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from configs.base import Fault, Record, Whole
from configs.launchers import TimeLimit
from configs.loading import ConfigError, load_study
from configs.presets import Kind, study_path
from configs.scripts import Word
from configs.study import Study

_LAST = ("device", "launcher", "file", "settings")
"""Fields that a form shows at its end."""

Setting = Annotated[str, Field(pattern=r"^[^=\s]+=", max_length=100_000)]


class Form(Record):
    """A record of fields that may be left empty.

    To Prefect's form, ``X | None`` is a pair of tabs; an input that may be left empty is simpler.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Flatten what is optional, and put what all forms have at the end."""
        named = super().__get_pydantic_json_schema__(core_schema, handler)
        schema = handler.resolve_ref_schema(named)
        fields: dict[str, dict[str, Any]] = schema["properties"]
        for name, field in fields.items():
            fields[name] = _without_null(field)
            if isinstance(field.get("default"), dict):
                fields[name]["default"] = {}
        for name in _LAST:
            if name in fields:
                fields[name] = fields.pop(name)
        return named


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """Write an optional field as one that may be left out."""
    members = [one for one in field.get("anyOf", []) if one != {"type": "null"}]
    if len(members) != 1 or field.get("default", ...) is not None:
        return field
    told = {key: value for key, value in field.items() if key not in {"anyOf", "default"}}
    return {**members[0], **told}


class LauncherForm(Form):
    """Where the jobs run. What is empty is as in the preset."""

    kind: Literal["local", "slurm"] | None = Field(
        default=None,
        description="local: processes of the machine that runs the flow; slurm: jobs of a cluster.",
    )
    partition: Word | None = Field(
        default=None, title="Slurm partition", description="Partition, or several with commas."
    )
    account: Word | None = Field(
        default=None, title="Slurm account", description="Account to charge."
    )
    time_limit: TimeLimit | None = Field(
        default=None,
        description="Wall time of a job: minutes, hours:minutes:seconds or days-hours.",
    )
    qos: Word | None = Field(default=None, description="Quality of service.")
    gpus_per_node: Whole | None = Field(
        default=None, ge=0, le=1024, description="GPUs on each node."
    )


class StudyForm(Form):
    """What the forms of all kinds of studies have."""

    model_config = ConfigDict(title="From a preset")

    _kind: ClassVar[Kind]
    _paths: ClassVar[Mapping[str, str]] = {}
    """Field of the form -> dotted path in the study, where it is not the field's own name."""

    preset: str
    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Name of the study: letters, digits, dot, dash, underscore; at most 63, the "
        "first a letter or digit. Empty: that of the preset.",
    )
    launcher: LauncherForm = Field(
        default=LauncherForm(), description="Where the jobs run. Empty: as in the preset."
    )
    file: str | None = Field(
        default=None,
        min_length=1,
        title="File instead of a preset",
        description="Path of a study of your own in YAML, on the machine that runs the flow. "
        "Empty: the preset is used.",
    )
    settings: tuple[Setting, ...] = Field(
        default=(),
        title="Further settings",
        description="Any other field of the study, each as PATH=VALUE, such as "
        "algorithm.server_lr=0.5 or launcher.exclusive=true; the value is YAML. They win over what "
        "stands above.",
    )

    def study(self) -> Study:
        """Return the study that the form asks for.

        Raises:
            ConfigError: The form, or the file, is faulty: all faults, each named after the form's
                field that it comes from, if it comes from one.
        """
        source = self.file or self.preset
        if faults := list(self._faults()):
            raise ConfigError(source, faults)
        try:
            study = load_study(study_path(source), self.settings, self._chosen())
        except ConfigError as error:
            raise ConfigError(source, [self._named(fault) for fault in error.faults]) from error
        except LookupError as error:  # a file without a suffix
            raise ConfigError(source, [Fault(path="file", message=str(error.args[0]))]) from error
        kind = study.experiment.kind
        if self._kind not in {kind, "scaling"}:
            message = f"{source} is of kind {kind}; use the flow of its own kind"
            raise ConfigError(source, [Fault(path="file", message=message)])
        return study

    def _faults(self) -> Iterator[Fault]:
        """Find what is wrong with the form itself."""
        if self.launcher.kind != "local":
            return
        for name in self.launcher.model_fields_set - {"kind"}:
            if getattr(self.launcher, name) is not None:
                message = "is for Slurm, and the launcher is local; use slurm, or leave it empty"
                yield Fault(path=f"launcher.{name}", message=message)

    def _chosen(self) -> dict[str, list[JsonValue]]:
        """Return the values that were filled in, by dotted path."""
        chosen: dict[str, list[JsonValue]] = {}
        given = self.launcher.model_dump(mode="json", exclude_none=True)
        if given and "kind" not in given:  # a partition is one of Slurm
            given = {"kind": "slurm", **given}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in {"preset", "file", "launcher", "settings"} or value in (None, ()):
                continue
            several = name == "seeds"
            chosen[self._path(name)] = (
                list(value) if several else [list(value) if isinstance(value, tuple) else value]
            )
        return chosen | {f"launcher.{name}": [value] for name, value in given.items()}

    def _path(self, name: str) -> str:
        return self._paths.get(name, name)

    def _named(self, fault: Fault) -> Fault:
        """Name a fault after the field of the form that it comes from."""
        for number, setting in enumerate(self.settings):
            key = setting.partition("=")[0].removeprefix("experiment.")
            if fault.path == key or fault.path.startswith(f"{key}."):
                message = f"{fault.path}: {fault.message}"
                return Fault(path=f"settings.{number}", message=message)
        for name in type(self).model_fields:
            path = self._path(name)
            for own in (path, f"grid.{path}"):
                if fault.path == own:
                    return fault.model_copy(update={"path": name})
        return fault
