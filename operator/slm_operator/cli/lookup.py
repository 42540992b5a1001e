"""Reading services from the cluster, with refusals that say what to do."""

from __future__ import annotations

import asyncio
import difflib
import os
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from slm_operator.api.models import API_VERSION, GROUP, KIND, SLMService, SLMServiceSpec
from slm_operator.cli.terminal import fail
from slm_operator.cluster.configuration import USERS_KUBECONFIG
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube, Object, Objects, get_or_none
from slm_operator.cluster.kubeconfig import UNUSABLE_CONFIGURATION, read_kubeconfig
from slm_operator.cluster.profiles import CONFIG_MAP

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Result = TypeVar("Result")


class LookupFailedError(Exception):
    """What was asked for cannot be had; the message has cause and remedy in one line."""


def run(kubeconfig: Path | None, work: Callable[[Kube], Awaitable[Result]]) -> Result:
    """Connects and does ``work``; ends the command where the cluster or ``work`` refuses, which may
    raise KubeError and LookupFailedError."""

    async def connected() -> Result:
        kube = await Kube.connect(kubeconfig_of(kubeconfig))
        try:
            return await work(kube)
        finally:
            await kube.close()

    try:
        return asyncio.run(connected())
    except KubeError as error:
        fail(_remedy(error))
    except LookupFailedError as error:
        fail(str(error))


def find(kubeconfig: Path | None, namespace: str, name: str) -> Object:
    """One SLMService as the API server holds it; ends the command where there is none."""
    return run(kubeconfig, lambda kube: service(kube, namespace, name))


def read(obj: Object) -> SLMService:
    """Ends the command where the object is one of another release."""
    try:
        return SLMService.from_object(obj)
    except ValidationError as error:
        first = error.errors()[0]
        part = "spec" if error.title == SLMServiceSpec.__name__ else "status"
        field = ".".join(map(str, (part, *first["loc"])))
        fail(
            f"SLMService {obj['metadata']['name']} does not fit this slmctl ({field}: "
            f"{first['msg']}): use the slmctl of the operator's release"
        )


def kubeconfig_of(given: Path | None) -> Path | None:
    """As kubectl chooses, also within a Pod: ``given``, else KUBECONFIG, which may list several,
    else the user's own, if it has a current context. None where only the Pod's account is left."""
    if named := given or os.environ.get("KUBECONFIG"):
        return Path(named)
    own = Path(USERS_KUBECONFIG).expanduser()
    try:
        return own if read_kubeconfig(str(own)) else None
    except UNUSABLE_CONFIGURATION:
        return own  # to connect by it fails, and says why


def default_namespace(kubeconfig: Path | None) -> str:
    """That of the kubeconfig's current context, else of the Pod that this runs in."""
    chosen = kubeconfig_of(kubeconfig)
    if chosen is None:
        return POD_NAMESPACE.read_text() if POD_NAMESPACE.exists() else "default"
    try:
        found = read_kubeconfig(str(chosen))
    except UNUSABLE_CONFIGURATION:
        return "default"  # to connect by it fails too, and says why
    return found.namespace if found else "default"


async def service(kube: Kube, namespace: str, name: str) -> Object:
    """One SLMService as the API server holds it. Raises KubeError and LookupFailedError."""
    found = await get_or_none(kube, API_VERSION, KIND, name, namespace)
    if found is not None:
        return found
    others = [obj["metadata"]["name"] for obj in await services(kube, namespace)]
    close = difflib.get_close_matches(name, others)
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    elif others:
        hint = f"there are {', '.join(sorted(others)[:10])}"
    else:
        hint = "there is none; create one with `kubectl apply`, or name another with --namespace"
    raise LookupFailedError(f"namespace {namespace} has no SLMService {name}: {hint}")


async def services(kube: Kube, namespace: str) -> Objects:
    """All SLMServices of a namespace. Raises KubeError and LookupFailedError."""
    try:
        return await kube.list(API_VERSION, KIND, namespace)
    except KubeError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
    raise LookupFailedError(
        f"this cluster does not know SLMServices ({GROUP}): install the operator, in "
        "a checkout of its repository, with `kubectl apply -f crds/ "
        "-f charts/slm-operator/files/operator-rbac.yaml`, then run slm-operator"
    )


def _remedy(error: KubeError) -> str:
    message = " ".join(error.message.split())
    if error.status == 0 and error.reason == "Unreachable":
        return (
            f"{message}: check that the cluster runs and that KUBECONFIG or --kubeconfig names it"
        )
    if error.status == 401:
        return f"the API server does not know you ({message}): renew the kubeconfig's credentials"
    if error.status == 403 and '"pods' in message:
        return f"{message}: ask for that right; logs reads pods and pods/log, top pods/proxy"
    if error.status == 403:
        if "configmaps" in message:
            return f"{message}: ask for that right on the ConfigMap {CONFIG_MAP}"
        return f"{message}: ask for the right to get and list slmservices in {GROUP}"
    return message
