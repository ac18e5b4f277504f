"""The commands that stand still: lightness, help, completion, models, doctor, new plugins."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .conftest import Ended, environment

Run = Callable[..., Ended]

LIGHT = """
import sys
from cnnkit.cli.main import main
for command in (["--help"], ["run", "--help"], ["plugins", "list"], ["--version"]):
    sys.argv = ["cnnkit", *command]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
banned = ("numpy", "onnx", "onnxruntime", "PIL", "cnnkit_acme")
heavy = [name for name in sys.modules if name.split(".")[0] in banned]
plugins = [name for name in sys.modules if name.startswith("cnnkit.plugins.")]
print("HEAVY", heavy, plugins)
"""


def test_help_and_lists_import_nothing_heavy(acme: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], env=environment((acme,)), capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY [] []", done.stdout + done.stderr


def test_running_imports_one_plugin(acme: Path, tmp_path: Path) -> None:
    """The same probe sees what a run loads, so the test above can fail."""
    probe = LIGHT.replace('["--help"]', '["run", "edges", "sample:shapes", "-o", "edges.png"]')
    command = [sys.executable, "-c", probe]
    done = subprocess.run(command, env=environment((acme,)), capture_output=True, text=True, cwd=tmp_path)
    last = done.stdout.splitlines()[-1]
    assert "'numpy'" in last and "'cnnkit_acme.edges'" in last
    assert "cnnkit_acme.brightness" not in last and last.endswith(" []")


def test_usage(cnnkit: Run) -> None:
    assert cnnkit("--version").out.startswith("cnnkit ")
    for command in ([], ["run"], ["plugins"], ["models"]):
        assert "Usage: cnnkit" in cnnkit(*command).out
    wrong = cnnkit("run", "occlusoin", "sample:portrait")
    assert wrong.code == 2 and wrong.out == "" and "Did you mean 'occlusion'?" in wrong.err
    for command in (["nonsense"], ["run", "--json"], ["run", "classify"], ["rerun"]):
        assert cnnkit(*command).code == 2


def test_completion(cnnkit: Run, acme: Path) -> None:
    """Operations, networks, layers, choices; and silence where nothing fits."""

    def words(line: str) -> set[str]:
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        done = cnnkit(sites=(acme,), _CNNKIT_COMPLETE="complete_bash", **asked)
        assert done.err == "", done.err
        return set(done.out.split())

    assert {"edges", "brightness", "classify", "occlusion", "activations", "filters"} <= words("cnnkit run ")
    assert words("cnnkit run occ") == {"occlusion"}
    assert words("cnnkit run classify --model acm") == {"acme-net"}
    assert words("cnnkit models layers def") == {"default"}
    assert words("cnnkit run brightness --channel r") == {"red"}
    assert words("cnnkit run activations --model acme-net --layers mix") == {"mix", "mix_relu"}
    assert "block1_conv1" in words("cnnkit run filters --layer block1")
    assert words("cnnkit run occlusion --model acme-net --target gre") == {"green"}
    assert words("cnnkit run activations --model nowhere.onnx --layers mix") == set()
    assert "--patch" in words("cnnkit run occlusion --pa")
    assert words("cnnkit run nonsense --pa") == set()


def test_models(cnnkit: Run, tmp_path: Path) -> None:
    home = {"CNNKIT_HOME": str(tmp_path / "home")}
    listed = json.loads(cnnkit("models", "list", "--json", **home).out)
    states = {network["name"]: network["state"] for network in listed}
    assert states["default"] == "packaged" and states["vgg19"] == "not pulled"
    path = cnnkit("models", "path", "default", **home).out.strip()
    assert Path(path).is_file() and path == listed[0]["path"]

    (tmp_path / "home" / "models").mkdir(parents=True)
    stored = tmp_path / "home" / "models" / "mine.onnx"
    stored.write_bytes(Path(path).read_bytes())
    assert cnnkit("models", "list", "-q", **home).out.split() == [*states, "mine"]
    shown = json.loads(cnnkit("models", "show", "mine", "--json", **home).out)
    assert shown["path"] == str(stored) and shown["bytes"] == stored.stat().st_size
    told = json.loads(cnnkit("models", "layers", "mine", "--json", "--size", "64x96", **home).out)
    text = cnnkit("models", "layers", "mine", "--size", "64x96", "--layout", "nhwc", **home)
    first = told["layers"][0]
    assert first["shape"][2:] == [64, 96]
    assert f"64x96x{first['shape'][1]}" in text.out.splitlines()[1]
    assert len(text.out.splitlines()) == len(told["layers"]) + 1 and "MACs at 64x96" in text.err
    deep = ("models", "layers", "mini-xception", "--weights", "random:0", "--parts")
    lines = [line.split() for line in cnnkit(*deep, **home).out.splitlines()]
    place = lines.index(["separable_conv2d_1/depthwise", "Conv"])
    assert lines[place + 1][1:3] == ["separable_conv2d_1", "Conv+Conv"]
    removed = cnnkit("models", "rm", "mine", **home)
    assert removed.code == 0 and not stored.exists()
    for command, said in (
        (["rm", "default"], "there is no stored network 'default'"),
        (["show", "defualt"], "Did you mean 'default'?"),
        (["show", "missing.onnx"], "there is nothing at that path"),
        (["layers", "."], "there is a folder at that path"),
    ):
        wrong = cnnkit("models", *command, **home)
        assert wrong.code == 3 and said in wrong.err and wrong.out == "", wrong.err
    assert cnnkit("models", "layers", "default", "--size", "big", **home).code == 2


def test_doctor(cnnkit: Run, tmp_path: Path, write_distribution: Callable[..., Path]) -> None:
    well = cnnkit("doctor", "--json")
    told = json.loads(well.out)
    assert (well.code, told["complaints"]) == (0, []), told["complaints"]
    assert "occlusion" in told["facts"]["plugins"]["cnnkit.operations"]
    write_distribution(tmp_path / "site", "cnnkit-ill", {"cnnkit.operations": {"ill": "nowhere"}})
    ill = cnnkit("doctor", sites=(tmp_path / "site",))
    assert ill.code == 1 and "! 'ill' of cnnkit-ill 1.0 cannot be used" in ill.out
