"""Reloading: valid edits come into force, invalid edits keep the last valid set."""

from __future__ import annotations

import itertools
import os
import shutil
import threading

import pytest
from engine.journal.sqlite.journal import SqliteJournal
from engine.language import folder as folders
from engine.language.folder import FolderError, read_files
from engine.model.errors import JournalError, PlaybookError
from engine.model.event import parse_event
from engine.runtime import reload
from engine.runtime.reload import Reloader
from engine.telemetry.events import Observers, Reloaded
from tests.support.engine import PATIENCE, engine, refusal
from tests.support.intake import FALCO, NOW, PLAYBOOK
from tests.support.kubelet_files import Mount
from tests.support.playbooks import playbook_from_snapshot

SOON = 1.0
"""Largest number of seconds until a local edit is in force."""


def named(name):
    return PLAYBOOK.replace("mark-shell", name)


BROKEN = PLAYBOOK.replace("pod.label", "pod.lable")
SILENCE = """
apiVersion: tiercel.dev/v1
kind: Silence
metadata: {name: quiet}
spec: {match: {rules: ["*"]}, until: 2036-12-24T00:00:00Z, owner: me, comment: c}
"""
GUARDRAILS = """
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {name: default}
spec: {maxEventAge: 1m}
"""


@pytest.fixture
def often(monkeypatch):
    """Poll often. Without this, only the watch makes an edit effective within a second."""
    monkeypatch.setattr(reload, "POLL", 0.1)


class Moments:
    """Collects the events of reloads and waits for the expected ones."""

    def __init__(self):
        self.all = []
        self._grown = threading.Condition()

    def __call__(self, moment):
        assert isinstance(moment, Reloaded)
        with self._grown:
            self.all.append(moment)
            self._grown.notify_all()

    def wait_for(self, predicate, timeout=PATIENCE):
        with self._grown:
            assert self._grown.wait_for(lambda: any(map(predicate, self.all)), timeout), self.all
            return next(filter(predicate, self.all))

    def refused(self, *words):
        """Wait for a rejected reload whose findings contain all words."""

        def says(moment):
            text = "\n".join(map(str, moment.findings))
            return moment.findings and all(word in text for word in words)

        return self.wait_for(says)


class Folder:
    """A watched folder. names: of the playbooks in force."""

    def __init__(self, tmp_path, files=None, mount=None, journal=None):
        self.path = tmp_path / "playbooks"
        if mount is None:
            self.path.mkdir(exist_ok=True)
            for name, text in ({"a.yaml": named("one")} if files is None else files).items():
                (self.path / name).write_text(text)
        self.moments = Moments()
        self.journal = journal or SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
        self.reloader = Reloader(
            self.path, None, self.journal, Observers(self.moments), lambda: NOW
        )

    def __enter__(self):
        try:
            self.reloader.start()
        except BaseException:
            self.journal.close()
            raise
        return self

    def __exit__(self, *_):
        self.reloader.stop()
        self.journal.close()

    @property
    def names(self):
        return [playbook.name for playbook in self.reloader.active.playbooks.all]

    @property
    def error(self):
        return self.reloader.active.error

    def in_force(self, *names, timeout=PATIENCE):
        """Wait until exactly these playbooks are in force."""
        self.moments.wait_for(
            lambda moment: not moment.findings and self.names == list(names), timeout
        )


def test_the_folder_is_in_force_at_the_start(tmp_path):
    with Folder(tmp_path) as folder:
        assert (folder.names, folder.error) == (["one"], None)
        assert folder.journal.last_set()[1] == {"a.yaml": named("one").encode()}


def rewrite(path, text):
    path.write_text(text)


def rename_over(path, text):
    other = path.with_name(".a.yaml.swp")
    other.write_text(text)
    other.rename(path)


def move_away_and_write(path, text):
    path.rename(path.with_name("a.yaml~"))
    path.write_text(text)


def truncate_and_write_slowly(path, text):
    with path.open("w") as file:
        for part in itertools.batched(text, 40) if hasattr(itertools, "batched") else [text]:
            file.write("".join(part))
            file.flush()


@pytest.mark.parametrize(
    "edit", [rewrite, rename_over, move_away_and_write, truncate_and_write_slowly]
)
def test_an_edit_is_in_force_within_a_second_however_the_editor_writes(tmp_path, edit):
    with Folder(tmp_path) as folder:
        edit(folder.path / "a.yaml", named("two"))
        folder.in_force("two", timeout=SOON)
        assert all(not moment.findings for moment in folder.moments.all)


def test_files_added_and_removed_are_in_force_within_a_second(tmp_path):
    with Folder(tmp_path) as folder:
        (folder.path / "sub").mkdir()
        (folder.path / "sub" / "b.yml").write_text(named("two"))
        folder.in_force("one", "two", timeout=SOON)
        (folder.path / "a.yaml").unlink()
        folder.in_force("two", timeout=SOON)


def test_an_invalid_edit_keeps_the_last_valid_set_and_reports_the_position(tmp_path):
    with Folder(tmp_path) as folder:
        digest = folder.reloader.active.set.digest
        (folder.path / "a.yaml").write_text(BROKEN)
        moment = folder.moments.refused(f"{folder.path / 'a.yaml'}:8:16", "pod.label")
        assert (folder.names, moment.digest, moment.playbooks) == (["one"], digest, 1)
        assert "a.yaml:8:16" in folder.error
        assert folder.journal.last_set()[0] == digest


def test_all_errors_of_an_invalid_edit_are_reported(tmp_path):
    with Folder(tmp_path) as folder:
        (folder.path / "b.yaml").write_text(BROKEN.replace("match:", "mach:"))
        (folder.path / "c.yaml").write_text("a: [")
        folder.moments.refused("b.yaml", "pod.lable", "mach", "c.yaml")


def test_a_corrected_file_comes_into_force_and_clears_the_error(tmp_path):
    with Folder(tmp_path) as folder:
        (folder.path / "a.yaml").write_text(BROKEN)
        folder.moments.refused("pod.lable")
        (folder.path / "a.yaml").write_text(named("two"))
        folder.in_force("two", timeout=SOON)
        assert folder.error is None


def test_a_reverted_edit_clears_the_error(tmp_path):
    with Folder(tmp_path) as folder:
        (folder.path / "a.yaml").write_text(BROKEN)
        folder.moments.refused("pod.lable")
        folder.moments.all.clear()
        (folder.path / "a.yaml").write_text(named("one"))
        folder.in_force("one", timeout=SOON)
        assert folder.error is None


@pytest.mark.usefixtures("often")
def test_a_partially_written_file_is_not_loaded(tmp_path):
    text = named("two")
    with Folder(tmp_path) as folder, (folder.path / "a.yaml").open("w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        folder.moments.refused("a.yaml")
        assert folder.names == ["one"]
        file.write(text[len(text) // 2 :])
        file.flush()
        folder.in_force("two")


def test_silences_and_guardrails_come_into_force_with_their_set(tmp_path):
    with Folder(tmp_path) as folder:
        (folder.path / "a.yaml").write_text("\n---\n".join([named("two"), SILENCE, GUARDRAILS]))
        folder.in_force("two")
        active = folder.reloader.active
        assert active.playbooks.silence(parse_event({"rule": "any"}), 0) == "quiet"
        assert active.set.guardrails.max_event_age == 60


@pytest.mark.parametrize("change", ["vanish", "empty", "only other files", "only values"])
@pytest.mark.usefixtures("often")
def test_a_missing_or_empty_folder_is_an_error_until_it_returns(tmp_path, change):
    with Folder(tmp_path) as folder:
        shutil.rmtree(folder.path)
        if change != "vanish":
            folder.path.mkdir()
        if change == "only other files":
            (folder.path / "README.md").write_text("none")
        if change == "only values":
            (folder.path / "values.yaml").write_text("a: 1")
        folder.moments.refused(str(folder.path))
        assert folder.names == ["one"]
        folder.moments.all.clear()
        folder.path.mkdir(exist_ok=True)
        (folder.path / "a.yaml").write_text(named("two"))
        folder.in_force("two")
        assert folder.error is None


@pytest.mark.parametrize("files", [{}, {"values.yaml": "a: 1"}, {"s.yaml": SILENCE}])
@pytest.mark.usefixtures("often")
def test_an_engine_that_never_had_playbooks_starts_without_any(tmp_path, files):
    with Folder(tmp_path, files) as folder:
        assert (folder.names, folder.error) == ([], None)
        assert folder.reloader.active.set.digest == read_files([folder.path]).digest
        assert [moment.playbooks for moment in folder.moments.all] == [0]
        (folder.path / "values.yaml").write_text("a: 2")
        folder.moments.wait_for(lambda it: it.digest == read_files([folder.path]).digest)
        assert folder.error is None
        (folder.path / "a.yaml").write_text(named("one"))
        folder.in_force("one")
        (folder.path / "a.yaml").unlink()  # from now on this is a mistake
        folder.moments.refused("has no playbook")
        assert folder.names == ["one"]
    with Folder(tmp_path, files) as folder:
        assert folder.names == ["one"]


def test_an_empty_set_is_not_kept_for_the_next_start(tmp_path):
    with Folder(tmp_path, {}):
        pass
    with pytest.raises(PlaybookError, match=r"a\.yaml:8:16"), Folder(tmp_path, {"a.yaml": BROKEN}):
        pass


@pytest.mark.usefixtures("often")
def test_a_lasting_error_is_reported_once(tmp_path):
    with Folder(tmp_path) as folder:
        shutil.rmtree(folder.path)
        folder.moments.refused(str(folder.path))
        for _ in range(3):
            folder.reloader.check()
        assert sum(bool(moment.findings) for moment in folder.moments.all) == 1


@pytest.mark.usefixtures("often")
def test_a_file_that_always_changes_does_not_delay_other_edits(tmp_path):
    with Folder(tmp_path) as folder:
        stop = threading.Event()

        def scribble():
            for number in itertools.count():
                (folder.path / "editor.log").write_text(str(number))
                if stop.wait(0.01):
                    return

        thread = threading.Thread(target=scribble)
        thread.start()
        try:
            (folder.path / "a.yaml").write_text(named("two"))
            folder.in_force("two")
        finally:
            stop.set()
            thread.join()


def test_a_swapped_configmap_is_in_force_within_a_poll(tmp_path):
    mount = Mount(tmp_path / "playbooks", {"a.yaml": named("one").encode()})
    with Folder(tmp_path, mount=mount) as folder:
        mount.write({"a.yaml": named("two").encode(), "b.yaml": named("three").encode()})
        folder.in_force("three", "two", timeout=SOON)
        mount.write({"b.yaml": named("three").encode()})
        folder.in_force("three", timeout=SOON)
        mount.write({"b.yaml": BROKEN.encode()})
        folder.moments.refused("b.yaml:8:16")
        assert folder.names == ["three"]


@pytest.mark.usefixtures("often")
def test_a_replaced_mount_and_its_later_swaps_are_noticed(tmp_path):
    first = Mount(tmp_path / "playbooks", {"a.yaml": named("one").encode()})
    with Folder(tmp_path, mount=first) as folder:
        other = Mount(tmp_path / "other", {"a.yaml": named("two").encode()})
        folder.path.rename(tmp_path / "gone")
        other.folder.rename(folder.path)
        folder.in_force("two")
        other.folder = folder.path
        other.write({"a.yaml": named("three").encode()})
        folder.in_force("three")


def test_a_swap_between_two_files_never_gives_a_partial_set(tmp_path, monkeypatch):
    def version(number):
        return {name: f"{name} {number}".encode() for name in ("a.yaml", "b.yaml", "c.yaml")}

    mount = Mount(tmp_path / "playbooks", version(0))
    read, numbers, readings = folders.read_bounded, itertools.count(1), itertools.count(1)
    swaps = [2, 4, 8]  # the kubelet swaps before these readings of a file

    def interrupted(path):
        if next(readings) in swaps:
            mount.write(version(next(numbers)))
        return read(path)

    monkeypatch.setattr(folders, "read_bounded", interrupted)
    assert read_files([mount.folder]).files == version(3)


def test_a_link_that_always_changes_is_an_error(tmp_path, monkeypatch):
    mount = Mount(tmp_path / "playbooks", {"a.yaml": b"0"})
    read = folders.read_bounded

    def interrupted(path):
        mount.write({"a.yaml": b"1"})
        return read(path)

    monkeypatch.setattr(folders, "read_bounded", interrupted)
    with pytest.raises(FolderError, match="changed during each of"):
        read_files([mount.folder])


def test_a_restart_with_an_invalid_folder_uses_the_last_valid_set_and_reports_it(tmp_path):
    with Folder(tmp_path) as folder:
        digest = folder.reloader.active.set.digest
    with Folder(tmp_path, {"a.yaml": BROKEN}) as folder:
        assert folder.names == ["one"]
        assert folder.reloader.active.set.digest == digest
        assert "a.yaml:8:16" in folder.error
        folder.moments.refused("a.yaml:8:16")
        (folder.path / "a.yaml").write_text(named("two"))
        folder.in_force("two", timeout=SOON)


@pytest.mark.usefixtures("often")
def test_a_revision_takes_effect_with_its_files_and_without_a_change_of_the_digest(tmp_path):
    def version(revision, text):
        return {"a.yaml": text.encode(), "REVISION": revision.encode()}

    mount = Mount(tmp_path / "playbooks", version("v1", named("one")))
    with Folder(tmp_path, mount=mount) as folder:
        active = folder.reloader.active
        assert (active.set.revision, active.playbooks.revision) == ("v1", "v1")
        mount.write(version("v2", named("one")))
        moment = folder.moments.wait_for(lambda moment: moment.revision == "v2")
        assert (moment.digest, folder.names) == (active.set.digest, ["one"])
        assert folder.reloader.active.playbooks.revision == "v2"
        mount.write(version("v3", BROKEN))
        folder.moments.refused("a.yaml:8:16")
        assert folder.reloader.active.playbooks.revision == "v2"
    with Folder(tmp_path, mount=mount) as folder:  # the folder is still broken
        assert folder.names == ["one"]
        assert folder.reloader.active.playbooks.revision == "v2"


def test_without_a_saved_set_an_invalid_folder_is_an_error_at_the_start(tmp_path):
    with pytest.raises(PlaybookError, match=r"a\.yaml:8:16"), Folder(tmp_path, {"a.yaml": BROKEN}):
        pass


def test_if_the_saved_set_is_invalid_the_error_of_the_folder_is_reported(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
    journal.save_set("d", {"old.yaml": BROKEN.encode()})
    files = {"a.yaml": BROKEN}
    with (
        pytest.raises(PlaybookError, match=r"a\.yaml:8:16"),
        Folder(tmp_path, files, journal=journal),
    ):
        pass


class FullDisk:
    """A journal that saves no set while it is full."""

    def __init__(self, journal):
        self._journal = journal
        self.full = False

    def save_set(self, digest, files, revision):
        if self.full:
            raise JournalError("disk full")
        self._journal.save_set(digest, files, revision)

    def __getattr__(self, name):
        return getattr(self._journal, name)


@pytest.mark.usefixtures("often")
def test_a_set_is_in_force_only_after_it_is_saved(tmp_path):
    disk = FullDisk(SqliteJournal(tmp_path / "j.db", playbook_from_snapshot))
    with Folder(tmp_path, journal=disk) as folder:
        disk.full = True
        (folder.path / "a.yaml").write_text(named("two"))
        folder.moments.refused("disk full")
        assert folder.names == ["one"]
        disk.full = False
        folder.in_force("two")


def test_the_engine_applies_an_edit_without_a_restart_and_reports_an_invalid_one(tmp_path):
    with engine(tmp_path, {"a.yaml": named("one")}, "--dry-run") as running:
        file = tmp_path / "playbooks" / "a.yaml"
        file.write_text(BROKEN)
        told = running.wait_for_log(lambda line: "a.yaml:8:16" in line.get("finding", ""))
        assert told["level"] == "error"
        assert "a.yaml:8:16" in running.get("/status")[2]["playbooks"]["error"]
        assert "tiercel_playbooks_current 0.0" in running.get("/metrics")[2]
        file.write_text(named("two"))
        running.wait_for_log(
            lambda line: line["event"] == "playbooks_loaded" and running.audit == []
        )
        running.wait_for_log(lambda _: running.get("/status")[2]["playbooks"]["error"] is None)
        run = running.post(FALCO)[2]["runs"][0]
        assert running.get(f"/runs/{run}")[2]["playbook"] == "two"


def test_the_engine_does_not_start_with_an_invalid_folder_without_a_saved_set(tmp_path):
    code, said = refusal(tmp_path, {"a.yaml": BROKEN}, "--dry-run")
    assert code == 1
    assert "a.yaml:8:16" in said
    with engine(tmp_path, {"a.yaml": named("one")}, "--dry-run") as running:
        (tmp_path / "playbooks" / "a.yaml").write_text(BROKEN)
        running.restart()
        running.wait_for_log(lambda line: "a.yaml:8:16" in line.get("finding", ""))
        run = running.post(FALCO)[2]["runs"][0]
        assert running.get(f"/runs/{run}")[2]["playbook"] == "one"


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: (path / os.fsdecode(b"\xff.yaml")).write_text(named("odd")), "not UTF-8"),
        (lambda path: (path / "out.yaml").symlink_to("/etc/passwd"), "leads out of the folder"),
        (lambda path: os.mkfifo(path / "pipe.yaml"), "not a regular file"),
    ],
)
def test_an_unreadable_file_keeps_the_last_valid_set_also_after_a_restart(tmp_path, spoil, why):
    with Folder(tmp_path) as folder:
        spoil(folder.path)
        folder.moments.refused(why)
        assert folder.names == ["one"]
    with Folder(tmp_path, {}) as folder:
        folder.moments.refused(why)
        assert folder.names == ["one"]
        for path in folder.path.iterdir():
            if path.name != "a.yaml":
                path.unlink()
        folder.in_force("one")
        assert folder.error is None


@pytest.mark.usefixtures("often")
def test_a_reload_names_added_changed_and_removed_playbooks(tmp_path):
    files = {f"{name}.yaml": named(name).encode() for name in ("stays", "goes", "turns")}
    mount = Mount(tmp_path / "playbooks", {**files, "quiet.yaml": SILENCE.encode()})
    with Folder(tmp_path, mount=mount) as folder:
        assert folder.moments.all[-1].changes is None
        del files["goes.yaml"]
        files["turns.yaml"] = named("turns").replace("spec:", "spec:\n  description: new").encode()
        files["comes.yaml"] = named("comes").encode()
        files["rails.yaml"] = GUARDRAILS.encode()
        mount.write({**files, "quiet.yaml": SILENCE.replace("2036", "2037").encode()})
        moment = folder.moments.wait_for(lambda one: one.changes)
    assert moment.changes == {
        "added": ["comes"],
        "changed": ["guardrails", "silence/quiet", "turns"],
        "removed": ["goes"],
    }


def test_a_reload_of_many_playbooks_names_some_and_counts_the_rest(tmp_path):
    with Folder(tmp_path) as folder:
        text = "---\n".join(named(f"p{n:02}") for n in range(30))
        (folder.path / "many.yaml").write_text(text)
        moment = folder.moments.wait_for(lambda one: one.changes)
    assert moment.changes["added"][-2:] == ["p19", "and 10 more"]
