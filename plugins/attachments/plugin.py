"""The attachments as a plugin."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, cast

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from starlette.requests import Request
from starlette.responses import Response

from broker.amqtt import Services
from broker.errors import StartError
from broker.hooks import Group, GroupPlugin
from plugins.attachments import config
from plugins.attachments.cleaning import CleaningJob
from plugins.attachments.directory import Directory
from plugins.attachments.document import paths
from plugins.attachments.downloads import response
from plugins.attachments.erasing import Erasing
from plugins.attachments.links import Links
from plugins.attachments.pieces import Pieces, PiecesAway
from plugins.attachments.records import Records
from plugins.attachments.routes import PATH, list_router, make_router
from plugins.attachments.shelf import Shelf, kinds
from plugins.attachments.uploads import Uploads
from plugins.http import add_router
from plugins.http.api import api_of
from plugins.http.auth import Lasting
from plugins.jobs import add_job
from plugins.metrics import add_metrics
from plugins.recall.records import add_eraser
from plugins.sync_requests import add_requests
from plugins.timelines import Who


class AttachmentsPlugin(GroupPlugin):
    """Takes uploads, ties them to messages, and gives them to who may read these."""

    Config = config.Config
    config: config.Config

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._server = server = cast(Services, context.server)
        self._pieces = pieces = self._kept_in()
        self._records = records = Records(server)
        self.largest = self.config.largest
        self.uploads = Uploads(server, self.config, records, pieces)
        self.shelf = Shelf(server, records, self.uploads)
        self._links = Links(server, records, pieces, self.config.seconds_kept)
        add_router(context, make_router(self), streamed=PATH, documented=paths(PATH))
        add_router(context, list_router(self.shelf))
        add_requests(context, kinds(self.shelf))
        add_eraser(context, "attachments", Erasing(server, records, pieces))
        add_job(context, CleaningJob(server, records, pieces, self._links, self.config.seconds_kept), self.config.scheduled)
        add_metrics(context, self._metrics)

    def _kept_in(self) -> Pieces:
        if self.config.s3 is not None:
            try:
                from plugins.attachments.s3 import S3
            except ImportError as error:
                raise StartError(f"plugins.attachments.s3: pip install 'tideline[s3]' first ({error})") from None
            return S3(self.config.s3)
        url = self._server.settings.storage_url
        if self.config.directory:
            return Directory(Path(self.config.directory))
        if not url.startswith("sqlite://"):
            raise StartError("plugins.attachments: say where the bytes are: directory, or s3")
        return Directory(Path(url.removeprefix("sqlite://").removeprefix("/")).parent / "attachments")

    async def on_broker_post_start(self) -> None:
        """Refuse to start where the bytes could not be kept, or other nodes would not find them."""
        if self.config.s3 is None and self._server.storage.cluster is not None and not self.config.shared:
            raise StartError(
                "plugins.attachments: several nodes may serve this database, and what is uploaded to one must be there for "
                "all: give s3, or a directory that all of them have, and say shared: true"
            )
        try:
            await self._pieces.open()
        except PiecesAway as error:
            raise StartError(f"plugins.attachments: {error}") from None

    def before_ack(self, group: Group) -> Awaitable[None] | None:
        """Tie attachments to the messages that name them, in the messages' own commit."""
        return self._links.before(group)

    def after_ack(self, group: Group) -> Awaitable[None] | None:
        """Set right what turned out another way, and remove what was recalled."""
        return self._links.after(group)

    async def close(self) -> None:
        await self._pieces.close()

    async def download(self, request: Request, who: Who) -> Response:
        """The attachment, for who may have it. Raises `NotFound` and `Away`."""
        record = await self.shelf.readable(who, request.path_params["id"])
        return await response(request, record, self._pieces, Lasting(api_of(request).authenticator, request, who))

    def _metrics(self) -> Iterator[Metric]:
        uploads = self.uploads
        for name, help, value in (
            ("attachment_bytes", "Bytes of attachments that came, and were written.", uploads.received),
            ("attachments_completed", "Attachments of which all has come.", uploads.completed),
            ("attachment_conflicts", "Requests to upload at another offset than the attachment is at.", uploads.refused),
        ):
            yield CounterMetricFamily(f"tideline_{name}", help, value)
