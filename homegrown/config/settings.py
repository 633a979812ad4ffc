"""The base of all settings, and the types that they share."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from homegrown.config import addresses

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]

# Prefect's server checks this schema and so refuses a credential before storing it.
_WITHOUT_CREDENTIAL = Field(max_length=addresses.LONGEST, json_schema_extra={"not": {"pattern": addresses.CREDENTIAL}})
Address = Annotated[str, _WITHOUT_CREDENTIAL, AfterValidator(addresses.checked)]
LocalPath = Annotated[str, _WITHOUT_CREDENTIAL, AfterValidator(addresses.local)]


class Settings(BaseModel):
    """Base of all settings: immutable; unknown names and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    def unkeyed(self) -> frozenset[str]:
        """Return the names of settings that do not change the result; an artifact's key leaves them out."""
        return frozenset()
