"""`--adapter FILE[:WEIGHT]`: motion adapters as `animate` takes them."""

from contextlib import nullcontext

from .console import say


def lora_on(options, network):
    """The LoRA asked for, on a network while the block lasts; what a user should know is said. CheckpointError."""
    if options.lora is None:
        return nullcontext()
    from ..io.adapters.adapter_file import read_adapter

    found = read_adapter(options.lora)
    adapter = found.build(network)
    for note in (*found.notes, *found.notes_on(network)):
        say(f"note: {note}")
    return adapter.attached(options.lora_strength)


def adapter_files(options) -> list[tuple]:
    """(file, weight) of each --adapter, read. Raises CheckpointError and ConfigError."""
    from ..io.adapters.adapter_file import read_adapter
    from ..io.adapters.shipped import adapter_file

    return [(read_adapter(adapter_file(path)), weight) for path, weight in map(adapter_and_weight, options.adapter)]


def adapter_stack(files: list[tuple], network, spec):
    """The adapters beside a network, as a stack; what a user should know is said. Raises CheckpointError."""
    from ..adapters.notes import motion_entries, sum_note
    from ..adapters.stack import AdapterStack, StackEntry

    entries = []
    for file, weight in files:
        entries.append(StackEntry(file.build(network), weight))
        for note in (*file.notes, *file.notes_on(network)):
            say(f"note: {note}")
    inside = motion_entries(entries)
    if inside and (note := sum_note(sum(entry.weight for entry in inside))):
        say(f"note: {note}")
    return AdapterStack(tuple(entries), spec.sampling.shift, spec.space.temporal_ratio)


def adapter_and_weight(text: str) -> tuple[str, float]:
    """"FILE:0.5" -> its path and weight; without a number the weight is 1, and colons may stand in a path."""
    path, colon, number = text.rpartition(":")
    try:
        return (path, float(number)) if colon and path else (text, 1.0)
    except ValueError:
        return text, 1.0
