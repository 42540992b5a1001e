"""A CPU host's identity and energy, read from a tree of files as /proc and /sys hold them."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_worker.gpu.base import DeviceError, DeviceReading
from slm_worker.gpu.cpu import CpuHost

MEBIBYTES_64 = 64 * 2**20
UNKNOWN = DeviceReading(energy_millijoules=None, power_watts=None)


class FakeClock:
    def __init__(self) -> None:
        self.now_seconds = 1000.0

    def __call__(self) -> float:
        return self.now_seconds


class Tree:
    """A root directory that a test fills."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", "MemTotal:       65536 kB\nMemFree:  1 kB\n")
        self.write("proc/cpuinfo", "processor\t: 0\nmodel name\t: Test CPU 9000\n")

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def domain(self, path: str, name: str, energy_uj: object, range_uj: object = 1_000_000) -> None:
        directory = f"sys/class/powercap/{path}"
        self.write(f"{directory}/name", name)
        self.write(f"{directory}/energy_uj", energy_uj)
        self.write(f"{directory}/max_energy_range_uj", range_uj)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


class TestIdentity:
    def test_names_the_processor_and_the_machine_s_memory(self, tree: Tree) -> None:
        identity = CpuHost(tree.root).identity
        assert identity.kind == "CPU"
        assert identity.name == "Test CPU 9000"
        assert identity.memory_bytes == MEBIBYTES_64
        assert not identity.simulated

    def test_a_processor_without_model_name_is_named_by_its_architecture(self, tree: Tree) -> None:
        tree.write("proc/cpuinfo", "processor : 0")
        assert CpuHost(tree.root).identity.name.endswith(" CPU")

    @pytest.mark.parametrize(
        ("own_cgroup", "limit_file", "limit", "expected_bytes"),
        [
            ("0::/", "memory.max", 1000, 1000),
            ("0::/", "memory.max", "max", MEBIBYTES_64),
            ("0::/a/b", "a/b/memory.max", 1000, 1000),
            ("0::/a/b", "a/memory.max", 1000, 1000),
            ("0::/on/the/host", "memory.max", 1000, 1000),
            ("4:memory:/a", "memory/a/memory.limit_in_bytes", 1000, 1000),
            ("4:cpu,memory:/on/the/host", "memory/memory.limit_in_bytes", 1000, 1000),
            ("4:memory:/a", "memory/memory.limit_in_bytes", 9223372036854771712, MEBIBYTES_64),
            ("4:cpu:/a", "memory/memory.limit_in_bytes", 1000, MEBIBYTES_64),
        ],
    )
    def test_memory_is_the_least_limit_of_the_cgroups(
        self, tree: Tree, own_cgroup: str, limit_file: str, limit: object, expected_bytes: int
    ) -> None:
        tree.write("proc/self/cgroup", own_cgroup)
        tree.write(f"sys/fs/cgroup/{limit_file}", limit)
        assert CpuHost(tree.root).identity.memory_bytes == expected_bytes

    def test_without_meminfo_it_says_what_is_missing(self, tree: Tree) -> None:
        tree.write("proc/meminfo", "")
        with pytest.raises(DeviceError, match="proc/meminfo gives no MemTotal"):
            CpuHost(tree.root)


class TestEnergy:
    async def test_without_rapl_energy_is_unknown(self, tree: Tree) -> None:
        assert await CpuHost(tree.root).read() == UNKNOWN

    async def test_sums_packages_without_their_parts(self, tree: Tree) -> None:
        tree.domain("intel-rapl:0", "package-0", 400_000)
        tree.domain("intel-rapl:1", "package-1", 300_000)
        tree.domain("intel-rapl:0:0", "core", 90_000)
        tree.domain("intel-rapl:2", "psys", 800_000)
        assert (await CpuHost(tree.root).read()).energy_millijoules == 700

    async def test_one_unreadable_package_makes_the_sum_unknown(self, tree: Tree) -> None:
        tree.domain("intel-rapl:0", "package-0", 400_000)
        tree.domain("intel-rapl:1", "package-1", "")
        assert await CpuHost(tree.root).read() == UNKNOWN

    async def test_a_package_that_becomes_unreadable_makes_it_unknown_until_it_is_back(
        self, tree: Tree
    ) -> None:
        tree.domain("intel-rapl:0", "package-0", 400_000)
        host = CpuHost(tree.root)
        tree.write("sys/class/powercap/intel-rapl:0/energy_uj", "")
        assert await host.read() == UNKNOWN
        tree.write("sys/class/powercap/intel-rapl:0/energy_uj", 500_000)
        assert (await host.read()).energy_millijoules == 500

    async def test_a_counter_that_wraps_around_goes_on(self, tree: Tree) -> None:
        tree.domain("intel-rapl:0", "package-0", 900_000)
        host = CpuHost(tree.root)
        energies = []
        for raw_microjoules in (950_000, 50_000, 800_000, 100_000):
            tree.write("sys/class/powercap/intel-rapl:0/energy_uj", raw_microjoules)
            energies.append((await host.read()).energy_millijoules)
        assert energies == [950, 1050, 1800, 2100]

    async def test_power_is_the_mean_since_the_reading_before(self, tree: Tree) -> None:
        clock = FakeClock()
        tree.domain("intel-rapl:0", "package-0", 100_000)
        host = CpuHost(tree.root, clock)
        assert (await host.read()).power_watts is None
        tree.write("sys/class/powercap/intel-rapl:0/energy_uj", 900_000)
        clock.now_seconds += 2
        assert (await host.read()).power_watts == pytest.approx(0.4)
        clock.now_seconds += 0.01
        assert (await host.read()).power_watts == pytest.approx(0.4), "too soon to tell anew"
