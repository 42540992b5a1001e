"""How the API server is reached: its address, the credentials, and the proxy on the way."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kubernetes.aio import client, config

from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kubeconfig import UNUSABLE_CONFIGURATION, load

USERS_KUBECONFIG = "~/.kube/config"


async def configuration(kubeconfig: Path | None = None) -> client.Configuration:
    """By ``kubeconfig``, else KUBECONFIG, else the Pod's service account, else ~/.kube/config.

    Raises KubeError (NoClusterConfig) when none of them is there.
    """
    settings = client.Configuration()
    named = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG")
    try:
        if named:
            await load(named, settings)
        else:
            try:
                config.load_incluster_config(client_configuration=settings)
            except config.ConfigException:
                await load(USERS_KUBECONFIG, settings)
    except UNUSABLE_CONFIGURATION as error:
        raise KubeError(
            0,
            "NoClusterConfig",
            f"no usable cluster configuration ({error}): mend it, or set KUBECONFIG to a "
            "kubeconfig file",
        ) from error
    settings.proxy = settings.proxy or proxy_of_environment(settings.host)
    return settings


def proxy_of_environment(url: str) -> str | None:
    """Of HTTPS_PROXY and its like, unless NO_PROXY names the host of ``url``, or a network that it
    is in."""
    where, proxies = urlsplit(url), getproxies()
    if proxy_bypass(where.netloc) or _is_within(where.hostname or "", proxies.get("no", "")):
        return None
    return proxies.get(where.scheme)


def _is_within(host: str, exceptions: str) -> bool:
    """Whether ``host`` is an IP address in one of these networks, which Python takes for names."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for each in exceptions.split(","):
        with suppress(ValueError):
            if address in ipaddress.ip_network(each.strip(), strict=False):
                return True
    return False
