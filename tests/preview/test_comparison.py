from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import click
import pytest
from engine.language.folder import Files, read_files
from engine.model.event import parse_event
from engine.model.own_identity import OwnIdentity
from engine.preview.comparison import ActionDifferences, Comparison
from engine.preview.event_log import EventFile, EventLog
from engine.preview.replay import PlaybookReplay, Tally
from engine.render.replay_text import replay_lines
from engine.render.replay_view import ReplayReport, action_change_text
from tests.preview.test_replay import alert, tiercel
from tests.support.playbooks import new_loader

PLAYBOOK = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: mark}
spec:
  match: {rules: [R]}
  actions: [{action: pod.label, with: {labels: {why: "${label}"}}}]
"""
AUTHOR = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
}  # fmt: skip


def git(*arguments, cwd="."):
    command = ["git", "-c", "protocol.file.allow=always", *arguments]
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, env={**os.environ, **AUTHOR})


def commit():
    git("add", "-A")
    git("commit", "-qm", "change")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository with one playbook on ``main``, next to a file of three events."""
    monkeypatch.chdir(tmp_path)
    for name, value in AUTHOR.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "playbooks").mkdir()
    write(PLAYBOOK)
    (tmp_path / "playbooks/values.yaml").write_text("label: first\n")
    git("init", "-q", "-b", "main")
    commit()
    lines = [json.dumps(alert(n, f"web-{n}")) for n in range(3)]
    (tmp_path / "events.ndjson").write_text("\n".join(lines))
    return tmp_path / "playbooks"


def write(text, name="a.yaml"):
    Path("playbooks", name).write_text(text)


def against(ref="main", *arguments):
    return tiercel("replay", *arguments, "events.ndjson", "--against", ref, "-o", "json")


def changes(result):
    told = json.loads(result.stdout)["against"]
    return tuple(told["events"][key] for key in ("newly", "noLonger", "otherwise"))


@pytest.mark.usefixtures("folder")
def test_an_unchanged_folder_has_no_differences():
    write("# a comment\n" + PLAYBOOK)
    result = against()
    assert (result.exit_code, changes(result)) == (0, (0, 0, 0))
    assert json.loads(result.stdout)["against"]["acting"] == {"old": 3, "new": 3}


def test_uncommitted_edits_are_compared(folder):
    write(PLAYBOOK.replace("[R]", "[S]"))
    result = against()
    assert (result.exit_code, changes(result)) == (1, (0, 3, 0))
    (folder / "a.yaml").unlink()
    assert changes(against()) == (0, 3, 0)
    write(PLAYBOOK.replace("why", "because"))
    assert changes(against()) == (0, 0, 3)


@pytest.mark.usefixtures("folder")
def test_examples_show_both_sides():
    write(PLAYBOOK.replace("why", "because"))
    told = json.loads(against().stdout)["against"]
    assert told["playbooks"] == [{"name": "mark", "newly": 0, "noLonger": 0, "otherwise": 3}]
    assert len(told["examples"]) == 2
    first = told["examples"][0]
    labels = [
        first[side]["steps"][0]["calls"][0]["body"]["metadata"]["labels"] for side in ("old", "new")
    ]
    assert labels == [{"why": "first"}, {"because": "first"}]
    text = tiercel("replay", "events.ndjson", "--against", "main").stdout
    assert 'metadata.labels.why="first"' in text
    assert 'metadata.labels.because="first"' in text
    for output in ("markdown", "html"):
        shown = tiercel("replay", "events.ndjson", "--against", "main", "-o", output)
        assert shown.exit_code == 1
        assert "metadata.labels.because" in shown.stdout


def test_each_revision_uses_its_own_values(folder):
    (folder / "values.yaml").write_text("label: second\n")
    assert changes(against()) == (0, 0, 3)


@pytest.mark.usefixtures("folder")
def test_the_file_of_values_is_read_from_the_revision_if_it_has_it():
    Path("prod.yaml").write_text("label: prod\n")
    assert changes(against("main", "--values", "prod.yaml")) == (0, 0, 0)
    commit()
    Path("prod.yaml").write_text("label: other\n")
    assert changes(against("main", "--values", "prod.yaml")) == (0, 0, 3)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("mode: disabled", (0, 3, 0)),
        ("mode: dryRun", (0, 3, 0)),
        ("mode: notify", (0, 3, 0)),
        ("throttle: {key: [k8s.ns.name], once: 1h}", (0, 2, 0)),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_step_that_no_longer_acts_counts_for_every_reason(edit, expected):
    write(PLAYBOOK.replace("  match:", f"  {edit}\n  match:"))
    result = against()
    assert (result.exit_code, changes(result)) == (1, expected)


@pytest.mark.usefixtures("folder")
def test_the_reason_why_the_other_side_is_suppressed_is_shown():
    write(PLAYBOOK.replace("  match:", "  throttle: {key: [k8s.ns.name], once: 1h}\n  match:"))
    assert json.loads(against().stdout)["against"]["examples"][0]["stopped"] == "throttle"
    assert (
        "no longer acts (now: throttle)"
        in tiercel("replay", "events.ndjson", "--against", "main").stdout
    )


def test_each_side_has_its_own_guardrails_and_budgets(folder):
    budget = "{effect: mark, limit: 1, per: 1h, scope: cluster}"
    (folder / "guardrails.yaml").write_text(
        "apiVersion: tiercel.dev/v1\nkind: Guardrails\nmetadata: {name: default}\n"
        f"spec: {{onExceeded: drop, budgets: [{budget}]}}\n"
    )
    assert changes(against()) == (0, 2, 0)


@pytest.mark.usefixtures("folder")
def test_a_renamed_playbook_is_a_difference():
    write(PLAYBOOK.replace("name: mark", "name: renamed"))
    result = against()
    assert changes(result) == (0, 0, 3)
    rows = {row.pop("name"): row for row in json.loads(result.stdout)["against"]["playbooks"]}
    assert rows["renamed"]["newly"] == rows["mark"]["noLonger"] == 3


@pytest.mark.usefixtures("folder")
def test_a_new_disabled_playbook_is_not_a_difference():
    more = PLAYBOOK.replace("name: mark", "name: more").replace("spec:", "spec:\n  mode: disabled")
    write(more, "more.yaml")
    assert against().exit_code == 0


@pytest.mark.usefixtures("folder")
def test_a_revision_has_the_same_rules_for_file_names_as_a_folder(folder):
    (folder / ".hidden").mkdir()
    for name in (".hidden/a.yaml", ".b.yaml", "kustomization.yaml", "notes.txt"):
        (folder / name).write_text("kind: Nonsense\n")
    (folder / "sub dir").mkdir()
    (folder / "sub dir" / "é\t\"x'.yml").write_text(PLAYBOOK.replace("name: mark", "name: odd"))
    commit()
    result = against("HEAD")
    assert (result.exit_code, changes(result)) == (0, (0, 0, 0))
    (folder / "sub dir" / "é\t\"x'.yml").unlink()
    assert json.loads(against("HEAD").stdout)["against"]["playbooks"][0]["name"] == "odd"


def test_links_of_the_revision_are_followed_only_to_files_of_the_folder(folder):
    (folder / "sub").mkdir()
    (folder / "sub/notes.txt").write_text(PLAYBOOK.replace("name: mark", "name: more"))
    (folder / "more.yaml").symlink_to("sub/link.txt")
    (folder / "sub/link.txt").symlink_to("notes.txt")
    for name, target in {
        "absolute": "/etc/passwd", "out": "../events.ndjson", "loop": "loop.yaml",
        "hidden": ".git/config", "gone": "gone.txt",
    }.items():  # fmt: skip
        (folder / f"{name}.yaml").symlink_to(target)
    commit()
    for name in ("absolute", "out", "loop", "hidden", "gone"):
        (folder / f"{name}.yaml").unlink()
    result = against("HEAD")
    assert (result.exit_code, changes(result)) == (0, (0, 0, 0))
    for name in ("absolute", "out", "loop", "hidden", "gone"):
        assert f"HEAD:{name}.yaml is not read: the link does not lead to a file" in result.stderr
    (folder / "more.yaml").unlink()
    assert json.loads(against("HEAD").stdout)["against"]["playbooks"][0]["name"] == "more"


def test_file_names_that_are_not_utf_8_are_left_out_and_reported(folder):
    odd = os.fsdecode(os.fsencode(folder) + b"/\xff.yaml")
    Path(odd).write_text(PLAYBOOK.replace("name: mark", "name: odd"))
    commit()
    Path(odd).unlink()
    result = against("HEAD")
    assert (result.exit_code, changes(result)) == (0, (0, 0, 0))
    assert "HEAD:\\xff.yaml is not read: the file name is not UTF-8" in result.stderr


@pytest.mark.usefixtures("folder")
def test_files_may_be_named_and_the_folder_reached_from_elsewhere(monkeypatch):
    write(PLAYBOOK.replace("why", "because"))
    assert changes(against("main", "playbooks/a.yaml")) == (0, 0, 3)
    monkeypatch.chdir("playbooks")
    result = tiercel("replay", ".", "../events.ndjson", "--against", "main", "-o", "json")
    assert changes(result) == (0, 0, 3)


@pytest.mark.usefixtures("folder")
def test_the_work_tree_and_the_index_are_not_changed():
    write(PLAYBOOK.replace("why", "because"))
    git("add", "playbooks/a.yaml")
    write(PLAYBOOK.replace("why", "third"))
    before = subprocess.check_output(["git", "status", "--porcelain"])
    against()
    assert subprocess.check_output(["git", "status", "--porcelain"]) == before
    assert "third" in Path("playbooks/a.yaml").read_text()


@pytest.mark.usefixtures("folder")
def test_variables_that_git_sets_for_hooks_are_ignored(monkeypatch):
    monkeypatch.setenv("GIT_DIR", ".git")
    monkeypatch.setenv("GIT_INDEX_FILE", ".git/index")
    assert against().exit_code == 0


@pytest.mark.parametrize(
    ("ref", "sentence"),
    [
        ("mian", "`mian` is not a revision of this Git repository (nearest: main)"),
        ("HEAD~5", "`HEAD~5` is not a revision of this Git repository"),
        ("--upload-pack=touch owned", "is not a Git revision"),
        ("-h", "is not a Git revision"),
        ("", "is not a Git revision"),
        ("main..HEAD", "is not a revision"),
        ("main:playbooks", "is not a revision"),
        ("\x1b[31mred", "is not a revision"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_an_invalid_revision_is_reported_in_one_sentence(ref, sentence):
    result = tiercel("replay", "events.ndjson", f"--against={ref}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "\x1b" not in result.stderr


@pytest.mark.usefixtures("folder")
def test_in_a_shallow_clone_the_error_names_the_command_that_helps(tmp_path, monkeypatch):
    git("checkout", "-qb", "feature")
    write(PLAYBOOK.replace("why", "because"))
    commit()
    git("clone", "-q", "--depth=1", "-b", "feature", f"file://{tmp_path}", "clone")
    monkeypatch.chdir(tmp_path / "clone")
    result = against()
    assert result.exit_code == 1
    assert (
        "fetch it with `git fetch --depth=1 origin main:refs/remotes/origin/main`" in result.stderr
    )
    git(*result.stderr.split("`")[3].split()[1:])
    fetched = against()
    assert changes(fetched) == (0, 0, 3)
    assert json.loads(fetched.stdout)["against"]["revision"] == "origin/main"
    assert "`git fetch --unshallow`" in against("HEAD~1").stderr


def test_a_folder_that_is_not_in_git_is_reported(folder, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent.parent))
    (folder.parent / ".git").rename(folder.parent / "no-git")
    result = against()
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "playbooks is not in a Git work tree" in result.stderr


@pytest.mark.usefixtures("folder")
def test_a_missing_git_command_is_reported(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    result = against()
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "which is not installed" in result.stderr


def test_a_folder_that_the_revision_does_not_have_is_reported(folder):
    folder.rename("others")
    for paths in (["others"], ["others/a.yaml"]):
        result = against("main", *paths)
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
        assert f"{paths[0]} is not in main" in result.stderr


@pytest.mark.usefixtures("folder")
def test_an_error_in_a_playbook_of_the_revision_is_reported_with_its_location():
    write("kind: Playbok\n", "b.yaml")
    commit()
    Path("playbooks/b.yaml").unlink()
    result = against("HEAD")
    assert (result.exit_code, result.stdout) == (1, "")
    first, last = result.stderr.splitlines()
    assert first.startswith("HEAD:playbooks/b.yaml:1:7: error:")
    assert last == "1 error in the playbooks of HEAD: nothing was compared."


def plant(at, worktree):
    """Write files that make ``at`` look like a bare repository with settings that run a command."""
    for name in ("objects/info", "refs/heads", "refs/remotes/origin"):
        (at / name).mkdir(parents=True)
    (at / "objects/info/x").write_text("x")
    (at / "HEAD").write_text("ref: refs/heads/main\n")
    for name in ("refs/heads/main", "refs/remotes/origin/main"):
        (at / name).write_text("1" * 40 + "\n")
    bare = f"worktree = {worktree}" if worktree else "bare = true"
    ran = at.parent / "ran"
    (at / "config").write_text(
        f"[core]\nrepositoryformatversion = 1\n{bare}\n"
        f'sshCommand = "touch {ran}; false"\nfsmonitor = "touch {ran}; false"\n'
        "[extensions]\npartialClone = origin\n"
        '[remote "origin"]\nurl = ssh://x/y\npromisor = true\nfetch = +refs/heads/*:refs/remotes/origin/*\n'
    )
    return ran


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("worktree", [False, True])
def test_committed_files_that_look_like_a_repository_are_refused_and_run_nothing(
    folder, above, worktree
):
    git("checkout", "-qb", "feature")
    Path("deploy").mkdir()
    folder.rename("deploy/playbooks")
    at = Path("deploy" if above else "deploy/playbooks").resolve()
    ran = plant(at, at if worktree else None)
    git("add", "-A")
    for output in ("text", "json", "markdown"):
        result = tiercel(
            "replay", "deploy/playbooks", "events.ndjson", "--against", "main", "-o", output
        )
        assert (result.exit_code, result.stdout) == (1, "")
        assert "only looks like a Git repository" in result.stderr
    assert not ran.exists()


@pytest.mark.usefixtures("folder")
def test_a_branch_or_tag_that_hides_the_revision_that_is_meant_is_refused():
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    assert against("origin/main").exit_code == 0
    write(PLAYBOOK.replace("[R]", "[S]"))
    commit()
    for space in ("refs/tags", "refs/heads"):
        git("update-ref", f"{space}/origin/main", "HEAD")
        result = against("origin/main")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "`origin/main` is ambiguous; name one of refs/" in result.stderr
        assert f"{space}/origin/main" in result.stderr
        assert changes(against("refs/remotes/origin/main")) == (0, 3, 0)
        git("update-ref", "-d", f"{space}/origin/main")


def test_a_folder_that_became_a_link_or_another_repository_compares_with_what_it_was(folder):
    """Otherwise a link to an unchanged folder would hide that all playbooks were removed."""
    Path("archive").mkdir()
    Path("archive/a.yaml").write_text(PLAYBOOK.replace("[R]", "[S]").replace("${label}", "x"))
    commit()
    folder.rename("away")
    folder.symlink_to("archive")
    assert changes(against("HEAD")) == (0, 3, 0)
    commit()
    assert changes(against("HEAD")) == (0, 0, 0)
    folder.unlink()
    folder.mkdir()
    for name in ("a.yaml", "values.yaml"):
        Path("away", name).rename(folder / name)
    git("init", "-q", "-b", "main", cwd="playbooks")
    git("add", "-A", cwd="playbooks")
    git("commit", "-qm", "own", cwd="playbooks")
    result = against("main")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "playbooks belongs to the Git repository" in result.stderr


KILL = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: kill}
spec:
  mode: MODE
  match: {rules: [R]}
  actions: [{action: pod.isolate, onFailure: continue}, {action: pod.delete, onFailure: continue}]
"""


@pytest.fixture
def enforced(folder):
    """Change a playbook that deletes pods from ``dryRun`` to ``enforce``, and change a label."""
    events = [alert(n * 3, f"web-{n % 4}", f"ns-{n % 2}") for n in range(8)]
    (folder.parent / "events.ndjson").write_text("\n".join(map(json.dumps, events)))
    write(KILL.replace("MODE", "dryRun"), "kill.yaml")
    commit()
    write(KILL.replace("MODE", "enforce"), "kill.yaml")
    write(PLAYBOOK.replace("why", "because"))


@pytest.mark.usefixtures("enforced")
def test_a_change_of_mode_is_counted_by_the_actions_that_start_or_stop_acting():
    told = json.loads(against().stdout)["against"]["actions"]
    assert [(one["name"], one["old"], one["new"], one["otherwise"]) for one in told] == [
        ("pod.delete", 0, 8, 0), ("pod.isolate", 0, 8, 0), ("pod.label", 8, 8, 8),
    ]  # fmt: skip
    assert told[0]["begins"] == {"targets": 4, "namespaces": 2}
    assert told[0]["ceases"] == told[2]["begins"] == {"targets": 0, "namespaces": 0}
    commit()
    write(KILL.replace("MODE", "notify"), "kill.yaml")
    first = json.loads(against("HEAD").stdout)["against"]["actions"][0]
    assert (first["old"], first["new"]) == (8, 0)
    assert first["ceases"] == {"targets": 4, "namespaces": 2}


@pytest.mark.usefixtures("enforced")
def test_every_output_starts_with_the_difference_by_action_and_deletions_are_first():
    delete = "pod.delete 0 -> 8, 4 new targets in 2 namespaces"
    text = tiercel("replay", "events.ndjson", "--against", "main").stdout.splitlines()
    assert text[:3] == [
        delete,
        delete.replace("delete", "isolate"),
        "pod.label 8 -> 8, 8 differently",
    ]
    markdown = tiercel("replay", "events.ndjson", "--against", "main", "-o", "markdown").stdout
    assert markdown.splitlines()[3:5] == ["```diff", f"- {delete}"]
    page = tiercel("replay", "events.ndjson", "--against", "main", "-o", "html").stdout
    body = page.partition("</h1>")[2]
    assert body.startswith(
        f'\n<ul class="changes">\n<li class="disrupt">{delete.replace(">", "&gt;")}'
    )
    assert next(iter(json.loads(against().stdout))) == "against"
    assert next(iter(json.loads(against().stdout)["against"])) == "actions"


@pytest.mark.usefixtures("enforced")
def test_deletions_are_in_red():
    found = new_loader().load(read_files(["playbooks"])).usable()
    side, comparison = PlaybookReplay(found, OwnIdentity()), Comparison("main", "0" * 40)
    event = parse_event(alert(0))
    comparison.add(1, event, [], side.run(event))
    tally = Tally(side.playbooks)
    recording = EventLog(EventFile(lambda _: b"", lambda: 0))
    first, *_ = replay_lines(ReplayReport("events", recording, tally, comparison))
    assert first == click.style(
        "pod.delete 0 -> 1, 1 new target in 1 namespace", fg="red", bold=True
    )


@pytest.mark.usefixtures("folder")
def test_every_output_first_says_if_no_action_differs():
    assert tiercel("replay", "events.ndjson", "--against", "main").stdout.startswith("No action ")
    html = tiercel("replay", "events.ndjson", "--against", "main", "-o", "html").stdout
    assert "</h1>\n<p>No action " in html


def test_too_many_targets_make_the_numbers_minimums():
    found = (
        new_loader().load(Files("", {"a.yaml": KILL.replace("MODE", "enforce").encode()})).usable()
    )
    side, actions = PlaybookReplay(found, OwnIdentity()), ActionDifferences(most=5)
    for number in range(6):
        event = parse_event(alert(number, f"web-{number}", f"ns-{number}"))
        actions.add(event, [], side.run(event))
    first = actions.differences()[0]
    assert (first.new, first.complete) == (6, False)
    assert first.begins.targets < 6
    assert "at least" in action_change_text(first)
