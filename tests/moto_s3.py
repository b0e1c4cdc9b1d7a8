"""A third S3 server: moto, in a process of its own. It has what the others have not: IAM, STS and KMS's parameters."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

import boto3  # type: ignore[import-untyped]
import httpx

from headrace.local import s3
from headrace.local.ports import LOOPBACK, free_ports
from headrace.local.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TIMEOUT: Final = 5.0


class MotoS3(Server):
    """One bucket. Nobody is asked for a right until `guard` is called."""

    name = "moto"

    def __init__(self, data: Path) -> None:
        super().__init__(data.absolute(), data.absolute() / "moto.log")
        (self.port,) = free_ports(1)

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ENDPOINT_URL_STS": self.endpoint,
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_REGION": s3.REGION,
            "S3_BUCKET": s3.BUCKET,
        }

    def spawn(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        start = "from moto.server import main; main()"
        self._run("moto", [sys.executable, "-c", start, "-H", LOOPBACK, "-p", str(self.port)])

    def answers(self) -> bool:
        """Whether the bucket is there. It is made by whoever asks first."""
        try:
            answer = httpx.put(f"{self.endpoint}/{s3.BUCKET}", timeout=TIMEOUT, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 or "BucketAlreadyOwnedByYou" in answer.text

    def guard(self, *, after: int = 0) -> None:
        """From now on each request needs a right; `after` so many that need none."""
        httpx.post(f"{self.endpoint}/moto-api/reset-auth", content=str(after), timeout=TIMEOUT, trust_env=False)

    def open_up(self) -> None:
        """Nobody is asked for rights any more."""
        httpx.post(f"{self.endpoint}/moto-api/reset-auth", content="inf", timeout=TIMEOUT, trust_env=False)

    def client(self, service: str) -> Any:
        """A client of boto3's, for what headrace has no call for."""
        keys = {"aws_access_key_id": "anybody", "aws_secret_access_key": "anything"}
        return boto3.client(service, endpoint_url=self.endpoint, region_name=s3.REGION, **keys)

    def user(self, name: str, actions: Sequence[str]) -> dict[str, str]:
        """A user who may do these things; the environment of whoever acts in its name."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy(actions))
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def role(self, name: str, actions: Sequence[str]) -> str:
        """The ARN of a role that may do these things."""
        iam = self.client("iam")
        arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(["sts:AssumeRole"]))["Role"]["Arn"]
        iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=policy(actions))
        return arn


def policy(actions: Sequence[str]) -> str:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
