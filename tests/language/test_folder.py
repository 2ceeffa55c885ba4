from __future__ import annotations

import hashlib
import os
import subprocess

import pytest
from engine.language import folder as folders
from engine.language.folder import FolderError, blob_id, read_files

from tests.support.kubelet_files import Mount


def write(root, **files):
    for path, content in files.items():
        file = root / path.replace("__", "/").replace("_yaml", ".yaml").replace("_yml", ".yml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def test_playbook_files_are_the_yaml_files_of_all_subfolders(tmp_path):
    write(tmp_path, a_yaml=b"1", b__c_yml=b"2", b__d__e_yaml=b"3", values_yaml=b"4")
    write(tmp_path, kustomization_yaml=b"5", b__kustomization_yml=b"6", b__values_yaml=b"7")
    for name in (".hidden.yaml", "README.md", "x.yaml.bak"):
        (tmp_path / name).write_text("8")
    write(tmp_path, **{".git__f_yaml": b"9"})
    found = read_files([tmp_path])
    assert sorted(found.files) == [
        "a.yaml",
        "b/c.yml",
        "b/d/e.yaml",
        "b/values.yaml",
        "values.yaml",
    ]
    assert found.kustomization == ("kustomization.yaml", b"5")
    assert found.shown("b/c.yml") == str(tmp_path / "b" / "c.yml")


def test_a_mounted_config_map_is_read_through_its_data_link(tmp_path):
    write(tmp_path / "..2026_01", a_yaml=b"old", values_yaml=b"x: 1")
    write(tmp_path / "..2026_02", a_yaml=b"new", b_yaml=b"more")
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    (tmp_path / "values.yaml").symlink_to("..data/values.yaml")
    assert read_files([tmp_path]).files == {"a.yaml": b"old", "values.yaml": b"x: 1"}
    (tmp_path / "..data").unlink()
    (tmp_path / "..data").symlink_to("..2026_02")
    assert read_files([tmp_path]).files == {"a.yaml": b"new", "b.yaml": b"more"}


def test_a_data_link_that_changes_during_each_read_is_an_error(tmp_path, monkeypatch):
    write(tmp_path / "..1", a_yaml=b"")
    (tmp_path / "..data").symlink_to("..1")
    targets = iter(range(1000))
    monkeypatch.setattr("engine.language.folder.os.readlink", lambda _: f"..{next(targets)}")
    with pytest.raises(FolderError, match="changed during each of"):
        read_files([tmp_path])


def test_the_digest_covers_the_sorted_paths_and_blob_ids(tmp_path):
    write(tmp_path, b_yaml=b"two\n", a_yaml=b"one\n", sub__c_yaml=b"", values_yaml=b"v: 1\n")
    lines = []
    for name in ("a.yaml", "b.yaml", "sub/c.yaml", "values.yaml"):
        hashed = subprocess.run(
            ["git", "hash-object", str(tmp_path / name)], check=True, capture_output=True, text=True
        )
        blob = hashed.stdout.strip()
        assert blob == blob_id((tmp_path / name).read_bytes())
        lines.append(f"{name}\0{blob}\n")
    assert read_files([tmp_path]).digest == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_digest_is_the_same_in_git_and_in_the_cluster(tmp_path):
    write(tmp_path / "git", a_yaml=b"one")
    write(tmp_path / "mount" / "..1", a_yaml=b"one")
    (tmp_path / "mount" / "..data").symlink_to("..1")
    assert read_files([tmp_path / "git"]).digest == read_files([tmp_path / "mount"]).digest


def test_single_files_use_the_values_next_to_them(tmp_path):
    write(tmp_path, a_yaml=b"1", b_yaml=b"2", c_yaml=b"3", values_yaml=b"4")
    found = read_files([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert sorted(found.files.values()) == [b"1", b"2", b"4"]


def test_a_missing_path_is_an_error(tmp_path):
    for paths in ([tmp_path / "no"], [tmp_path, tmp_path / "a.yaml"]):
        with pytest.raises(FolderError):
            read_files(paths)


def left_out(found):
    return [(f.where.file.rpartition("/")[2], f.severity, f.what) for f in found.findings]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("/etc/passwd", "it leads out of the folder"),
        ("../outside.yaml", "it leads out of the folder"),
        ("chain.txt", "it leads out of the folder"),
        ("sub/../../outside.yaml", "it leads out of the folder"),
        ("/dev/zero", "it leads out of the folder"),
        (".git/config", "it leads to a hidden file"),
        ("pipe", "it is not a regular file"),
        ("nowhere", "No such file or directory"),
        ("a.yaml", "Too many levels of symbolic links"),
    ],
)
@pytest.mark.parametrize("name", ["a.yaml", "values.yaml", "kustomization.yaml", "sub/b.yml"])
def test_a_link_that_leads_out_of_the_folder_is_an_error_and_is_not_read(
    tmp_path, name, target, why
):
    root = tmp_path / "playbooks"
    write(root, good_yaml=b"1", **{".git__config": b"token"})
    (root / "sub").mkdir()
    (tmp_path / "outside.yaml").write_text("secret")
    (root / "chain.txt").symlink_to("../outside.yaml")
    os.mkfifo(root / "pipe")
    up = "../" if name.startswith("sub/") and not target.startswith("/") else ""
    if target == "a.yaml":
        (root / name).symlink_to(name.rpartition("/")[2])
    else:
        (root / name).symlink_to(up + target)
    found = read_files([root])
    assert (found.files, found.kustomization) == ({"good.yaml": b"1"}, None)
    assert left_out(found) == [(name.rpartition("/")[2], "error", why)]


def test_devices_pipes_and_sockets_are_errors_and_do_not_block(tmp_path):
    write(tmp_path, good_yaml=b"1")
    os.mkfifo(tmp_path / "pipe.yaml")
    found = read_files([tmp_path])
    assert left_out(found) == [("pipe.yaml", "error", "it is not a regular file")]


def test_links_inside_the_folder_and_to_the_folder_are_followed(tmp_path):
    write(tmp_path / "real", a_yaml=b"1", sub__b_yaml=b"2")
    (tmp_path / "real" / "c.yaml").symlink_to("sub/b.yaml")
    (tmp_path / "real" / "d.yaml").symlink_to(tmp_path / "real" / "c.yaml")
    (tmp_path / "current").symlink_to("real")
    found = read_files([tmp_path / "current"])
    assert sorted(found.files.items()) == [
        ("a.yaml", b"1"),
        ("c.yaml", b"2"),
        ("d.yaml", b"2"),
        ("sub/b.yaml", b"2"),
    ]
    assert not found.findings


def test_a_config_map_mounted_below_the_folder_is_read(tmp_path):
    write(tmp_path / "team" / "..2026_01", a_yaml=b"1")
    (tmp_path / "team" / "..data").symlink_to("..2026_01")
    (tmp_path / "team" / "a.yaml").symlink_to("..data/a.yaml")
    found = read_files([tmp_path])
    assert (found.files, found.findings) == ({"team/a.yaml": b"1"}, ())


def test_a_data_link_that_leads_out_of_the_folder_is_an_error(tmp_path):
    write(tmp_path / "outside", a_yaml=b"1")
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "..data").symlink_to("../outside")
    with pytest.raises(FolderError, match="leads out of the folder"):
        read_files([tmp_path / "playbooks"])


def test_a_linked_folder_is_not_read_and_is_a_warning(tmp_path):
    write(tmp_path / "common", more_yaml=b"1")
    write(tmp_path / "playbooks", a_yaml=b"1", sub__b_yaml=b"2")
    for name in ("playbooks/common", "playbooks/sub/deep", "playbooks/.hidden"):
        (tmp_path / name).symlink_to(tmp_path / "common")
    found = read_files([tmp_path / "playbooks"])
    assert sorted(found.files) == ["a.yaml", "sub/b.yaml"]
    assert [(f.where.file, f.code, f.severity) for f in found.findings] == [
        (str(tmp_path / "playbooks/common"), "not-read", "warning"),
        (str(tmp_path / "playbooks/sub/deep"), "not-read", "warning"),
    ]


@pytest.mark.parametrize("name", [b"d\xff/z.yaml", b"\xff.yaml"])
def test_a_file_name_that_is_not_utf_8_is_an_error_at_its_place(tmp_path, name):
    file = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118 - Path takes no bytes
    os.makedirs(os.path.dirname(file), exist_ok=True)  # noqa: PTH103, PTH120
    with open(file, "wb") as stream:  # noqa: PTH123
        stream.write(b"kind: Playbook")
    write(tmp_path, good_yaml=b"1")
    found = read_files([tmp_path])
    assert (list(found.files), len(found.digest)) == (["good.yaml"], 64)
    (finding,) = found.findings
    assert (finding.what, finding.severity) == ("the file name is not UTF-8", "error")
    assert "\\xff" in finding.where.file


@pytest.mark.parametrize(("bound", "value"), [("MAX_FILES", 3), ("MAX_TOTAL", 25)])
def test_a_folder_over_a_limit_is_an_error_where_reading_stops(tmp_path, monkeypatch, bound, value):
    write(tmp_path, **{f"f{n}_yaml": b"0123456789" for n in range(9)})
    monkeypatch.setattr(folders, bound, value)
    found = read_files([tmp_path])
    assert len(found.files) == 3
    (finding,) = found.findings
    assert (finding.code, finding.where.file) == ("folder-limit", str(tmp_path / "f3.yaml"))


def test_a_folder_with_too_many_entries_is_an_error(tmp_path, monkeypatch):
    write(tmp_path, **{f"sub{n}__notes": b"" for n in range(9)})
    monkeypatch.setattr(folders, "MAX_ENTRIES", 5)
    with pytest.raises(FolderError, match="more than 5 files and folders"):
        read_files([tmp_path])


def test_the_values_next_to_single_files_must_be_in_their_folder(tmp_path):
    write(tmp_path, home__credentials_yaml=b"token: x", playbooks__a_yaml=b"1")
    (tmp_path / "playbooks/values.yaml").symlink_to("../home/credentials.yaml")
    found = read_files([tmp_path / "playbooks/a.yaml"])
    assert list(found.files.values()) == [b"1"]
    assert left_out(found) == [("values.yaml", "error", "it leads out of the folder")]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "it leads out of the folder"),
        ("/dev/zero", "it leads out of the folder"),
        ("../../outside.yaml", "it leads out of the folder"),
        ("link.json", "it leads out of the folder"),
        ("pipe", "it is not a regular file"),
        ("big.json", "the file is larger than 4 MiB"),
        ("a\0b", "null byte"),
        (".", "it is not a regular file"),
    ],
)
def test_an_event_file_must_be_in_the_folder_and_its_size_is_limited(tmp_path, name, why):
    root = tmp_path / "playbooks"
    write(root, tests__t_yaml=b"", event_json=b"{}")
    (tmp_path / "outside.yaml").write_text("secret")
    (root / "tests/link.json").symlink_to("../../outside.yaml")
    os.mkfifo(root / "tests/pipe")
    with (root / "tests/big.json").open("wb") as stream:
        stream.truncate(folders.MAX_EVENT_FILE + 1)
    assert read_files([root]).beside("tests/t.yaml", "../event_json") == b"{}"
    for paths, path in (
        ([root], "tests/t.yaml"),
        ([root / "tests/t.yaml"], str(root / "tests/t.yaml")),
    ):
        with pytest.raises(FolderError, match=why):
            read_files(paths).beside(path, name)


COMMIT = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


@pytest.mark.parametrize(
    ("content", "revision"),
    [
        (f"{COMMIT}\n", COMMIT),
        ("e" * 64, "e" * 64),
        ("v1.2.0", "v1.2.0"),
        ("main@sha1:4b825dc6", "main@sha1:4b825dc6"),
        ("", ""),
        ("unknown\n", ""),
        ("HEAD", ""),
        ("$ARGOCD_APP_REVISION", ""),
        ("-rf", ""),
        ("a/../b", ""),
        (f"{COMMIT}\n{COMMIT}", ""),
        ("\x1b[31mred", ""),
        ("v1\u202e", ""),
        ("v" * 101, ""),
        (b"\xff\xfe", ""),
        (b"v" * 50_000_000, ""),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_the_revision_is_a_commit_or_a_name_and_anything_else_is_unknown(
    tmp_path, content, revision
):
    write(tmp_path, a_yaml=b"a: 1")
    digest = read_files([tmp_path]).digest
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "REVISION").write_bytes(content)
    found = read_files([tmp_path])
    assert (found.revision, found.digest, found.findings) == (revision, digest, ())


def test_a_revision_outside_the_folder_is_not_read(tmp_path):
    (tmp_path / "secret").write_text(COMMIT)
    folder = tmp_path / "playbooks"
    folder.mkdir()
    write(folder, a_yaml=b"a: 1")
    (folder / "REVISION").symlink_to("../secret")
    assert read_files([folder]).revision == ""
    (folder / "REVISION").unlink()
    os.mkfifo(folder / "REVISION")  # opening it would block
    assert read_files([folder]).revision == ""


def test_the_revision_of_a_mounted_config_map_comes_with_its_files(tmp_path):
    mount = Mount(tmp_path / "playbooks", {"a.yaml": b"a: 1", "REVISION": b"v1"})
    assert read_files([mount.folder]).revision == "v1"
    mount.write({"a.yaml": b"a: 1", "REVISION": b"v2"})
    assert read_files([mount.folder]).revision == "v2"
