"""Attachments: what is too large for MQTT is uploaded over HTTP (tus 1.0), and a message refers to it.

Kept true: an offset that was confirmed is durable; who may not read a conversation is not given its attachments; an attachment
goes with its message; no path is made of what a caller sends.

``record`` is what is kept of an attachment, ``records`` keeps it as rows, ``pieces`` are its bytes (``directory`` and ``s3``
keep them), ``uploads`` and ``writing`` take them, ``downloads`` gives them, ``tus`` is the protocol's headers, ``routes`` the
calls (``document`` is what OpenAPI says of them), ``links`` ties attachments to messages, ``cleaning`` is the job that removes
what nobody needs, ``erasing`` removes what an erasure is to, ``plugin`` runs all.
"""

from plugins.attachments.plugin import AttachmentsPlugin

__all__ = ["AttachmentsPlugin"]
