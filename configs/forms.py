"""The run forms: a preset, the few fields that people change, and overrides for all others.

A form is what a person fills in at the Prefect UI; ``study()`` makes a study of it. A field that is
left empty is as in the preset. What the preset's grid varies gives way to what the form says, see
``configs.choices.choose``.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

from configs.base import Record, raise_faults
from configs.faults import faults_in
from configs.federated_form import FederatedForm
from configs.form_base import StudyForm
from configs.scaling import ScalingStudy
from configs.scaling_form import ScalingForm
from configs.study import Study
from configs.training_form import TrainingForm


def _told_apart(form: type[StudyForm], *studies: type[Record]) -> WrapValidator:
    """Tell a form from a whole study by its keys, and list the faults of what was meant alone."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401  raw JSON
        if not isinstance(value, Mapping):
            return handler(value)
        record: type[Record] = form
        if "experiment" in value:
            record = studies[-1] if value.get("kind") == "scaling" else studies[0]
        raise_faults(record.__name__, faults_in(record, value))
        return record.model_validate(value)

    return WrapValidator(validate)


_TITLE = Field(json_schema_extra={"title": "Study"})
FederatedInput = Annotated[FederatedForm | Study, _told_apart(FederatedForm, Study), _TITLE]
TrainingInput = Annotated[TrainingForm | Study, _told_apart(TrainingForm, Study), _TITLE]
ScalingInput = Annotated[
    ScalingForm | Study | ScalingStudy, _told_apart(ScalingForm, Study, ScalingStudy), _TITLE
]
"""What the flows take: a form, as the Prefect UI fills it in, or a whole study."""
