"""Run the command line over damaged files, each in a child process of its own, and print what went wrong.

    python driver.py pictures|networks COUNT SEED FOLDER

Everything is imported once and every case is a fork, so that thousands of them take minutes.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

LIMIT = 10.0
MEMORY = 6 << 30


def main() -> None:
    kind, count, seed, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    sys.path.insert(0, str(Path(__file__).parent))
    import damage

    import cnnkit.cli.main
    import cnnkit.host.jobs
    import cnnkit.plugins.occlusion  # noqa: F401
    from cnnkit.runtime.device import onnxruntime
    from cnnkit.testing import make_tiny_model

    onnxruntime()
    network, picture = folder / "whole.onnx", folder / "whole.png"
    make_tiny_model().save(network)
    picture.write_bytes(damage.pictures()["rgb.png"])
    cases = (damage.damaged_pictures if kind == "pictures" else damage.damaged_networks)(count, seed)
    codes: dict[int, int] = {}
    wrong = []
    for name, content in cases:
        case, out = folder / name, folder / f"{name}.out"
        case.write_bytes(content)
        out.mkdir()
        source, model = (case, network) if kind == "pictures" else (picture, case)
        call = ["run", "occlusion", str(source), "--model", str(model), "--patch", "8", "--stride", "8"]
        code, talk = _in_a_child([*call, "--device", "cpu", "-o", f"{out}/"])
        codes[code] = codes.get(code, 0) + 1
        complaint = _complaint(kind, code, talk, out)
        if complaint:
            wrong.append({"case": name, "complaint": complaint, "code": code, "talk": talk[-2000:]})
        else:
            case.unlink()
    print(json.dumps({"codes": codes, "wrong": wrong}))


def _in_a_child(arguments: list[str]) -> tuple[int, str]:
    """(exit code, stderr); a death by signal is its negative number, a hang -1000."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 99
        try:
            os.close(reader)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(writer, 2)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            sys.argv = ["cnnkit", *arguments]
            from cnnkit.cli.main import main

            main()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 0
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    os.close(writer)
    os.set_blocking(reader, False)
    talk, deadline = b"", time.monotonic() + LIMIT
    while True:
        try:
            talk += os.read(reader, 65536)
        except BlockingIOError:
            pass
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -1000, talk.decode(errors="replace")
        time.sleep(0.002)
    try:
        while chunk := os.read(reader, 65536):
            talk += chunk
    except BlockingIOError:
        pass
    os.close(reader)
    return os.waitstatus_to_exitcode(status), talk.decode(errors="replace")


def _complaint(kind: str, code: int, talk: str, out: Path) -> str:
    refused = 1 if kind == "pictures" else 3
    files = sorted(path.name for path in out.iterdir())
    if code == -1000:
        return "hangs"
    if code < 0:
        return f"dies by signal {-code}"
    if "Traceback" in talk or "cnnkit itself failed" in talk or "failed on" in talk:
        return "a traceback or an unexpected error"
    if code not in (0, refused):
        return f"exit code {code}"
    if code == refused and (files or not talk.strip()):
        return f"refused, but left {files}" if files else "refused without a word"
    if code == refused and talk.count("error:") != 1:
        return "not one error"
    if code == 0 and not _is_whole(out, files):
        return f"half-written output: {files}"
    return ""


def _is_whole(out: Path, files: list[str]) -> bool:
    from hashlib import sha256

    (manifest,) = [name for name in files if name.endswith(".json")]
    listed = json.loads((out / manifest).read_bytes())["outputs"]
    return {*listed, manifest} == set(files) and all(
        sha256((out / name).read_bytes()).hexdigest() == digest for name, digest in listed.items()
    )


if __name__ == "__main__":
    main()
