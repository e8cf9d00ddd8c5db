"""The licence of a base, as files of adapters that were trained beside it say it."""

from collections.abc import Mapping

LICENCE = "license"  # the name that files of the world give it
NAMES = (LICENCE, "licence", "modelspec.license")
OF_WAN = "Apache-2.0, as Wan's own weights; that of a fine-tune may differ"
OF_PACK = "Apache-2.0"
UNKNOWN = "unknown"
LONGEST = 300


def licence_of(metadata: Mapping[str, str], *, is_wan: bool = False, is_ours: bool = False) -> dict[str, str]:
    """Metadata that names the licence of a base: its own words, else what is known of its kind, else "unknown".

    is_wan: a plain Wan; is_ours: weights that come with the pack.
    """
    said = next((metadata[name].strip() for name in NAMES if metadata.get(name, "").strip()), "")
    known = OF_PACK if is_ours else OF_WAN if is_wan else UNKNOWN
    return {LICENCE: " ".join(said.split())[:LONGEST] or known}
