"""Small look-alikes of the public data sets, with their exact folders, names and encodings, drawn from streets."""

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sgg_jax.data.classes import CITYSCAPES, palette
from sgg_jax.data.public.mapillary import NAMES
from sgg_jax.data.public.synthia import IDS
from sgg_jax.data.streets import Streets

OF_STREETS = np.array([0, 1, 2, 8, 10, 11, 13, 5], np.uint8)
"""Class of streets -> train id of Cityscapes."""
LABEL_IDS = np.array([info.ids[0] for info in CITYSCAPES], np.uint8)
SYNTHIA_IDS = np.array([IDS.get(i, 0) for i in range(19)], np.uint16)


def scenes(
    count: int, domain: str, split: str = "train", size: tuple[int, int] = (48, 96)
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(image id, image, train ids of Cityscapes) of the first street scenes."""
    streets = Streets(domain, split, count, size)
    for index in range(count):
        example = streets[index]
        assert example.labels is not None
        yield streets.image_id(index), example.image, OF_STREETS[example.labels]


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_palette(path: Path, indices: np.ndarray) -> Path:
    """A palette PNG whose colours say nothing about the indices, as those of GTA5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(indices)
    picture.putpalette(np.roll(palette(CITYSCAPES), 7, axis=0).tobytes())
    picture.save(path)
    return path


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """[h,w,3] 0..65535 -> a PNG file of three 16-bit channels, which Pillow cannot write."""
    return _png(pixels.shape[:2], 16, 2, [row.astype(">u2").tobytes() for row in pixels])


def png_of_4_bits(pixels: np.ndarray) -> bytes:
    """[h,w] 0..15, w even -> a PNG file of grey values of 4 bits, which Pillow cannot write either."""
    pairs = (pixels[:, ::2] << 4 | pixels[:, 1::2]).astype(np.uint8)
    return _png(pixels.shape, 4, 0, [row.tobytes() for row in pairs])


def _png(size: tuple[int, ...], bits: int, kind: int, rows: list[bytes]) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], bits, kind, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def gta5(root: Path, count: int, size: tuple[int, int] = (48, 96), first: int = 1) -> Path:
    """images/00001.png and labels/00001.png, palette PNG of label ids."""
    for number, (_, image, labels) in enumerate(scenes(count, "source", size=size), first):
        save(root / "images" / f"{number:05d}.png", image)
        save_palette(root / "labels" / f"{number:05d}.png", LABEL_IDS[labels])
    return root


def synthia(root: Path, count: int, size: tuple[int, int] = (48, 96)) -> Path:
    """RAND_CITYSCAPES/RGB/0000000.png and GT/LABELS/0000000.png, three channels of 16 bits."""
    for number, (_, image, labels) in enumerate(scenes(count, "source", size=size)):
        save(root / "RAND_CITYSCAPES" / "RGB" / f"{number:07d}.png", image)
        path = root / "RAND_CITYSCAPES" / "GT" / "LABELS" / f"{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        instances = np.full(labels.shape, 300 + number)  # above 255, so that a wrong byte shows
        path.write_bytes(png_of_16_bits(np.stack([SYNTHIA_IDS[labels], instances, instances * 0], axis=-1)))
    return root


def cityscapes(
    root: Path, splits: dict[str, int], size: tuple[int, int] = (48, 96), domain: str = "target", city: str = "aachen"
) -> Path:
    """leftImg8bit/SPLIT/CITY/CITY_000000_000019_leftImg8bit.png and gtFine/... _gtFine_labelIds.png."""
    for split, count in splits.items():
        drawn = {"train": "train", "val": "val", "test": "test"}[split]
        for number, (_, image, labels) in enumerate(scenes(count, domain, drawn, size)):
            name = f"{city}_{number:06d}_000019"
            save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image)
            ids = LABEL_IDS[labels] if split != "test" else np.zeros_like(labels)
            save(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", ids)
    return root


def cityscapes_val(root: Path, count: int, size: tuple[int, int] = (64, 128)) -> Path:
    """Cityscapes' val with blocks of every label id 0..33 but the train's, in the colours of their classes."""
    rng = np.random.default_rng(0)
    colors = np.full((34, 3), 100, np.uint8)  # of what is void
    colors[LABEL_IDS] = [info.color for info in CITYSCAPES]
    for number in range(count):
        blocks = rng.choice([label for label in range(34) if label != 31], (size[0] // 8, size[1] // 8))
        ids = np.kron(blocks, np.ones((8, 8), int)).astype(np.uint8)
        image = np.clip(colors[ids] + rng.normal(0, 40, (*size, 3)), 0, 255).astype(np.uint8)
        name = f"frankfurt_{number:06d}_000294"
        save(root / "leftImg8bit" / "val" / "frankfurt" / f"{name}_leftImg8bit.png", image)
        save(root / "gtFine" / "val" / "frankfurt" / f"{name}_gtFine_labelIds.png", ids)
    return root


def acdc(root: Path, splits: dict[str, int], size: tuple[int, int] = (48, 96), condition: str = "fog") -> Path:
    """rgb_anon/CONDITION/SPLIT/SEQUENCE/NAME_rgb_anon.png and gt/... _gt_labelTrainIds.png."""
    for split, count in splits.items():
        for number, (_, image, labels) in enumerate(scenes(count, "target", "val", size)):
            name = f"GOPR0475_frame_{number:06d}"
            save(root / "rgb_anon" / condition / split / "GOPR0475" / f"{name}_rgb_anon.png", image)
            save(root / "gt" / condition / split / "GOPR0475" / f"{name}_gt_labelTrainIds.png", labels)
    return root


def dark_zurich(root: Path, splits: dict[str, int]) -> Path:
    """rgb_anon/SPLIT/night/SEQUENCE/NAME_rgb_anon.png; labels of val only."""
    for split, count in splits.items():
        for number, (_, image, labels) in enumerate(scenes(count, "target")):
            name = f"GOPR0356_frame_{number:06d}"
            save(root / "rgb_anon" / split / "night" / "GOPR0356" / f"{name}_rgb_anon.png", image)
            if split == "val":
                save(root / "gt" / split / "night" / "GOPR0356" / f"{name}_gt_labelTrainIds.png", labels)
    return root


def bdd100k(root: Path, splits: dict[str, int]) -> Path:
    """images/10k/SPLIT/NAME.jpg and labels/sem_seg/masks/SPLIT/NAME.png."""
    for split, count in splits.items():
        for number, (_, image, labels) in enumerate(scenes(count, "target")):
            save(root / "images" / "10k" / split / f"{number:08x}-ff.jpg", image)
            if split != "test":
                save(root / "labels" / "sem_seg" / "masks" / split / f"{number:08x}-ff.png", labels)
    return root


def urbansyn(root: Path, count: int) -> Path:
    """rgb/rgb_0001.png and ss/ss_0001.png."""
    for number, (_, image, labels) in enumerate(scenes(count, "source"), 1):
        save(root / "rgb" / f"rgb_{number:04d}.png", image)
        save(root / "ss" / f"ss_{number:04d}.png", labels)
    return root


def synscapes(root: Path, count: int) -> Path:
    """img/rgb/1.png and img/class/1.png."""
    for number, (_, image, labels) in enumerate(scenes(count, "source"), 1):
        save(root / "img" / "rgb" / f"{number}.png", image)
        save(root / "img" / "class" / f"{number}.png", LABEL_IDS[labels])
    return root


def mapillary(root: Path, splits: dict[str, int]) -> Path:
    """training/images/NAME.jpg, training/v1.2/labels/NAME.png and config_v1.2.json."""
    readable = [name for names in NAMES.values() for name in names] + ["Bird", "Unlabeled"]
    np.random.default_rng(0).shuffle(readable)
    root.mkdir(parents=True, exist_ok=True)
    listed = [{"name": name.lower(), "readable": name, "color": [0, 0, 0]} for name in readable]
    (root / "config_v1.2.json").write_text(json.dumps({"labels": listed}))
    values = np.array([readable.index(NAMES[info.name][0]) for info in CITYSCAPES], np.uint8)
    for split, count in splits.items():
        for number, (_, image, labels) in enumerate(scenes(count, "target")):
            save(root / split / "images" / f"pic{number}.jpg", image)
            if split != "testing":
                save_palette(root / split / "v1.2" / "labels" / f"pic{number}.png", values[labels])
    return root


def zipped(root: Path, archive: str, *folders: str) -> Path:
    """Moves folders below the root into a zip file in it, as they are downloaded."""
    with zipfile.ZipFile(root / archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for folder in folders:
            for path in sorted((root / folder).rglob("*")):
                if path.is_file():
                    packed.write(path, path.relative_to(root).as_posix())
                    path.unlink()
    return root / archive
