"""Door plate of the pack. It imports nothing before the host calls `comfy_entrypoint`."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the extension object that lists our nodes (called once by the host)."""
    from .nodes.extension import MotionBlocksExtension

    return MotionBlocksExtension()
