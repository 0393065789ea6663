"""One training of a language model: the whole input of its job, validated together."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.base import Fault, Number, PositiveFloat, Record, Weight, Whole, raise_faults
from configs.faults import nearest
from configs.gpt import Gpt, GptField, is_frozen
from configs.sharding import Partition, PartitionField, named_partition, row_faults
from configs.text import Text, TextField
from configs.topology import Dtype, TopologyField, load_topology
from configs.transport import Transport, TransportField

MOST_STEPS = 10**9
Beta = Annotated[Number, Field(ge=0, lt=1)]


class AdamW(Record):
    """AdamW with decoupled decay, warm-up, cosine schedule and clipping.

    The rate rises linearly over the warm-up steps, then falls along half a cosine to its least
    share at the last train step.
    """

    lr: PositiveFloat = Field(default=1e-3, description="Largest learning rate.")
    beta1: Beta = Field(default=0.9, description="Decay of the first moment.")
    beta2: Beta = Field(default=0.95, description="Decay of the second moment.")
    epsilon: PositiveFloat = Field(default=1e-8, description="Added to the root.")
    weight_decay: Weight = Field(
        default=0.1, description="Decoupled decay; parameters of one dimension have none."
    )
    warmup_steps: Whole = Field(
        default=0, ge=0, le=MOST_STEPS, description="Train steps of linear warm-up."
    )
    min_lr_share: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.1, description="Share of the rate that is left at the end; 1 for no decay."
    )
    clip: Weight = Field(
        default=1.0, description="Largest norm of the whole gradient; 0 for no clipping."
    )


class TrainingExperiment(Record):
    """A training of a GPT on N ranks."""

    kind: Literal["training"] = Field(description="Kind of the experiment.")
    model: GptField = Field(
        default=Gpt.model_validate({"preset": "gpt-1m", "layers": 5}), description="The network."
    )
    data: TextField = Field(default=Text(), description="The text.")
    sequence: Whole = Field(
        default=128, ge=2, le=1_000_000, description="s: tokens of one sequence."
    )
    ranks: Whole = Field(default=8, ge=1, le=1_000_000, description="N: devices, one process each.")
    topology: TopologyField = Field(
        default=load_topology("mini"), description="The machine: a shipped name, a file, a record."
    )
    engine: Literal["ours", "deepspeed", "fsdp2"] = Field(
        default="ours", description="What trains: Watershed's engine, DeepSpeed, or FSDP2."
    )
    partition: PartitionField = Field(
        default="zero_topo", description="Over how many ranks each state is split."
    )
    transport: TransportField = Field(
        default=Transport(), description="Formats on the wire: a name, or a record."
    )
    micro_batch: Whole = Field(
        default=1, ge=1, le=100_000, description="Sequences of a rank in one micro-batch."
    )
    accumulation: Whole = Field(
        default=1, ge=1, le=1_000_000, description="Micro-batches of one train step."
    )
    steps: Whole = Field(default=100, ge=1, le=MOST_STEPS, description="Train steps.")
    optimizer: AdamW = Field(default=AdamW(), description="How gradients change the weights.")
    dtype: Dtype = Field(
        default="float32",
        description="Type of weights and activations; with bfloat16 the master weights are "
        "float32. The loss is float32 at least.",
    )
    recompute: bool = Field(
        default=False, description="Compute the blocks again in the backward pass (checkpointing)."
    )
    compile: bool = Field(default=False, description="Compile the blocks with torch.compile.")
    prefetch: Whole = Field(
        default=1, ge=0, le=64, description="Blocks whose weights are gathered ahead of use."
    )
    frozen: tuple[str, ...] = Field(
        default=(),
        description="Parameters that are not trained: names, or beginnings of names with a *.",
    )
    seed: Whole = Field(default=0, ge=0, lt=2**63, description="Of weights and batches.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to compute; auto takes CUDA devices where there are any."
    )
    log_every: Whole = Field(
        default=1, ge=1, le=MOST_STEPS, description="Train steps between two lines of the journal."
    )
    evaluate_every: Whole | None = Field(
        default=None,
        ge=1,
        le=MOST_STEPS,
        description="Train steps between two validations. Default: only at the end.",
    )
    evaluate_sequences: Whole = Field(
        default=64, ge=1, le=1_000_000, description="Sequences of a validation, at most."
    )
    checkpoint_every: Whole = Field(
        default=100, ge=1, le=MOST_STEPS, description="Train steps between two checkpoints."
    )
    timeout_s: Whole = Field(
        default=600,
        ge=10,
        le=86_400,
        description="How long a rank waits in a collective before it takes another one for lost.",
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> "TrainingExperiment":
        raise_faults("TrainingExperiment", list(self._faults()))
        return self

    def _faults(self) -> Iterator[Fault]:
        per_node = self.topology.ranks_per_node
        if self.ranks > per_node and self.ranks % per_node:
            lower, upper = self.ranks // per_node * per_node, -(-self.ranks // per_node) * per_node
            message = f"{self.ranks} ranks do not fill nodes of {per_node} ({self.topology.name}); "
            message += f"use {lower} or {upper}"
            yield Fault(path="ranks", message=message, related=("topology",))
        elif isinstance(self.partition, Partition):
            yield from self.partition.faults(self.ranks, "partition")
        else:
            yield from row_faults(self.partition, self.topology, self.ranks)
        yield from self._frozen_faults()
        if self.optimizer.warmup_steps > self.steps:
            message = f"{self.optimizer.warmup_steps} are more than all {self.steps} train steps"
            yield Fault(
                path="optimizer.warmup_steps",
                message=f"{message}; use fewer",
                related=("steps",),
            )

    def _frozen_faults(self) -> Iterator[Fault]:
        """Find patterns that no parameter has: what they were to freeze would be trained.

        Also those that leave nothing to train: no engine can update that, and FSDP2 fails.
        """
        names = list(self.model.parameter_names()) if self.frozen else []
        for number, pattern in enumerate(self.frozen):
            if not any(is_frozen(name, [pattern]) for name in names):
                message = f"'{pattern}' is no parameter{nearest(pattern, names)}; "
                message += "use a name, or the beginning of names and a *, such as stages.0.*"
                yield Fault(path=f"frozen.{number}", message=message, related=("model",))
        if names and all(is_frozen(name, self.frozen) for name in names):
            message = f"all {len(names)} parameters are frozen, so that nothing would be trained; "
            message += "leave at least one out"
            yield Fault(path="frozen", message=message, related=("model",))

    @property
    def num_steps(self) -> int:
        """How far it goes: train steps."""
        return self.steps

    @property
    def unit(self) -> str:
        """What ``num_steps`` counts."""
        return "train step"

    @property
    def degrees(self) -> Partition:
        """The partition in numbers."""
        if isinstance(self.partition, Partition):
            return self.partition
        return named_partition(self.partition, self.topology, self.ranks)

    @property
    def partition_name(self) -> str:
        """The partition in a word: the row's name, or ``2|2|8|16``."""
        if isinstance(self.partition, str):
            return self.partition
        return "|".join(str(degree) for degree in self.partition.model_dump().values())

    @property
    def sequences_per_step(self) -> int:
        """Sequences of one train step, over all ranks."""
        return self.ranks * self.micro_batch * self.accumulation

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one train step, over all ranks."""
        return self.sequences_per_step * self.sequence
