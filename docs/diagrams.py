"""Draw the Mermaid diagrams of the pages as SVG files in docs/assets/diagrams/, for the site.

A code host draws the diagrams itself. Mermaid's script has 3 MB and comes from another host, so the site shows
the drawn files. The name of a file is the digest of its source: a diagram that changed is shown as text until it
is drawn again.

    pip install 'playwright>=1.49,<2' && npm pack mermaid@11 && tar -xzf mermaid-11*.tgz
    python docs/diagrams.py package/dist/mermaid.min.js /usr/bin/chromium
"""

from __future__ import annotations

import sys
from pathlib import Path

from site_hooks import DIAGRAMS, diagram_file, diagrams

HERE = Path(__file__).parent
_SETTINGS = (
    "{startOnLoad: false, theme: 'neutral', htmlLabels: false, flowchart: {htmlLabels: false},"
    " fontFamily: 'system-ui, sans-serif', deterministicIds: true}"
)
# The drawing has a width of 100 %. An image needs its own size.
_DRAW = """async source => {
  const {svg} = await mermaid.render("diagram", source);
  document.body.innerHTML = svg;
  const drawn = document.querySelector("svg");
  const [, , width, height] = drawn.getAttribute("viewBox").split(" ");
  drawn.removeAttribute("style");
  drawn.setAttribute("width", Math.ceil(width));
  drawn.setAttribute("height", Math.ceil(height));
  return new XMLSerializer().serializeToString(drawn);
}"""


def main(mermaid: str, chromium: str) -> None:
    """Draw each diagram that is not drawn yet, and delete the files of earlier diagrams."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only this script needs it

    sources = {
        diagram_file(source): source
        for page in sorted(HERE.glob("*.md"))
        for source in diagrams(page.read_text(encoding="utf-8"))
    }
    folder = HERE / DIAGRAMS
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.svg"):
        if file.name not in sources:
            file.unlink()
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page()
        page.add_script_tag(path=mermaid)
        page.evaluate(f"mermaid.initialize({_SETTINGS})")
        for name, source in sources.items():
            if not (folder / name).exists():
                text = page.evaluate(_DRAW, source)
                (folder / name).write_text(text + "\n", encoding="utf-8")
                sys.stdout.write(f"{name}\n")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
