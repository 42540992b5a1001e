"""The activator's control API: what the operator tells it, and what it answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

CONTROL_PORT = 8082
TOKEN_VARIABLE = "SLM_ACTIVATOR_TOKEN"  # noqa: S105 - the variable's name
TOKEN_LENGTH = 32
HELD_PATH = "/v1/held"
ROUTES_PATH = "/v1/routes"
CANNOT_OPEN = 409
"""The status of an answer: the route's port cannot be opened, which goes on until another program
leaves it."""
MAX_ADDRESSES = 65
"""As many packs as a service may have, and one that is tried or takes another's place."""

Port = Annotated[int, Field(ge=1, le=65535)]


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Route(Wire):
    """Whose requests come to a port, and who serves them now."""

    namespace: Annotated[str, Field(min_length=1, max_length=63)]
    name: Annotated[str, Field(min_length=1, max_length=63)]
    addresses: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        Field(max_length=MAX_ADDRESSES),
    ] = ()
    """Of the ready packs' routers; none: requests are held."""


class Door(Wire):
    """One port, now."""

    port: Port
    route: Route
    waiting: int
    """Requests that are held."""
    passing: int
    """Requests that were sent to a pack and are not answered to their end."""
    waiting_bytes: int
    """Of the bodies of those that are held, or that a pack is taking."""


class Held(Wire):
    """Every port."""

    doors: tuple[Door, ...]
