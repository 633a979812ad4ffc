"""The versioned artifact store: the outputs of stages, found by key, published completely or not at all.

An artifact is a folder `<root>/<stage>/<version>-<key>/` with its files and a `manifest.json`. Until it is published by
one rename, it is the folder `.<version>-<key>.partial` beside that place, from which an interrupted stage resumes. The
folder `<root>/.state/` has the store's locks and caches; it can be deleted when nothing runs.

If the root has the setgid bit, new files and folders have its group's permissions, so that a group shares the store.

With a remote (`homegrown.store.remote`), a published artifact is copied there, its manifest last. An artifact that
only the remote has is downloaded instead of made. What workers wrote to the remote stays there: the folder here has the
manifest, and `Store.fetch` downloads the files for whoever reads them.
"""

import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from homegrown.store.digests import Digests, sha256
from homegrown.store.manifest import MANIFEST, Artifact, FileFacts, Manifest, Order, host, libraries, problem_of
from homegrown.store.remote import VARIABLE, Damaged, Remote
from homegrown.util import elsewhere, locks
from homegrown.util.errors import UserError, is_disk_full
from homegrown.util.files import PARTIAL, is_shared, noted_digest, replacing, share, share_new_files, sync
from homegrown.util.progress import Outcome

KEY_DIGITS = 16
"""Hex digits of the key in a folder's name; the manifest has all 64."""

RATINGS = "ratings"
"""The store's folder of ratings; not an artifact, because it grows."""

_log = logging.getLogger(__name__)
_FOLDER = re.compile(rf"(\d+)-([0-9a-f]{{{KEY_DIGITS}}})")
_PARTIAL = re.compile(rf"\.(\d+)-([0-9a-f]{{{KEY_DIGITS}}})\.partial")


class Store:
    """The artifacts of one folder, with an optional copy at a remote."""

    def __init__(self, root: Path, remote: Remote | None = None) -> None:
        self.root = root.resolve()
        self.remote = remote
        self._state = self.root / ".state"
        self._reported: set[Path] = set()
        """Folders whose damaged manifest was logged."""
        share_new_files(self.root)

    # --- lookup -------------------------------------------------------------------------------------------------------

    def find(self, stage: str, key: str) -> Artifact | None:
        """Return the newest complete artifact with this key; damaged ones are logged and skipped."""
        for folder in reversed(self._folders(stage)):
            if folder.name.endswith(f"-{key[:KEY_DIGITS]}"):
                artifact = self._read(folder)
                if artifact is not None and artifact.manifest.key == key and not self.damage(artifact):
                    return artifact
        return None

    def damage(self, artifact: Artifact) -> str | None:
        """Return and log what is wrong with an artifact's files (size or digest); None for a complete artifact."""
        with Digests(self._state / "digests.sqlite") as digests:
            problem = problem_of(artifact, digests.file, self.is_there)
        if problem:
            _log.warning("%s is damaged and not used: %s.", artifact.path, problem)
        return problem

    def is_there(self, artifact: Artifact) -> bool:
        """Return whether the remote has the artifact, complete."""
        return self.remote is not None and self._there(artifact.path) == artifact.manifest

    def fetch(self, artifact: Artifact, table: str = "") -> Artifact:
        """Download the files of an artifact that are only at the remote, all or those of one table; return it.

        Raises:
            UserError: no remote is set, or it lacks a file.
        """
        facts = artifact.manifest.files
        names = [name for name in facts if PurePosixPath(name).is_relative_to(table)]
        missing = {self._name(artifact.path, name): name for name in names if not (artifact.path / name).exists()}
        if not missing:
            return artifact
        if self.remote is None:
            raise UserError(f"{artifact.name} has files at a store only; set {VARIABLE} to its address.")
        digests = {there: facts[name].sha256 for there, name in missing.items()}
        try:
            self.remote.download({there: artifact.path / name for there, name in missing.items()}, digests)
        except Damaged as error:
            raise UserError(f"{error}; run the pipeline of {artifact.name} again.") from error
        return artifact

    def all(self) -> list[Artifact]:
        """Return every artifact with a readable manifest, by stage and version, without checking its files."""
        stages = sorted(folder.name for folder in self.root.glob("[!.]*/") if folder.is_dir())
        found = (self._read(folder) for stage in stages for folder in self._folders(stage))
        return [artifact for artifact in found if artifact]

    def resolve(self, name: str) -> Artifact:
        """Return the artifact of a name: `stage` (its latest version) or `stage@version`."""
        stage, at, version = name.partition("@")
        if at and not version:
            raise UserError(f"{name!r} has no version after @; write {stage} for the latest, or {stage}@1.")
        # The version is in the folder's name, so only one manifest is read.
        folders = [folder for folder in self._folders(stage) if version in ("", folder.name.partition("-")[0])]
        found = next((artifact for folder in reversed(folders) if (artifact := self._read(folder))), None)
        if found:
            return found
        versions = [str(artifact.manifest.version) for artifact in self.all() if artifact.manifest.stage == stage]
        if versions:
            raise UserError(f"There is no version {version} of {stage}; there are: {', '.join(versions)}.")
        stages = sorted({artifact.manifest.stage for artifact in self.all()})
        if not stages:
            raise UserError(f"There is no artifact in {self.root}; make some, as with `homegrown run tiny`.")
        raise UserError(f"There is no artifact of stage {stage!r} in {self.root}; there are: {', '.join(stages)}.")

    def inputs(self, artifact: Artifact) -> list[Artifact]:
        """Return the artifacts that this one was made from, without deleted ones."""
        return [found for key in artifact.manifest.inputs.values() if (found := self._newest(key))]

    def _newest(self, key: str) -> Artifact | None:
        # The key is in the folder's name, so only matching manifests are read.
        read = (self._read(folder) for folder in self.root.glob(f"[!.]*/[0-9]*-{key[:KEY_DIGITS]}"))
        matching = [artifact for artifact in read if artifact and artifact.manifest.key == key]
        return max(matching, key=lambda artifact: artifact.manifest.version, default=None)

    def outputs(self, artifact: Artifact) -> list[Artifact]:
        """Return the artifacts made directly from this one."""
        key = artifact.manifest.key
        return [other for other in self.all() if key in other.manifest.inputs.values()]

    def lineage(self, artifact: Artifact) -> list[Artifact]:
        """Return every artifact that this one depends on, each once, nearest first."""
        found: dict[Path, Artifact] = {}
        waiting = self.inputs(artifact)
        while waiting:
            nearest = waiting.pop(0)
            if nearest.path not in found:
                found[nearest.path] = nearest
                waiting.extend(self.inputs(nearest))
        return list(found.values())

    def damaged(self) -> list[Path]:
        """Return the published folders without a readable manifest."""
        folders = (folder for folder in self.root.glob("*/*") if _FOLDER.fullmatch(folder.name))
        return sorted(folder for folder in folders if self._read(folder) is None)

    def partials(self) -> list[Path]:
        """Return the folders of unfinished artifacts."""
        return sorted(folder for folder in self.root.glob("*/.*.partial") if _PARTIAL.fullmatch(folder.name))

    def interrupted(self) -> list[Path]:
        """Return the partial folders that no process works in."""
        return [folder for folder in self.partials() if locks.is_free(self._lock_of(folder))]

    def trash(self) -> list[Path]:
        """Return the folders whose deletion was interrupted."""
        return sorted((self._state / "trash").glob("*"))

    def delete(self, folder: Path) -> bool:
        """Delete a published or partial folder, or one of the trash; return False if a process works in it.

        The folder is first moved into the trash, so no reader sees a part of it.
        """
        if folder.parent == self._state / "trash":
            shutil.rmtree(folder, ignore_errors=True)
            return not folder.exists()
        lock = self._lock_of(folder)
        if not locks.try_acquire(lock):
            return False
        try:
            self._discard(folder)
            if self.remote and _PARTIAL.fullmatch(folder.name):
                self.remote.remove(self._name(folder))
        finally:
            locks.release(lock)
        return True

    # --- creation -----------------------------------------------------------------------------------------------------

    def slot(self, stage: str, key: str, *, fresh: bool = False) -> Path:
        """Return the folder of the artifact with this key, whether it exists or not.

        A new artifact gets the stage's next version. Its partial folder reserves the slot, so that two processes that
        need the same artifact get the same slot. An artifact that only the remote has keeps its version. `fresh`
        requests a new version even if a complete one exists.
        """
        self._mkdir(self.root / stage)
        with locks.exclusive(self._lock(f"{stage}.versions")):
            found = None if fresh else self.find(stage, key)
            try:
                slot = found.path if found else self._reserve(stage, key, fresh)
            except OSError as error:
                raise (explained(error, self.root) or error) from error
        if found and self.remote and not self.is_there(found):  # made before the remote was set
            self._copy(found.path, found, self.remote)
        return slot

    def _reserve(self, stage: str, key: str, fresh: bool) -> Path:
        """Return the slot of an artifact that is not in this folder, and create its partial folder."""
        place, ending = self.root / stage, f"-{key[:KEY_DIGITS]}"
        there = sorted(self._names_there(stage), key=lambda name: int(name.split("-")[0]))
        complete = (place / name for name in reversed(there) if name.endswith(ending) and self._there(place / name))
        partials = (
            place / f"{match[1]}-{match[2]}"
            for partial in place.glob(".*.partial")
            if (match := _PARTIAL.fullmatch(partial.name)) and partial.name.removesuffix(".partial").endswith(ending)
        )
        slot = (None if fresh else next(complete, None)) or next(partials, None)
        slot = slot or place / f"{self._next_version(stage, there)}{ending}"
        self._mkdir(partial_of(slot))
        return slot

    def make(
        self, order: Order, slot: Path, build: Callable[[Path], Outcome], *, files_stay: bool = False
    ) -> tuple[Artifact, bool]:
        """Return the artifact of `order` at `slot`, and whether `build` made it.

        `build` gets the partial folder with the files of an interrupted attempt. If another process makes the artifact,
        wait for it and use its result; if that process dies, take over. The files of one that only the remote has are
        downloaded, unless `files_stay`.
        """
        with locks.exclusive(self._lock_of(slot)):
            made = self._read(slot) if slot.is_dir() else None
            if made is not None and not self.damage(made):
                if self.remote and not self.is_there(made):  # as after an interrupted copy
                    self._copy(slot, made, self.remote)
                return made, False
            partial = partial_of(slot)
            if partial.is_dir() and any(path.is_symlink() for path in partial.rglob("*")):
                self._discard(partial)  # not made here: a write would follow the links out of the folder
            self._mkdir(partial)
            started, clock = datetime.now(UTC), time.monotonic()
            try:
                if self.remote and (downloaded := self._download(order.key, slot, self.remote, files_stay)):
                    return downloaded, False
                outcome = build(partial)
                manifest = self._publish(order, slot, outcome, started, time.monotonic() - clock)
            except Exception as error:
                raise (explained(error, self.root) or error) from error
            if self.remote and not self.is_there(Artifact(slot, manifest)):
                self._copy(slot, Artifact(slot, manifest), self.remote)
            return Artifact(slot, manifest), True

    def _publish(self, order: Order, slot: Path, outcome: Outcome, started: datetime, seconds: float) -> Manifest:
        partial = partial_of(slot)
        (partial / MANIFEST).unlink(missing_ok=True)  # of a process that was killed before the renaming
        there = elsewhere.files_below(partial)
        files = {name: FileFacts(bytes=found.bytes, sha256=found.sha256) for name, found in there.items()} | {
            file.relative_to(partial).as_posix(): FileFacts(
                bytes=file.stat().st_size, sha256=noted_digest(file) or sha256(file)
            )
            for file in sorted(partial.rglob("*"))
            if file.is_file() and not file.name.startswith(".")
        }
        manifest = Manifest(
            stage=order.stage,
            version=int(slot.name.split("-")[0]),
            key=order.key,
            settings=dict(order.settings),
            inputs=dict(order.inputs),
            code=order.code,
            libraries=libraries(),
            host=host(),
            started=started,
            seconds=round(seconds, 3),
            rows_in=outcome.rows_in,
            rows_out=outcome.rows_out,
            unit=outcome.unit,
            metrics=outcome.metrics,
            files=dict(sorted(files.items())),
        )
        if there and self.remote:
            self._copy(partial, Artifact(slot, manifest), self.remote)
            shutil.rmtree(partial)
            self._mkdir(partial)
            elsewhere.note_store(partial, self.remote.address)
        else:
            for leftover in partial.rglob(".*"):
                if leftover.is_file():
                    leftover.unlink()
        self._place(slot, manifest)
        return manifest

    def _place(self, slot: Path, manifest: Manifest) -> None:
        """Rename a slot's partial folder, which has exactly the files of the manifest, to its place."""
        partial = partial_of(slot)
        with replacing(partial / MANIFEST, scratch=True) as temporary:
            temporary.write_text(manifest.as_json())
        shared = is_shared(self.root)
        for path in (*partial.rglob("*"), partial):
            if shared:
                share(path, self.root)
            sync(path)
        if slot.exists():
            self._discard(slot)
        partial.rename(slot)
        sync(slot.parent)
        with Digests(self._state / "digests.sqlite") as digests:
            for name, facts in manifest.files.items():
                if (slot / name).exists():
                    digests.know(slot / name, facts.sha256)

    # --- the remote ---------------------------------------------------------------------------------------------------

    def _names_there(self, stage: str) -> list[str]:
        """Return the names of a stage's folders at the remote, complete or not."""
        return [name for name in self.remote.folders(stage) if _FOLDER.fullmatch(name)] if self.remote else []

    def _there(self, slot: Path) -> Manifest | None:
        """Return the remote's manifest of a slot; None if the artifact is not published there."""
        text = self.remote.read(self._name(slot, MANIFEST)) if self.remote else None
        try:
            return None if text is None else Manifest.model_validate_json(text)
        except ValidationError:
            return None

    def _copy(self, folder: Path, artifact: Artifact, remote: Remote) -> None:
        """Copy an artifact to the remote, its manifest last, so that readers see a complete artifact or none.

        The files are in `folder`, or in the partial folder of the remote, where workers wrote them.
        """
        names, partial = artifact.manifest.files, partial_of(artifact.path)
        remote.remove(self._name(artifact.path, MANIFEST))  # of a damaged copy
        here = {self._name(artifact.path, name): folder / name for name in names if (folder / name).exists()}
        remote.upload(here)
        moved = {self._name(partial, name): self._name(artifact.path, name) for name in names}
        remote.copy({old: new for old, new in moved.items() if new not in here})
        remote.write(self._name(artifact.path, MANIFEST), artifact.manifest.as_json().encode())
        remote.remove(self._name(partial))

    def _download(self, key: str, slot: Path, remote: Remote, files_stay: bool) -> Artifact | None:
        """Download the artifact of a slot from the remote; return None if it is missing or damaged there."""
        manifest, partial = self._there(slot), partial_of(slot)
        if manifest is None or manifest.key != key:
            return None
        downloaded = self._state / "downloaded" / self._name(slot)
        shutil.rmtree(downloaded, ignore_errors=True)
        downloaded.mkdir(parents=True)
        if files_stay:
            elsewhere.note_store(downloaded, remote.address)
        else:
            _log.info("%s is downloaded from %s.", slot, remote.address)
            files = manifest.files
            digests = {self._name(slot, name): facts.sha256 for name, facts in files.items()}
            try:
                remote.download({self._name(slot, name): downloaded / name for name in files}, digests)
            except Damaged as error:
                _log.warning("%s; it is not used.", error)
                return None
        self._discard(partial)
        remote.remove(self._name(partial))
        downloaded.rename(partial)
        self._place(slot, manifest)
        return Artifact(slot, manifest)

    def _name(self, slot: Path, name: str = "") -> str:
        """Return the name of a slot's file, or of its folder, at the remote."""
        return (slot / name).relative_to(self.root).as_posix()

    # --- internals ----------------------------------------------------------------------------------------------------

    def _folders(self, stage: str) -> list[Path]:
        """Return the published folders of a stage, oldest version first."""
        matches = ((_FOLDER.fullmatch(folder.name), folder) for folder in self.root.joinpath(stage).glob("*-*"))
        return [folder for _, folder in sorted((int(match[1]), folder) for match, folder in matches if match)]

    def _read(self, folder: Path) -> Artifact | None:
        try:
            return Artifact(folder, Manifest.model_validate_json(folder.joinpath(MANIFEST).read_bytes()))
        except (OSError, ValidationError) as error:
            if folder not in self._reported:
                self._reported.add(folder)
                problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
                _log.warning("%s is damaged and not used: its %s cannot be read (%s).", folder, MANIFEST, problem)
            return None

    def _next_version(self, stage: str, there: list[str]) -> int:
        """Return the next version, beyond those of the names `there`; the number of a deleted folder is not reused."""
        counter = self._state / f"{stage}.version"
        names = [*there, *(folder.name for folder in self.root.joinpath(stage).iterdir())]
        matches = [_FOLDER.fullmatch(name) or _PARTIAL.fullmatch(name) for name in names]
        taken = [int(match[1]) for match in matches if match]
        given = int(text) if counter.exists() and (text := counter.read_text().strip()).isdigit() else 0
        version = max([given, *taken]) + 1
        with replacing(counter) as temporary:
            temporary.write_text(str(version))
        return version

    def _lock(self, name: str) -> Path:
        return self._state / "locks" / name

    def _lock_of(self, folder: Path) -> Path:
        slot = folder.name.removeprefix(".").removesuffix(".partial")
        return self._lock(f"{folder.parent.name}.{slot}")

    def _mkdir(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(_not_writable(self.root, error)) from error
        except OSError as error:
            raise (explained(error, self.root) or error) from error

    def _discard(self, folder: Path) -> None:
        trash = self._state / "trash" / f"{folder.parent.name}-{folder.name.strip('.')}-{os.getpid()}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)  # garbage collection deletes what remains


def partial_of(slot: Path) -> Path:
    """Return the partial folder of a slot."""
    return slot.with_name(f".{slot.name}{PARTIAL}")


def explained(error: BaseException, root: Path) -> UserError | None:
    """Return the message for a failed write: a full disk, a store of another user, something in the way; else None."""
    if is_disk_full(error):
        return UserError(_disk_full(root))
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        if error.filename is None or Path(str(error.filename)).absolute().is_relative_to(root):
            return UserError(_not_writable(root, error))
    if isinstance(error, OSError) and error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST) and error.filename:
        path = Path(str(error.filename)).absolute()
        if path.is_relative_to(root / ".state"):
            path = next((one for one in path.parents if one.is_file()), path)
            return UserError(f"{path} is a {'file' if path.is_file() else 'folder'} where none belongs; delete it.")
    return None


def _not_writable(root: Path, error: OSError) -> str:
    return f"The artifact store {root} cannot be written ({error.strerror}); choose another with --artifacts."


def _disk_full(root: Path) -> str:
    free = shutil.disk_usage(root).free / 1e6
    return (
        f"The disk of {root} is full ({free:.0f} MB free); free some space, for example with `homegrown gc`, and run "
        "again. Finished work is kept."
    )
