"""Clips go in and out as they are: frames, rate, size, rotation, sound; what is none is refused in one line."""

import math
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from fastnst.errors import FastnstError, FastnstWarning, ImageError, OptionError
from fastnst.transfer.movie import check_target, even, note_of, write_clip
from fastnst.video.clip import BrokenFrameError, moves, open_clip
from fastnst.video.options import Part

RATE = Fraction(10)
QUARTER = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)


def drawn_frames(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Frames whose left half is red, with a blue block that moves to the right by 4 pixels each."""
    frames = []
    for number in range(count):
        frame = np.full((*size, 3), 60, np.uint8)
        frame[:, : size[1] // 2, 0] = 200
        frame[8:24, 4 * number : 4 * number + 16] = (20, 40, 220)
        frames.append(frame)
    return frames


def kept(folder: Path, frames: list[np.ndarray]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:06d}.png" for number in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    return paths


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    return kept(tmp_path / "frames", drawn_frames(10))


def film(
    path: Path,
    count: int = 10,
    *,
    sound: str | None = None,
    times: list[int] | None = None,
    turned: bool = False,
    transfer: int = 1,
) -> Path:
    """A film of `drawn_frames`, 10 a second, with a tone of that codec; `turned` by a quarter, as a phone writes it.
    `transfer` is the number that ITU-T H.273 has for how light became samples."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.color_trc = Fraction(1, 10), transfer
        audio = container.add_stream(sound, rate=48_000) if sound else None
        for number, array in enumerate(drawn_frames(count)):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = (times[number] if times else number), Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            for number in range(count * 4800 // 960):
                tone = np.sin(np.arange(960) + 960 * number)[None].astype(np.float32)
                samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 48_000, 960 * number, Fraction(1, 48_000)
                container.mux(audio.encode(samples))
            container.mux(audio.encode())
    if turned:
        data = path.read_bytes()
        # The matrix of the header of the first track, the video's.
        place = data.index(b"tkhd") + 4 + 40
        matrix = b"".join(number.to_bytes(4, "big", signed=True) for number in QUARTER)
        path.write_bytes(data[:place] + matrix + data[place + 36 :])
    return path


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.mkv", "out.webp", "out.gif", "out"])
def test_what_is_written_is_read_as_it_was(frames: list[Path], tmp_path: Path, name: str) -> None:
    write_clip(tmp_path / name, frames, RATE, note="a note")
    assert note_of(tmp_path / name) == (None if name == "out" else "a note")
    clip = open_clip(tmp_path / name, Part(rate=10.0 if name == "out" else None))
    assert (len(clip), clip.rate, clip.size, clip.sound) == (10, RATE, (48, 64), None)
    for read, drawn in zip(clip.frames(), drawn_frames(10), strict=True):
        # Films halve the colours' resolution: along edges they differ.
        off = np.abs(read.astype(int) - drawn)
        assert np.median(off) <= 3
        assert off.mean() <= (8 if name.endswith(("mp4", "webm", "mkv", "webp")) else 1)
    assert not list(tmp_path.glob(".fastnst-*"))


def test_a_part_of_a_clip(frames: list[Path], tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.gif", frames, RATE)
    clip = open_clip(tmp_path / "clip.gif", Part(start=0.2, end=0.8, every=2))
    assert (list(clip.indices), clip.rate, clip.span) == ([2, 4, 6], 5, (Fraction(1, 5), Fraction(4, 5)))
    assert len(list(clip.frames())) == 3
    assert len(open_clip(tmp_path / "clip.gif", Part(rate=20))) == 20


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_sound_is_copied_and_cut(frames: list[Path], tmp_path: Path, name: str) -> None:
    clip = open_clip(film(tmp_path / "clip.mp4", 20, sound="aac"), Part(start=0.5, end=1.5))
    target = tmp_path / name
    sound = clip.sound_for(target)
    check_target(target, sound)
    write_clip(target, frames, clip.rate, sound)
    with av.open(str(target)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        ends = [packet.pts * packet.time_base for packet in packets]
    assert ends[0] < 0.05
    assert 0.9 < ends[-1] <= 1.0
    with av.open(str(target)) as container, av.open(str(tmp_path / "clip.mp4")) as source:
        own = {bytes(packet) for packet in source.demux(audio=0)}
        assert all(bytes(packet) in own for packet in container.demux(audio=0))


def test_sound_that_a_film_cannot_hold_is_refused(tmp_path: Path) -> None:
    clip = open_clip(film(tmp_path / "clip.mp4", sound="aac"))
    with pytest.raises(OptionError, match=r"aac|sound of .* cannot be copied into \.webm .*--no-sound"):
        check_target(tmp_path / "out.webm", clip.sound_for(tmp_path / "out.webm"))
    assert clip.sound_for(tmp_path / "out.gif") is None


def test_a_turned_clip_comes_upright(tmp_path: Path) -> None:
    clip = open_clip(film(tmp_path / "clip.mp4", 2, turned=True))
    first = next(clip.frames())
    assert clip.size == (64, 48)
    # What was at the left is on top.
    assert first[4, 4, 0] > 150 > first[-4, 4, 0]


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_dynamic_range_is_named(tmp_path: Path, transfer: int) -> None:
    with pytest.warns(FastnstWarning, match="HDR"):
        open_clip(film(tmp_path / "clip.mp4", 2, transfer=transfer))


def bomb(source: Path, path: Path) -> None:
    """The GIF `source` with a header that claims 65535×65535 pixels."""
    data = source.read_bytes()
    path.write_bytes(data[:6] + 4 * b"\xff" + data[10:])


def test_what_is_no_clip_is_refused(tmp_path: Path, frames: list[Path]) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.gif").write_bytes(b"GIF89a")
    (tmp_path / "drawing.gif").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    (tmp_path / "none").mkdir()
    with wave.open(str(tmp_path / "tone.wav"), "wb") as tone:
        tone.setnchannels(1), tone.setsampwidth(2), tone.setframerate(8000), tone.writeframes(bytes(1600))
    (tmp_path / "mixed").mkdir()
    for size in (8, 9):
        Image.new("RGB", (size, 8)).save(tmp_path / "mixed" / f"{size}.png")
    write_clip(tmp_path / "clip.gif", frames, RATE)
    bomb(tmp_path / "clip.gif", tmp_path / "bomb.gif")
    film(tmp_path / "uneven.mp4", 6, times=[0, 1, 2, 6, 7, 12])
    cases: list[tuple[str, Part, str]] = [
        ("missing.mp4", Part(), "missing.mp4' does not exist; check the path"),
        ("text.mp4", Part(), "cannot be read as a video"),
        ("empty.mp4", Part(), "is an empty file"),
        ("cut.gif", Part(), "is damaged, or not a moving picture"),
        ("drawing.gif", Part(), "is damaged, or not a moving picture"),
        ("bomb.gif", Part(), "is damaged, or not a moving picture"),
        ("none", Part(), "has no pictures"),
        ("tone.wav", Part(), "has no video stream"),
        ("mixed", Part(), "different sizes: 9.png is 9×8, 8.png 8×8"),
        ("clip.gif", Part(start=5), "has no frames from 5 s; it lasts 1 s"),
        ("clip.gif", Part(max_frames=4), "has 10 frames, more than the 4 of max frames.*every 3.*--max-frames"),
        ("uneven.mp4", Part(), "variable frame rate.*--rate 10"),
    ]
    for name, part, message in cases:
        with pytest.raises(FastnstError, match=message) as caught:
            open_clip(tmp_path / name, part)
        assert "\n" not in str(caught.value)
    assert len(open_clip(tmp_path / "uneven.mp4", Part(rate=10.0))) > 6
    parts: list[dict[str, Any]] = [{"start": -1.0}, {"start": "2"}, {"end": 0.0}, {"end": math.inf}, {"every": 0}]
    for wrong in (*parts, {"every": True}, {"rate": 0.0}, {"rate": 1e-4}, {"rate": math.nan}, {"max_frames": 0}):
        with pytest.raises(OptionError):
            Part(**wrong)
    assert Part(start=np.float32(0.5), every=np.int64(2)) == Part(start=0.5, every=2)


def test_frames_follow_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in (1, 2, 10, 11):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "frames" / f"frame{number}.png")
    assert [int(frame[0, 0, 0]) for frame in open_clip(tmp_path / "frames").frames()] == [1, 2, 10, 11]


def test_a_file_of_another_name_is_known_by_what_it_holds(tmp_path: Path, frames: list[Path]) -> None:
    film(tmp_path / "clip.mp4", 2).rename(tmp_path / "a.film")
    write_clip(tmp_path / "b.gif", frames, RATE)
    with Image.open(frames[0]) as frame:
        frame.save(tmp_path / "photo.jfif", "JPEG")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(12))
    bomb(tmp_path / "b.gif", tmp_path / "bomb.gif")
    known = {"a.film": True, "b.gif": True, "photo.jfif": False, "phone.heic": False, "bomb.gif": True}
    known |= {"frames": True, "frames/000000.png": False, "missing.mp4": True, "missing": False}
    assert {name: moves(tmp_path / name) for name in known} == known


def test_a_clip_is_not_its_own_result(tmp_path: Path, frames: list[Path]) -> None:
    write_clip(tmp_path / "clip.gif", frames, RATE)
    write_clip(tmp_path / "mask.gif", frames, RATE)
    with pytest.raises(OptionError, match=r"clip\.gif is also an input and would be overwritten"):
        open_clip(tmp_path / "clip.gif").check_apart(tmp_path / "clip.gif")
    with pytest.raises(OptionError, match=r"mask\.gif is also an input and would be overwritten"):
        open_clip(tmp_path / "clip.gif").check_apart(tmp_path / "mask.gif", [str(tmp_path / "mask.gif")])
    folder = open_clip(tmp_path / "frames")
    with pytest.raises(OptionError, match="is among the frames of the clip; give another folder"):
        folder.check_apart(tmp_path / "frames" / "out.webp")
    folder.check_apart(tmp_path / "frames" / "out.mp4")
    folder.check_apart(tmp_path / "content", ["content"])


def test_a_broken_frame_amid_a_clip_is_named(tmp_path: Path) -> None:
    frames = kept(tmp_path / "broken", drawn_frames(4))
    frames[2].write_bytes(frames[2].read_bytes()[:60])
    clip = open_clip(tmp_path / "broken")
    read = []
    with pytest.raises(BrokenFrameError, match="frame 3 of clip"):
        read.extend(clip.frames())
    assert len(list(zip(range(2), clip.frames(), strict=False))) == 2


def test_where_a_clip_cannot_go(tmp_path: Path, frames: list[Path]) -> None:
    for name, message in (
        ("out.avi", "cannot be the name of a clip"),
        ("frames", "is there already"),
        ("no/out.mp4", "does not exist"),
    ):
        with pytest.raises(FastnstError, match=message):
            check_target(tmp_path / name, None)
    assert even(Path("a.mp4"), (49, 65)) == (48, 64)
    assert even(Path("a.gif"), (49, 65)) == (49, 65)
    with pytest.raises(ImageError, match="could not be written"):
        write_clip(tmp_path / "no" / "out.gif", frames, RATE)
