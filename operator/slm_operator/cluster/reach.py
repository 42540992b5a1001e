"""Which of the watched namespaces can be read. Of one that was deleted, or is not there yet, the
API server says what it says where a right is missing: the operator's RoleBinding goes and comes
with the namespace. Others are served meanwhile, and of it all stays as it was last seen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus

from slm_operator.api.models import API_VERSION, KIND
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube

log = logging.getLogger(__name__)


class Reach:
    """Without ``namespaces`` it is all of them, of which none can be missing."""

    def __init__(
        self,
        namespaces: Sequence[str] = (),
        packs_known: Callable[[str], bool] = lambda namespace: True,
    ) -> None:
        """``packs_known``: whether the packs of a namespace are listed. Before that a service of it
        seems to have none."""
        self.namespaces = tuple(namespaces) or ("",)
        self.followed = self.namespaces
        """Those whose services are watched."""
        self._packs_known = packs_known
        self._refused: set[str] = set()

    @property
    def readable(self) -> tuple[str, ...]:
        """Those that can be read, or of which nothing else is known."""
        return tuple(
            each
            for each in self.namespaces
            if each not in self._refused and self._packs_known(each)
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        readable = self.readable
        return tuple(each for each in self.namespaces if each not in readable)

    async def look(self, kube: Kube, namespaces: Iterable[str]) -> None:
        """Finds out which of these can be read, and says what has changed. Raises KubeError where
        that cannot be known, which leaves it as it was."""
        for namespace in namespaces:
            why = await self._refusal(kube, namespace)
            if why and namespace not in self._refused:
                log.warning(
                    "namespace %s is left out until it is there and may be read: %s", namespace, why
                )
                self._refused.add(namespace)
            elif not why and namespace in self._refused:
                log.info("namespace %s can be read", namespace)
                self._refused.discard(namespace)

    async def _refusal(self, kube: Kube, namespace: str) -> str:
        """Empty where there is none."""
        if not self._packs_known(namespace):
            return "its Pods cannot be listed"
        try:
            await kube.version(API_VERSION, KIND, namespace)
        except KubeError as error:
            if not await refuses(kube, namespace, error):
                raise
            return str(error)
        return ""

    async def version(self, kube: Kube) -> int:
        """Of all that is stored (`Kube.version`), as any namespace tells it. Raises KubeError."""
        *others, last = self.readable or self.namespaces
        for namespace in others:
            try:
                return await kube.version(API_VERSION, KIND, namespace)
            except KubeError as error:
                if not error.shuts_out:
                    raise
        return await kube.version(API_VERSION, KIND, last)


async def refuses(kube: Kube, namespace: str, error: KubeError) -> bool:
    """Whether ``error``, to a request for SLMServices, is about this namespace alone: where the API
    server knows no such kind, it is about all. Raises KubeError."""
    if not namespace or not error.shuts_out:
        return False
    return error.status != HTTPStatus.NOT_FOUND or await kube.serves(API_VERSION, KIND)
