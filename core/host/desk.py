"""The desk: where an operation puts what it has before it is done.

What is shown there is on disk at once, in the place of the result and in a manifest that says `unfinished`. A
checkpoint lies beside it until the result is complete, so that an interrupted run can go on.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit.errors import UsageError
from cnnkit.host.paths import Destination
from cnnkit.host.result import Result
from cnnkit.images.files import write_atomically

CHECKPOINT = ".checkpoint.npz"
_OF = "of"  # the entry that says which run a checkpoint belongs to


@dataclass
class Desk:
    """For one result, which goes to `place`.

    `resume` says that the user wants to go on from the checkpoint. `manifest` is what the run is made of;
    `shown` are the files written so far, with their checksums.
    """

    place: Destination
    force: bool = False
    resume: bool = False
    manifest: dict[str, Any] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        return self.place.path(CHECKPOINT)

    def show(self, result: Result) -> None:
        """Write what there is so far. Raises OutputError."""
        result.manifest = self.manifest
        result.write(self.place, self.force, unfinished=True, kept=self.shown)
        self.shown = self._written()

    def save(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Keep the state of the run, in place of the one kept before. Raises OutputError."""
        content = io.BytesIO()
        np.savez(content, **{_OF: np.array(json.dumps(self._identity))}, **state)  # type: ignore[arg-type]
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.checkpoint, content.getvalue())

    def restore(self) -> dict[str, NDArray[Any]] | None:
        """The state that was kept, if the user wants to go on and there is one.

        Raises UsageError when it is of another run, or damaged.
        """
        if not self.resume or not self.checkpoint.exists():
            return None
        try:
            with self.checkpoint.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                state = {name: saved[name] for name in saved.files}
            told = json.loads(str(state.pop(_OF)))
        except Exception:  # zipfile, numpy and json complain in many ways
            raise UsageError(f"{self.checkpoint} is damaged; delete it to start anew.") from None
        if told != self._identity:
            unlike = ", ".join(_unlike(told, self._identity)) or "the run"
            raise UsageError(
                f"{self.checkpoint} is of another run: {unlike} differ(s); ask for the same, or delete it "
                "to start anew."
            )
        self.shown = self._written()
        return state

    def _written(self) -> dict[str, str]:
        """The files that the manifest lists, with their checksums."""
        return dict((self.place.read() or {}).get("outputs", {}))

    def clear(self) -> None:
        """Forget the checkpoint: the result is complete."""
        self.checkpoint.unlink(missing_ok=True)

    @property
    def _identity(self) -> dict[str, Any]:
        """What has to be the same for a run to go on."""
        job = self.manifest["job"]
        hashes = {name: (self.manifest[name] or {}).get("sha256") for name in ("picture", "model")}
        return {"operation": job["operation"], "seed": job["seed"], **job["options"], **hashes}


def _unlike(told: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    return [name for name in {**told, **asked} if told.get(name) != asked.get(name)]
