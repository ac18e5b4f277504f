"""Which files a job reads and which it writes."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cnnkit.errors import OutputError, UsageError
from cnnkit.host.operation import Job, names_a_file, portable
from cnnkit.images.files import write_atomically
from cnnkit.images.image import SUFFIXES

FOLDER_SUFFIXES = {*SUFFIXES, *".avif .bmp .gif .jp2 .jpe .pbm .pgm .ppm .qoi".split()}
"""The suffixes by which a folder's files count as pictures; a file named by itself may have any name."""


@dataclass(frozen=True)
class Destination:
    """Where one result goes: every file's name begins with `stem`, pictures end in `suffix`.

    `photo.occlusion` gives photo.occlusion.png, photo.occlusion.grid.png, photo.occlusion.npz and the
    manifest photo.occlusion.json, which lists the others with their checksums.
    """

    stem: Path
    suffix: str = ".png"

    def path(self, ending: str) -> Path:
        return self.stem.with_name(self.stem.name + ending)

    @property
    def manifest(self) -> Path:
        return self.path(".json")

    def refuse_strangers(self, endings: Iterable[str], force: bool) -> None:
        """Raise OutputError where a file is in the way that cnnkit did not write, or that changed since."""
        manifest = read_manifest(self.manifest)
        for ending in endings:
            path = self.path(ending)
            if force or not path.exists():
                continue
            ours = manifest is not None if ending == ".json" else _is_listed(path, manifest)
            if not ours:
                raise OutputError(
                    f"{path} exists and is not what cnnkit wrote there; choose another name with -o, "
                    "or overwrite it with --force."
                )

    def write(
        self,
        contents: dict[str, bytes],
        manifest: dict[str, Any],
        force: bool,
        kept: Mapping[str, str] | None = None,
    ) -> list[Path]:
        """Write every output and the manifest, each atomically; returns their paths.

        `kept` are outputs that were written before and stay, with their checksums.
        """
        self.refuse_strangers([".json", *contents], force)
        make_folder(self.stem.parent)
        outputs = {self.path(ending): content for ending, content in contents.items()}
        before = [self.path("").with_name(name) for name in kept or {}]
        for path in self._left_over(before):
            path.unlink()
        listed = {path.name: sha256(content).hexdigest() for path, content in outputs.items()}
        listed = {**(kept or {}), **listed}
        # First the manifest: a run that is killed here leaves no file that is not known as ours, or that is
        # an older one's.
        text = json.dumps({**manifest, "outputs": listed}, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(self.manifest, (text + "\n").encode())
        for path, content in outputs.items():
            write_atomically(path, content)
        return [*(path for path in before if path not in outputs), *outputs, self.manifest]

    def read(self) -> dict[str, Any] | None:
        """The manifest that lies here, if there is one."""
        return read_manifest(self.manifest)

    def _left_over(self, kept: Iterable[Path]) -> list[Path]:
        """What an earlier run wrote here, as it wrote it, and what does not stay."""
        manifest = read_manifest(self.manifest)
        before = [self.manifest.with_name(name) for name in (manifest or {}).get("outputs", {})]
        return [path for path in before if path not in kept and path.is_file() and _is_listed(path, manifest)]


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest at `path`, or None when there is no file, or one that is no manifest of cnnkit."""
    try:
        manifest = json.loads(path.read_bytes())
        Job.from_json(manifest["job"])
        whole = {"cnnkit", "settings", "picture", "model"} <= manifest.keys()
        return manifest if whole and isinstance(manifest["outputs"], dict) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def expand(sources: Iterable[Any], recursive: bool = False) -> list[Any]:
    """The sources with each folder replaced by the pictures in it, sorted by name.

    What cnnkit wrote itself, by the manifests in the folder, does not count. A folder without pictures stays,
    and fails like any other source that is no picture.
    """
    found: list[Any] = []
    for source in sources:
        folder = Path(source) if isinstance(source, str | Path) else None
        if folder is None or not folder.is_dir():
            found.append(source)
            continue
        files = sorted(folder.rglob("*") if recursive else folder.iterdir())
        manifests = {file: read_manifest(file) for file in files if file.suffix == ".json"}
        ours = {file.with_name(name) for file, told in manifests.items() if told for name in told["outputs"]}
        candidates = [file for file in files if file.suffix.lower() in FOLDER_SUFFIXES and file not in ours]
        pictures = [str(file) for file in candidates if file.is_file()]
        found += pictures or [source]
    return found


def destinations(operation: str, sources: Sequence[Any], output: str | None) -> list[Destination]:
    """Where the result of each source goes.

    Without `output` it goes beside its source (into the working folder for samples, standard input and
    pictures from memory); with a folder, into that folder; with a file, there, which needs a single source.
    Two sources that would get the same name, in this call or an earlier one, are told apart by a number.
    Raises UsageError.
    """
    if output is not None and not _is_folder(output):
        if len(sources) > 1:
            raise UsageError(
                f"-o {output} is one file, but there are {len(sources)} pictures; give a folder: -o {output}/"
            )
        return [destination(stem_of(source), operation, output) for source in sources]
    taken: set[Path] = set()
    found = []
    for source in sources:
        where = output if output is not None else f"{_folder_of(source)}/"
        place, number = destination(stem_of(source), operation, where), 2
        while place.stem in taken or _is_of_another(place, source):
            place, number = destination(f"{stem_of(source)}_{number}", operation, where), number + 1
        taken.add(place.stem)
        found.append(place)
    return found


def destination(name: str, operation: str, output: str | None) -> Destination:
    """Where a result called `name` goes: into the folder (None: the working folder) or file `output`."""
    if output is None or _is_folder(output):
        name = re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "picture"  # it may come out of a network's file
        return Destination(Path(output or "") / f"{name}.{operation}")
    path = Path(output)
    stem = path.with_name(path.stem)
    if not path.suffix:
        raise UsageError(f"-o {path} is neither a folder ({path}/) nor a file with a suffix ({path}.png).")
    if path.suffix.lower() in (".json", ".npz"):
        return Destination(stem)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"-o {path} ends in '{path.suffix}'; a picture can be written as {', '.join(SUFFIXES)} "
            "(a folder's name ends in /)."
        )
    return Destination(stem, path.suffix.lower())


def _is_of_another(place: Destination, source: Any) -> bool:
    """Whether an earlier run wrote there what it made of another picture, by its name or by its path."""
    manifest, wanted = read_manifest(place.manifest), portable(source)
    had = manifest["job"]["sources"] if manifest else []
    if len(had) != 1 or not isinstance(had[0], str) or wanted is None or had[0] == wanted:
        return False
    return Path(had[0]).name != Path(wanted).name or Path(had[0]).exists()


def stem_of(source: Any) -> str:
    """The first part of the names of a source's outputs: photo for photos/photo.jpg."""
    name = getattr(source, "name", None)
    if not isinstance(source, str | Path):
        return name if isinstance(name, str) and name else "picture"
    if source == "-":
        return "stdin"
    return str(source).removeprefix("sample:") if str(source).startswith("sample:") else Path(source).stem


def _folder_of(source: Any) -> Path:
    source = getattr(source, "source", source)
    return Path(source).parent if names_a_file(source) else Path()


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made: {error.strerror}.") from None


def _is_folder(output: str) -> bool:
    return output.endswith(("/", "\\")) or Path(output).is_dir() or output in (".", "..")


def _is_listed(path: Path, manifest: dict[str, Any] | None) -> bool:
    listed = (manifest or {}).get("outputs", {}).get(path.name)
    return listed is not None and sha256(path.read_bytes()).hexdigest() == listed
