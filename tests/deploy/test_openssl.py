"""`deploy/openssl.cnf` has TLS 1.3 choose AES-128 with SHA-256, also for clients that would rather have AES-256."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.certificates import Certificates

CONF = Path(__file__).parents[2] / "deploy" / "openssl.cnf"
_CHOSEN = """
import ssl, sys
from broker.config.settings import Tls
from broker.config.certificates import server_context
context = server_context("tls", Tls(certfile=sys.argv[1], keyfile=sys.argv[2]), "mqtt")
client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
ends = [client.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True)]
for end in ends * 3:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        pass
print(ends[0].version(), ends[0].cipher()[0])
"""


@pytest.mark.parametrize(("conf", "suite"), [("", "AES_256_GCM_SHA384"), (str(CONF), "AES_128_GCM_SHA256")])
def test_the_broker_chooses_it(tmp_path: Path, conf: str, suite: str) -> None:
    made = Certificates(tmp_path)
    environment = {**os.environ, "OPENSSL_CONF": conf or str(tmp_path / "none.cnf")}
    command = [sys.executable, "-c", _CHOSEN, str(made.server), str(made.server_key)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["TLSv1.3", f"TLS_{suite}"]


def test_the_image_has_it() -> None:
    image = (CONF.parent / "Dockerfile").read_text()
    assert "COPY deploy/openssl.cnf /etc/tideline/openssl.cnf" in image
    assert "OPENSSL_CONF=/etc/tideline/openssl.cnf" in image
