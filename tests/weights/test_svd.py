"""A single file holds all that a diffusers folder holds."""

import pytest
import torch
from generative_inbetweening.nodes import InbetweenLoadSVD
from generative_inbetweening.weights.svd import read_folder, read_single_file, write_single_file
from helpers.model_folders import REFERENCE, folder, use_folders

XT = REFERENCE / folder("-xt").rstrip("/")


@pytest.fixture(scope="module")
def parts():
    return read_folder(XT)


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory):
    use_folders(tmp_path_factory.mktemp("models"))


def test_single_file_holds_the_whole_folder(parts, tmp_path, monkeypatch):
    import folder_paths

    write_single_file(parts, tmp_path / "svd.safetensors")
    found = read_single_file(tmp_path / "svd.safetensors")
    assert found.config == parts.config
    for name in ("unet", "vae", "image_encoder"):
        before, after = getattr(parts, name), getattr(found, name)
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], {".safetensors"}))
    from_file, from_folder = (
        InbetweenLoadSVD.execute(name).args[0].model.state_dict() for name in ("svd.safetensors", folder("-xt"))
    )
    assert from_file.keys() == from_folder.keys()
    assert all(torch.equal(from_file[key], from_folder[key]) for key in from_file)


def test_single_file_is_never_overwritten_unasked(parts, tmp_path):
    path = tmp_path / "svd.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists already and is kept"):
        write_single_file(parts, path)
    assert path.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [path]
