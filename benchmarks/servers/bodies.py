"""Bodies of HTTP requests, which come with their length or in chunks."""

from email.message import Message
from typing import BinaryIO


def read_body(headers: Message, stream: BinaryIO) -> bytes:
    """The whole body; the next request of the connection follows it in the stream."""
    if "chunked" not in headers.get("Transfer-Encoding", "").lower():
        return stream.read(int(headers.get("Content-Length", 0)))
    body = bytearray()
    while size := int(stream.readline().partition(b";")[0], 16):
        body += stream.read(size)
        stream.readline()
    while stream.readline().strip():  # trailers
        pass
    return bytes(body)
