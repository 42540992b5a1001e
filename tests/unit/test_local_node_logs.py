"""The local node's logs and addresses."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from slm_dev.local_node import logs
from slm_dev.local_node.addresses import AddressPool
from slm_dev.local_node.shim import RotatingLog
from slm_dev.local_node.spec import PodSpec

POD = PodSpec("ns", "pack-0", "uid-1")


def write(root: Path, attempt: int, text: str, pod: PodSpec = POD) -> None:
    log = RotatingLog(str(logs.path(root, pod, "main", attempt)), 20)
    for line in text.splitlines(keepends=True):
        log.write(line.encode())


def test_a_log_keeps_its_latest_part_within_its_limit(tmp_path: Path) -> None:
    write(tmp_path, 0, "".join(f"line {number}\n" for number in range(9)))
    assert logs.read(tmp_path, "ns", "pack-0") == "line 7\nline 8\n"
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 20


def test_attempts_are_read_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, 10, "second\n")
    write(tmp_path, 9, "first\n")
    write(tmp_path, 0, "of another\n", PodSpec("ns", "pack", "uid-2"))
    assert logs.read(tmp_path, "ns", "pack-0") == "first\nsecond\n"


def test_a_log_is_for_its_owner_alone(tmp_path: Path) -> None:
    write(tmp_path, 0, "text\n")
    assert logs.path(tmp_path, POD, "main", 0).stat().st_mode & 0o777 == 0o600


def test_forgotten_logs_are_gone_with_their_older_halves(tmp_path: Path) -> None:
    write(tmp_path, 0, "a long line\n" * 5)
    logs.forget(tmp_path, POD)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="no logs of pod ns/pack-0"):
        logs.read(tmp_path, "ns", "pack-0")


def test_a_last_message_is_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert logs.last_message(log) == ""
    log.write_text("".join(f"{number}\n" for number in range(100)))
    assert logs.last_message(log).splitlines() == [str(number) for number in range(20, 100)]
    log.write_text("x" * 3000)
    assert logs.last_message(log) == "x" * 2048


def test_an_address_is_handed_out_once_even_among_several_pools() -> None:
    network = IPv4Network("127.99.77.0/29")
    one, other = AddressPool(network), AddressPool(network)
    claimed = [one.claim(), other.claim(), one.claim(), other.claim(), one.claim(), one.claim()]
    assert sorted(claimed) == [f"127.99.77.{number}" for number in range(1, 7)]

    with pytest.raises(OSError, match="is in use"):
        other.claim()
    one.release(claimed[0])
    assert other.claim() == claimed[0]
    for address in (claimed[2], claimed[4], claimed[5]):
        one.release(address)
    for address in (claimed[0], claimed[1], claimed[3]):
        other.release(address)
