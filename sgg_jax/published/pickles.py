"""What a pickle says, read without running it: nothing is imported, called or built.

`pickle.Unpickler` runs what a file names. Here a name stays a name and a call becomes a `Call`, to be understood, or
not, by the reader of the file. Names outside two lists are refused; memory and time are bounded by the opcodes read.
"""

import pickle  # for the names of its opcodes
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from sgg_jax.published.placement import quoted

MOST_BYTES = 2**24
"""Of one pickle. A tensor takes about 100 bytes and 30 opcodes, so this is far more than any network's."""
MOST_OPCODES = 10**6

NUMPY = ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
INERT = {
    "argparse.Namespace",
    "collections.Counter",
    "collections.defaultdict",
    "_codecs.encode",
    "torch.device",
    "torch.Size",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"{package}.{name}" for package in ("numpy.core", "numpy._core") for name in NUMPY),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "complex", "object")),
    *(f"{module}._reconstructor" for module in ("copyreg", "copy_reg")),
}
"""Names that stand beside weights in honest checkpoints (arguments, metrics): what is made of them becomes IGNORED."""


class Table(list[tuple[Any, Any]]):
    """A dict as its pairs in order: nothing is hashed, and a repeated key stays visible."""


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A global, as "module.name"."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What a pickle would have called, with what."""

    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A reference to something outside the pickle; torch keeps its storages so."""

    id: Any


IGNORED = Name("")
"""In the place of whatever was made of INERT names."""


@dataclass(frozen=True)
class Pickle:
    value: Any
    persistent: list[Persistent]  # in order of appearance
    end: int  # where the next pickle starts


def read_pickle(data: bytes, start: int, names: Collection[str]) -> Pickle:
    """The pickle at data[start:]. Of `names` it may make calls, INERT ones are passed over, any other is refused.

    Reads what pickle protocols 2 to 5 write. Tuples and lists come as they are, dicts as `Table`. ValueError, in a
    sentence, on anything broken or refused.
    """
    machine = _Machine(data, start, names)
    for _ in range(MOST_OPCODES):
        opcode = machine.take(1)
        if opcode == pickle.STOP:
            return Pickle(machine.pop(), machine.persistent, machine.position)
        if opcode not in _OPCODES:
            raise ValueError(f"its pickle holds the opcode {opcode!r}, which torch.save does not write")
        _OPCODES[opcode](machine)
    raise ValueError(f"its pickle is longer than {MOST_OPCODES} opcodes")


class _Machine:
    """The stack machine that a pickle is written for, with a place for marks and a memo."""

    def __init__(self, data: bytes, start: int, names: Collection[str]):
        self.data, self.position, self.names = data, start, names
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.persistent: list[Persistent] = []
        self.copied = 0

    def take(self, count: int) -> bytes:
        taken = self.data[self.position : self.position + count]
        if len(taken) < count:
            raise ValueError("its pickle is cut short")
        self.position += count
        return taken

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, length: str, encoding: str = "utf-8") -> str:
        return self.take(self.number(length)).decode(encoding)

    def line(self) -> str:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("its pickle is cut short")
        return self.take(end + 1 - self.position)[:-1].decode()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("its pickle takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.push(value)
        return value

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("its pickle lacks a mark")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError("its pickle recalls what it never stored")
        self.push(self.memo[index])

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("its pickle names a global by what is no text")
        full = f"{module}.{name}"
        if full not in self.names and full not in INERT:
            raise ValueError(
                f"it holds {quoted(full)}, which weights do not need and which was not run; if you trust the file, "
                "save its weights alone: torch.save(model.state_dict(), file)"
            )
        self.push(Name(full) if full in self.names else IGNORED)

    def call(self, arguments: Any, function: Any) -> None:
        if function is IGNORED:
            return self.push(IGNORED)
        if not (isinstance(function, Name) and isinstance(arguments, tuple)):
            raise ValueError("its pickle calls what is no function")
        if function.name == "collections.OrderedDict":
            return self.push(self.ordered(arguments))
        return self.push(Call(function.name, arguments))

    def instance(self) -> None:
        self.name(self.line(), self.line())
        function = self.pop()
        self.call(tuple(self.since_mark()), function)

    def ordered(self, arguments: tuple[Any, ...]) -> Table:
        """OrderedDict(), or OrderedDict([[key, value], ...]) as Python 2 wrote it."""
        if not arguments:
            return Table()
        items = arguments[0]
        if type(items) is not list or not all(type(item) is list and len(item) == 2 for item in items):
            raise ValueError("its pickle makes an OrderedDict of what are no pairs")
        self.copied += len(items)  # one list, copied by every third opcode, would fill the memory
        if self.copied > MOST_OPCODES:
            raise ValueError("its pickle copies one list over and over")
        return Table((key, value) for key, value in items)

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is list:
            target += values
        elif target is not IGNORED:
            raise ValueError("its pickle appends to what is no list")

    def update(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Table):
            target += _pairs(values)
        elif target is not IGNORED:
            raise ValueError("its pickle sets an item of what is no dict")

    def build(self) -> None:
        """Attributes: a state dict has some (its `_metadata`), none of which matters."""
        self.pop()
        target = self.top()
        if target is not IGNORED and not isinstance(target, Table):
            raise ValueError("its pickle changes an object after it was made")

    def refer(self) -> None:
        self.persistent.append(Persistent(self.pop()))
        self.push(self.persistent[-1])


def _pairs(values: list[Any]) -> Table:
    if len(values) % 2:
        raise ValueError("its pickle holds a key without a value")
    return Table(zip(values[::2], values[1::2], strict=True))


def _constant(make: Callable[[], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(make())


def _number(form: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(machine.number(form))


def _text(length: str, encoding: str = "utf-8") -> Callable[[_Machine], None]:
    return lambda machine: machine.push(machine.text(length, encoding))


def _bytes(length: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(machine.take(machine.number(length)))


def _long(length: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(int.from_bytes(machine.take(machine.number(length)), "little", signed=True))


def _tuple(count: int) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(tuple(reversed([machine.pop() for _ in range(count)])))


_OPCODES: dict[bytes, Callable[[_Machine], object]] = {
    pickle.PROTO: lambda machine: machine.take(1),
    pickle.FRAME: lambda machine: machine.take(8),
    pickle.NONE: _constant(lambda: None),
    pickle.NEWTRUE: _constant(lambda: True),
    pickle.NEWFALSE: _constant(lambda: False),
    pickle.EMPTY_TUPLE: _constant(tuple),
    pickle.EMPTY_LIST: _constant(list),
    pickle.EMPTY_DICT: _constant(Table),
    pickle.EMPTY_SET: _constant(lambda: IGNORED),
    pickle.BININT: _number("<i"),
    pickle.BININT1: _number("<B"),
    pickle.BININT2: _number("<H"),
    pickle.BINFLOAT: _number(">d"),
    pickle.LONG1: _long("<B"),
    pickle.LONG4: _long("<I"),
    pickle.SHORT_BINSTRING: _text("<B", "latin-1"),  # str of Python 2
    pickle.BINSTRING: _text("<I", "latin-1"),
    pickle.SHORT_BINUNICODE: _text("<B"),
    pickle.BINUNICODE: _text("<I"),
    pickle.BINUNICODE8: _text("<Q"),
    pickle.SHORT_BINBYTES: _bytes("<B"),
    pickle.BINBYTES: _bytes("<I"),
    pickle.BINBYTES8: _bytes("<Q"),
    pickle.BYTEARRAY8: _bytes("<Q"),
    pickle.TUPLE1: _tuple(1),
    pickle.TUPLE2: _tuple(2),
    pickle.TUPLE3: _tuple(3),
    pickle.TUPLE: lambda machine: machine.push(tuple(machine.since_mark())),
    pickle.LIST: lambda machine: machine.push(machine.since_mark()),
    pickle.DICT: lambda machine: machine.push(_pairs(machine.since_mark())),
    pickle.FROZENSET: lambda machine: machine.call(machine.since_mark(), IGNORED),
    pickle.MARK: lambda machine: machine.marks.append(len(machine.stack)),
    pickle.POP: lambda machine: machine.pop(),
    pickle.POP_MARK: lambda machine: machine.since_mark(),
    pickle.DUP: lambda machine: machine.push(machine.top()),
    pickle.APPEND: lambda machine: machine.extend([machine.pop()]),
    pickle.APPENDS: lambda machine: machine.extend(machine.since_mark()),
    pickle.ADDITEMS: lambda machine: machine.extend(machine.since_mark()),
    pickle.SETITEM: lambda machine: machine.update([machine.pop(), machine.pop()][::-1]),
    pickle.SETITEMS: lambda machine: machine.update(machine.since_mark()),
    pickle.MEMOIZE: lambda machine: machine.remember(len(machine.memo)),
    pickle.BINPUT: lambda machine: machine.remember(machine.number("<B")),
    pickle.LONG_BINPUT: lambda machine: machine.remember(machine.number("<I")),
    pickle.BINGET: lambda machine: machine.recall(machine.number("<B")),
    pickle.LONG_BINGET: lambda machine: machine.recall(machine.number("<I")),
    pickle.GLOBAL: lambda machine: machine.name(machine.line(), machine.line()),
    pickle.STACK_GLOBAL: lambda machine: machine.name(*[machine.pop(), machine.pop()][::-1]),
    pickle.INST: lambda machine: machine.instance(),
    pickle.REDUCE: lambda machine: machine.call(machine.pop(), machine.pop()),
    pickle.NEWOBJ: lambda machine: machine.call(machine.pop(), machine.pop()),
    pickle.BUILD: lambda machine: machine.build(),
    pickle.BINPERSID: lambda machine: machine.refer(),
}
