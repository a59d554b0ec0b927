"""The files of a data set where they lie: plain ones, and those inside zip files as they were downloaded."""

import os
import posixpath
import threading
import zipfile
from collections.abc import Iterator

from sgg_jax.data.problems import BadFileError, Problem
from sgg_jax.errors import InputError

MAX_BYTES = 2**29
"""Bytes of the largest file that is read, packed or not: 512 MiB."""
MAX_RATIO = 1100
"""Largest ratio of a zip entry's size to its packed size; deflate itself cannot go beyond 1032."""


class Tree:
    """Files below `root`, and those in the zip files that lie in it, as if each were unpacked where it lies.

    Nothing is unpacked to disk: an entry of a zip file is read into memory when it is asked for. A plain file comes
    before an entry of the same name. Reads share no state, so threads may read at once.

    root: a directory, or one zip file. Hidden files are passed over.

    Attributes:
        names: all files below the root, "/" between folders, sorted.
        problems: zip files that cannot be opened, entries whose names lead out of the root,
            names that two zip files have.

    Raises InputError if there is no such directory or zip file, or it holds nothing.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.expanduser(root)
        self.problems: list[Problem] = []
        self._entries: dict[str, tuple[str, str]] = {}  # name -> zip file, entry in it
        self._open = threading.local()
        if os.path.isdir(self.root):
            plain = set(self._walk())
            archives = [name for name in plain if name.lower().endswith(".zip")]
            for name in sorted(archives):
                self._index(os.path.join(self.root, name), posixpath.dirname(name))
            plain.difference_update(archives)
        elif zipfile.is_zipfile(self.root):
            plain = set()
            self._index(self.root, "")
        else:
            kind = "is no zip file" if os.path.exists(self.root) else "does not exist"
            raise InputError(f"{root!r} {kind}: name the folder of the data set, or its zip file")
        for name in plain:
            self._entries.pop(name, None)
        self.names = sorted(plain | self._entries.keys())
        if not self.names and not self.problems:
            raise InputError(f"{root!r} is empty: name the folder of the data set, or its zip file")

    def _walk(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = os.path.relpath(folder, self.root).replace(os.sep, "/")
            for name in files:
                if not name.startswith("."):
                    yield name if below == "." else f"{below}/{name}"

    def _index(self, archive: str, folder: str) -> None:
        """Take in the entries of a zip file that lies in `folder` of the tree."""
        try:
            with zipfile.ZipFile(archive) as opened:
                entries = [entry.filename for entry in opened.infolist() if not entry.is_dir()]
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            text = f"{archive} cannot be opened ({_reason(error)}); download it again, or unpack what it holds"
            self.problems.append(Problem("bad zip", archive, text))
            return
        for entry in entries:
            if is_unsafe(entry):
                text = f"{archive} has an entry {entry!r}, which leads out of its folder; it is not read"
                self.problems.append(Problem("unsafe name", f"{archive}: {entry}", text))
                continue
            name = posixpath.normpath(posixpath.join(folder, entry))
            if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
                continue
            if name in self._entries:
                text = f"{name} is in both {self._entries[name][0]} and {archive}; the first is read"
                self.problems.append(Problem("duplicate", name, text))
                continue
            self._entries[name] = (archive, entry)

    def where(self, name: str) -> str:
        """The file of that name in words, for messages."""
        if name in self._entries:
            return f"{name} in {self._entries[name][0]}"
        return os.path.join(self.root, name)

    def read(self, name: str) -> bytes:
        """The bytes of a file; BadFileError if it cannot be read, fails its checksum or is too large."""
        if name not in self._entries:
            return read_file(os.path.join(self.root, name))
        archive, entry = self._entries[name]
        try:
            opened = self._archive(archive)
            info = opened.getinfo(entry)
            if info.file_size > MAX_BYTES or info.file_size > MAX_RATIO * max(info.compress_size, 1):
                sizes = f"from {info.compress_size} to {info.file_size} bytes"
                text = f"{self.where(name)} says that it unpacks {sizes}; it is not read"
                raise BadFileError("too large", text)
            with opened.open(info) as file:
                return file.read(info.file_size + 1)  # no more than it says, whatever it holds
        except BadFileError:
            raise
        except FileNotFoundError as error:
            raise BadFileError("unreadable", f"{archive} is gone; put it back and run again") from error
        except Exception as error:  # zipfile and zlib meet broken archives with many types
            text = f"{self.where(name)} cannot be read ({_reason(error)}); download the zip file again"
            raise BadFileError("bad zip", text) from error

    def _archive(self, path: str) -> zipfile.ZipFile:
        """Each thread has its own handle: one handle would make them wait for each other."""
        handles: dict[str, zipfile.ZipFile] = self._open.__dict__
        if path not in handles:
            handles[path] = zipfile.ZipFile(path)
        return handles[path]


def is_unsafe(entry: str) -> bool:
    """Whether the name of a zip entry is absolute, leads upwards, or means something else on another system."""
    parts = entry.split("/")
    return entry.startswith("/") or ".." in parts or "\\" in entry or "\0" in entry or ":" in parts[0]


def read_file(path: str) -> bytes:
    """The bytes of a plain file; BadFileError if it cannot be read or is larger than MAX_BYTES."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise BadFileError("too large", f"{path} has more than {MAX_BYTES >> 20} MiB; scale it down")
            return file.read()
    except OSError as error:
        raise BadFileError(
            "unreadable", f"{path} cannot be read ({_reason(error)}); put it back or mend its permissions"
        ) from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
