"""What ``watershed calibrate`` is to measure: the whole input of its job, validated together."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Fault, Number, Record, Whole, raise_faults
from configs.topology import Dtype, TopologyField
from configs.training import TrainingExperiment

_HEAD_WIDTH = 32
Width = Annotated[Whole, Field(ge=_HEAD_WIDTH, le=65_536, multiple_of=_HEAD_WIDTH)]
Tokens = Annotated[Whole, Field(ge=2, le=1_000_000)]


class Calibration(Record):
    """A measurement of a machine: its links, level by level, and what one rank computes."""

    topology: TopologyField = Field(
        description="The machine's levels: a shipped name, a file, a record. What is not measured "
        "(peaks, power) stays as it says."
    )
    ranks: Whole = Field(
        ge=1, le=1_000_000, description="Devices that measure, one process each: whole nodes."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where; auto takes CUDA devices where there are any."
    )
    dtype: Dtype | None = Field(
        default=None, description="Of the blocks. Default: float32 on CPUs, bfloat16 on GPUs."
    )
    hidden: tuple[Width, ...] = Field(
        default=(), description="Widths of the blocks. Default: what a device of the kind trains."
    )
    tokens: Tokens | None = Field(
        default=None,
        description="Tokens of a block's micro-batch, one sequence. Default: 128 on CPUs, 2,048 on "
        "GPUs.",
    )
    least_s: Annotated[Number, Field(gt=0, le=60)] = Field(
        default=0.3, description="Least time of one measurement, seconds; more is steadier."
    )
    timeout_s: Whole = Field(
        default=120, ge=10, le=86_400, description="After which a silent rank is taken for lost."
    )

    @model_validator(mode="after")
    def _ranks_fill_nodes(self) -> "Calibration":
        raise_faults("Calibration", list(self._faults()))
        return self

    def _faults(self) -> Iterator[Fault]:
        """Find ranks that leave a level half empty: its link would not be seen at work."""
        per_node, name = self.topology.ranks_per_node, self.topology.name
        if self.ranks >= per_node and self.ranks % per_node:
            lower, upper = self.ranks // per_node * per_node, -(-self.ranks // per_node) * per_node
            message = f"{self.ranks} ranks do not fill nodes of {per_node} ({name}); "
            yield Fault(path="ranks", message=f"{message}use {lower} or {upper}")
        elif self.ranks < per_node:
            sizes = [level.ranks for level in self.topology.levels]
            if self.ranks != 1 and self.ranks not in sizes:
                allowed = ", ".join(map(str, [1, *sizes]))
                message = f"{self.ranks} ranks fill no level of {name}; use {allowed}, or whole "
                yield Fault(path="ranks", message=f"{message}nodes")

    @property
    def ranks_experiment(self) -> TrainingExperiment:
        """A training on the same ranks: what places ranks and devices there, does it here."""
        return TrainingExperiment.model_validate(
            {
                "kind": "training",
                "ranks": self.ranks,
                "topology": self.topology.model_dump(),
                "device": self.device,
                "timeout_s": self.timeout_s,
            }
        )
