"""Keeps what a broker serves by TLS up to date: files that change are read again, and what is about to expire is told of.

- Files are looked at every `INTERVAL` seconds. What does not serve (a certificate that was replaced, its key not yet) is told
  once and leaves the old one; the next change is tried again.
- Before something expires the log says so, when `_DAYS` are left, and again when it has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from broker.config.certificates import Certificate, Expiry
from broker.config.settings import Tls
from broker.errors import StartError

logger = logging.getLogger(__name__)

INTERVAL = 10.0
_DAYS = (30, 7, 1, 0)
_DAY = 86_400_000


class CertificateWatch:
    """The certificates of one broker. Who listens adds its own."""

    def __init__(self) -> None:
        self._renewed: dict[Certificate, Callable[[], None]] = {}
        self._warned: dict[tuple[str, str], tuple[int, int]] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, certificate: Certificate, renewed: Callable[[], None] = lambda: None) -> None:
        """Look after it; ``renewed`` is called each time that its files were read again, on the event loop."""
        self._renewed[certificate] = renewed
        self._tell(certificate.expiries)
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name="certificates")

    @property
    def expiries(self) -> list[Expiry]:
        """How long each certificate, and each list of revoked ones, serves."""
        return [expiry for certificate in self._renewed for expiry in certificate.expiries]

    async def renew(self, certificate: Certificate, tls: Tls) -> None:
        """Read files again. Raises `StartError`, and the old ones stay."""
        await asyncio.to_thread(certificate.renew, tls)
        self._done(certificate)

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            for certificate in list(self._renewed):
                try:
                    if await asyncio.to_thread(certificate.renew_if_changed):
                        logger.info("%s: certificate files have changed, and were read again", certificate.name)
                        self._done(certificate)
                except StartError as error:
                    logger.warning("certificate files have changed, and do not serve; the old ones stay: %s", error)
            self._tell(self.expiries)

    def _done(self, certificate: Certificate) -> None:
        self._tell(certificate.expiries)
        self._renewed[certificate]()

    def _tell(self, expiries: list[Expiry]) -> None:
        now = time.time() * 1000
        for one in expiries:
            left = (one.not_after - now) / _DAY
            near = min((days for days in _DAYS if left <= days), default=None)
            key, said = (one.name, one.what), (one.not_after, -1 if near is None else near)
            if near is not None and self._warned.get(key) != said:
                what = "list of revoked certificates" if one.what == "crl" else "certificate"
                when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(one.not_after / 1000))
                how = f"expires on {when}, in {left:.1f} days" if left > 0 else f"has expired, on {when}"
                logger.warning("%s: %s %s %s", one.name, what, one.file, how)
            self._warned[key] = said
