"""Fields that several forms have: drop-downs of what is known by name, and seeds."""

from typing import Annotated

from pydantic import Field

from configs.algorithms import Algorithm
from configs.allowed import Allowed
from configs.arrivals import Arrivals
from configs.base import Whole
from configs.data import DATASETS
from configs.gpt import PRESETS
from configs.models import Model
from configs.sharding import ROWS
from configs.topology import shipped_topologies
from configs.transport import TRANSPORTS
from configs.words import OneOf

MOST_SEEDS = 1000

Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
AlgorithmName = Annotated[str, OneOf(tuple(Allowed.of(Algorithm).options))]
ArrivalsName = Annotated[str, OneOf(tuple(Allowed.of(Arrivals).options))]
ModelName = Annotated[str, OneOf(tuple(Allowed.of(Model).options))]
DatasetName = Annotated[str, OneOf(tuple(DATASETS))]
GptName = Annotated[str, OneOf(tuple(PRESETS))]
RowName = Annotated[str, OneOf(ROWS)]
TransportName = Annotated[str, OneOf(TRANSPORTS)]
TopologyName = Annotated[str, OneOf(tuple(shipped_topologies()))]
