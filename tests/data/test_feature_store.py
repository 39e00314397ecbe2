"""The files of a feature store: exact to the bit, refused when they are not what they should be."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import pickle
import shutil
from pathlib import Path

from wps_sam.data import feature_store
from wps_sam.data.feature_store import (
    FeatureStoreReader,
    FeatureStoreWriter,
    Manifest,
    StoreSpec,
    distinct_pictures,
    pack,
    unpack,
)
from wps_sam.data.feature_store_v1 import FeatureStoreReaderV1
from wps_sam.shares import Share

import numpy as np
import pytest
import torch
from format_1_cache import write_format_1
from safetensors.torch import load_file

VIEWS = ("original", "flipped")
SHAPES = {"image_embedding": [3, 2, 2], "tags": [4]}
SETTINGS = {"MODEL.SAM.ARCH": "vit_tiny", "MODEL.SAM.PADDING": "bottom_right", "MODEL.PIXEL_MEAN": [1.0, 2.0]}


def there_and_back(feature, dtype):
    return unpack(pack({"a": feature}, dtype), ["a"])["a"]


# ------------------------------------------------------------------ the features of one picture


def test_fp32_is_exact_and_fp16_rounded():
    feature = torch.randn(5, 4, 4)
    assert torch.equal(there_and_back(feature, "fp32"), feature)
    assert torch.equal(there_and_back(feature, "fp16"), feature.half())
    # What is stored is no view of what a model may overwrite.
    assert pack({"a": feature}, "fp32")["a"].data_ptr() != feature.data_ptr()


def test_int8_by_hand():
    """Channel 0 spans 100 to 102.54: steps of 2.54 / 254 = 0.01 around 101.27, so 100.004 becomes 100.00, off by 0.004.

    A constant channel has no step at all and is exact.
    """
    feature = torch.tensor([[[100.0, 102.54], [100.004, 101.27]], [[7.7, 7.7], [7.7, 7.7]]])
    packed = pack({"a": feature}, "int8")
    assert packed["a"].tolist() == [[[-127, 127], [-127, 0]], [[0, 0], [0, 0]]]
    torch.testing.assert_close(packed["a.offset"], torch.tensor([101.27, 7.7]))
    torch.testing.assert_close(packed["a.scale"], torch.tensor([0.01, 0.0]), atol=1e-6, rtol=0)
    expected = torch.tensor([[[100.0, 102.54], [100.0, 101.27]], [[7.7, 7.7], [7.7, 7.7]]])
    torch.testing.assert_close(unpack(packed, ["a"])["a"], expected, atol=1e-5, rtol=0)


def test_int8_errs_by_half_a_step_at_most():
    """A fine ramp meets the worst case: error (max - min) / 508, in each channel by its own range."""
    ramp = torch.linspace(0, 1, 10001)
    feature = torch.stack([ramp * 2 - 1, ramp * 10 + 50])[:, None]
    error = (there_and_back(feature, "int8") - feature).abs().amax(dim=(1, 2))
    for found, bound in zip(error.tolist(), (2 / 508, 10 / 508)):
        assert 0.99 * bound < found < bound + 1e-5


@pytest.mark.parametrize(("dtype", "value"), [("fp16", 7e4), ("fp32", float("inf")), ("int8", float("nan"))])
@pytest.mark.parametrize("shape", [(3, 2, 2), (4,)])
def test_values_that_can_not_be_held_are_refused(dtype, value, shape):
    feature = torch.zeros(shape)
    feature[-1] = value
    with pytest.raises(ValueError, match=f"^a holds values up to (70000.0|inf|nan), which {dtype} can't hold"):
        pack({"a": feature}, dtype)


def test_fp16_is_refused_from_where_it_rounds_to_infinity():
    greatest = torch.tensor([65519.99, -65519.99])
    assert there_and_back(greatest, "fp16").tolist() == [65504, -65504]
    for value in (65520.0, -65520.0):
        with pytest.raises(ValueError, match=r"^a holds values up to 65520\.0, which fp16 can't hold"):
            pack({"a": torch.tensor([0.0, value])}, "fp16")


# ------------------------------------------------------------------ whole stores


@pytest.fixture(autouse=True)
def two_records_per_shard(monkeypatch):
    monkeypatch.setattr(feature_store, "MAX_RECORDS_PER_SHARD", 2)


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
    spec = StoreSpec("parts_train", SETTINGS, distinct_pictures(records), SHAPES, dtype)
    return dataclasses.replace(spec, **changes)


def features_of(view, number):
    base = number + 100.0 * VIEWS.index(view)
    return {"image_embedding": base + torch.arange(12.0).reshape(3, 2, 2) / 16, "tags": base - torch.arange(4.0)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def write(folder, spec, views=VIEWS, backwards=False, at_most=None):
    """As the tool does it; killed ``at_most`` after so many shards."""
    writer = FeatureStoreWriter(folder, spec, views)
    writer.prepare()
    missing = writer.missing()
    digests = {}
    for shard in missing[:: -1 if backwards else 1][:at_most]:
        numbers = range(shard.first, shard.first + shard.count)
        digests[shard.name] = writer.write(shard, (pack(features_of(shard.view, n), spec.dtype) for n in numbers))
    if at_most is None:
        digests.update({s.name: writer.check(s) for s in writer.shards if s not in missing})
        writer.finish(digests)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def store(tmp_path, records):
    write(tmp_path / "store", spec_for(records))
    return tmp_path / "store"


def open_reader(store, records, spec=None, views=VIEWS):
    return FeatureStoreReader(store, spec or spec_for(records), views)


@pytest.mark.parametrize("dtype", ["fp16", "fp32", "int8"])
def test_every_record_finds_its_features(records, tmp_path, dtype):
    """Three shards a view: 2 + 2 + 1 pictures."""
    store = tmp_path / dtype
    write(store, spec_for(records, dtype))
    assert sorted(contents(store)) == sorted(
        ["manifest.json", *(f"{view}-0000{i}.safetensors" for view in VIEWS for i in range(3))]
    )
    reader = pickle.loads(pickle.dumps(open_reader(store, records, spec_for(records, dtype="any"))))
    for view, (number, record) in itertools.product(VIEWS, zip([0, 1, 1, 2, 3, 4], records)):
        expected = features_of(view, number)
        assert_same(reader.read(record, view), unpack(pack(expected, dtype), expected))
    assert reader.read(records[0], "original")["tags"].dtype == (torch.float16 if dtype == "fp16" else torch.float32)
    with pytest.raises(ValueError, match=r"stranger\.jpg: not in the feature cache .*" + dtype):
        reader.read({"file_name": "stranger.jpg"}, "original")


def test_shards_are_safetensors_files(store):
    tensors = load_file(store / "flipped-00001.safetensors")
    assert sorted(tensors) == ["0000.image_embedding", "0000.tags", "0001.image_embedding", "0001.tags"]
    assert torch.equal(tensors["0001.image_embedding"], features_of("flipped", 3)["image_embedding"])


def test_who_may_read_the_manifest_may_read_the_shards(store):
    assert len({path.stat().st_mode for path in store.iterdir()}) == 1


@pytest.mark.parametrize(("side", "count"), [(16, 32), (64, 32), (90, 16), (400, 1)])
def test_a_shard_has_64_mib_or_32_records_at_most(records, monkeypatch, side, count):
    """fp16 records of 256 channels: 512 side^2 bytes, of which 2^26 hold 131072 / side^2."""
    monkeypatch.setattr(feature_store, "MAX_RECORDS_PER_SHARD", 32)
    manifest = Manifest.of(spec_for(records, "fp16", features={"image_embedding": [256, side, side]}))
    assert manifest.records_per_shard == count


def test_the_order_of_writing_leaves_no_trace(store, records, tmp_path):
    write(tmp_path / "backwards", spec_for(records), backwards=True)
    assert contents(tmp_path / "backwards") == contents(store)


@pytest.mark.parametrize("kills", [[1], [2, 1, 1], [6]])
def test_what_was_killed_between_shards_goes_on(store, records, tmp_path, kills):
    for count in kills:
        write(tmp_path / "killed", spec_for(records), at_most=count)
        with pytest.raises(ValueError, match="no finished feature cache"):
            open_reader(tmp_path / "killed", records)
        (tmp_path / "killed" / "original-00002.safetensors.1.tmp").write_bytes(b"half a sha")
    assert len(FeatureStoreWriter(tmp_path / "killed", spec_for(records), VIEWS).missing()) == 6 - sum(kills)
    write(tmp_path / "killed", spec_for(records))
    assert contents(tmp_path / "killed") == contents(store)


def seal_as_before(monkeypatch):
    """The shards that are written have the seal of versions before November 2026: of the pictures of all."""

    def seal(store, shard):
        m = store.manifest
        content = {k: v for k, v in vars(m).items() if k not in ("mtimes", "views", "shards")}
        return hashlib.sha256(
            hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest() + shard.name.encode()
        ).hexdigest()

    monkeypatch.setattr(FeatureStoreWriter, "_seal", seal)


def test_stores_of_earlier_versions_are_read_and_go_on(records, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        seal_as_before(patched)
        write(tmp_path / "old", spec_for(records))
        write(tmp_path / "killed", spec_for(records), at_most=2)
    assert_same(open_reader(tmp_path / "old", records).read(records[4], "flipped"), features_of("flipped", 3))
    before = contents(tmp_path / "old")
    write(tmp_path / "old", spec_for(records))
    assert contents(tmp_path / "old") == before
    assert len(FeatureStoreWriter(tmp_path / "killed", spec_for(records), VIEWS).missing()) == 4


# ------------------------------------------------------------------ shares


def write_share(folder, records, share, at_most=None):
    """As the tool does it; killed after so many shards."""
    writer = FeatureStoreWriter(folder, spec_for(records), VIEWS, share)
    writer.prepare()
    for shard in writer.missing()[:at_most]:
        numbers = range(shard.first, shard.first + shard.count)
        writer.write(shard, (pack(features_of(shard.view, n), "fp32") for n in numbers))
    return {shard.name for shard in writer.shards}


@pytest.mark.parametrize("of", [2, 3, 5])
def test_shares_make_the_same_store_each_from_its_own_pictures(store, records, tmp_path, of):
    """Three shards a view, numbers 0 to 2, of 2 + 2 + 1 pictures; of five shares two are empty."""
    folder, made = tmp_path / "shared", []
    for number in reversed(range(of)):
        own = {2 * n + k for n in range(number, 3, of) for k in (0, 1)} & set(range(5))
        # Others' pictures need not even be there.
        there = [r if int(Path(r["file_name"]).stem) in own else {**r, "file_name": f"gone{i}"} for i, r in
                 enumerate(distinct_pictures(records))]  # fmt: skip
        names = write_share(folder, there, Share(number, of))
        assert names == {f"{view}-0000{n}.safetensors" for view in VIEWS for n in range(number, 3, of)}
        made += names
    assert len(made) == len(set(made)) == 6
    writer = FeatureStoreWriter(folder, spec_for(records), VIEWS)
    assert writer.missing() == []
    write(folder, spec_for(records))
    assert contents(folder) == contents(store)


def test_a_killed_share_goes_on_and_leaves_the_others_alone(store, records, tmp_path):
    folder = tmp_path / "shared"
    write_share(folder, records, Share(0, 2), at_most=1)
    left = {"mine": "flipped-00002.safetensors.1.tmp", "others": "original-00001.safetensors.1.tmp"}
    for name in left.values():
        (folder / name).write_bytes(b"half a sha")
    write_share(folder, records, Share(0, 2))
    # The other share may be at work.
    assert contents(folder).keys() & left.values() == {left["others"]}
    write_share(folder, records, Share(1, 2))
    write(folder, spec_for(records))
    assert contents(folder) == contents(store)
    # A share of a finished store makes damaged shards anew, and sees a changed picture of its own alone.
    (folder / "original-00001.safetensors").unlink()
    assert write_share(folder, records, Share(0, 2)) and not (folder / "original-00001.safetensors").exists()
    write_share(folder, records, Share(1, 2))
    assert contents(folder) == contents(store)
    change_in_place(records[-1])
    write_share(folder, records, Share(1, 2))
    with pytest.raises(ValueError, match=r"made with the picture \['4\.jpg'"):
        write_share(folder, records, Share(0, 2))


def test_a_share_of_something_else_is_refused(records, tmp_path):
    write_share(tmp_path, records, Share(0, 2))
    change_in_place(records[0])
    write_share(tmp_path, records, Share(1, 2))
    with pytest.raises(ValueError, match=r"flipped-00000\.safetensors, of an unfinished one, was made of other"):
        write_share(tmp_path, records, Share(0, 2))


def test_a_missing_view_is_refused_and_added(store, records, tmp_path):
    folder = tmp_path / "unflipped"
    write(folder, spec_for(records), views=["original"])
    with pytest.raises(
        ValueError, match=r"\['original'\], but INPUT.RANDOM_FLIP or RANDOM_VIEWS asks for 'flipped' too"
    ):
        open_reader(folder, records)
    write(folder, spec_for(records), views=["flipped"])
    assert contents(folder) == contents(store)
    # Who asks for less takes nothing away.
    write(folder, spec_for(records), views=["original"])
    assert contents(folder) == contents(store)


# ------------------------------------------------------------------ pictures


def touch(records):
    for record in records:
        os.utime(record["file_name"], ns=(1, 1))


def change_in_place(record):
    """Other bytes, as many as before, and another modification time."""
    path = Path(record["file_name"])
    path.write_bytes(b"y" * path.stat().st_size)
    os.utime(path, ns=(2, 2))


def test_store_and_pictures_can_be_moved(store, records, tmp_path):
    shutil.move(store, tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "pictures", tmp_path / "photos", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "pictures")
    moved = [{**r, "file_name": r["file_name"].replace("/pictures/", "/photos/")} for r in records]
    touch(moved)
    assert_same(open_reader(tmp_path / "elsewhere", moved).read(moved[-1], "flipped"), features_of("flipped", 4))


def test_another_picture_is_refused(store, records):
    with pytest.raises(ValueError, match="with the number of pictures 5, and 4 is asked for"):
        open_reader(store, records[:-1])
    with pytest.raises(ValueError, match="with the number of pictures 5, and 6 is asked for"):
        open_reader(store, [*records, {**records[0], "file_name": __file__}])
    with pytest.raises(ValueError, match=r"\['4\.jpg', 4, 4, 6, 14, .*, and \['4\.jpg', 4, 4, 7, 14, "):
        open_reader(store, [*records[:-1], {**records[-1], "width": 7}])
    Path(records[0]["file_name"]).write_bytes(b"another picture")
    with pytest.raises(ValueError, match=r"\['0\.jpg', 0, 4, 6, 10, .*, and \['0\.jpg', 0, 4, 6, 15, "):
        open_reader(store, records)
    Path(records[0]["file_name"]).unlink()
    with pytest.raises(ValueError, match=r"0\.jpg: the picture of the feature cache does not exist"):
        open_reader(store, records)


def test_a_picture_that_was_changed_in_place_is_refused(store, records):
    change_in_place(records[3])
    message = r"the picture \['2\.jpg', 2, 4, 6, 12, '(\w{16})'\], and \['2\.jpg', 2, 4, 6, 12, '(?!\1)\w{16}'\] is"
    with pytest.raises(ValueError, match=message):
        open_reader(store, records)
    with pytest.raises(ValueError, match=message):
        FeatureStoreWriter(store, spec_for(records), VIEWS)


def test_a_picture_that_was_changed_before_the_store_was_finished_is_refused(records, tmp_path):
    write(tmp_path / "killed", spec_for(records), at_most=2)
    # Shards know of their own pictures alone.
    change_in_place(records[-1])
    FeatureStoreWriter(tmp_path / "killed", spec_for(records), VIEWS)
    change_in_place(records[0])
    with pytest.raises(ValueError, match=r"flipped-00000\.safetensors, of an unfinished one, was made of other"):
        FeatureStoreWriter(tmp_path / "killed", spec_for(records), VIEWS)


def test_modification_times_are_no_part_of_the_features(store, records, tmp_path, caplog):
    touch(records)
    with caplog.at_level("INFO", logger=feature_store.__name__):
        open_reader(store, records)
    assert "store: pictures were moved or changed since, and had to be read" in caplog.text
    write(tmp_path / "later", spec_for(records))
    was, later = contents(store), contents(tmp_path / "later")
    manifest = json.loads(later["manifest.json"])
    assert manifest["mtimes"] == [1] * 5
    assert {**json.loads(was.pop("manifest.json")), "mtimes": [1] * 5} == manifest
    assert was == {name: content for name, content in later.items() if name != "manifest.json"}
    # The writer notes the new ones in a finished store.
    write(store, spec_for(records))
    assert contents(store) == later
    caplog.clear()
    open_reader(store, records)
    assert not caplog.text


def test_only_pictures_with_another_modification_time_are_read(store, records):
    """One whose bytes and time are as before is trusted, even wrongly."""
    path = Path(records[0]["file_name"])
    stat = path.stat()
    path.write_bytes(b"y" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    open_reader(store, records)
    # The tool reads them all.
    with pytest.raises(ValueError, match=r"with the picture \['0\.jpg'"):
        FeatureStoreWriter(store, spec_for(records), VIEWS)


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_set": "parts_val"}, "the data set 'parts_train', and 'parts_val' is asked for"),
        (
            {"settings": {**SETTINGS, "MODEL.SAM.PADDING": "center"}},
            "MODEL.SAM.PADDING 'bottom_right', and 'center' is asked for",
        ),
        ({"settings": {**SETTINGS, "MODEL.NEW": 1}}, "MODEL.NEW None, and 1 is asked for"),
        ({"settings": {"MODEL.SAM.ARCH": "vit_tiny"}}, "MODEL.SAM.PADDING 'bottom_right', and None is asked for"),
        (
            {"features": {**SHAPES, "image_embedding": [3, 4, 4]}},
            r"features of the shapes {'image_embedding': \[3, 2, 2\].*, and {'image_embedding': \[3, 4, 4\].* is asked",
        ),
        ({"features": {"tags": [4]}}, r"features of the shapes .*, and {'tags': \[4\]} is asked for"),
    ],
)
def test_a_store_of_something_else_is_refused(store, records, changes, message):
    spec = spec_for(records, **changes)
    with pytest.raises(ValueError, match=f"does not fit: it was made with {message}.* another MODEL.SAM.CACHE_DIR"):
        open_reader(store, records, spec)
    with pytest.raises(ValueError, match=f"holds another feature cache: .*{message}.* another --output"):
        FeatureStoreWriter(store, spec, VIEWS)


def test_the_first_of_several_differences_is_named(store, records):
    settings = {**SETTINGS, "MODEL.SAM.PADDING": "center", "MODEL.PIXEL_MEAN": [0.0, 0.0]}
    with pytest.raises(ValueError, match="MODEL.SAM.PADDING"):
        open_reader(store, records[:2], spec_for(records[:2], settings=settings))


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_its_header(path):
    path.write_bytes(path.read_bytes()[:100])


def take_from_the_other_view(path):
    path.write_bytes(path.with_name(path.name.replace("flipped", "original")).read_bytes())


def take_from_another_store(path):
    """With the same features, made with other settings."""
    spec = spec_for([{"file_name": __file__, "image_id": 0, "height": 1, "width": 1}] * 5)
    pictures = [{**spec.pictures[0], "image_id": i} for i in range(5)]
    write(path.parent.parent / "other", dataclasses.replace(spec, pictures=pictures))
    path.write_bytes((path.parent.parent / "other" / path.name).read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is cut off, or not of this cache"),
        (cut_in_its_header, "is cut off"),
        (lambda path: path.write_bytes(b""), "is cut off"),
        (Path.unlink, "is missing"),
        (take_from_the_other_view, "is cut off, or not of this cache"),
        (take_from_another_store, "is cut off, or not of this cache"),
    ],
)
def test_a_shard_that_is_not_whole_is_refused_and_made_anew(store, records, damage, message):
    whole = contents(store)
    damage(store / "flipped-00001.safetensors")
    with pytest.raises(ValueError, match=f"flipped-00001.safetensors: the shard {message}.* such shards anew"):
        open_reader(store, records)
    # The views that are asked for are whole.
    open_reader(store, records, views=["original"])
    writer = FeatureStoreWriter(store, spec_for(records), VIEWS)
    assert [s.name for s in writer.missing()] == ["flipped-00001.safetensors"]
    write(store, spec_for(records))
    assert contents(store) == whole


def test_every_changed_byte_is_noticed(store, records):
    """Of a shard's header when the store is opened, of its features when the picture is read; by the tool all."""
    path = store / "original-00001.safetensors"
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    # 12 + 4 values of 4 bytes, of two pictures.
    assert len(whole) == start + 2 * 64
    writer = FeatureStoreWriter(store, spec_for(records), VIEWS)
    shard = next(s for s in writer.shards if s.name == path.name)
    reader = open_reader(store, records)
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert writer.check(shard) is None
        if position < start:
            assert shard in writer.missing()
            continue
        assert shard not in writer.missing()
        damaged, other = (records[3], records[4]) if position < start + 64 else (records[4], records[3])
        reader.read(other, "original")
        with pytest.raises(
            ValueError, match=rf"original-00001\.safetensors: the features of .*{damaged['image_id']}\.jpg"
        ):
            reader.read(damaged, "original")
    path.write_bytes(whole)
    with path.open("r+b") as file:
        file.truncate(len(whole) - 1)
    with pytest.raises(ValueError, match=r"3\.jpg are damaged \(their checksum does not fit\); run .* shards anew"):
        reader.read(records[4], "original")


def test_a_digest_of_the_manifest_counts(store, records):
    """A whole shard with the right seal that is not the one which the store was finished with."""
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["shards"]["original-00000.safetensors"] = "0" * 16
    (store / "manifest.json").write_text(json.dumps(manifest))
    writer = FeatureStoreWriter(store, spec_for(records), VIEWS)
    assert [s.name for s in writer.missing()] == ["original-00000.safetensors"]
    with pytest.raises(ValueError, match=r"original-00000\.safetensors: the shard is cut off, or not of this cache"):
        open_reader(store, records)


def test_a_manifest_that_was_made_to_fit_does_not_help(store, records):
    """The seals say what the features were really made with."""
    text = (store / "manifest.json").read_text()
    (store / "manifest.json").write_text(text.replace("bottom_right", "center"))
    spec = spec_for(records, settings={**SETTINGS, "MODEL.SAM.PADDING": "center"})
    with pytest.raises(ValueError, match=r"original-00000\.safetensors: the shard is cut off, or not of this cache"):
        open_reader(store, records, spec)


def test_nothing_is_read_without_a_manifest_of_this_format(store, records):
    path = store / "manifest.json"
    for content, message in (
        ('{"format": 3}', r"is of format 3, expected 2"),
        ('{"format": 2}', r"not a feature cache's manifest \(.*delete the folder"),
        ("[]", r"not a feature cache's manifest"),
        ("{", r"not a feature cache's manifest"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"manifest\.json: .*{message}"):
            open_reader(store, records)
    path.unlink()
    with pytest.raises(ValueError, match=r"no finished feature cache; run tools/cache_features\.py"):
        open_reader(store, records)


def test_a_writer_takes_no_others_folder(store, records):
    with pytest.raises(ValueError, match="made with the dtype 'fp32', and 'int8' is asked for"):
        FeatureStoreWriter(store, spec_for(records, "int8"), VIEWS)
    (store / "manifest.json").unlink()
    before = contents(store)
    for other in (spec_for(records, "int8"), spec_for(records, data_set="parts_val"), spec_for(records[:2])):
        with pytest.raises(ValueError, match=r"flipped-0000\d\.safetensors, of an unfinished one, was made of other"):
            FeatureStoreWriter(store, other, VIEWS)
    assert contents(store) == before


def test_a_shard_in_the_place_of_another_is_refused_before_there_is_a_manifest(store, records):
    (store / "manifest.json").unlink()
    take_from_the_other_view(store / "flipped-00001.safetensors")
    with pytest.raises(ValueError, match=r"flipped-00001\.safetensors, of an unfinished one, was made of other"):
        FeatureStoreWriter(store, spec_for(records), VIEWS)


def test_an_unfinished_store_goes_on_whatever_the_order_of_its_settings(store, records):
    (store / "manifest.json").unlink()
    settings = dict(reversed(SETTINGS.items()))
    assert FeatureStoreWriter(store, spec_for(records, settings=settings), VIEWS).missing() == []


def test_damage_is_noticed_before_there_is_a_manifest(store, records):
    whole = contents(store)
    (store / "manifest.json").unlink()
    for name, old, new in (
        ("original-00000.safetensors", b"0001.tags", b"0001.tagt"),
        ("flipped-00000.safetensors", b"data_offsets", b"data_offsetz"),
    ):
        assert whole[name].count(old) > 0
        (store / name).write_bytes(whole[name].replace(old, new, 1))
    flip_a_byte(store / "original-00001.safetensors")
    writer = FeatureStoreWriter(store, spec_for(records), VIEWS)
    assert [s.name for s in writer.missing()] == ["original-00000.safetensors", "flipped-00000.safetensors"]
    assert [s.name for s in writer.shards if s not in writer.missing() and writer.check(s) is None] == [
        "original-00001.safetensors"
    ]


# ------------------------------------------------------------------ format 1


def embedding_of(view, number):
    """float32 [3, 2, 2] that neither fp16 nor int8 holds exactly; a channel is constant."""
    values = np.random.default_rng([number, VIEWS.index(view)]).normal(size=(3, 2, 2)).astype(np.float32)
    values[1] = 0.1
    return values


def spec_v1(records):
    return spec_for(records, features={"image_embedding": [3, 2, 2]})


@pytest.fixture
def write_old(records, tmp_path):
    def write_old(dtype="fp32"):
        write_format_1(
            tmp_path / "old", "parts_train", SETTINGS, distinct_pictures(records), embedding_of, dtype,
            records_per_shard=3,
        )  # fmt: skip
        return tmp_path / "old"

    return write_old


@pytest.mark.parametrize("dtype", ["fp16", "fp32", "int8"])
def test_format_1_is_read_bit_by_bit(write_old, records, dtype):
    touch(records)
    old = FeatureStoreReaderV1(write_old(dtype), spec_v1(records))
    assert (old.manifest.dtype, old.manifest.views) == (dtype, list(VIEWS))
    for view, number in itertools.product(VIEWS, range(5)):
        expected = pack({"image_embedding": torch.from_numpy(embedding_of(view, number))}, dtype)
        assert_same(old.read(number, view), expected)


def test_format_1_is_for_the_converter_only(write_old, records):
    folder = write_old()
    message = rf"is of format 1, expected 2.*tools/cache_features\.py --config-file FILE --convert {folder.parent} "
    with pytest.raises(ValueError, match=message):
        open_reader(folder, records)
    with pytest.raises(ValueError, match=message):
        FeatureStoreWriter(folder, spec_v1(records), VIEWS)
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"flipped-00000\.bin, of an unfinished one"):
        FeatureStoreWriter(folder, spec_v1(records), VIEWS)


def test_format_1_of_something_else_is_refused(write_old, records, store):
    folder = write_old()
    settings = {**SETTINGS, "MODEL.SAM.PADDING": "center"}
    with pytest.raises(ValueError, match="MODEL.SAM.PADDING 'bottom_right', and 'center' is asked for"):
        FeatureStoreReaderV1(folder, dataclasses.replace(spec_v1(records), settings=settings))
    with pytest.raises(
        ValueError, match=r"features of the shapes {'image_embedding': \[3, 2, 2\]}, and {'ima.*3, 4, 4\]} is"
    ):
        FeatureStoreReaderV1(folder, spec_for(records, features={"image_embedding": [3, 4, 4]}))
    Path(records[0]["file_name"]).write_bytes(b"another picture")
    with pytest.raises(ValueError, match=r"\['0\.jpg', 0, 4, 6, 10, None\], and \['0\.jpg', 0, 4, 6, 15, None\] is"):
        FeatureStoreReaderV1(folder, spec_v1(records))
    with pytest.raises(ValueError, match="is of format 2, expected 1"):
        FeatureStoreReaderV1(store, spec_v1(records))
    with pytest.raises(ValueError, match="no finished feature cache"):
        FeatureStoreReaderV1(folder / "nowhere", spec_v1(records))


def cut_off_a_record(path):
    path.write_bytes(path.read_bytes()[: 32 + 12 * 4 + 4])


@pytest.mark.parametrize("damage", [flip_a_byte, cut, cut_off_a_record, Path.unlink, take_from_the_other_view])
def test_damage_of_format_1_is_noticed(write_old, records, damage):
    folder = write_old()
    damage(folder / "flipped-00001.bin")
    old = FeatureStoreReaderV1(folder, spec_v1(records))
    old.read(2, "flipped")
    with pytest.raises(ValueError, match=r"flipped-00001\.bin: the features of 4\.jpg are missing, damaged or of"):
        old.read(4, "flipped")
