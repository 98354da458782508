"""What a file or a name claims is checked before anything is built: one sentence, at once, whatever it holds."""

import json
import os
import shutil
import struct
import time

import pytest
import torch
from generative_inbetweening.common.errors import WeightsError
from generative_inbetweening.nodes import InbetweenConvertBackwardMotion, InbetweenLoadBackwardMotion, InbetweenLoadSVD
from generative_inbetweening.weights.backward_motion import read_backward_motion
from generative_inbetweening.weights.files import read_tensors
from generative_inbetweening.weights.keys import image_encoder as image_encoder_keys
from generative_inbetweening.weights.svd import read_folder, write_single_file
from helpers.model_folders import REFERENCE, folder, use_empty_folders
from safetensors.torch import load_file, save_file

XT = REFERENCE / folder("-xt").rstrip("/")
NAMES = ["\ud800", "a\nb.safetensors", "a\0b", "x" * 10**6, "\x1b[2Jx/", "x" * 300 + "/", "\udcff.safetensors", "", " "]


@pytest.fixture
def host(tmp_path, monkeypatch):
    """An empty host with the reference's folders linked into it."""
    base = use_empty_folders(tmp_path, monkeypatch)
    for name in ("tiny-svd", "tiny-svd-reverse-motion"):
        (base / "diffusers" / name).symlink_to(REFERENCE / name)
    return base


@pytest.fixture(scope="module")
def model():
    from generative_inbetweening.weights.host import build_unet

    parts = read_folder(XT)
    return build_unet(parts.unet, parts.config)


@pytest.fixture
def differences(host):
    InbetweenConvertBackwardMotion.execute("tiny-svd/", "tiny-svd-reverse-motion/", "good", "fp32", False)
    return load_file(host / "backward_motion" / "good.safetensors")


def refused(run) -> str:
    """The message: one that can be written anywhere, short, and quick to come."""
    begin = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        run()
    # Nothing is waited for, and no memory filled; a busy machine takes a few seconds to load what comes before.
    assert time.perf_counter() - begin < 10
    message = str(caught.value)
    assert message.encode() and message.isprintable() and len(message) < 1000
    return message


@pytest.mark.parametrize("name", NAMES)
def test_a_name_from_a_workflow_can_do_no_harm(host, model, name):
    good = "tiny-svd/"
    for label, run in (
        ("model_name", lambda: InbetweenLoadSVD.execute(name)),
        ("backward_motion", lambda: InbetweenLoadBackwardMotion.execute(model, name, 1.0)),
        ("base", lambda: InbetweenConvertBackwardMotion.execute(name, good, "new", "fp16", False)),
        ("fine_tuned", lambda: InbetweenConvertBackwardMotion.execute(good, name, "new", "fp16", False)),
        ("file_name", lambda: InbetweenConvertBackwardMotion.execute(good, good, name, "fp16", False)),
        ("precision", lambda: InbetweenConvertBackwardMotion.execute(good, good, "new", name, False)),
    ):
        assert refused(run).startswith(f"{label}: ")
    assert not list((host / "backward_motion").iterdir())


@pytest.mark.parametrize("name", ["CON", "nul", "Aux.safetensors", "com1", "LPT9.old", "prn .x", "conin$", "COM¹"])
def test_devices_of_windows_are_no_file_names(host, name):
    message = refused(
        lambda: InbetweenConvertBackwardMotion.execute("tiny-svd/", "tiny-svd-reverse-motion/", name, "fp16", False)
    )
    assert message.startswith("file_name: expected a plain name") and not list((host / "backward_motion").iterdir())


@pytest.mark.parametrize("name", ["console", "nullify", "com10", "auxiliary 2", "ü" * 90])
def test_other_file_names_are_taken(host, name):
    InbetweenConvertBackwardMotion.execute("tiny-svd/", "tiny-svd-reverse-motion/", name, "fp16", False)
    assert (host / "backward_motion" / f"{name}.safetensors").is_file()


def test_conversion_names_the_input_and_no_path_of_the_machine(host):
    shutil.copytree(REFERENCE / "tiny-svd", host / "diffusers" / "other")
    path = host / "diffusers" / "other" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = read_tensors(path)
    save_file({key: tensor for key, tensor in tensors.items() if "down_blocks.0" not in key}, path)
    InbetweenConvertBackwardMotion.execute("tiny-svd/", "tiny-svd-reverse-motion/", "kept", "fp16", False)
    good, tuned = "tiny-svd/", "tiny-svd-reverse-motion/"
    (host / "diffusion_models" / "vae.safetensors").symlink_to(XT / "vae" / "diffusion_pytorch_model.safetensors")
    (host / "backward_motion" / "folder.safetensors").mkdir()
    for arguments, words in (
        (("nothing/", tuned, "new"), "base: Expected the folder nothing/"),
        ((good, "nothing.safetensors", "new"), "fine_tuned: Expected the file nothing.safetensors"),
        (("other/", tuned, "new"), "fine_tuned: Expected the same temporal attentions"),
        (("vae.safetensors", tuned, "new"), "base: Expected"),
        ((good, good, "new"), "fine_tuned: Expected a fine-tuned model that differs"),
        ((good, tuned, "kept"), "file_name: kept.safetensors exists already and is kept"),
        ((good, tuned, "folder"), "file_name: folder.safetensors exists already"),
        ((good, tuned, "x" * 230), "file_name: expected a plain name"),
    ):
        message = refused(lambda arguments=arguments: InbetweenConvertBackwardMotion.execute(*arguments, "fp16", False))
        assert message.startswith(words) and str(host) not in message and str(REFERENCE) not in message
    message = refused(lambda: InbetweenConvertBackwardMotion.execute(good, tuned, "folder", "fp16", True))
    assert message.startswith("file_name: Could not write folder.safetensors") and str(host) not in message


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_backward_weights_in_other_floating_point_formats_load(host, model, differences, dtype):
    save_file(
        {key: tensor.to(dtype) for key, tensor in differences.items()}, host / "backward_motion" / "x.safetensors"
    )
    loaded = InbetweenLoadBackwardMotion.execute(model, "x.safetensors", 1.0).args[0]
    bank = loaded.get_attachment("inbetween_backward_motion").weights
    key = min(differences)
    layer, matrix = key.removesuffix(".weight").split(".attn1.")
    weight = bank.layer(f"{layer}.attn1")["to_v" if matrix == "to_v" else "to_out"].weight
    assert torch.equal(weight.float(), differences[key].to(dtype).float()) and not weight.requires_grad


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor.to(torch.int64), "floating-point numbers .*found I64"),
        (lambda tensor: tensor.to(torch.int8), "floating-point numbers .*found I8"),
        (lambda tensor: tensor > 0, "floating-point numbers .*found BOOL"),
        (lambda tensor: tensor.to(torch.complex64), "floating-point numbers .*found C64"),
        (lambda tensor: tensor.double() * 0 + 1e300, "finite numbers|at most 65,504"),
        (lambda tensor: tensor.double() * 0 + 1e6, "at most 65,504"),
        (lambda tensor: tensor.bfloat16() * 0 + 1e30, "at most 65,504"),
        (lambda tensor: tensor.float() / 0, "finite numbers"),
    ],
)
def test_backward_weights_of_other_numbers_get_a_sentence(host, model, differences, change, words):
    save_file({key: change(tensor) for key, tensor in differences.items()}, host / "backward_motion" / "x.safetensors")
    message = refused(lambda: InbetweenLoadBackwardMotion.execute(model, "x.safetensors", 1.0))
    assert message.startswith("backward_motion: ")
    with pytest.raises(WeightsError, match=words):
        read_backward_motion(host / "backward_motion" / "x.safetensors")


def write_raw(path, header: object, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


KEY = "input_blocks.1.1.time_stack.0.attn1.to_v.weight"


def entry(**changes) -> dict:
    """A header of one matrix of one number."""
    return {KEY: {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4], **changes}}


HEADERS = {
    "nothing": (b"", b"", None),
    "one byte": (b"", b"", 1),
    "no json": (b"{{{{", b"", None),
    "list": ([], b"", None),
    "null": (None, b"", None),
    "longer than the file": (entry(), b"1234", 10**18),
    "negative": (entry(), b"", 2**64 - 1),
    "nested": (b"[" * 200_000, b"", None),
    "not utf-8": (b"\xff\xfe\xfd", b"", None),
    "short": (entry(), b"12", None),
    "too long": (entry(), b"12345678", None),
    "entry is a list": ({KEY: []}, b"1234", None),
    "no shape": ({KEY: {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234", None),
    "negative shape": (entry(shape=[-1, -1]), b"1234", None),
    "shape of strings": (entry(shape=["1", "1"]), b"1234", None),
    "shape is a number": (entry(shape=1), b"1234", None),
    "true as a number": (entry(shape=[True, True]), b"1234", None),
    "huge shape": (entry(shape=[2**40, 2**40]), b"1234", None),
    "three offsets": (entry(data_offsets=[0, 4, 8]), b"1234", None),
    "backward": (entry(data_offsets=[4, 0]), b"1234", None),
    "floats": (entry(data_offsets=[0.0, 4.0]), b"1234", None),
    "overlap": ({**entry(), "b" + KEY: {**entry()[KEY], "data_offsets": [2, 6]}}, b"123456", None),
    "gap": ({**entry(), "b" + KEY: {**entry()[KEY], "data_offsets": [8, 12]}}, b"1" * 12, None),
    "twice the same": ({**entry(), "b" + KEY: entry()[KEY]}, b"1234", None),
    "dtype is a list": (entry(dtype=["F32"]), b"1234", None),
    "metadata is a list": ({"__metadata__": [1], **entry()}, b"1234", None),
    "metadata of numbers": ({"__metadata__": {"version": 1}, **entry()}, b"1234", None),
    "long number": (b'{"a": ' + b"9" * 100_000 + b"}", b"", None),
}


@pytest.mark.parametrize("case", HEADERS)
def test_damaged_headers(host, model, case):
    for kind, run in (
        ("backward_motion", lambda: InbetweenLoadBackwardMotion.execute(model, "x.safetensors", 1.0)),
        ("checkpoints", lambda: InbetweenLoadSVD.execute("x.safetensors")),
        (
            "checkpoints",
            lambda: InbetweenConvertBackwardMotion.execute(
                "x.safetensors", "tiny-svd-reverse-motion/", "new", "fp16", False
            ),
        ),
    ):
        write_raw(host / kind / "x.safetensors", *HEADERS[case])
        assert "truncated, damaged, or of another format" in refused(run)


def test_header_that_fills_the_memory_is_not_read(host, model):
    path = host / "checkpoints" / "x.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 90_000_000))
        file.truncate(100_000_000)
    assert "its header has 90,000,000 bytes" in refused(lambda: InbetweenLoadSVD.execute("x.safetensors"))


def test_hostile_tensor_names_and_formats(host, model):
    digits = "9" * 5000
    for name in ("\ud800", "x" * 10**5, f"input_blocks.{digits}.0.weight", f"down_blocks.{digits}.resnets.0.x"):
        write_raw(host / "backward_motion" / "x.safetensors", {name: entry()[KEY]}, b"1234")
        refused(lambda: InbetweenLoadBackwardMotion.execute(model, "x.safetensors", 1.0))
        write_raw(host / "checkpoints" / "x.safetensors", {name: entry()[KEY]}, b"1234")
        refused(lambda: InbetweenConvertBackwardMotion.execute("x.safetensors", "tiny-svd/", "new", "fp16", False))
    write_raw(host / "backward_motion" / "x.safetensors", {KEY: {**entry()[KEY], "dtype": "\ud800" * 500}}, b"1234")
    refused(lambda: InbetweenLoadBackwardMotion.execute(model, "x.safetensors", 1.0))


@pytest.fixture(scope="module")
def parts():
    return read_folder(XT)


@pytest.fixture(scope="module")
def checkpoint(parts, tmp_path_factory):
    """(header, tensors' bytes) of a good checkpoint."""
    path = tmp_path_factory.mktemp("good") / "svd.safetensors"
    write_single_file(parts, path)
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


CONFIGS = [
    "",
    "{",
    "[]",
    "null",
    "3",
    '"text"',
    "[" * 10_000,
    '{"a":' * 10_000,
    "{}" + " " * 3_000_000,
    *({"num_head_channels": number} for number in (0, -64, "64", None, 10**30, 64.0, [64], True, 7)),
    *({"num_head_channels": -1, "num_heads": number} for number in (-1, 0, "2", 7)),
    *({"image_encoder_heads": number} for number in (0, 5, "2", 10**9)),
    *({"image_encoder_activation": name} for name in ("swish\ud800", None, ["gelu"], 3)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: json.dumps(config)[:40])
def test_config_in_a_checkpoint(host, checkpoint, config):
    header, data = checkpoint
    stored = json.loads(header["__metadata__"]["svd_config"])
    text = config if isinstance(config, str) else json.dumps({**stored, **config})
    metadata = {**header["__metadata__"], "svd_config": text}
    write_raw(host / "checkpoints" / "x.safetensors", {**header, "__metadata__": metadata}, data)
    message = refused(lambda: InbetweenLoadSVD.execute("x.safetensors"))
    assert message.startswith("model_name: Expected") and ("svd_config" in message or "x.safetensors" in message)


FOLDER_CONFIGS = [
    *(("unet", text) for text in ("[]", "null", "[" * 10_000, "{" + " " * 3_000_000, b"\xff\xfe")),
    *(
        ("unet", {"num_attention_heads": heads})
        for heads in (0, [0, 0, 0, 0], [2, 2], ["2"] * 4, None, True, [10**9] * 4, {"a": 1})
    ),
    *(("unet", {"block_out_channels": widths}) for widths in ([0, 0, 0, 0], "32", None, [10**9] * 4)),
    ("image_encoder", "[]"),
    *(("image_encoder", {"num_attention_heads": heads}) for heads in (0, "2", None)),
    *(("image_encoder", {"hidden_act": name}) for name in ("swish", None)),
]


@pytest.fixture
def copied(host):
    shutil.copytree(XT, host / "diffusers" / "copy")
    return host / "diffusers" / "copy"


@pytest.mark.parametrize(("part", "config"), FOLDER_CONFIGS, ids=lambda value: str(value)[:40])
def test_config_in_a_folder(copied, part, config):
    path = copied / part / "config.json"
    if isinstance(config, dict):
        config = json.dumps({**json.loads(path.read_text()), **config})
    path.write_bytes(config if isinstance(config, bytes) else config.encode())
    assert refused(lambda: InbetweenLoadSVD.execute("copy/")).startswith("model_name: Expected")


def as_folder(path):
    path.mkdir()


def as_pipe(path):
    os.mkfifo(path)


def as_device(path):
    path.symlink_to("/dev/zero")


def as_dangling_link(path):
    path.symlink_to("nowhere")


def as_link_to_itself(path):
    path.symlink_to(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither pipes nor devices among files")
@pytest.mark.parametrize("put", [as_folder, as_pipe, as_device, as_dangling_link, as_link_to_itself])
@pytest.mark.parametrize(
    "name", ["unet/config.json", "image_encoder/config.json", "unet/diffusion_pytorch_model.safetensors"]
)
def test_something_else_in_a_files_place(copied, put, name):
    (copied / name).unlink()
    put(copied / name)
    assert refused(lambda: InbetweenLoadSVD.execute("copy/")).startswith("model_name: Expected")


def test_config_with_a_byte_order_mark_is_read(copied):
    path = copied / "unet" / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert InbetweenLoadSVD.execute("copy/").args[0] is not None


@pytest.mark.parametrize(
    "pattern",
    [
        "{stem}-0000{n}-of-00002.safetensors",
        "{stem}.fp16-0000{n}-of-00002.safetensors",
        "{stem}-0000{n}-of-00002.fp16.safetensors",
    ],
)
def test_shards_under_every_name_that_diffusers_gave_them(copied, pattern):
    stem = "diffusion_pytorch_model"
    path = copied / "unet" / f"{stem}.safetensors"
    tensors = sorted(read_tensors(path).items())
    path.unlink()
    (copied / "unet" / f"{stem}.safetensors.index.json").write_text("{}")
    files = [copied / "unet" / pattern.format(stem=stem, n=number) for number in (1, 2)]
    for file, part in zip(files, (tensors[:700], tensors[700:])):
        save_file(dict(part), file)
    parts = read_folder(copied)
    assert len(parts.unet) == len(tensors)
    files[0].unlink()
    assert "Expected 2 shards" in refused(lambda: read_folder(copied))


@pytest.mark.parametrize(
    ("part", "dtype"),
    [
        ("unet", torch.int64),
        ("unet", torch.uint8),
        ("unet", torch.complex64),
        ("vae", torch.int8),
        ("image_encoder", torch.bool),
    ],
)
def test_checkpoint_of_other_numbers(copied, part, dtype):
    path = next((copied / part).glob("*.safetensors"))
    save_file({key: tensor.to(dtype) for key, tensor in read_tensors(path).items()}, path)
    assert "floating-point numbers" in refused(lambda: InbetweenLoadSVD.execute("copy/"))


@pytest.mark.parametrize(
    "lost", ["quant_conv.bias", "quant_conv.weight", "encoder.conv_out.weight", "encoder.conv_out.bias"]
)
def test_vae_that_lacks_what_is_folded(copied, lost):
    path = copied / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = read_tensors(path)
    del tensors[lost]
    save_file(tensors, path)
    assert lost in refused(lambda: InbetweenLoadSVD.execute("copy/"))


@pytest.mark.parametrize(
    ("part", "pattern"),
    [("unet", "conv1.weight"), ("unet", "attn1.to_q.weight"), ("vae", "quant"), ("image_encoder", "layrnorm")],
)
def test_tensors_of_other_shapes(copied, part, pattern):
    path = next((copied / part).glob("*.safetensors"))
    save_file({key: torch.zeros(()) if pattern in key else tensor for key, tensor in read_tensors(path).items()}, path)
    assert refused(lambda: InbetweenLoadSVD.execute("copy/")).startswith("model_name: ")


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_image_encoder_of_other_shapes_in_a_file(parts, shape):
    names = image_encoder_keys.tensors_to_openclip(parts.image_encoder)
    for key in ("proj", "transformer.resblocks.0.attn.in_proj_weight"):
        refused(lambda key=key: image_encoder_keys.tensors_to_transformers({**names, key: torch.zeros(shape)}))
    lost = {key: tensor for key, tensor in parts.image_encoder.items() if "k_proj" not in key}
    refused(lambda: image_encoder_keys.tensors_to_openclip(lost))
