"""Files of weights as others publish them: names, dtypes and shapes first, then values, one tensor at a time.

    with open_tensors(path) as file:
        weights = {name: file.read(name) for name in file.tensors}

What a file is, its first bytes say: safetensors, or either form that torch.save writes. torch is not needed, and
nothing in a file is ever run. Values are read into fresh arrays; the file is not mapped into memory, where one that
shrinks meanwhile would kill the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from sgg_jax.errors import InputError
from sgg_jax.published.archive import check_crc
from sgg_jax.published.placement import Record, Tensor, quoted
from sgg_jax.published.safetensors_file import safetensors_tensors
from sgg_jax.published.torch_file import legacy_tensors, zip_tensors


@dataclass(frozen=True)
class TensorFile:
    """An open file of weights; a context manager that closes it. `tensors` gives dtype and shape by name."""

    path: Path
    tensors: Mapping[str, Tensor]
    file: BinaryIO
    whole: set[Record] = field(default_factory=set)  # whose CRC was found right

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """A fresh array in row-major order. InputError where there is no such tensor, or its bytes are damaged."""
        if name not in self.tensors:
            raise InputError(f"{self.path}: there is no tensor {quoted(name)} in it")
        tensor = self.tensors[name]
        try:
            if tensor.record.crc is not None and tensor.record not in self.whole:
                check_crc(self.file, name, tensor.record)
                self.whole.add(tensor.record)
            return _values(self.file, name, tensor)
        except (ValueError, OSError) as error:
            raise InputError(f"{self.path}: {error}") from error

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def open_tensors(path: Path, part: str = "") -> TensorFile:
    """The tensors of a file, by name; InputError, in one sentence, where it is no sound file of weights.

    A state dict may stand in a checkpoint under a usual name ("state_dict", "model", ...; torch_file.CONTAINERS); of
    several, `part` says which. "module.", where all names start with it (DataParallel), is dropped.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"{path} is {'a folder, not a file of weights' if path.is_dir() else 'no file'}")
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        size = file.seek(0, 2)
        tensors = _read_outline(file, size, part)
        for name in tensors:
            if not name.isprintable():
                raise ValueError(f"{quoted(name)} is no name of a tensor")
    except (ValueError, OSError) as error:
        file.close()
        raise InputError(f"{path} cannot be read as weights: {error}") from error
    except BaseException:
        file.close()
        raise
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return TensorFile(path, {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, file)


def _read_outline(file: BinaryIO, size: int, part: str) -> dict[str, Tensor]:
    """Tensors by name, by the reader that the first bytes of a file call for."""
    file.seek(0)
    head = file.read(512)
    if head[8:9] == b"{":  # first: the eight bytes before it, a length, may be anything
        return safetensors_tensors(file, size)
    if head.startswith(b"PK\3\4"):
        return zip_tensors(file, size, part)
    if head.startswith(b"\x80"):
        return legacy_tensors(file, size, part)
    if head[257:262] == b"ustar":
        raise ValueError("it is a tar archive, as the first versions of torch wrote: save it again with a newer torch")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError("it is a Git LFS pointer, which stands for the file: fetch that with git lfs pull")
    if head.lstrip()[:1] == b"<":
        raise ValueError("it is a web page, not the file that the page offers: download that")
    raise ValueError("it is empty" if not size else "it is neither a safetensors file nor one that torch.save wrote")


def _values(file: BinaryIO, name: str, tensor: Tensor) -> np.ndarray:
    """A tensor's values, in this machine's byte order."""
    itemsize = tensor.dtype.itemsize
    raw = np.empty(tensor.extent * itemsize, np.uint8)
    file.seek(tensor.record.start + tensor.offset * itemsize)
    if file.readinto(raw.data) < raw.size:  # type: ignore[attr-defined]
        raise ValueError(f"it is cut short in {quoted(name)}")
    if tensor.swapped:
        raw = np.ascontiguousarray(raw.reshape(-1, itemsize)[:, ::-1]).ravel()
    values = raw != 0 if tensor.dtype == np.bool_ else raw.view(tensor.dtype)
    strides = [stride * itemsize for stride in tensor.strides]
    if 0 in tensor.shape:
        return np.empty(tensor.shape, tensor.dtype)
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, tensor.shape, strides)).reshape(tensor.shape)
