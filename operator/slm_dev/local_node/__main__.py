"""`python -m slm_dev.local_node`: a node of its own process, until SIGTERM or SIGINT.

Prints the line `ready` once the node is registered. Whatever ends this process ends its Pods'
processes too.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
from ipaddress import IPv4Network
from pathlib import Path

from slm_dev.local_node.addresses import DEFAULT_NETWORK
from slm_dev.local_node.environment import LocalImage
from slm_dev.local_node.node import NODE_NAME, LocalNode
from slm_dev.local_node.registration import MOST_PODS


def parse_images(texts: list[str]) -> dict[str, LocalImage]:
    """Reads `NAME` or `NAME=VARIABLE=VALUE`, the latter repeated for more variables.

    Raises:
        ValueError: a text has another form.
    """
    env: dict[str, dict[str, str]] = {}
    for text in texts:
        name, *assignment = text.split("=", 2)
        if not name or len(assignment) == 1:
            raise ValueError(f"--image {text}: write NAME or NAME=VARIABLE=VALUE")
        env.setdefault(name, {})
        if assignment:
            env[name][assignment[0]] = assignment[1]
    return {name: LocalImage(variables) for name, variables in env.items()}


def parse_resources(texts: list[str]) -> dict[str, int]:
    """Reads `NAME=COUNT`, where the name has a domain.

    Raises:
        ValueError: a text has another form.
    """
    resources: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        if "/" not in name or not count.isdecimal():
            raise ValueError(f"--resource {text}: write DOMAIN/NAME=COUNT, as nvidia.com/gpu=1")
        resources[name] = int(count)
    return resources


async def run(arguments: argparse.Namespace) -> None:
    """Runs a node until a signal asks for its end, or until it breaks."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with LocalNode(
        kubeconfig=arguments.kubeconfig,
        scheduler_kubeconfig=arguments.scheduler_kubeconfig,
        images=arguments.images,
        root=arguments.root,
        network=arguments.network,
        extended_resources=arguments.resources,
        most_pods=arguments.pods,
        name=arguments.name,
    ) as node:
        print("ready", flush=True)
        stopping = asyncio.create_task(stop.wait())
        broken = asyncio.create_task(node.failed())
        await asyncio.wait({stopping, broken}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        broken.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await broken


def main() -> None:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(prog="python -m slm_dev.local_node", description=__doc__)
    parser.add_argument("--name", default=NODE_NAME, help="of the Node")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="of user system:node:NAME")
    parser.add_argument(
        "--scheduler-kubeconfig",
        type=Path,
        help="of a user with the rights of the role system:kube-scheduler; "
        "without it another node schedules",
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="NAME[=VARIABLE=VALUE]",
        help="an image that Pods may use, with a variable of its environment; repeatable",
    )
    parser.add_argument(
        "--resource",
        action="append",
        default=[],
        metavar="NAME=COUNT",
        help="an extended resource that the node offers, as nvidia.com/gpu=1; repeatable",
    )
    parser.add_argument(
        "--pods", type=int, default=MOST_PODS, metavar="COUNT", help="most Pods at the same time"
    )
    parser.add_argument("--network", type=IPv4Network, default=DEFAULT_NETWORK)
    parser.add_argument("--root", type=Path, required=True, help="a folder for this node alone")
    arguments = parser.parse_args()
    try:
        arguments.images = parse_images(arguments.image)
        arguments.resources = parse_resources(arguments.resource)
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(run(arguments))


if __name__ == "__main__":
    main()
