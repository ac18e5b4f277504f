"""What `cnnkit run` reads, writes, says, and how it ends."""

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import Ended, environment

Run = Callable[..., Ended]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def test_exit_codes(cnnkit: Run, acme: Path, picture: Path) -> None:
    (picture.parent / "broken.onnx").write_bytes(b"no network")
    for code, said, arguments in [
        (0, "", ["classify", picture]),
        (1, "there is no file 'missing.png'", ["edges", "missing.png"]),
        (2, "'occlusoin'", ["occlusoin", picture]),
        (2, "Missing argument 'SOURCE'", ["edges"]),
        (2, "such as 800MB", ["edges", picture, "--max-memory", "much"]),
        (3, "there is no network 'defautl'", ["classify", picture, "--model", "defautl"]),
        (3, "broken.onnx", ["classify", picture, "--model", "broken.onnx"]),
        (2, "there is no device 'tpu'", ["classify", picture, "--device", "tpu"]),
    ]:
        done = cnnkit("run", *arguments, sites=(acme,))
        assert done.code == code and said in done.err, (arguments, done)
        assert code == 0 or done.out == ""


def test_a_bad_picture_is_one_line_and_the_run_goes_on(cnnkit: Run, acme: Path, picture: Path) -> None:
    (picture.parent / "bad.png").write_bytes(b"no picture")
    for operation in ("edges", "classify"):
        done = cnnkit("run", operation, picture, "bad.png", "sample:shapes", "--json", sites=(acme,))
        told = lines(done.out)
        names = [Path(each["source"].removeprefix("sample:")).stem for each in told]
        assert (done.code, names) == (1, ["photo", "bad", "shapes"])
        assert "error" in told[1] and "error" not in told[0] and "error" not in told[2]
        assert [line for line in done.err.splitlines() if line.startswith("error")] == [
            f"error: {told[1]['error']}"
        ]


def test_stdout_is_data_and_stderr_is_talk(cnnkit: Run, acme: Path, picture: Path) -> None:
    done = cnnkit("run", "edges", "photo.png", sites=(acme,))
    assert done.out == "photo: mean step 63.750\n"
    outputs = [f"wrote photo.edges.{suffix}" for suffix in ("png", "npz", "json")]
    assert done.err.splitlines() == outputs
    quiet = cnnkit("run", "edges", "photo.png", "--quiet", "--json", sites=(acme,))
    assert quiet.err == ""
    assert lines(quiet.out) == [
        {
            "source": str(picture),
            "mean": 63.75,
            "outputs": [f"photo.edges.{suffix}" for suffix in ("png", "npz", "json")],
        }
    ]


def test_outputs(cnnkit: Run, acme: Path, picture: Path) -> None:
    """-o FILE, -o DIR/, -o -, beside the picture; the provenance inside the picture."""
    folder = picture.parent
    assert cnnkit("run", "edges", picture, "-o", "out.webp", sites=(acme,)).code == 0
    assert {path.name for path in folder.glob("out.*")} == {"out.webp", "out.npz", "out.json"}
    assert opened(folder / "out.webp").format == "WEBP"

    shutil.copy(picture, folder / "photo.bmp")
    done = cnnkit("run", "edges", picture, "photo.bmp", "sample:shapes", "-o", "new/deep/", sites=(acme,))
    assert done.code == 0
    names = {path.name for path in (folder / "new" / "deep").glob("*.png")}
    assert names == {"photo.edges.png", "photo_2.edges.png", "shapes.edges.png"}
    provenance = json.loads(opened(folder / "new" / "deep" / "photo.edges.png").info["cnnkit"])
    assert provenance["operation"] == "edges" and str(folder) not in json.dumps(provenance)

    piped = cnnkit("run", "edges", "-", "-o", "-", sites=(acme,), stdin=picture.read_bytes())
    assert piped.code == 0
    shown = np.asarray(Image.open(io.BytesIO(piped.stdout)))
    assert (shown[..., 0] == [0, 255, 0, 0]).all() and piped.stdout.endswith(b"IEND\xaeB`\x82")
    assert cnnkit("run", "edges", "-", sites=(acme,), stdin=picture.read_bytes()).code == 0
    assert (folder / "stdin.edges.png").is_file()

    for arguments, said in (
        (["photo.png", "photo.bmp", "-o", "one.png"], "-o one.png is one file, but there are 2 pictures"),
        (["photo.png", "photo.bmp", "-o", "-"], "holds one picture, but there are 2"),
        (["photo.png", "-o", "one.xyz"], ".xyz"),
    ):
        wrong = cnnkit("run", "edges", *arguments, sites=(acme,))
        assert (wrong.code, wrong.out) == (2, "") and said in wrong.err
    assert cnnkit("run", "edges", "photo.png", "-o", "photo.png/x/", sites=(acme,)).code == 1


def test_data_alone_is_written_only_where_asked(cnnkit: Run, picture: Path) -> None:
    assert cnnkit("run", "classify", picture).code == 0
    assert {path.name for path in picture.parent.iterdir()} == {"photo.png"}
    # the shell has made the file before cnnkit looks
    picture.with_name("photo.classify.json").touch()
    assert cnnkit("run", "classify", picture, "--json").code == 0
    assert cnnkit("run", "classify", picture, "-o", "told.json").code == 0
    assert json.loads(picture.with_name("told.json").read_text())["data"]["classes"]
    wrong = cnnkit("run", "classify", picture, "-o", "-")
    assert wrong.code == 2 and "needs one main picture" in wrong.err


def test_folders(cnnkit: Run, acme: Path, picture: Path) -> None:
    """The pictures in a folder, without those that cnnkit wrote; deeper ones with --recursive."""
    folder = picture.parent / "album"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "a.PNG", "deep/c.jpg"):
        Image.new("RGB", (3, 3)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")

    def seen(*flags: str) -> list[str]:
        done = cnnkit("run", "edges", "album", "--json", *flags, sites=(acme,))
        assert done.code == 0, done.err
        return [Path(each["source"]).name for each in lines(done.out)]

    assert seen() == ["a.PNG", "b.png"]
    assert seen() == ["a.PNG", "b.png"]  # and not a.edges.png
    assert seen("--recursive") == ["a.PNG", "b.png", "c.jpg"]
    (picture.parent / "empty").mkdir()
    empty = cnnkit("run", "edges", "empty", sites=(acme,))
    assert empty.code == 1 and "'empty' is a folder, not a picture" in empty.err


def test_skip_existing(cnnkit: Run, acme: Path, picture: Path) -> None:
    cnnkit("run", "edges", "photo.png", sites=(acme,))
    before = picture.with_name("photo.edges.png").stat().st_mtime_ns
    done = cnnkit("run", "edges", "photo.png", "sample:shapes", "--skip-existing", "--json", sites=(acme,))
    assert done.code == 0 and "photo.png: skipped, its result exists" in done.err
    assert [each.get("skipped", False) for each in lines(done.out)] == [True, False]
    assert picture.with_name("photo.edges.png").stat().st_mtime_ns == before
    # another picture of the same stem is not done yet
    shutil.copy(picture, picture.with_name("photo.bmp"))
    other = cnnkit("run", "edges", "photo.bmp", "--skip-existing", "--json", sites=(acme,))
    assert "skipped" not in lines(other.out)[0]


def test_what_others_wrote_is_never_overwritten(cnnkit: Run, acme: Path, picture: Path) -> None:
    target = picture.with_name("photo.edges.png")
    target.write_bytes(b"dear")
    done = cnnkit("run", "edges", "photo.png", "sample:shapes", "--json", sites=(acme,))
    assert done.code == 1 and target.read_bytes() == b"dear"
    assert "photo.edges.png exists and is not what cnnkit wrote there" in done.err and "--force" in done.err
    assert ["error" in each for each in lines(done.out)] == [True, False]
    assert not picture.with_name("photo.edges.json").exists()

    assert cnnkit("run", "edges", "photo.png", "--force", sites=(acme,)).code == 0
    whole = target.read_bytes()
    assert cnnkit("run", "edges", "photo.png", sites=(acme,)).code == 0  # its own it may
    edited = opened(target)
    edited.putpixel((0, 0), (1, 2, 3))
    edited.save(target)
    assert cnnkit("run", "edges", "photo.png", sites=(acme,)).code == 1
    assert target.read_bytes() != whole
    assert cnnkit("run", "edges", "photo.png", "-o", "photo.png", sites=(acme,)).code == 1
    assert np.asarray(opened(picture))[0, 3, 0] == 255


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_folder_that_cannot_be_written(cnnkit: Run, acme: Path, picture: Path) -> None:
    locked = picture.parent / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(locked, os.W_OK):  # root may write anywhere; /dev/null/ is no folder for anybody
        locked = Path("/dev/null")
    done = cnnkit("run", "edges", picture, "-o", f"{locked}/x/", sites=(acme,))
    assert done.code == 1 and done.err.startswith("error: ") and str(locked) in done.err


def test_operations_that_break(cnnkit: Run, trouble: Path, picture: Path) -> None:
    """Each failure is one line with the operation's name; the other pictures go on."""
    stories = {
        "raises": "ValueError: it broke in two",
        "exits": "SystemExit: 3",
        "rubbish": "TypeError: it returned int, not a Result",
        "unjson": "TypeError: Object of type set is not JSON serializable",
        "unsaved": "ValueError: Invalid name",
    }
    for name in stories:
        shutil.copy(picture, picture.with_name(f"{name}.png"))
    sources = [f"{name}.png" for name in stories] + ["photo.png"]
    done = cnnkit("run", "fragile", *sources, "--json", sites=(trouble,))
    told = lines(done.out)
    assert done.code == 1 and len(told) == 6 and done.err.count("error: ") == 5
    for each, (name, story) in zip(told, stories.items(), strict=False):
        assert each["error"].startswith(f"the operation fragile failed on {name}.png: {story}"), each
        assert "--debug shows where" in each["error"]
    assert told[-1]["name"] == "photo"

    shown = cnnkit("run", "fragile", "raises.png", "--debug", sites=(trouble,))
    assert shown.code == 1 and "Traceback" in shown.err and 'raise ValueError("it broke' in shown.err


def test_streams_that_break(cnnkit: Run, trouble: Path, picture: Path) -> None:
    shutil.copy(picture, picture.with_name("raises.png"))
    sources = ["missing.png", "photo.png", "also-missing.png"]
    done = cnnkit("run", "stream", *sources, "--json", "-o", "out/", sites=(trouble,))
    told = lines(done.out)
    assert done.code == 1 and ["error" in each for each in told] == [True, False, True, False]
    assert told[-1] == {"source": None, "count": 1, "outputs": ["out/summary.stream.json"]}

    done = cnnkit(
        "run", "stream", "photo.png", "missing.png", "raises.png", "sample:shapes", "--json", sites=(trouble,)
    )
    told = lines(done.out)
    assert done.code == 1 and ["error" in each for each in told] == [False, True, True, True]
    assert "there is no file" in told[1]["error"]
    assert "failed on raises.png: ValueError: it broke in two" in told[2]["error"]


def test_folder_and_nothing(cnnkit: Run, trouble: Path, picture: Path) -> None:
    (picture.parent / "album").mkdir()
    shutil.copy(picture, picture.parent / "album")
    done = cnnkit("run", "count", "album", "-o", "told.json", sites=(trouble,))
    assert (done.code, done.out) == (0, "1 files\n")
    assert json.loads(picture.with_name("told.json").read_text())["data"] == {"files": ["photo.png"]}
    gone = cnnkit("run", "count", "nowhere", sites=(trouble,))
    assert gone.code == 1 and "the operation count failed on nowhere: FileNotFoundError" in gone.err
    assert cnnkit("run", "hello", sites=(trouble,)).out == "hello\n"
    assert cnnkit("run", "hello", picture, sites=(trouble,)).code == 2
    assert cnnkit("run", "hello", "-o", "-", sites=(trouble,)).code == 2  # it has no picture
    assert cnnkit("run", "filters", "--layer", "1", "-o", "-").stdout.startswith(b"\x89PNG")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupted(trouble: Path, picture: Path) -> None:
    command = [sys.executable, "-m", "cnnkit", "run", "slow", str(picture)]
    process = subprocess.Popen(
        command, env=environment((trouble,)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None and process.stderr.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_a_reader_that_leaves(acme: Path, picture: Path) -> None:
    pictures = " ".join(["photo.png"] * 300)
    command = f"{sys.executable} -m cnnkit run edges {pictures} --json --quiet -o out/ | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=picture.parent, env=environment((acme,)), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert len(lines(done.stdout)) == 1 and done.stderr == "" and done.returncode == 1


def test_rerun(cnnkit: Run, acme: Path, trouble: Path, picture: Path) -> None:
    """The same bytes again, from any folder, for operations with and without a network and with chance."""
    sites = (acme, trouble)
    for arguments in (
        ["brightness", "photo.png", "--mask", "photo.png", "--amount", "-3", "--window", "1-200"],
        ["noise", "photo.png", "--seed", "7"],
        ["occlusion", "photo.png", "--model", "acme-net", "--patch", "4", "--stride", "2", "--batch", "3"],
    ):
        first = cnnkit("run", *arguments, sites=sites)
        assert first.code == 0, first.err
        outputs = [picture.parent / line.removeprefix("wrote ") for line in first.err.splitlines()]
        before = [path.read_bytes() for path in outputs]
        for path in outputs:
            if path.suffix != ".json":
                path.unlink()
        again = cnnkit("rerun", f"photo.{arguments[0]}.json", sites=sites)
        assert (again.code, again.out) == (0, first.out), again.err
        assert [path.read_bytes() for path in outputs] == before

    elsewhere = picture.parent / "elsewhere"
    elsewhere.mkdir()
    moved = subprocess.run(
        [sys.executable, "-m", "cnnkit", "rerun", "../photo.brightness.json", "-o", "copy.png"],
        cwd=elsewhere, env=environment(sites), capture_output=True, text=True,
    )  # fmt: skip
    assert moved.returncode == 0, moved.stderr
    assert (elsewhere / "copy.png").read_bytes() == picture.with_name("photo.brightness.png").read_bytes()


def test_rerun_of_what_changed(cnnkit: Run, acme: Path, picture: Path, tmp_path: Path) -> None:
    sites = (acme,)
    net = tmp_path / "mine.onnx"
    found = cnnkit("models", "path", "acme-net", sites=sites).out.strip()
    shutil.copy(found, net)
    assert cnnkit("run", "classify", "photo.png", "-m", "mine.onnx", "-o", "told.json", sites=sites).code == 0
    assert cnnkit("rerun", "told.json", sites=sites).err == "wrote told.json\n"

    import onnx

    network = onnx.load(net)
    network.producer_version = "2"
    onnx.save(network, net)
    Image.new("RGB", (4, 4), "red").save(picture)
    changed = cnnkit("rerun", "told.json", sites=sites)
    assert changed.code == 0
    assert "the picture is not the same file as in told.json" in changed.err
    assert "the model is not the same file as in told.json" in changed.err
    picture.unlink()
    gone = cnnkit("rerun", "told.json", sites=sites)
    assert gone.code == 1 and "there is no file" in gone.err


def test_rerun_refuses(cnnkit: Run, acme: Path, picture: Path) -> None:
    sites = (acme,)
    cnnkit("run", "edges", "-", sites=sites, stdin=picture.read_bytes())
    cnnkit("run", "brightness", picture, "--mask", "-", sites=sites, stdin=picture.read_bytes())
    for name in ("stdin.edges.json", "photo.brightness.json"):
        refused = cnnkit("rerun", name, sites=sites)
        assert refused.code == 2 and "made from a picture out of standard input" in refused.err
    (picture.parent / "no.json").write_text("{}")
    wrong = cnnkit("rerun", "no.json")
    assert wrong.code == 2 and "no.json is no manifest of cnnkit" in wrong.err
    edited = picture.with_name("photo.brightness.png")
    edited.write_bytes(b"mine")
    told = json.loads(picture.with_name("photo.brightness.json").read_text())
    told["job"]["options"]["mask"] = None
    picture.with_name("photo.brightness.json").write_text(json.dumps(told))
    assert cnnkit("rerun", "photo.brightness.json", sites=sites).code == 1
    assert edited.read_bytes() == b"mine"
    assert cnnkit("rerun", "photo.brightness.json", "--force", sites=sites).code == 0
