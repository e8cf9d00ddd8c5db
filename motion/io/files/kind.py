"""Say what a file seems to be by its first bytes, for messages. Nothing is parsed and nothing is run."""

_SIGNATURES = (
    (b"version https://git-lfs.github.com/spec", "a git-lfs pointer, a short text that stands for the weights: run "
     "`git lfs pull` in its repository"),
    (b"PK\x03\x04", "a zip archive, most likely pickled PyTorch weights (.pt, .ckpt, .bin)"),
    (b"GGUF", "a GGUF file, which this pack does not read"),
    (b"\x89HDF\r\n", "an HDF5 file, which this pack does not read"),
    (b"\x93NUMPY", "a numpy array file, which this pack does not read"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"\x89PNG\r\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"RIFF", "a RIFF file (WebP picture, AVI or WAV)"),
    (b"%PDF", "a PDF document"),
)  # fmt: skip


def describe_bytes(head: bytes, size: int) -> str:
    """What the first bytes `head` of a file of `size` bytes look like; "" when that says nothing."""
    if size == 0:
        return "an empty file (0 bytes)"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:256].lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "an HTML page, most likely an error or log-in page saved in place of the weights"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "a pickle, most likely PyTorch weights (.pt, .ckpt, .bin)"
    if head[4:8] == b"ftyp":
        return "an MP4 video"
    if not head.strip(b"\0"):
        return "a file of zeros, most likely an unfinished download"
    if text.startswith((b"{", b"[")):
        return "a JSON or text file"
    return f"only {size} bytes long" if size < 10 else ""


def shown(text: str, limit: int = 80) -> str:
    """Foreign text for a message: quoted, control characters escaped, cut to `limit` characters."""
    return ascii(text if len(text) <= limit else text[: limit - 1]) + ("…" if len(text) > limit else "")
