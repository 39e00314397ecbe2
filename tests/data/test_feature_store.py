"""The files of a feature cache: exact to the bit, refused when they are not what they should be."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import shutil
from pathlib import Path

from wps_sam.data import feature_cache
from wps_sam.data.feature_store import (
    VIEWS,
    CacheSpec,
    FeatureCacheReader,
    FeatureCacheWriter,
    FeatureReaders,
    check_free_space,
    distinct_pictures,
    pack,
    payload_bytes,
    readable_size,
    unpack,
)

import numpy as np
import pytest
import torch

SHAPE = (3, 2, 2)
SETTINGS = {"MODEL.SAM.ARCH": "vit_tiny", "MODEL.SAM.PADDING": "bottom_right", "MODEL.PIXEL_MEAN": [1.0, 2.0]}


def there_and_back(embedding, dtype):
    packed = pack(embedding, dtype)
    assert len(packed) == payload_bytes(dtype, embedding.shape)
    return unpack(np.frombuffer(packed, np.uint8).copy(), dtype, embedding.shape)


# ------------------------------------------------------------------ one embedding


def test_fp32_is_exact_and_fp16_rounded():
    embedding = torch.randn(5, 4, 4)
    assert torch.equal(there_and_back(embedding, "fp32"), embedding)
    assert torch.equal(there_and_back(embedding, "fp16"), embedding.half())


def test_int8_by_hand():
    """Channel 0 spans 100 to 102.54: steps of 2.54 / 254 = 0.01 around 101.27, so 100.004 becomes 100.00, off by 0.004.

    A constant channel has no step at all and is exact.
    """
    values = [[100.0, 102.54], [100.004, 101.27]]
    embedding = torch.tensor([values, [[7.7, 7.7], [7.7, 7.7]]])
    packed = pack(embedding, "int8")
    assert len(packed) == 2 * 4 * 2 + 8
    assert list(np.frombuffer(packed[-8:], np.int8)) == [-127, 127, -127, 0, 0, 0, 0, 0]
    expected = torch.tensor([[[100.0, 102.54], [100.0, 101.27]], [[7.7, 7.7], [7.7, 7.7]]])
    torch.testing.assert_close(there_and_back(embedding, "int8"), expected, atol=1e-5, rtol=0)


def test_int8_errs_by_half_a_step_at_most():
    """A fine ramp meets the worst case: error (max - min) / 508, in each channel by its own range."""
    ramp = torch.linspace(0, 1, 10001)
    embedding = torch.stack([ramp * 2 - 1, ramp * 10 + 50])[:, None]
    error = (there_and_back(embedding, "int8") - embedding).abs().amax(dim=(1, 2))
    for found, bound in zip(error.tolist(), (2 / 508, 10 / 508)):
        assert 0.99 * bound < found < bound + 1e-5


@pytest.mark.parametrize(("dtype", "value"), [("fp16", 7e4), ("fp32", float("inf")), ("int8", float("nan"))])
def test_values_that_can_not_be_held_are_refused(dtype, value):
    with pytest.raises(ValueError, match=f"values up to (70000.0|inf|nan), which {dtype} can't hold"):
        pack(torch.full(SHAPE, value), dtype)


# ------------------------------------------------------------------ whole caches


@pytest.fixture
def records(tmp_path):
    """Five pictures; of the second there are two records, as in a set of objects."""
    (tmp_path / "pictures").mkdir()
    made = []
    for number in range(5):
        path = tmp_path / "pictures" / f"{number}.jpg"
        path.write_bytes(b"x" * (10 + number))
        made.append({"file_name": str(path), "image_id": number, "height": 4, "width": 6})
    return [*made[:2], {**made[1], "image_id": "1_0"}, *made[2:]]


def spec_for(records, dtype="fp32", **changes):
    pictures = distinct_pictures(records)
    spec = CacheSpec.of("parts_train", pictures, SETTINGS, SHAPE, dtype, records_per_shard=2)
    return dataclasses.replace(spec, **changes)


def embedding_of(view, number):
    return torch.full(SHAPE, number + 100.0 * VIEWS.index(view)) + torch.arange(12.0).reshape(SHAPE) / 16


def write(folder, spec, views=VIEWS, backwards=False):
    writer = FeatureCacheWriter(folder, spec, views)
    writer.prepare()
    missing = writer.missing()
    checksums = {}
    for shard in reversed(missing) if backwards else missing:
        numbers = range(shard.first, shard.first + shard.count)
        checksums[shard.name] = writer.write(shard, (embedding_of(shard.view, n) for n in numbers))
    checksums.update({s.name: writer.checksum(s) for s in writer.shards if s not in missing})
    writer.finish(checksums)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def cache(tmp_path, records):
    write(tmp_path / "cache", spec_for(records))
    return tmp_path / "cache"


def open_reader(cache, records, spec=None, views=VIEWS):
    return FeatureCacheReader(cache, spec or spec_for(records), distinct_pictures(records), views)


def test_every_record_finds_its_embedding(cache, records):
    """Three shards a view: 2 + 2 + 1 pictures, 12 floats each and a checksum, behind a seal of 32 bytes."""
    assert sorted(contents(cache)) == sorted(
        ["manifest.json", *(f"{view}-0000{i}.bin" for view in VIEWS for i in range(3))]
    )
    assert (cache / "original-00002.bin").stat().st_size == 32 + 12 * 4 + 4
    reader = pickle.loads(pickle.dumps(open_reader(cache, records)))
    numbers = [0, 1, 1, 2, 3, 4]
    for view, (number, record) in itertools.product(VIEWS, zip(numbers, records)):
        assert torch.equal(reader.read(record, view), embedding_of(view, number))


def test_the_order_of_writing_leaves_no_trace(cache, records, tmp_path):
    write(tmp_path / "backwards", spec_for(records), backwards=True)
    assert contents(tmp_path / "backwards") == contents(cache)


def test_cache_and_pictures_can_be_moved(cache, records, tmp_path):
    shutil.move(cache, tmp_path / "elsewhere")
    shutil.move(tmp_path / "pictures", tmp_path / "photos")
    moved = [{**r, "file_name": r["file_name"].replace("/pictures/", "/photos/")} for r in records]
    reader = open_reader(tmp_path / "elsewhere", moved)
    assert torch.equal(reader.read(moved[-1], "flipped"), embedding_of("flipped", 4))


def test_several_caches_as_one(cache, records):
    reader = open_reader(cache, records)
    both = FeatureReaders([open_reader(cache, records), reader])
    assert torch.equal(both.read(records[3], "original"), embedding_of("original", 2))
    with pytest.raises(ValueError, match=r"stranger\.jpg: not in the feature caches .*cache, .*cache"):
        both.read({"file_name": "stranger.jpg"}, "original")


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_set": "parts_val"}, "it is of the data set 'parts_train', not 'parts_val'"),
        (
            {"settings": {**SETTINGS, "MODEL.SAM.PADDING": "center"}},
            "made with MODEL.SAM.PADDING 'bottom_right', and the config says 'center'",
        ),
        ({"settings": {**SETTINGS, "MODEL.NEW": 1}}, "made with MODEL.NEW None, and the config says 1"),
        ({"shape": [3, 4, 4]}, r"have the shape \[3, 2, 2\], not \[3, 4, 4\]"),
    ],
)
def test_a_cache_of_something_else_is_refused(cache, records, changes, message):
    spec = spec_for(records, **changes)
    with pytest.raises(ValueError, match=f"does not fit: .*{message}.* another MODEL.SAM.CACHE_DIR"):
        open_reader(cache, records, spec)
    with pytest.raises(ValueError, match=f"holds another feature cache: .*{message}.* another --output"):
        FeatureCacheWriter(cache, spec, VIEWS)


def test_another_picture_is_refused(cache, records):
    with pytest.raises(ValueError, match="it is of 5 pictures, and parts_train has 4"):
        open_reader(cache, records[:-1])
    with pytest.raises(ValueError, match=r"\['4\.jpg', 4, 4, 6, 14\] and is \['4\.jpg', 4, 4, 7, 14\]"):
        open_reader(cache, [*records[:-1], {**records[-1], "width": 7}])
    Path(records[0]["file_name"]).write_bytes(b"another picture")
    with pytest.raises(ValueError, match=r"was \['0\.jpg', 0, 4, 6, 10\] and is \['0\.jpg', 0, 4, 6, 15\]"):
        open_reader(cache, records)
    Path(records[0]["file_name"]).unlink()
    with pytest.raises(ValueError, match=r"0\.jpg: the picture of the feature cache does not exist"):
        open_reader(cache, records)


def test_a_missing_view_is_refused_and_added(cache, records, tmp_path):
    folder = tmp_path / "unflipped"
    write(folder, spec_for(records), views=["original"])
    with pytest.raises(ValueError, match=r"\['original'\], but INPUT.RANDOM_FLIP asks for 'flipped' too"):
        open_reader(folder, records)
    write(folder, spec_for(records), views=["flipped"])
    assert contents(folder) == contents(cache)
    # Who asks for less takes nothing away.
    write(folder, spec_for(records), views=["original"])
    assert contents(folder) == contents(cache)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def exchange(path):
    """The shard of the other view, which has the same size."""
    path.write_bytes(path.with_name(path.name.replace("flipped", "original")).read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [(truncate, "has 135 bytes; expected 136"), (Path.unlink, "is missing"), (exchange, "has 136 bytes")],
)
def test_a_shard_that_is_not_whole_is_refused_and_made_anew(cache, records, damage, message):
    whole = contents(cache)
    damage(cache / "flipped-00001.bin")
    with pytest.raises(ValueError, match=f"flipped-00001.bin: the shard {message}.* makes such shards anew"):
        open_reader(cache, records)
    # The views that are asked for are whole.
    open_reader(cache, records, views=["original"])
    writer = FeatureCacheWriter(cache, spec_for(records), VIEWS)
    broken = [s for s in writer.shards if s in writer.missing() or writer.checksum(s) is None]
    assert [s.name for s in broken] == ["flipped-00001.bin"]
    (cache / "flipped-00001.bin").unlink(missing_ok=True)
    write(cache, spec_for(records))
    assert contents(cache) == whole


def test_a_changed_byte_is_noticed_where_it_is_read(cache, records):
    """The shard's first record is that of picture 2, its second that of picture 3."""
    path = cache / "original-00001.bin"
    data = bytearray(path.read_bytes())
    data[32 + 5] ^= 1
    path.write_bytes(data)
    reader = open_reader(cache, records)
    assert torch.equal(reader.read(records[4], "original"), embedding_of("original", 3))
    with pytest.raises(ValueError, match=r"original-00001\.bin: the features of .*2\.jpg are damaged"):
        reader.read(records[3], "original")
    writer = FeatureCacheWriter(cache, spec_for(records), VIEWS)
    assert [s.name for s in writer.shards if writer.checksum(s) is None] == [path.name]


def test_a_checksum_of_the_manifest_counts(cache, records):
    manifest = cache / "manifest.json"
    text = manifest.read_text()
    first = text.index('"sha256": "', text.index("original-00000.bin")) + len('"sha256": "')
    manifest.write_text(text[:first] + "0" * 64 + text[first + 64 :])
    writer = FeatureCacheWriter(cache, spec_for(records), VIEWS)
    assert [s.name for s in writer.shards if writer.checksum(s) is None] == ["original-00000.bin"]


def test_nothing_is_read_before_the_manifest_is_there(cache, records):
    (cache / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"no finished feature cache; run tools/cache_features\.py"):
        open_reader(cache, records)
    (cache / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match=r"manifest\.json: not the manifest of a feature cache .*format 2"):
        open_reader(cache, records)


def test_a_writer_takes_no_others_folder(cache, records):
    with pytest.raises(ValueError, match="its features are fp32, not int8"):
        FeatureCacheWriter(cache, spec_for(records, "int8"), VIEWS)
    (cache / "manifest.json").unlink()
    before = contents(cache)
    for other in (spec_for(records, "int8"), spec_for(records, data_set="parts_val"), spec_for(records[:2])):
        with pytest.raises(ValueError, match=r"flipped-00000\.bin, of an unfinished one, was made of other"):
            FeatureCacheWriter(cache, other, VIEWS)
    assert contents(cache) == before


def test_a_disk_that_is_too_small_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 4, 3 << 20))
    check_free_space(tmp_path, 3 << 20)
    with pytest.raises(ValueError, match=r"need 4\.5 GiB more, but only 3\.0 MiB of the disk are free"):
        check_free_space(tmp_path, 9 << 29)
    assert readable_size(1 << 19) == "0.5 MiB"
