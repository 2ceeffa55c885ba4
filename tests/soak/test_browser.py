"""The documentation site and the HTML report in Chromium, wide and narrow: only in `make soak`."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.support.engine import ROOT

pytestmark = pytest.mark.skipif(
    os.environ.get("TIERCEL_SOAK") != "1", reason="make soak installs the browser"
)
WIDTHS = (1280, 360)
# What reaches beyond the right edge, unless it is inside a box that scrolls or hides it.
OVERFLOWING = """() => [...document.querySelectorAll('body *')].filter(element => {
  if (element.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let box = element; box !== document.body; box = box.parentElement)
    if (getComputedStyle(box).overflowX !== "visible" || box.style.position === "fixed") return false;
  return true;
}).map(element => element.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is missing: make browser")
    flags = ["--no-sandbox", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The address of a server with the site and two reports, and the paths of its pages."""
    folder = tmp_path_factory.mktemp("pages")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-d", folder], cwd=ROOT, check=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True,
    )  # fmt: skip
    write_reports(folder)
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    names = sorted(page.name for page in folder.glob("*.html") if page.name != "404.html")
    yield f"http://127.0.0.1:{server.server_address[1]}/", names
    server.shutdown()
    thread.join()
    server.server_close()


def write_reports(folder):
    """Write the report of one event, and of many events of pods with long names."""
    sample = json.loads((ROOT / "playbooks/events/vistatech.json").read_text())
    lines = []
    for number in range(300):
        pod = {"k8s.ns.name": f"team-with-a-long-name-{number % 7}"}
        pod["k8s.pod.name"] = f"a-deployment-with-a-long-name-7d9c5b6f8-{number:05}"
        moment = f"2026-03-{1 + number // 24:02}T{number % 24:02}:00:00Z"
        fields = {**sample["output_fields"], **pod, "proc.cmdline": "x" * 300}
        lines.append(json.dumps({**sample, "time": moment, "output_fields": fields}))
    (folder / "many.ndjson").write_text("\n".join(lines))
    for name, events in (
        ("report-one", ROOT / "playbooks/events/vistatech.json"),
        ("report-many", folder / "many.ndjson"),
    ):
        arguments = ["replay", "-o", "html", str(ROOT / "playbooks"), str(events)]
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.stderr
        (folder / f"{name}.html").write_text(done.stdout)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_overflows_logs_an_error_or_asks_another_host(browser, pages, width):
    address, names = pages
    problems = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda said: problems.append((page.url, said.text)))
    page.on("pageerror", lambda error: problems.append((page.url, str(error))))
    page.on(
        "request",
        lambda sent: (
            None
            if sent.url.startswith((address, "data:", "blob:"))
            else problems.append((page.url, sent.url))
        ),
    )
    for name in names:
        page.goto(address + name, wait_until="networkidle")
        problems += [(name, text) for text in page.evaluate(OVERFLOWING)]
        extra = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        problems += [(name, f"{extra} pixels too wide")] if extra > 0 else []
    page.close()
    assert len(names) > 20
    assert problems == []


def test_the_search_of_the_site_finds_a_page(browser, pages):
    address, _ = pages
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    page.get_by_placeholder("Search").fill("budget spent")
    page.locator(".md-search-result__link").first.wait_for()
    found = page.locator(".md-search-result__link").evaluate_all("all => all.map(one => one.href)")
    page.close()
    assert any("runbooks.html" in link for link in found)
