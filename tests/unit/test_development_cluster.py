"""What the development cluster is told, as text, before anything of it starts."""

import hashlib
import io
import json
import tarfile
import tomllib
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from slm_dev.cluster import components, config, manifests, requirements
from slm_dev.cluster.layout import Layout
from slm_dev.cluster.network import without_cluster
from slm_dev.cluster.programs import Programs
from slm_dev.cluster.static_image import write_static_image
from slm_dev.controlplane import Binaries

LAYOUT = Layout()
PROGRAMS = Programs(
    control_plane=Binaries(Path("/p/etcd"), Path("/p/kube-apiserver"), Path("/p/kubectl")),
    node=Path("/p"),
    coredns=Path("/p/coredns"),
    pause=Path("/p/pause"),
    probe=Path("/p/probe"),
)
HOST_RULES = """\
*filter
:INPUT ACCEPT [1:2]
[0:0] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""
CLUSTER_RULES = """\
*filter
:INPUT ACCEPT [1:2]
:KUBE-FORWARD - [0:0]
[0:0] -A INPUT -m comment --comment "kubernetes health check" -j KUBE-NODEPORTS
[0:0] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
[0:0] -A FORWARD -s 10.244.0.0/16 -m comment --comment slm-cluster -j ACCEPT
[7:8] -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
"""


def test_the_rules_of_the_cluster_go_and_those_of_the_host_stay() -> None:
    assert without_cluster(CLUSTER_RULES) == HOST_RULES
    assert without_cluster(HOST_RULES) == HOST_RULES


def test_the_addresses_of_node_and_dns_are_of_their_networks() -> None:
    assert LAYOUT.address == IPv4Address("10.244.0.1")
    assert LAYOUT.dns in LAYOUT.services
    assert LAYOUT.api_url == "https://10.244.0.1:6443"


def test_containerd_keeps_all_that_it_writes_in_the_clusters_own_folders() -> None:
    written = tomllib.loads(config.containerd(LAYOUT))
    runtime = written["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"]["runc"]
    paths = [
        written["root"],
        written["state"],
        written["grpc"]["address"],
        written["plugins"]["io.containerd.internal.v1.opt"]["path"],
        runtime["options"]["Root"],
    ]
    assert all(path.startswith((str(LAYOUT.data), str(LAYOUT.runtime))) for path in paths)


def test_the_kubelet_asks_who_calls_and_keeps_images_when_the_disk_fills() -> None:
    written = config.kubelet(LAYOUT)
    assert written["authentication"]["anonymous"] == {"enabled": False}
    assert written["authorization"] == {"mode": "Webhook"}
    assert written["imageGCHighThresholdPercent"] == 100
    assert written["clusterDNS"] == [str(LAYOUT.dns)]


def test_the_api_server_listens_on_the_nodes_address_only() -> None:
    (_, apiserver) = components.control_plane(LAYOUT, PROGRAMS)
    assert "--bind-address=10.244.0.1" in apiserver.command
    assert f"--audit-log-path={LAYOUT.audit_log}" in apiserver.command


def test_no_token_or_key_is_on_a_command_line() -> None:
    every = [
        *components.control_plane(LAYOUT, PROGRAMS),
        components.containerd(LAYOUT),
        *components.controllers(LAYOUT, PROGRAMS, gpus=2),
    ]
    assert not [word for each in every for word in each.command if "token=" in word.lower()]
    assert len({each.name for each in every}) == len(every)


def test_the_device_plugin_is_told_how_many_gpus_there_are() -> None:
    (plugin,) = (
        each
        for each in components.controllers(LAYOUT, PROGRAMS, gpus=3)
        if each.name == "slm-device-plugin"
    )
    assert "--count=3" in plugin.command


def test_the_dns_service_has_the_address_that_the_kubelet_tells_pods() -> None:
    (service,) = (
        each
        for each in manifests.system_objects(LAYOUT)
        if (each["kind"], each["metadata"]["name"]) == ("Service", "kube-dns")
    )
    assert service["spec"]["clusterIP"] == str(LAYOUT.dns)


def test_an_image_holds_the_program_and_is_the_same_each_time(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"a program")
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    for archive in (first, second):
        write_static_image(archive, "slm.local/pause:dev", program)
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        (entry,) = json.loads(_read(tar, "manifest.json"))
        layer = _read(tar, entry["Layers"][0])
        image = json.loads(_read(tar, entry["Config"]))
    assert entry["RepoTags"] == ["slm.local/pause:dev"]
    assert image["config"]["Entrypoint"] == ["/pause"]
    assert image["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert _read(tar, "pause") == b"a program"


def test_a_host_without_the_programs_is_told_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    assert {"containerd", "runc", "iptables"} <= set(requirements.missing_packages())
    assert any("make setup-cluster" in each for each in requirements.obstacles())


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()
