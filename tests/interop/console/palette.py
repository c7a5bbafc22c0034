"""Pictures of 256 colours, a third of the size: a browser counts the colours, and this writes the PNG."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

_COUNT = """async (png) => {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) || 0) + 1);
  const colours = [...counts].sort((one, other) => other[1] - one[1]).map(([colour]) => colour);
  const palette = colours.slice(0, 256);
  const parts = (colour) => [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
  const near = (colour, [r, g, b] = parts(colour)) => {
    let best = 0, least = Infinity;
    palette.forEach((one, place) => {
      const [x, y, z] = parts(one);
      const far = (x - r) ** 2 + (y - g) ** 2 + (z - b) ** 2;
      if (far < least) { best = place; least = far; }
    });
    return best;
  };
  const places = new Map(colours.map((colour, place) => [colour, place < 256 ? place : near(colour)]));
  let text = "";
  for (const pixel of pixels) text += String.fromCharCode(places.get(pixel));
  return { width: image.width, height: image.height, palette: palette.flatMap(parts), places: btoa(text) };
}"""


def with_few_colours(page: Any, png: bytes) -> bytes:
    """A PNG as one with a palette; ``page`` is any page of a browser that may fetch."""
    found = page.evaluate(_COUNT, base64.b64encode(png).decode())
    width, height, places = found["width"], found["height"], base64.b64decode(found["places"])
    rows = b"".join(b"\0" + places[at : at + width] for at in range(0, width * height, width))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", bytes(found["palette"])), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
