"""What a training remembers of its data, and how two such records differ, in words."""

from collections.abc import Iterator, Sequence

from ..models.model_spec import ModelSpec
from .clips import ClipCollection, digest
from .windows import WindowConfig


def dataset_record(
    collection: ClipCollection, spec: ModelSpec, encoders: str, windows: WindowConfig, keys: Sequence[str]
) -> dict:
    """Plain JSON values that name everything that went in. encoders: their fingerprint; keys: of the samples.

    "decoder" stands beside it, the version of PyAV that read the clips: told, never compared.
    """
    clips = [{"name": clip.name, "caption": clip.caption, "fingerprint": clip.fingerprint} for clip in collection.clips]
    latent = spec.latent_facts()
    whole = digest(collection.fingerprint, str(sorted(latent.items())), *keys)
    return {"fingerprint": whole, "clips": clips, "windows": windows.to_dict(), "encoders": encoders,
            "latent": latent, **({"decoder": collection.decoder} if collection.decoder else {})}  # fmt: skip


def record_differences(old: dict, new: dict) -> Iterator[str]:
    """Lines about clips added, gone and changed, about windows, latent space and encoders."""
    before, now = ({clip.get("name"): clip for clip in record.get("clips", ())} for record in (old, new))
    added, gone = ([name for name in a if name not in b] for a, b in ((now, before), (before, now)))
    for word, names in (("added", added), ("gone", gone)):
        if names:
            yield f"{len(names)} clips {word}: {', '.join(map(str, names[:5]))}{', …' if len(names) > 5 else ''}"
    for name in (name for name in now if name in before):
        for part, what in (("fingerprint", "its frames changed"), ("caption", "its caption changed")):
            if now[name][part] != before[name].get(part):
                yield f"{name}: {what}"
    for part, what in (("windows", "windows"), ("latent", "latent space")):
        for name in sorted({*old.get(part, {}), *new[part]}):
            was, now_is = old.get(part, {}).get(name), new[part].get(name)
            if was != now_is:
                yield f"{what}: {name} was {was}, is {now_is}"
    if old.get("encoders") != new["encoders"]:
        yield "the VAE, the text encoder or their number type is another one"
    if old.get("fingerprint") != new["fingerprint"] and [*before] != [*now] and not added and not gone:
        yield "the clips are in another order"


def record_remarks(old: dict, new: dict) -> list[str]:
    """What changed between two records without making them differ."""
    before, now = old.get("decoder"), new.get("decoder")
    if before and now and before != now:
        return [f"the clips were read with PyAV {before}, now with {now}; frames may differ by a grey level"]
    return []
