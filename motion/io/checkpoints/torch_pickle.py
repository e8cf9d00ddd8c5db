"""The pickle of a torch checkpoint, walked through without being run: who may be called, with what, how often.

Only what torch.save writes of tensors, plain values and plain containers passes. Every call has its exact arguments and
every name in a dictionary is short, so that nothing here can hang, double itself or reach outside the archive.
"""

import struct
from collections.abc import Callable, Mapping

STORAGES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
            "Bool": 1}  # fmt: skip
NUMBER_TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
BASE_STEPS, STEPS_EACH = 400_000, 40  # of the pickle: in any file, and for each storage; torch.save writes 35 a tensor
MAX_COPIED = 16 * 2**20  # letters and entries that calls may copy in all
MAX_AXES = 64
MAX_KEY = 2**48  # of whole numbers as names; larger ones could be made to collide


class NotPlain(ValueError):
    """The pickle asks for something that weights do not need; the text names it."""


class Name(str):
    """A class or function that the pickle names, "module.name"."""


class Made:
    """What a call would give: "storage", "tensor" and so on. Of containers: how many entries, and if all are names.

    entries: of a dictionary, by name; of a list, as they are. place: of a storage its key, of a tensor (key of its
    storage, offset, size, stride).
    """

    def __init__(self, kind: str, place=None):
        self.kind, self.count, self.has_names, self.place = kind, 0, True, place
        self.entries = {} if kind == "dict" else []


def check_pickle(pickle: bytes, storages: Mapping[str, int]) -> None:
    """Walk through a pickle; nothing of it is run. storages: bytes by key.

    Raises NotPlain naming what torch should not be asked for; ValueError, LookupError or struct.error for damage.
    """
    if _Walk(pickle, storages).run()[1] != len(pickle):
        raise ValueError("bytes follow after its end")


def walk_pickle(data: bytes, at: int) -> tuple[object, int, dict[str, tuple[str, int]]]:
    """Walk through a pickle that begins at a place in data and whose storages lie elsewhere; nothing of it is run.

    Returns what it would give, over stand-ins; where it ends; and of each storage by key its type and number of values.
    Raises as `check_pickle` does.
    """
    walk = _Walk(data, None, at)
    value, end = walk.run()
    return value, end, walk.claimed


class _Walk:
    """The stack machine of a pickle over stand-ins: plain values, tuples of them, Name and Made."""

    def __init__(self, pickle: bytes, storages: Mapping[str, int] | None, at: int = 0):
        self.pickle, self.storages, self.at = pickle, storages, at
        self.claimed: dict[str, tuple[str, int]] = {}
        self.stack: list = []
        self.outer: list[list] = []
        self.memo: dict[int, object] = {}
        self.copied = 0

    def run(self) -> tuple[object, int]:
        """What the pickle would give, and where it ends."""
        steps = BASE_STEPS + STEPS_EACH * len(self.storages or ())
        for _ in range(steps):
            code = self.pickle[self.at : self.at + 1]
            self.at += 1
            if code == b".":
                return self.stack[-1] if self.stack else None, self.at
            if not code:
                raise ValueError("it ends too early")
            step = _STEPS.get(code)
            if step is None:
                raise NotPlain(f"an object (opcode {code!r})")
            step(self)
        raise NotPlain(f"more than {steps} steps")

    def read(self, count: int) -> bytes:
        data = self.pickle[self.at : self.at + count]
        if len(data) != count:
            raise ValueError("it ends too early")
        self.at += count
        return data

    def number(self, form: str):
        (value,) = struct.unpack(form, self.read(struct.calcsize(form)))
        return value

    def push(self, value) -> None:
        self.stack.append(value)

    def since_mark(self) -> list:
        found, self.stack = self.stack, self.outer.pop()
        return found

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def name(self) -> None:
        parts = []
        for _ in range(2):
            end = self.pickle.index(b"\n", self.at, self.at + 200)
            parts.append(self.pickle[self.at : end].decode("ascii"))
            self.at = end + 1
        name = Name(".".join(parts))
        if name not in _CALLS and name not in _VALUES:
            raise NotPlain(name)
        self.push(name)

    def last(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("a tuple of more than it has")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def append(self, items: list) -> None:
        target = self.top("list")
        target.count += len(items)
        target.has_names &= all(_is_name(item) for item in items)
        target.entries += items

    def put(self, items: list) -> None:
        target = self.top("dict")
        if len(items) % 2 or not all(_is_name(item) for item in items[::2]):
            raise NotPlain("a dictionary by other things than names")
        target.count += len(items) // 2
        target.entries.update(zip(items[::2], items[1::2]))

    def top(self, kind: str) -> Made:
        if not _is(self.stack[-1], kind):
            raise NotPlain(f"an entry in what is no {kind}")
        return self.stack[-1]

    def pair(self) -> list:
        value = self.stack.pop()
        return [self.stack.pop(), value]

    def call(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or function not in _CALLS or type(args) is not tuple:
            raise NotPlain("a call of something else than a function")
        made = _CALLS[function](args)
        if made is None:
            raise NotPlain(f"{function} with other values than torch writes")
        self.copied += made.count
        if self.copied > MAX_COPIED:
            raise NotPlain(f"copies of more than {MAX_COPIED} values")
        self.push(made)

    def build(self) -> None:
        state = self.stack.pop()
        self.top("dict")
        if not _is(state, "dict") or not state.has_names:
            raise NotPlain("a state that is no dictionary")

    def storage(self) -> None:
        """The tuple ("storage", type, key, location, number of values) becomes a storage.

        Outside an archive a last part follows, a view into another storage, which has not been written for long.
        """
        found = self.stack.pop()
        if self.storages is None and type(found) is tuple and len(found) == 6 and found[5] is None:
            found = found[:5]
        kinds = [type(part) for part in found] if type(found) is tuple and len(found) == 5 else ()
        if kinds != [str, Name, str, str, int]:
            raise NotPlain("a storage in another form than torch writes")
        word, kind, key, location, numel = found
        size = _STORAGE_TYPES.get(kind)
        if word != "storage" or size is None or len(location) > 40:
            raise NotPlain(f"a storage of {kind}")
        if self.storages is None and self.claimed.setdefault(key, (kind, numel)) != (kind, numel):
            raise ValueError(f"storage {key[:20]!r} has two sizes or types")
        if numel < 0 or (self.storages is not None and numel * size > self.storages.get(key, -1)):
            raise ValueError(f"storage {key[:20]!r} of {numel} values is not in the archive, or shorter there")
        self.push(Made("storage", key))


def _is(value, kind: str) -> bool:
    return isinstance(value, Made) and value.kind == kind


def _is_name(value) -> bool:
    """Whether a value costs nothing to look up: text, or a number of moderate size."""
    return type(value) is str or (type(value) is int and 0 <= value < MAX_KEY)


def _is_shape(value) -> bool:
    return type(value) is tuple and len(value) <= MAX_AXES and all(type(side) is int for side in value)


def _counted(kind: str, count: int) -> Made:
    made = Made(kind)
    made.count = count
    return made


def _tensor(args: tuple, extra: int = 0) -> Made | None:
    """(storage, offset, size, stride, requires_grad, hooks) and as many further values: a number type, no metadata."""
    if not 6 + extra <= len(args) <= 7 + extra:
        return None
    storage, offset, size, stride, gradient, hooks, *rest = args
    plain = _is(storage, "storage") and type(offset) is int and _is_shape(size) and _is_shape(stride)
    plain = plain and type(gradient) is bool and _is(hooks, "dict") and not hooks.count
    known = all(isinstance(part, Name) and part in _VALUES for part in rest[:extra])
    if not (plain and known) or any(part is not None for part in rest[extra:]):
        return None
    return Made("tensor", (storage.place, offset, size, stride))


def _parameter(args: tuple) -> Made | None:
    fits = len(args) == 3 and _is(args[0], "tensor") and type(args[1]) is bool and _is(args[2], "dict")
    return args[0] if fits and not args[2].count else None


def _bytes(args: tuple) -> Made | None:
    fits = len(args) == 2 and type(args[0]) is str and args[1] == "latin1"
    return _counted("bytes", len(args[0])) if fits else None


def _copy(kind: str, source: str) -> Callable[[tuple], Made | None]:
    """A container made of one other, whose entries must be names."""

    def made(args: tuple) -> Made | None:
        fits = len(args) == 1 and _is(args[0], source) and args[0].has_names
        return _counted(kind, args[0].count) if fits else None

    return made


def _device(args: tuple) -> Made | None:
    fits = 1 <= len(args) <= 2 and type(args[0]) is str and len(args[0]) <= 40
    return Made("device") if fits and all(type(part) is int for part in args[1:]) else None


_STORAGE_TYPES = {f"torch.{kind}Storage": size for kind, size in STORAGES.items()} | {"torch.storage.UntypedStorage": 1}
_VALUES = {*_STORAGE_TYPES, *(f"torch.{name}" for name in NUMBER_TYPES)}
_CALLS: dict[str, Callable[[tuple], Made | None]] = {
    "collections.OrderedDict": lambda args: Made("dict") if args == () else None,
    "collections.Counter": _copy("dict", "dict"),
    "__builtin__.set": _copy("set", "list"),
    "builtins.set": _copy("set", "list"),
    "_codecs.encode": _bytes,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": lambda args: _tensor(args, 1),
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda args: Made("size") if len(args) == 1 and _is_shape(args[0]) else None,
    "torch.device": _device,
}
_STEPS: dict[bytes, Callable[[_Walk], None]] = {
    b"\x80": lambda walk: walk.read(1),
    b"c": _Walk.name,
    b"R": _Walk.call,
    b"b": _Walk.build,
    b"Q": _Walk.storage,
    b"(": _Walk.mark,
    b"t": lambda walk: walk.push(tuple(walk.since_mark())),
    b"\x85": lambda walk: walk.last(1),
    b"\x86": lambda walk: walk.last(2),
    b"\x87": lambda walk: walk.last(3),
    b"a": lambda walk: walk.append([walk.stack.pop()]),
    b"e": lambda walk: walk.append(walk.since_mark()),
    b"s": lambda walk: walk.put(walk.pair()),
    b"u": lambda walk: walk.put(walk.since_mark()),
    b"N": lambda walk: walk.push(None),
    b"\x88": lambda walk: walk.push(True),
    b"\x89": lambda walk: walk.push(False),
    b")": lambda walk: walk.push(()),
    b"]": lambda walk: walk.push(Made("list")),
    b"}": lambda walk: walk.push(Made("dict")),
    b"\x8f": lambda walk: walk.push(Made("set")),
    b"J": lambda walk: walk.push(walk.number("<i")),
    b"K": lambda walk: walk.push(walk.number("<B")),
    b"M": lambda walk: walk.push(walk.number("<H")),
    b"G": lambda walk: walk.push(walk.number(">d")),
    b"\x8a": lambda walk: walk.push(int.from_bytes(walk.read(walk.number("<B")), "little", signed=True)),
    b"X": lambda walk: walk.push(str(walk.read(walk.number("<I")), "utf-8")),
    b"U": lambda walk: walk.push(str(walk.read(walk.number("<B")), "latin-1")),
    b"h": lambda walk: walk.push(walk.memo[walk.number("<B")]),
    b"j": lambda walk: walk.push(walk.memo[walk.number("<I")]),
    b"q": lambda walk: walk.memo.__setitem__(walk.number("<B"), walk.stack[-1]),
    b"r": lambda walk: walk.memo.__setitem__(walk.number("<I"), walk.stack[-1]),
}
