"""Certificates for tests, good ones and bad ones, made by the openssl command."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = "IP:127.0.0.1,DNS:localhost"


@dataclass(frozen=True)
class Certificate:
    """Where a certificate and its private key are, as PEM."""

    cert: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """For a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


class Authority:
    """A certificate authority in a folder, with the certificates that TLS tests need."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = self._signed("authority", "-x509", "-addext", "keyUsage=critical,keyCertSign")
        self.ca = self._root.cert
        self.good = self.issue("good")
        """For 127.0.0.1 and localhost, by this authority."""
        self.expired = self.issue("expired", days=-1)
        self.wrong_host = self.issue("wrong-host", names="DNS:elsewhere.example")
        self.unknown = self._signed("unknown", "-x509", "-addext", f"subjectAltName={HERE}")
        """Signed by nobody but itself."""

    def issue(self, name: str, *, names: str = HERE, days: int = 2) -> Certificate:
        """A certificate for `names` (as openssl writes a subjectAltName), valid for `days` from now."""
        request = self._signed(name)
        signed, extensions = self._folder / f"{name}.signed.pem", self._folder / f"{name}.extensions"
        extensions.write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\n")
        by = ("-CA", self.ca, "-CAkey", self._root.key, "-extfile", extensions, "-days", days)
        self._openssl("x509", "-req", "-in", request.cert, *by, "-out", signed)
        return Certificate(signed, request.key)

    def client_context(self) -> ssl.SSLContext:
        """For a client that believes this authority, and checks the host name."""
        return ssl.create_default_context(cafile=str(self.ca))

    def _signed(self, name: str, *options: str) -> Certificate:
        """A new key, and what `openssl req` makes of it: a request, or with `-x509` a certificate."""
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
        self._openssl("req", *curve, "-keyout", made.key, "-subj", f"/CN={name}", *options, "-out", made.cert)
        return made

    def _openssl(self, *arguments: object) -> None:
        command = ["openssl", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, (command, done.stderr)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))
