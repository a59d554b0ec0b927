"""A prepared TFDS directory, written here as tfds writes it, read back as a data set."""

import io

import numpy as np
import pytest
from PIL import Image

from sgg_jax.data.dataset import VOID, ClassInfo, pixels_digest
from sgg_jax.data.prepared import Prepared
from sgg_jax.errors import InputError

CLASSES = (ClassInfo("road", (7, 8), (1, 2, 3)), ClassInfo("sky", (3,), (4, 5, 6)))
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 6, 10, 3), dtype=np.uint8)
LABELS = RNG.choice(np.array([7, 8, 3, 255], np.uint8), (5, 6, 10))


def png(array: np.ndarray) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> str:
    import tensorflow_datasets as tfds

    place = str(tmp_path_factory.mktemp("toy"))
    shape = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    label = tfds.features.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format="png")
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name="toy", version=tfds.core.Version("1.0.0"), data_dir=place, module_name="toy"
        ),
        features=tfds.features.FeaturesDict({"image": shape, "label": label}),
    )
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=3, file_format="array_record")
    writer.initialize_splits(["train"])
    writer.add_examples({"train": [{"image": png(i), "label": png(m)} for i, m in zip(IMAGES, LABELS, strict=True)]})
    writer.close_all()
    return place


def opened(directory: str, **changes) -> Prepared:
    options = dict(split="train", image="image", label="label", classes=CLASSES, size=(6, 10))
    return Prepared(directory, **options | changes)


def test_records_come_back_whole(directory):
    data = opened(directory)
    assert len(data) == 5
    for i in range(5):
        np.testing.assert_array_equal(data[i].image, IMAGES[i])
        wanted = np.select([LABELS[i] == 3, LABELS[i] == 255], [1, VOID], 0)
        np.testing.assert_array_equal(data[i].labels, wanted)
    assert [data.name(4), data.image_id(4)] == ["0000004", 4]
    assert data.origin(4) == (f"record 4 in train of {directory}", pixels_digest(IMAGES[4]))


def test_slices_counts_sizes_and_sets_without_labels(directory):
    assert len(opened(directory, split="train[1:4]")) == 3
    np.testing.assert_array_equal(opened(directory, split="train[1:4]")[0].image, IMAGES[1])
    assert len(opened(directory, count=2)) == 2
    small = opened(directory, size=(3, 5))[0]
    assert small.image.shape == (3, 5, 3)
    assert small.known_labels().shape == (3, 5)
    bare = opened(directory, label="")
    assert not bare.labelled
    assert bare[0].labels is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"split": "test"}, "cannot read split 'test'"),
        ({"image": "picture"}, "has no feature picture; it has image, label"),
        ({"count": 6}, "has 5 examples"),
        ({"fit": "squeeze"}, "fit is 'squeeze'"),
        ({"image": "label"}, r"must be uint8 \[height,width,3\]"),
        ({"label": "image"}, "one for each of the 6 x 10 pixels"),
        ({"void_ids": ()}, r"record 0 in train .* has label ids that no class names: 255"),
    ],
)
def test_what_cannot_be_is_refused(directory, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        opened(directory, **changes)[0]


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no prepared data set"):
        opened(str(tmp_path))


def test_a_damaged_record_is_named(directory, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    shard = sorted(copy.glob("*.array_record*"))[0]
    damaged = bytearray(shard.read_bytes())
    damaged[damaged.index(b"PNG") + 40] ^= 0x10  # one bit, inside the first picture
    shard.write_bytes(bytes(damaged))
    with pytest.raises(InputError, match="cannot read"):
        for i in range(3):
            opened(str(copy))[i]
