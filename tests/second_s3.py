"""A second S3 server, which shares no line with SeaweedFS: S3Proxy, from Maven Central, with its objects in memory.

Its files are fetched, kept and checked as Kafka's are (headrace/local/jars.py), by the list beside this.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import httpx
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from headrace.local import jars, s3
from headrace.local.java import find_java
from headrace.local.ports import LOOPBACK, free_ports
from headrace.local.progress import Silent
from headrace.local.server import Server

VERSION: Final = "4.1.0"
LIST: Final = Path(__file__).with_name(f"s3proxy-{VERSION}.sha256")
_LOGGING: Final = """
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %level %logger{20} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
"""


class SecondS3(Server):
    """One bucket, which is empty after each start. It looks at signatures."""

    name = "The second S3 server"

    def __init__(self, data: Path) -> None:
        super().__init__(data.absolute(), data.absolute() / "s3proxy.log")
        (self.port,) = free_ports(1)

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": s3.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": s3.SECRET_KEY,
            "AWS_REGION": s3.REGION,
            "S3_BUCKET": s3.BUCKET,
        }

    def spawn(self) -> None:
        files = jars.provide([jars.JarList.parse(LIST.name, LIST.read_text("ascii"))], Silent(), f"S3Proxy {VERSION}")
        self.data.mkdir(parents=True, exist_ok=True)
        logging = self.data / "logback.xml"
        logging.write_text(_LOGGING)
        properties = self.data / "s3proxy.conf"
        told = {
            "s3proxy.endpoint": self.endpoint,
            "s3proxy.authorization": "aws-v4",
            "s3proxy.identity": s3.ACCESS_KEY,
            "s3proxy.credential": s3.SECRET_KEY,
            "jclouds.provider": "transient-nio2",
        }
        properties.write_text("".join(f"{name}={value}\n" for name, value in told.items()))
        command = [
            str(find_java()),
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Dlogback.configurationFile={logging}",
            "-cp",
            os.pathsep.join(map(str, files)),
            "org.gaul.s3proxy.Main",
            "--properties",
            str(properties),
        ]
        self._run("S3Proxy", command)

    def answers(self) -> bool:
        """Whether the bucket is there. It is made by whoever asks first."""
        url = f"{self.endpoint}/{s3.BUCKET}"
        request = AWSRequest("PUT", url)
        S3SigV4Auth(Credentials(s3.ACCESS_KEY, s3.SECRET_KEY), "s3", s3.REGION).add_auth(request)
        try:
            answer = httpx.put(url, headers=dict(request.headers), timeout=2, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 or "BucketAlreadyOwnedByYou" in answer.text
