"""Pixels of every kind of file, against NumPy and what was drawn."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from racecar.study.core.errors import StudyError
from racecar.study.images import pixels
from racecar.study.images.pixels import Decoding, NotDecodableError, known_range
from racecar.study.images.rows import Files
from racecar.study.images.survey import Survey, look

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_stands_upright(kind: str, orientation: int) -> None:
    """The EXIF standard's table: what row 0 and column 0 of the file are of the scene."""
    scene = np.zeros((16, 24, 3), np.uint8)
    scene[:8, :12] = 250  # its upper left is light
    turned = {
        1: scene, 2: scene[:, ::-1], 3: scene[::-1, ::-1], 4: scene[::-1], 5: scene.transpose(1, 0, 2),
        6: np.rot90(scene, 1), 7: scene[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(scene, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(turned)), kind, exif=exif)
    found = Decoding(3)(content)
    assert found.shape == scene.shape
    assert abs(found.astype(int) - scene).mean() < 6
    seen = look(content)
    assert seen is not None
    assert (seen.size, seen.turned) == ((24, 16), orientation != 1)


def test_16_bits_are_scaled_and_not_cut_off() -> None:
    deep = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    deep[0, 0] = 65535
    content = encoded(Image.fromarray(deep))
    found = Decoding(1)(content)[..., 0]
    np.testing.assert_array_equal(found, np.rint(deep / 257))
    assert abs(Decoding(3)(content)[..., 1].astype(int) - found).max() == 0


def test_a_data_set_shares_one_range() -> None:
    """12 bits in 16: one image is darker than the other, and stays so."""
    dark, light = (np.full((4, 4), v, np.uint16) for v in (1000, 4000))
    contents = [encoded(Image.fromarray(a)) for a in (light, dark)]
    survey = Survey.of(Bytes(contents))
    decoding = survey.decoding(None, None)
    assert decoding.ranges == {"uint16": (0, 4095)}
    assert [int(decoding(c)[0, 0, 0]) for c in contents] == [round(4000 * 255 / 4095), round(1000 * 255 / 4095)]
    assert survey.remarks(decoding) == ("2 of 16 bits, scaled from 0 to 4095",)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (RNG.uniform(0, 1, (5, 7)), 0, 1),
        (RNG.uniform(-1, 1, (5, 7)), -1, 1),
        (RNG.uniform(0, 255, (5, 7)), 0, 255),
        (RNG.uniform(-40, 1000, (5, 7)), None, None),
    ],
)
def test_fractions_are_scaled(values: np.ndarray, low: float | None, high: float | None) -> None:
    values = values.astype(np.float32)
    content = encoded(Image.fromarray(values), "TIFF")
    low, high = (float(values.min()) if low is None else low), (float(values.max()) if high is None else high)
    expected = (values.astype(float) - low) / (high - low) * 255
    decoding = Survey.of(Bytes([content])).decoding(None, None)
    assert abs(decoding(content)[..., 0] - expected).max() <= 0.5 + 1e-6


def test_whole_numbers_of_32_bits_are_scaled() -> None:
    values = RNG.integers(-(2**20), 2**20, (5, 7)).astype(np.int32)
    content = encoded(Image.fromarray(values), "TIFF")
    found = Survey.of(Bytes([content])).decoding(None, None)(content)[..., 0]
    expected = (values - values.min()) / (float(values.max()) - values.min()) * 255
    assert abs(found - expected).max() <= 0.5 + 1e-6
    assert (found.min(), found.max()) == (0, 255)


def test_a_flat_image_of_fractions_is_black_and_nan_is_refused() -> None:
    assert Decoding(1)(encoded(Image.fromarray(np.full((3, 3), 7e5, np.float32)), "TIFF")).max() == 0
    bad = np.full((3, 3), np.nan, np.float32)
    with pytest.raises(NotDecodableError, match="NaN"):
        Decoding(1)(encoded(Image.fromarray(bad), "TIFF"))


def test_known_ranges() -> None:
    assert [known_range("uint16", 0, high)[1] for high in (200, 256, 4095, 4096, 65535)] == [
        255,
        1023,
        4095,
        16383,
        65535,
    ]
    assert known_range("int32", -5, 5) == (-5, 5)


ALPHA = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


def on_white(array: np.ndarray) -> np.ndarray:
    share = ALPHA[..., None] / 255
    return array.reshape(5, 7, -1) * share + 255 * (1 - share)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_on_white(mode: str) -> None:
    colour = COLOUR if mode == "RGBA" else GREY
    picture = Image.fromarray(np.dstack([colour, ALPHA]), mode)
    content = encoded(picture)
    assert abs(Decoding(3)(content) - on_white(colour)).max() <= 1
    seen = look(content)
    assert seen is not None
    assert (seen.transparent, seen.grey) == (True, mode == "LA")


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_lies_on_white(mode: str) -> None:
    array = np.zeros((4, 4), np.uint8)
    array[0] = 1
    picture = Image.fromarray(array, "L")
    if mode == "P":
        picture = picture.convert("P")
        picture.putpalette([10, 20, 30, 200, 100, 50])
    elif mode == "RGB":
        picture = picture.convert("RGB")
    key = (1, 1, 1) if mode == "RGB" else 1
    found = Decoding(3)(encoded(picture, transparency=key))
    assert (found[0] == 255).all()
    assert found[1, 0].tolist() == ([10, 20, 30] if mode == "P" else [0, 0, 0])


class Bytes(Files):
    """Encoded images in a list."""

    def __init__(self, contents: list[bytes]) -> None:
        object.__setattr__(self, "contents", contents)

    def __len__(self) -> int:
        return len(self.contents)

    def some(self, rows: range) -> list[bytes]:
        return [self.contents[i] for i in rows]


def test_one_image_in_colour_makes_all_of_them_so() -> None:
    grey, colour = encoded(Image.fromarray(GREY)), encoded(Image.fromarray(COLOUR))
    palette = encoded(Image.fromarray(GREY).convert("P"))
    for contents, channels in (([grey, palette], 1), ([grey, colour, grey], 3), ([colour, grey], 3)):
        assert Survey.of(Bytes(contents)).decoding(None, None).channels == channels
    survey = Survey.of(Bytes([grey, colour, grey]))
    assert survey.remarks(survey.decoding(None, None)) == ("2 grey images, read as colour",)
    assert survey.remarks(survey.decoding(1, None)) == ("1 image in colour, read as grey",)


def test_a_size_scales_the_shorter_side_and_cuts_the_rest() -> None:
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200
    found = Decoding(3, 8)(encoded(Image.fromarray(wide)))
    assert found.shape == (8, 8, 3)
    assert (found == 200).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_far_too_large_is_decoded_small_and_looks_the_same(mode: str, monkeypatch) -> None:
    y, x = np.mgrid[0:900, 0:1200]
    waves = 127 + 120 * np.sin(x / 60) * np.cos(y / 45)
    drawn = Image.fromarray(np.stack([waves, x * 255 / 1200, y * 255 / 900], -1).astype(np.uint8))
    content = encoded(drawn.convert(mode), "JPEG", quality=95)
    sizes: list[tuple[int, int]] = []
    real = pixels.upright
    monkeypatch.setattr(pixels, "upright", lambda picture: (sizes.append(picture.size), real(picture))[1])
    found = Decoding(3, 64)(content)
    monkeypatch.setattr(Image.Image, "draft", lambda *given: None)  # as PNG does
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda *given: None)
    expected = Decoding(3, 64)(content)
    assert sizes == [(300, 225), (1200, 900)]
    assert abs(found.astype(int) - expected).mean() < 1.5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no content"),
        (b"", "no content"),
        (b"no image", "not an image"),
        (encoded(Image.fromarray(COLOUR))[:60], r"truncated|broken"),
    ],
)
def test_what_does_not_decode_says_why(content: bytes | None, said: str) -> None:
    with pytest.raises(NotDecodableError, match=said):
        Decoding(3)(content)


def test_files_that_are_empty_or_stand_for_others(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    for name, said in (("a.png", "an empty file"), ("b.png", "pointer of Git LFS"), ("c.png", "No such file")):
        with pytest.raises(NotDecodableError, match=said):
            Decoding(3)(str(tmp_path / name))


def test_no_memory_is_no_bad_image(monkeypatch) -> None:
    def full(content: object) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(pixels, "opened", full)
    with pytest.raises(StudyError, match=r"out of memory .*--size"):
        Decoding(3)(b"x")


def test_heic_where_pillow_opens_it(tmp_path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    from racecar.study.images.tree import openable

    assert ".heic" in openable()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "a.heic")
    assert abs(Decoding(3)(str(tmp_path / "a.heic")).astype(int) - 90).max() < 6


def test_avif_is_opened_or_counted(tmp_path) -> None:
    from PIL import features

    from racecar.study.images.tree import openable

    assert (".avif" in openable()) == bool(features.check("avif"))


def test_rows_survive_a_pickle(tmp_path) -> None:
    files = Files.of(str(tmp_path), ["a/é.png", "b/\udcff.png"])
    again = pickle.loads(pickle.dumps(files))
    assert [again[i] for i in range(2)] == [files[i] for i in range(2)]
