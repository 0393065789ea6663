"""DeepSpeed's own configuration of an experiment.

Arithmetic and words: DeepSpeed itself is not imported here.
"""

from configs.engines import deepspeed_stage
from configs.gpt import Gpt
from configs.training import TrainingExperiment

_NEVER = 10**9
_LARGEST_BUCKET = 500_000_000
"""DeepSpeed's default, in elements, as the most: a block's gradients leave together, as ours do."""


def deepspeed_config(experiment: TrainingExperiment) -> dict[str, object]:
    """Return the configuration that ``deepspeed.initialize`` takes.

    Args:
        experiment: One without ``engine_faults``.
    """
    stage = _stage(experiment)
    return {
        "train_micro_batch_size_per_gpu": experiment.micro_batch,
        "gradient_accumulation_steps": experiment.accumulation,
        "gradient_clipping": experiment.optimizer.clip,
        "steps_per_print": _NEVER,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": experiment.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"} if stage else {},
        "zero_optimization": {"stage": stage, **_zero(experiment, stage)},
    }


def _stage(experiment: TrainingExperiment) -> int | None:
    """Return the stage; of one rank, whose degrees are all 1, the partition's name says it."""
    stages = {"zero1": 1, "zero2": 2, "zero3": 3, "zeropp": 3}
    if experiment.ranks == 1 and experiment.partition_name in stages:
        return stages[experiment.partition_name]
    return deepspeed_stage(experiment.degrees, experiment.ranks)


def _zero(experiment: TrainingExperiment, stage: int | None) -> dict[str, object]:
    degrees, transport, model = experiment.degrees, experiment.transport, experiment.model
    bucket = min(_LARGEST_BUCKET, max(model.block_parameters, model.vocabulary * model.hidden))
    if stage != 3:
        return {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    return {
        "reduce_bucket_size": bucket,
        "stage3_prefetch_bucket_size": experiment.prefetch * model.block_parameters,
        "stage3_param_persistence_threshold": _largest_vector(model),
        "zero_hpz_partition_size": degrees.backward if degrees.backward < degrees.forward else 1,
        "zero_quantized_weights": transport.weights == "int8",
        "zero_quantized_gradients": transport.gradients == "int4",
    }


def _largest_vector(model: Gpt) -> int:
    """Elements up to which a parameter stays whole: biases and norms.

    DeepSpeed's default, 100 000, does so for large models; all of a small one would stay whole,
    which is no ZeRO-3.
    """
    return model.mlp_width
