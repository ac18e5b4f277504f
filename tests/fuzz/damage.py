"""Damaged files: truncated, with flipped bits, of the wrong type, of impossible sizes."""

import io
import struct
import zlib
from collections.abc import Iterator
from random import Random

import numpy as np
import onnx
from PIL import Image as Pillow
from PIL import ImageCms

STRANGERS = [
    b"",
    b"\0",
    b"<!doctype html><title>404</title>",
    b"PK\3\4" + bytes(60),
    b"%PDF-1.7\n",
    b"hello\n" * 99,
]


def pictures() -> dict[str, bytes]:
    """Whole pictures of every kind that people have, by suffix and kind, small."""
    rng = np.random.default_rng(5)
    smooth = np.linspace(0, 255, 24 * 32 * 4).reshape(24, 32, 4) + rng.normal(0, 20, (24, 32, 4))
    rgba = Pillow.fromarray(np.clip(smooth, 0, 255).astype(np.uint8), "RGBA")
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    exif = Pillow.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Pillow.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    made = {
        "rgb.png": _saved(rgb, "PNG"),
        "rgba.png": _saved(rgba, "PNG", icc_profile=profile),
        "palette.png": _saved(rgb.convert("P"), "PNG", transparency=3),
        "deep.png": _saved(deep, "PNG"),
        "bits.png": _saved(grey.convert("1"), "PNG"),
        "photo.jpg": _saved(rgb, "JPEG", exif=exif, icc_profile=profile),
        "progressive.jpg": _saved(rgb, "JPEG", progressive=True),
        "cmyk.jpg": _saved(rgb.convert("CMYK"), "JPEG"),
        "lossy.webp": _saved(rgb, "WEBP"),
        "lossless.webp": _saved(rgba, "WEBP", lossless=True),
        "plain.tif": _saved(rgb, "TIFF"),
        "lzw.tif": _saved(rgb, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": _saved(rgb, "TIFF", compression="jpeg"),
        "moving.gif": _saved(rgb.convert("P"), "GIF", save_all=True, append_images=[grey.convert("P")]),
        "plain.bmp": _saved(rgb, "BMP"),
        "plain.ppm": _saved(rgb, "PPM"),
        "wavelet.jp2": _saved(rgb, "JPEG2000"),
    }
    return made


def networks() -> dict[str, bytes]:
    """Whole networks, by name."""
    from cnnkit.testing import make_tiny_model

    tiny = make_tiny_model().graph.proto
    return {"tiny.onnx": tiny.SerializeToString()}


def damaged_pictures(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` files, (name, content), the same for the same seed."""
    random, whole = Random(seed), pictures()
    for number in range(count):
        name = random.choice(sorted(whole))
        harms = [_truncated, _flipped, _overwritten, _stranger, _spliced, _huge_picture]
        yield f"{number:04}-{name}", random.choice(harms)(whole[name], random)


def damaged_networks(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` files, (name, content), the same for the same seed."""
    random, whole = Random(seed), networks()
    for number in range(count):
        name = random.choice(sorted(whole))
        harms = [
            _truncated,
            _flipped,
            _flipped,
            _overwritten,
            _stranger,
            _spliced,
            _odd_network,
            _odd_network,
        ]
        yield f"{number:04}-{name}", random.choice(harms)(whole[name], random)


def _saved(picture: Pillow.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def _truncated(whole: bytes, random: Random) -> bytes:
    return whole[: random.randrange(len(whole))]


def _flipped(whole: bytes, random: Random) -> bytes:
    harmed = bytearray(whole)
    for _ in range(random.choice([1, 1, 4, 32])):
        harmed[random.randrange(len(harmed))] ^= 1 << random.randrange(8)
    return bytes(harmed)


def _overwritten(whole: bytes, random: Random) -> bytes:
    start = random.randrange(len(whole))
    length = random.randrange(1, 64)
    filling = random.choice([bytes(length), b"\xff" * length, random.randbytes(length)])
    return whole[:start] + filling + whole[start + length :]


def _stranger(whole: bytes, random: Random) -> bytes:
    return random.choice([*STRANGERS, random.randbytes(random.randrange(1, 4000))])


def _spliced(whole: bytes, random: Random) -> bytes:
    middle = random.randrange(len(whole))
    return whole[:middle] + whole[random.randrange(len(whole)) :]


def _huge_picture(whole: bytes, random: Random) -> bytes:
    """A PNG that claims to be enormous and holds next to nothing."""
    width, height = random.choice(
        [(0, 5), (1, 2**31 - 1), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (9_000, 9_000)]
    )
    header = struct.pack(
        ">IIBBBBB", width, height, random.choice([1, 8, 16]), random.choice([0, 2, 6]), 0, 0, 0
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(1000)))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _odd_network(whole: bytes, random: Random) -> bytes:
    """A well-formed message that is an impossible network."""
    model = onnx.load_from_string(whole)
    graph = model.graph
    node = random.choice(graph.node)
    weight = random.choice(graph.initializer)
    dimension = random.choice(graph.input[0].type.tensor_type.shape.dim)

    def cycle() -> None:
        graph.node[0].input[0] = graph.node[-1].output[0]

    def outside() -> None:
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(
            key="location", value=random.choice(["../../etc/passwd", "/etc/passwd", "gone.bin"])
        )

    harms = [
        lambda: setattr(node, "op_type", random.choice(["Konv", "Relu6", "If", ""])),
        lambda: setattr(node, "domain", "com.acme"),
        lambda: node.input.append("nowhere"),
        lambda: node.ClearField("input"),
        lambda: node.ClearField("attribute"),
        lambda: graph.node.append(node),
        lambda: graph.ClearField("node"),
        lambda: graph.ClearField("output"),
        lambda: graph.ClearField("input"),
        lambda: graph.input.append(graph.input[0]),
        lambda: weight.dims.append(random.choice([2, 2**40])),
        lambda: setattr(weight, "data_type", random.choice([0, 1, 7, 8, 11, 99])),
        lambda: setattr(dimension, "dim_value", random.choice([0, -1, 2**40, 50_000_000])),
        lambda: setattr(model.opset_import[0], "version", random.choice([0, 1, 6, 999])),
        lambda: setattr(model, "ir_version", random.choice([0, 1, 999])),
        lambda: setattr(graph.input[0].type.tensor_type, "elem_type", random.choice([0, 7, 8, 10, 77])),
        lambda: model.metadata_props.add(
            key="cnnkit.preprocessing", value=random.choice(["{", "[]", '{"fit": 3}'])
        ),
        lambda: model.metadata_props.add(key="cnnkit.labels", value=random.choice(["3", '["one"]', "\0"])),
        lambda: model.metadata_props.add(
            key="cnnkit.layers", value=random.choice(["{}", '[["a", "nowhere"]]', "["])
        ),
        cycle,
        outside,
    ]
    random.choice(harms)()
    return model.SerializeToString()
