from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from engine.render.replay_markdown import MARK, code
from tests.preview.test_replay import alert, replayed, tiercel

__all__ = ["replayed"]
HOSTILE = [
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "</style><img src=x onerror=alert(1)>",
    "</pre></details></td>",
    "| x | `code` | @everyone #1 [a](http://evil.example) **b**",
    "````\n\n# heading\n~~~",
    "\x1b[31m\u202e\u2066\x00",
]
_VOID = {"meta", "br", "img", "input", "link"}


class Page(HTMLParser):
    """Parses a page. Checks that every element is closed, and collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], set(), [], []
        self.style = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text.append(data)


def hostile(number=0):
    text = HOSTILE[number]
    return alert(number * 20, f"p{text}", f"n{text}", name=text) | {"hostname": text}


@pytest.fixture
def everywhere(replayed, tmp_path):
    """Return a function that replays hostile events in an output format."""

    def replay(output):
        replayed(alert(0))
        playbook = (tmp_path / "playbooks/a.yaml").read_text()
        note = (
            '- {action: kubernetes.event, with: {message: "%proc.name"}}\n    - {action: pod.label'
        )
        playbook = playbook.replace("- {action: pod.label", note, 1).replace(
            "rules: [R]", 'rules: ["*"]'
        )
        (tmp_path / "playbooks/a.yaml").write_text(playbook)
        events = [hostile(n) | {"rule": HOSTILE[n]} for n in range(len(HOSTILE))]
        return replayed(*events, output=output).stdout

    return replay


def test_page_is_well_formed_and_has_no_external_content(replayed):
    page = Page(replayed(alert(0), alert(1), alert(70, "b"), output="html").stdout)
    assert {"svg", "rect", "table", "details", "title"} <= page.tags
    assert not page.tags & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not [name for name, _ in page.attributes if name in ("src", "href", "style")]
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_content_security_policy_allows_only_the_own_style_sheet(replayed):
    page = Page(replayed(alert(0), output="html").stdout)
    (policy,) = [
        value for name, value in page.attributes if name == "content" and "default-src" in value
    ]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "unsafe" not in policy


def test_page_has_a_legend_and_column_names_on_narrow_screens(replayed):
    whole = replayed(alert(0), alert(1), alert(9, "b", "kube-system"), output="html").stdout
    drawn = set(re.findall(r'<rect class="([a-z-]+)" x=', whole))
    legends = set(re.findall(r'<rect class="([a-z-]+)" width="1"', whole))
    assert {"runs", "stopped", "planned", "refused"} <= drawn <= legends
    numbers = re.findall(r'<td class="n(?: o)?"[^>]*>', whole)
    assert numbers
    assert all("data-c=" in cell for cell in numbers)


def test_hostile_text_is_escaped_in_html(everywhere):
    whole = everywhere("html")
    page = Page(whole)
    assert not page.tags & {"script", "img"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert any("<script>alert(1)</script>" in text for text in page.text)
    assert "\x1b" not in whole
    assert "\u202e" not in whole


def test_hostile_text_is_escaped_in_markdown(everywhere):
    text = everywhere("markdown")
    outside = re.sub(r"(?ms)^(`{3,})\w+\n.*?^\1$", "", text)
    assert outside.count("```") == 0
    assert "@" not in outside
    assert "onmouseover=" not in outside
    tags = set(re.findall(r"<(?!!--)[^>]*>", outside))
    assert tags == {"<code>", "</code>", "<details>", "</details>", "<summary>", "</summary>"}
    for line in outside.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
            assert "[" not in line


def test_no_line_closes_its_markdown_fence(replayed):
    ticks = alert(0, "`````", name="ls") | {"hostname": "````\n````"}
    text = replayed(ticks, output="markdown").stdout
    blocks = re.findall(r"(?ms)^(`{3,})text\n(.*?)^\1$", text)
    assert blocks
    assert all(fence not in block for fence, block in blocks)


@pytest.mark.parametrize("text", HOSTILE)
def test_code_has_no_special_characters_of_markdown(text):
    inside = code(text).removeprefix("<code>").removesuffix("</code>")
    assert re.fullmatch(r"(?:[A-Za-z0-9 /,-]|&#\d+;)*", inside)


def test_markdown_is_short_and_starts_with_the_mark(replayed):
    text = replayed(*(alert(n, f"web-{n}", f"ns-{n}") for n in range(59)), output="markdown").stdout
    assert text.startswith(MARK)
    assert "| <code>shut</code> | 59 |" in text
    assert len(text) < 10_000


def test_size_of_each_format_is_limited(replayed, tmp_path):
    yaml = (tmp_path / "playbooks/a.yaml").read_text()
    many = yaml.replace("rules: [R]", 'rules: ["*"]').replace(
        "  throttle: {key: [k8s.pod.name], once: 10m}\n", ""
    )
    (tmp_path / "playbooks/a.yaml").write_text(many)
    events = [
        alert(
            n % 60,
            f"{n}" + "p" * 3_000,
            f"{n}" + "&" * 3_000,
            name="<" * 9_000,
            rule=f"{n}" + "`" * 9_000,
        )
        for n in range(100)
    ]
    longest = {"markdown": 40_000, "html": 100_000, "text": 9_000, "json": 600_000}
    for output, most in longest.items():
        assert 1_000 < len(replayed(*events, output=output).stdout) < most, output


def test_replay_without_events_works_in_every_format(replayed):
    for output in ("text", "markdown", "html", "json"):
        result = replayed("no events here", output=output)
        assert result.exit_code == 0
        assert result.stdout
    Page(tiercel("replay", "events.ndjson", "-o", "html").stdout)
    assert json.loads(tiercel("replay", "events.ndjson", "-o", "json").stdout)["first"] is None
