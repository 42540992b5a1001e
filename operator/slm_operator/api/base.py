"""What all models of the API share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """Frozen, camelCase on the outside. Unknown fields are ignored on reading: the API server has
    validated the object, and a newer version may have stored more. The docstrings of models and
    attributes are what ``kubectl explain`` shows."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )
