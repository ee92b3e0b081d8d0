"""Pictures of every kind, made with Pillow: taken, or refused in a line."""

import base64
import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from transformers import image_utils

from aot.errors import InputError
from aot.runtime.prompting import pictures
from aot.runtime.prompting import png as png_rows

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
PLACE = "request: prompt 0: image 2"


def picture(height=20, width=30, mode="RGB"):
    noise = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def url(data, head="data:image/png;base64,"):
    return head + base64.b64encode(data).decode()


def png(width, height, depth=8, color=2, rows=b"", interlaced=False):
    """A PNG file of any header."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_of_16_bits(pixels):
    """A TIFF file of RGB pixels, in one strip."""
    height, width, _ = pixels.shape
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 140), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, pixels.nbytes), (284, 3, 1, 1)]
    listed = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + listed + struct.pack("<HHH", 16, 16, 16) + pixels.astype("<u2").tobytes()


def spoiled(data, place, value):
    return data[:place] + value + data[place + len(value) :]


def of_size(kind, width, height):
    """A small file whose header names another size."""
    if kind == "PNG":  # which has checksums
        return png(width, height)
    data = encoded(picture(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    frame = data.find(b"\xff\xc0")
    bits = (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14
    place, value = {
        "GIF": (6, struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)),
        "BMP": (18, struct.pack("<ii", width, height)),
        "JPEG": (frame + 5, struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)),
        "WEBP": (21, struct.pack("<I", bits)),
    }[kind]
    return spoiled(data, place, value)


def refusal(given):
    with pytest.raises(InputError) as caught:
        pictures.open_picture(given, PLACE)
    message = str(caught.value)
    assert message.startswith(f"{PLACE}: ")
    assert "\n" not in message
    assert len(message) < 400
    return message.removeprefix(f"{PLACE}: ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_pixels_that_transformers_loads(tmp_path, kind):
    file = tmp_path / "a picture"
    file.write_bytes(encoded(picture(), kind))

    for given in (file, str(file), file.as_uri(), file.read_bytes(), url(file.read_bytes())):
        opened = pictures.open_picture(given, PLACE)

        assert opened.size == (30, 20)
        np.testing.assert_array_equal(opened.convert("RGB"), image_utils.load_image(url(file.read_bytes())))


@pytest.mark.parametrize("wrap", [bytearray, memoryview])
def test_bytes_may_be_of_any_type(wrap):
    assert pictures.open_picture(wrap(encoded(picture())), PLACE).size == (30, 20)


def test_pixels_in_memory_are_taken_as_they_are():
    array = np.asarray(picture())

    for given in (picture(), array, np.asfortranarray(array)):
        np.testing.assert_array_equal(pictures.open_picture(given, PLACE), array)


@pytest.mark.parametrize(
    "given",
    [
        url(encoded(picture()), "DATA:image/png;charset=utf-8;BASE64,"),
        url(encoded(picture()), "data:;base64,"),
        url(encoded(picture()), "data:text/html;base64,"),  # what it is, the bytes say
        url(encoded(picture())).replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        "data:image/png;base64," + base64.encodebytes(encoded(picture())).decode(),  # in lines
    ],
)
def test_data_urls_may_be_spelled_as_others_spell_them(given):
    np.testing.assert_array_equal(pictures.open_picture(given, PLACE), picture())


def test_a_name_like_a_scheme_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("http:picture.png").write_bytes(encoded(picture()))

    assert pictures.open_picture("http:picture.png", PLACE).size == (30, 20)
    assert pictures.open_picture(f"file://localhost{tmp_path}/http%3Apicture.png", PLACE).size == (30, 20)


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_only_regular_files_are_read(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    path = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "directory": tmp_path}[kind]

    assert refusal(path).startswith(f"{str(path)!r:.80}")


def test_a_conversation_holds_its_pictures(tmp_path):
    file = tmp_path / "picture.png"
    file.write_bytes(encoded(picture()))

    for held in (url(file.read_bytes()), file.read_bytes(), picture(), np.asarray(picture())):
        assert pictures.open_picture(pictures.Carried(held), PLACE).size == (30, 20)
    for path in (str(file), file, file.as_uri(), f"FILE:{file}", "a:b", "", "/dev/zero"):
        assert refusal(pictures.Carried(path)).startswith(
            f"is a path, {str(path)!r:.80}, where a conversation must hold"
        )
    for address in ("https://example.com/a.png", "s3://a/b"):
        assert (
            refusal(pictures.Carried(address)) == f"is on another machine, {address!r}; fetch it, and give a data URL"
        )


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("width", "height"), [(30, 20), (1, 1), (9, 3), (3, 9)])
def test_rows_that_the_header_of_a_png_promises_are_there(depth, interlaced, width, height):
    passes = png_rows._ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = [(len(range(left, width, across)), len(range(top, height, down))) for left, top, across, down in passes]
    rows = b"".join(bytes(rows * (1 + (columns * depth + 7) // 8)) for columns, rows in parts if columns)
    file = png(width, height, depth, 0, rows, interlaced)

    assert pictures.open_picture(file, PLACE).size == (width, height)
    for short in (rows[:-1], rows[: len(rows) // 10], b""):
        said = f"is damaged or cut off (its rows take {len(rows)} bytes, it has {len(short)}); give a whole file"
        assert refusal(png(width, height, depth, 0, short, interlaced)) == said


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_a_channel_in_colour_are_their_upper_8(kind):
    wide = np.random.default_rng(0).integers(0, 1 << 16, (20, 30, 3), np.uint16)
    if kind == "PNG":
        data = png(30, 20, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide))
    else:
        data = tiff_of_16_bits(wide)

    opened = pictures.open_picture(data, PLACE)

    np.testing.assert_array_equal(opened, wide >> 8)
    np.testing.assert_array_equal(opened.convert("RGB"), image_utils.load_image(url(data)))


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pictures_are_put_upright_as_transformers_does(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = tmp_path / "picture"
    file.write_bytes(encoded(picture(), kind, exif=exif))

    opened = pictures.open_picture(file, PLACE)

    np.testing.assert_array_equal(opened.convert("RGB"), image_utils.load_image(url(file.read_bytes())))
    assert opened.size == ((20, 30) if orientation in (5, 6, 7, 8) else (30, 20))


def test_a_picture_in_memory_is_put_upright_and_left_as_it_was():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    given = Image.open(io.BytesIO(encoded(picture(), "JPEG", exif=exif)))

    opened = pictures.open_picture(given, PLACE)

    assert (given.size, given.getexif()[ExifTags.Base.Orientation]) == ((30, 20), 6)
    np.testing.assert_array_equal(opened, ImageOps.exif_transpose(given))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"])
def test_modes_that_turn_into_rgb_are_taken(mode):
    assert pictures.open_picture(picture(mode=mode), PLACE).mode == mode


def test_a_photograph_with_its_preview_beside_it_is_one_picture():
    data = encoded(picture(), "MPO", save_all=True, append_images=[picture(4, 6)])

    assert pictures.open_picture(data, PLACE).size == (30, 20)
    assert pictures.open_picture(Image.open(io.BytesIO(data)), PLACE).size == (30, 20)


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        (Image.new("I", (3, 4)), "I"),
        (Image.new("F", (3, 4)), "F"),
        (Image.new("LAB", (3, 4)), "LAB"),
        (encoded(Image.new("I;16", (3, 4))), "I;16"),
        (encoded(Image.new("F", (3, 4)), "TIFF"), "F"),
    ],
)
def test_wide_and_float_pixels_are_refused(given, mode):
    assert refusal(given).startswith(f"has pixels of Pillow's mode {mode!r}, known are 1, L, ")


def test_of_16_bits_of_a_colour_the_upper_ones_are_taken():
    rows = bytes([0, *(200, 17, 100, 255, 3, 0)])

    assert np.asarray(pictures.open_picture(png(1, 1, 16, rows=rows), PLACE)).tolist() == [[[200, 100, 3]]]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_counted_and_refused(kind):
    frames = [picture(mode="L").point(lambda value, turn=turn: value ^ turn) for turn in (0, 64, 128)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])

    for given in (data, Image.open(io.BytesIO(data))):
        assert refusal(given) == "has 3 frames, an animation or several pages; give one of them by itself"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_side_without_pixels_is_refused(kind):
    assert "header (a side of 0 pixels, or no size at all); give a whole file" in refusal(of_size(kind, 0, 0))


@pytest.mark.parametrize("given", [Image.new("RGB", (0, 5)), np.zeros((5, 0, 3), np.uint8)])
def test_a_side_without_pixels_in_memory_is_refused(given):
    assert refusal(given) == "is 0 x 5 pixels; give a picture that has some"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_too_many_pixels_are_refused_by_the_header_alone(kind):
    file = of_size(kind, 16_000, 16_000)
    least = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert "above the limit of 89478485" in refusal(file)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - least) >> 10 < 64  # MiB


def test_too_many_pixels_are_refused_without_a_further_word_of_pillow_s():
    code = (
        "import sys; from aot.runtime.prompting import pictures\n"
        "from aot.errors import InputError\n"
        "try: pictures.open_picture(sys.stdin.buffer.read(), 'x')\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=png(12_000, 12_000), capture_output=True, check=True)

    assert (done.stdout.startswith(b"x: is 12000 x 12000 pixels"), done.stderr) == (True, b"")


def test_the_limits_themselves_are_taken():
    assert pictures.MOST_PIXELS == 9_459 * 9_459 + 5_804  # no square, so as near as sides go
    assert "above the limit" in refusal(Image.new("1", (9_460, 9_460)))
    assert "above 200 times as long as wide" in refusal(Image.new("1", (201, 1)))
    assert "above 200 times as long as wide" in refusal(Image.new("1", (2, 401)))

    assert pictures.open_picture(Image.new("1", (9_459, 9_459)), PLACE).size == (9_459, 9_459)
    assert pictures.open_picture(Image.new("1", (1, 200)), PLACE).size == (1, 200)


def test_a_file_too_large_to_be_a_picture_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "MOST_BYTES", 1 << 20)

    with open(tmp_path / "large", "wb") as file:
        file.truncate(2 << 20)

    for given in (tmp_path / "large", bytes(2 << 20), url(bytes(3 << 20))):
        assert refusal(given) == "has more than 1048576 bytes; give a smaller file"


@pytest.mark.filterwarnings("ignore")  # Pillow's of what it then raises
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_off_anywhere_is_named_or_whole(kind):
    data = encoded(picture(), kind)
    whole = pictures.open_picture(data, PLACE).convert("RGB")

    for length in range(len(data) * 9 // 10):
        try:
            opened = pictures.open_picture(data[:length], PLACE)
        except InputError as error:
            message = str(error)
            assert message.startswith(f"{PLACE}: ")
            assert "\n" not in message
        else:
            assert opened.size == whole.size, length


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_any_byte_flipped_is_named_or_a_picture(kind):
    data = encoded(picture(4, 6), kind)

    for place in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            try:
                opened = pictures.open_picture(spoiled(data, place, bytes([data[place] ^ flip])), PLACE)
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017
            else:
                assert min(opened.size) > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b"", "is no picture, it is empty; give one of PNG, JPEG, WEBP, GIF, BMP, TIFF"),
        (b"<svg/>", "is no picture, it begins with b'<svg/>'; give one of PNG"),
        (b"%PDF-1.7 and so on and on", "is no picture, it begins with b'%PDF-1.7 and so '; give one of PNG"),
        (encoded(picture(), "PPM"), "is no picture, it begins with b'P6"),
        ("nothing/here.png", "'nothing/here.png': No such file or directory; give a path or a data URL"),
        ("a\0b", "'a\\x00b': embedded null byte"),
        ("", "'': No such file or directory"),
        (
            "https://example.com/a.png",
            "is on another machine, 'https://example.com/a.png'; fetch it, and give its path",
        ),
        ("HTTP://example.com/a.png", "is on another machine"),
        ("ftp://example.com/a.png", "is on another machine"),
        ("s3://bucket/a.png", "is on another machine"),
        ("file://example.com/a.png", "a file URL must begin as 'file:///', and name no other machine"),
        ("file:a.png", "a file URL must begin as 'file:///'"),
        ("file:///nothing/a%20b.png", "'/nothing/a b.png': No such file or directory"),
        ("data:image/png,abc", "a data URL must begin as 'data:image/png;base64,', got 'data:image/png,abc'"),
        ("data:", "a data URL must begin as"),
        ("data:image/png;base64,?" + "a" * 1000, "the data URL is no base64 ("),
        ("data:image/png;base64,YQ", "the data URL is no base64 ("),
        ("data:image/png;base64,", "is no picture, it is empty"),
        (None, "must be a path, a data URL, the bytes of a file, a Pillow image or an array, got NoneType"),
        (5, "got int"),
        ([picture()], "got list"),
        (np.zeros((3, 4, 3)), "an array must be uint8 [height, width, 3], got float64 [3, 4, 3]"),
        (np.zeros((3, 4), np.uint8), "an array must be uint8 [height, width, 3], got uint8 [3, 4]"),
        (np.zeros((3, 4, 4), np.uint8), "got uint8 [3, 4, 4]"),
    ],
)
def test_what_is_no_picture_is_named(given, words):
    assert refusal(given).startswith(words) or words in refusal(given)
