"""Strict loading of SAM: every key used, none missing, nothing executed, nothing trained."""

import pickle

from wps_sam.encoders.build_sam import SAM_ARCHS, build_sam, get_arch
from wps_sam.encoders.frozen import FrozenModule, hash_tensors

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def tiny_state():
    return build_sam("vit_tiny").state_dict()


def test_unknown_arch_lists_the_known():
    with pytest.raises(ValueError, match="vit_tiny, vit_b, vit_l, vit_h"):
        get_arch("vit_x")


def test_random_weights_are_seeded_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first, second = build_sam("vit_tiny"), build_sam("vit_tiny")
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b in zip(first.state_dict().values(), second.state_dict().values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_loads_both_formats(tmp_path, tiny_state, suffix):
    path = tmp_path / f"sam{suffix}"
    changed = {k: v + 1 for k, v in tiny_state.items()}
    save_file(changed, path) if suffix == ".safetensors" else torch.save(changed, path)
    sam = build_sam("vit_tiny", str(path))
    assert not sam.training
    for key, value in sam.state_dict().items():
        assert torch.equal(value, changed[key]), key


def test_only_the_wanted_components_take_memory(tmp_path, tiny_state):
    torch.save(tiny_state, tmp_path / "sam.pth")
    sam = build_sam("vit_tiny", str(tmp_path / "sam.pth"), components=("prompt_encoder",))
    assert all(p.is_meta for p in sam.image_encoder.parameters())
    assert not any(p.is_meta for p in sam.prompt_encoder.parameters())


def test_all_314_tensors_of_vit_b_are_expected():
    with torch.device("meta"):
        from wps_sam.encoders.build_sam import _sam

        assert len(_sam(SAM_ARCHS["vit_b"]).state_dict()) == 314


def test_official_layout_of_every_size_equals_the_packages_own():
    from wps_sam.encoders.build_sam import _sam

    from segment_anything import sam_model_registry

    for name in ("vit_b", "vit_l", "vit_h"):
        with torch.device("meta"):
            ours, theirs = _sam(SAM_ARCHS[name]).state_dict(), sam_model_registry[name]().state_dict()
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_missing_unexpected_and_misshaped_keys_are_named(tmp_path, tiny_state):
    broken = dict(tiny_state)
    broken.pop("mask_decoder.iou_token.weight")
    broken["surplus"] = torch.zeros(1)
    broken["image_encoder.pos_embed"] = torch.zeros(1, 2, 2, 3)
    torch.save(broken, tmp_path / "sam.pth")
    with pytest.raises(ValueError) as error:
        build_sam("vit_tiny", str(tmp_path / "sam.pth"))
    message = str(error.value)
    assert "1 missing: mask_decoder.iou_token.weight" in message
    assert "1 unexpected: surplus" in message
    assert "image_encoder.pos_embed ((1, 2, 2, 3), expected (1, 32, 32, 192))" in message
    assert "sam.pth" in message


def test_checkpoint_of_another_size_is_recognised(tmp_path, tiny_state):
    torch.save(tiny_state, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match="It looks like a vit_tiny: set MODEL.SAM.ARCH"):
        build_sam("vit_b", str(tmp_path / "sam.pth"))


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code inside a checkpoint was executed",))


def test_pickle_with_code_is_refused(tmp_path):
    torch.save({"weight": _Bomb()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="evil.pth: refused"):
        build_sam("vit_tiny", str(tmp_path / "evil.pth"))
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ValueError, match="plain.pth"):
        build_sam("vit_tiny", str(tmp_path / "plain.pth"))


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_truncated_files_are_named(tmp_path, tiny_state, name):
    path = tmp_path / name
    save_file(tiny_state, path) if name.endswith("safetensors") else torch.save(tiny_state, path)
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(ValueError, match=name):
        build_sam("vit_tiny", str(path))


def test_missing_file_nested_file_and_wrong_shipped_arch(tmp_path, tiny_state):
    with pytest.raises(ValueError, match="nowhere.pth: no such checkpoint file"):
        build_sam("vit_tiny", str(tmp_path / "nowhere.pth"))
    torch.save({"weights": tiny_state}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match="non-tensor values under 'weights'"):
        build_sam("vit_tiny", str(tmp_path / "nested.pth"))
    with pytest.raises(ValueError, match="only vit_tiny is shipped"):
        build_sam("vit_b", "shipped")


def test_frozen_module_stays_in_eval_mode():
    class Frozen(FrozenModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
            self.freeze()

    module = Frozen()
    module.train()
    assert not module.training and not module.layer[1].training
    assert not any(p.requires_grad for p in module.parameters())


def test_hash_tells_values_names_and_shapes_apart():
    zeros = torch.zeros(4)
    base = hash_tensors([("a", zeros)])
    assert base == hash_tensors([("a", zeros.half())])
    assert (
        len(
            {
                base,
                hash_tensors([("b", zeros)]),
                hash_tensors([("a", zeros + 1)]),
                hash_tensors([("a", zeros.view(2, 2))]),
            }
        )
        == 4
    )
