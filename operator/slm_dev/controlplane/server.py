"""Starts and stops a control plane: etcd and one API server, on loopback."""

import http.client
import json
import random
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from slm_dev.controlplane import commands, credentials
from slm_dev.controlplane.binaries import Binaries
from slm_dev.controlplane.credentials import UserName
from slm_dev.controlplane.process import GuardedProcess

START_TIMEOUT_SECONDS = 120.0
_POLL_SECONDS = 0.1
_PORT_TRIES = 5
# Below Linux's range of ephemeral ports, so that no outgoing connection takes the port while the
# API server is stopped, and below the range of node ports.
_PORTS = range(20000, 30000)
_HOST = "127.0.0.1"
_DEFAULT_NAMESPACE = "/api/v1/namespaces/default"


class ControlPlaneStartError(RuntimeError):
    """etcd or the API server did not start."""


class _PortTakenError(Exception):
    """Another program took the port between its choice and its use."""


class ControlPlane:
    """A running etcd and API server with the users of `credentials.USERS`; a context manager, or
    `start` and `stop`.

    There is no controller manager: nothing follows owner references, deletes what is in a deleted
    namespace, or makes default service accounts. All calls block, so asyncio code makes them
    through `asyncio.to_thread`. The programs end when this process does, even by SIGKILL.

    `audit_log` names a file that gets one JSON line of metadata for each request, and that stays.
    """

    def __init__(self, binaries: Binaries, audit_log: Path | None = None) -> None:
        self._binaries = binaries
        self._audit_log = audit_log.absolute() if audit_log else None
        self._tokens = credentials.random_tokens(credentials.USERS)
        self._folder: Path | None = None
        self._port = 0
        self._etcd: GuardedProcess | None = None
        self._apiserver: GuardedProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://{_HOST}:{self._port}"

    def kubeconfig(self, user: UserName) -> Path:
        """Return the path of the kubeconfig file of `user`; it is there from `start` to `stop`."""
        return self._running_folder() / f"{user}.kubeconfig"

    def start(self) -> None:
        """Start etcd and the API server and wait until both serve requests.

        Raises:
            ControlPlaneStartError: one of them ended, or was not ready within
                `START_TIMEOUT_SECONDS`; the text ends with what it logged.
        """
        if self._folder is not None:
            raise RuntimeError("This control plane is already started; call stop() first.")
        folder = self._folder = Path(tempfile.mkdtemp(prefix="slm-controlplane-"))
        try:
            credentials.write_token_file(folder / "tokens.csv", credentials.USERS, self._tokens)
            credentials.write_service_account_key(folder / "service-account.key")
            policy = json.dumps(commands.AUDIT_POLICY)
            (folder / "audit-policy.json").write_text(policy)
            self._start_etcd(folder)
            self._start_apiserver_on_a_free_port()
            self._write_kubeconfigs(folder)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End both programs and remove their files; does nothing when nothing runs."""
        self.stop_apiserver()
        if self._etcd is not None:
            self._etcd.stop()
            self._etcd = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def stop_apiserver(self) -> None:
        """End the API server alone; etcd keeps the data."""
        if self._apiserver is not None:
            self._apiserver.stop()
            self._apiserver = None

    def start_apiserver(self) -> None:
        """Start the API server again, at the same address and with the same data.

        Raises:
            ControlPlaneStartError: it ended, was not ready in time, or its port is taken.
        """
        folder = self._running_folder()
        if self._apiserver is not None:
            raise RuntimeError("The API server is already started; call stop_apiserver() first.")
        try:
            self._start_apiserver_on(self._port, folder)
        except _PortTakenError as error:
            raise ControlPlaneStartError(
                f"Another program took port {self._port} while the API server was stopped. "
                "End that program and call start_apiserver() again."
            ) from error

    def snapshot(self, copy: Path) -> None:
        """Copy what is stored to the new folder `copy`. API server and etcd are restarted for it.

        Raises:
            ControlPlaneStartError: one of them did not start again.
        """
        self._without_etcd(lambda data: shutil.copytree(data, copy))

    def restore(self, copy: Path) -> None:
        """Go back to what was stored when `snapshot` wrote `copy`, versions of objects included.

        Raises:
            ControlPlaneStartError: API server or etcd did not start again.
        """

        def replace(data: Path) -> None:
            shutil.rmtree(data)
            shutil.copytree(copy, data)

        self._without_etcd(replace)

    def _without_etcd(self, work: Callable[[Path], object]) -> None:
        folder = self._running_folder()
        self.stop_apiserver()
        if self._etcd is not None:
            self._etcd.stop()
        work(folder / commands.ETCD_DATA)
        self._start_etcd(folder)
        self.start_apiserver()

    def _start_etcd(self, folder: Path) -> None:
        self._etcd = GuardedProcess(commands.etcd(self._binaries), folder, folder / "etcd.log")

    def _running_folder(self) -> Path:
        if self._folder is None:
            raise RuntimeError("This control plane is not started; call start() first.")
        return self._folder

    def _start_apiserver_on_a_free_port(self) -> None:
        folder = self._running_folder()
        for _ in range(_PORT_TRIES):
            self._port = _free_port()
            try:
                self._start_apiserver_on(self._port, folder)
            except _PortTakenError:
                continue
            return
        raise ControlPlaneStartError(
            f"{_PORT_TRIES} free ports from {_PORTS.start} to {_PORTS.stop - 1} were each taken by "
            "another program before the API server could use them. Try again."
        )

    def _start_apiserver_on(self, port: int, folder: Path) -> None:
        command = self._apiserver_command(port)
        self._apiserver = GuardedProcess(command, folder, folder / "kube-apiserver.log")
        try:
            self._wait_until_ready(folder)
        except BaseException:
            self.stop_apiserver()
            raise

    def _wait_until_ready(self, folder: Path) -> None:
        assert self._etcd is not None and self._apiserver is not None  # noqa: S101
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        # The `default` namespace appears a moment after /readyz says ok.
        while not (self._serves("/readyz", folder) and self._serves(_DEFAULT_NAMESPACE, folder)):
            if self._etcd.exited():
                raise ControlPlaneStartError(_with_log("etcd ended", self._etcd))
            if self._apiserver.exited():
                if "address already in use" in self._apiserver.log_tail():
                    raise _PortTakenError
                raise ControlPlaneStartError(_with_log("kube-apiserver ended", self._apiserver))
            if time.monotonic() > deadline:
                what = f"kube-apiserver was not ready after {START_TIMEOUT_SECONDS:.0f} s"
                raise ControlPlaneStartError(_with_log(what, self._apiserver))
            time.sleep(_POLL_SECONDS)

    def _serves(self, path: str, folder: Path) -> bool:
        try:
            trust = ssl.create_default_context(cafile=str(_certificate(folder)))
            connection = http.client.HTTPSConnection(_HOST, self._port, timeout=5, context=trust)
            try:
                authorization = f"Bearer {self._tokens['admin']}"
                connection.request("GET", path, headers={"Authorization": authorization})
                return connection.getresponse().status == http.HTTPStatus.OK
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            return False

    def _apiserver_command(self, port: int) -> list[str]:
        command = commands.kube_apiserver(self._binaries, IPv4Address(_HOST), port)
        command += [
            # Loopback addresses are not valid endpoints of the `kubernetes` Service.
            "--endpoint-reconciler-type=none",
            # It refuses every pod whose namespace has no default service account, and only a
            # controller manager makes those.
            "--disable-admission-plugins=ServiceAccount",
        ]
        if self._audit_log is not None:
            command += commands.audit(self._audit_log)
        return command

    def _write_kubeconfigs(self, folder: Path) -> None:
        authority = _certificate(folder)
        for user, token in self._tokens.items():
            path = self.kubeconfig(user)
            credentials.write_kubeconfig(path, user, self.url, authority, token)


def _certificate(folder: Path) -> Path:
    return folder / "certificates" / "apiserver.crt"


def _free_port() -> int:
    for port in random.sample(_PORTS, k=100):
        with socket.socket() as probe:
            # As the API server does, so that connections in TIME_WAIT do not count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return port
    raise ControlPlaneStartError(
        f"No free port was found on {_HOST} from {_PORTS.start} to {_PORTS.stop - 1}. "
        "End the programs that listen there and try again."
    )


def _with_log(what: str, process: GuardedProcess) -> str:
    return f"{what}. Fix what its log names and start again. Its log ends:\n{process.log_tail()}"
