"""The attachments as a plugin."""

from __future__ import annotations

from collections.abc import Iterator
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
from plugins.attachments.record import Record
from plugins.attachments.records import Records
from plugins.attachments.routes import PATH, make_router
from plugins.attachments.uploads import Uploads
from plugins.http import add_router
from plugins.http.api import api_of
from plugins.http.auth import Lasting
from plugins.jobs import add_job
from plugins.metrics import add_metrics
from plugins.recall.records import add_eraser
from plugins.timelines import Who
from plugins.timelines.errors import NotFound


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
        self._links = Links(server, records, pieces, self.config.seconds_kept)
        add_router(context, make_router(self), streamed=PATH, documented=paths(PATH))
        add_eraser(context, "attachments", Erasing(server, records, self._links))
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
        return Directory(Path(url.removeprefix("sqlite:///")).parent / "attachments")

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

    async def before_ack(self, group: Group) -> None:
        """Tie attachments to the messages that name them, in the messages' own commit."""
        await self._links.before(group)

    async def after_ack(self, group: Group) -> None:
        """Set right what turned out another way, and remove what was recalled."""
        await self._links.after(group)

    async def close(self) -> None:
        await self._pieces.close()

    # --- what the routes ask -----------------------------------------------------------------------------------------

    async def found(self, id: str) -> Record | None:
        """The record of an id."""
        return await self._records.find(id)

    async def download(self, request: Request, who: Who, record: Record) -> Response:
        """The attachment, for who may read its conversation, or has uploaded it. Raises `NotFound`, the same for what is not
        there and what may not be read."""
        own = who.operator or who.user == record.user
        if record.complete and await (self._may_still(record) if own else self._may_read(request, who, record)):
            return response(request, record, self._pieces, Lasting(api_of(request).authenticator, request, who))
        raise NotFound(f"attachment {record.id!r}: there is none, or you may not read it")

    async def _may_read(self, request: Request, who: Who, record: Record) -> bool:
        """As the message that has it."""
        try:
            message = await api_of(request).timelines.message(who, record.message)
        except NotFound:
            return False
        return not message.recalled

    async def _may_still(self, record: Record) -> bool:
        """Its uploader: until it expires, or its message is gone."""
        if not record.message:
            return record.expires > self._server.now()
        message = await self._server.storage.read_message(int(record.message, 16))
        return message is not None and not message.expired(self._server.now()) and not message.recalled

    def _metrics(self) -> Iterator[Metric]:
        uploads = self.uploads
        for name, help, value in (
            ("attachment_bytes", "Bytes of attachments that came, and were written.", uploads.received),
            ("attachments_completed", "Attachments of which all has come.", uploads.completed),
            ("attachment_conflicts", "Requests to upload at another offset than the attachment is at.", uploads.refused),
        ):
            yield CounterMetricFamily(f"tideline_{name}", help, value)
