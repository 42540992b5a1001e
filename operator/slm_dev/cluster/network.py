"""The node's network device, its forwarding rules, and their removal."""

import json
import re
import subprocess
from ipaddress import IPv4Network

from slm_dev.cluster.layout import Layout
from slm_dev.cluster.requirements import search_path

COMMENT = "slm-cluster"
"""Of all its rules in iptables, by which they are removed."""
# kube-proxy's and the kubelet's chains.
_CHAINS = re.compile(r"(?:^:|^-A |-j )KUBE-")


class HostError(RuntimeError):
    """A command that changes the host's network failed."""


def overlaps(layout: Layout) -> list[str]:
    """The host's routes that the cluster's addresses would collide with."""
    routes = json.loads(run("ip", "-json", "-4", "route"))
    own = (layout.pods, layout.services)
    return [
        f"{route['dst']} dev {route['dev']}"
        for route in routes
        if route["dst"] != "default"
        and any(network.overlaps(IPv4Network(route["dst"])) for network in own)
    ]


def create(layout: Layout) -> None:
    """Make the device with the node's address, and let Pods' packets pass."""
    run("ip", "link", "add", layout.link, "type", "bridge")
    run("ip", "address", "add", f"{layout.address}/32", "dev", layout.link)
    run("ip", "link", "set", layout.link, "up")
    for rule in rules(layout):
        run("iptables", "--wait", *rule)


def rules(layout: Layout) -> list[list[str]]:
    """What a host that forwards nothing by default has to let pass, and the Pods' way out.

    What kube-proxy has not sent to a Pod by then is refused: it does not know of that Service yet,
    and a machine elsewhere that answers to the address would be taken for it.
    """
    pods, services = str(layout.pods), str(layout.services)
    mark = ["-m", "comment", "--comment", COMMENT]
    return [
        ["-I", "FORWARD", "-s", pods, *mark, "-j", "ACCEPT"],
        ["-I", "FORWARD", "-d", pods, *mark, "-j", "ACCEPT"],
        ["-t", "nat", "-A", "POSTROUTING", "-s", pods, "!", "-d", pods, *mark, "-j", "MASQUERADE"],
        ["-I", "FORWARD", "-d", services, *mark, "-j", "REJECT"],
        ["-I", "OUTPUT", "-d", services, *mark, "-j", "REJECT"],
    ]


def remove(layout: Layout) -> None:
    """Remove the device, and all rules of the cluster; nothing is done where there are none."""
    devices = {device["ifname"] for device in json.loads(run("ip", "-json", "link"))}
    if layout.link in devices:
        run("ip", "link", "delete", layout.link)
    for family in ("iptables", "ip6tables"):
        saved = run(f"{family}-save", "-c")
        cleaned = without_cluster(saved)
        if cleaned != saved:
            run(f"{family}-restore", "--wait", "-c", text=cleaned)


def without_cluster(saved: str) -> str:
    """Drop from the output of ``iptables-save`` what the cluster's programs put there."""
    return "".join(line for line in saved.splitlines(keepends=True) if not _of_cluster(line))


def _of_cluster(line: str) -> bool:
    rule = re.sub(r"^\[\d+:\d+\] ", "", line)
    words = rule.split()
    return bool(_CHAINS.search(rule)) or COMMENT in words


def run(*command: str, text: str | None = None) -> str:
    """Run a command that administers the host, and return what it prints.

    Raises:
        HostError: it failed; the text ends with what it said.
    """
    done = subprocess.run(
        command,
        input=text,
        env={"PATH": search_path()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise HostError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
