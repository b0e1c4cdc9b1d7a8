"""Certificates for tests of TLS."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


class Papers:
    """An authority, the server's certificate, and a client's, as files."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        server = self.authority.issue_cert("127.0.0.1", "localhost")
        client = self.authority.issue_cert("client@example.com")
        self.ca, self.certificate, self.key, self.client = (folder / name for name in ("ca", "cert", "key", "client"))
        self.authority.cert_pem.write_to_path(str(self.ca))
        server.private_key_pem.write_to_path(str(self.key))
        for blob in server.cert_chain_pems:
            blob.write_to_path(str(self.certificate), append=True)
        client.private_key_and_cert_chain_pem.write_to_path(str(self.client))

    @property
    def settings(self) -> dict[str, str]:
        return {"HTTP_TLS_CERTIFICATE_FILE": str(self.certificate), "HTTP_TLS_KEY_FILE": str(self.key)}

    def context(self, *, client: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if client:
            context.load_cert_chain(str(self.client))
        return context
