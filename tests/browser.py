"""A page in headless Chromium: what stands in it once it has run, and what axe finds wrong with it."""

from __future__ import annotations

import functools
import html
import json
import re
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

WIDTHS = (1280, 390)
THEMES = ("light", "dark")

_OF_COLOURS = ("color-contrast", "link-in-text-block")


def dom(page: Path, *, seconds: float = 5) -> str:
    """The page's DOM after ``seconds`` of its own time."""
    assert CHROMIUM is not None
    # Processes of the browser that outlive it by a moment still write there.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--disable-quic", f"--user-data-dir={profile}", "--window-size=1400,1000",
             f"--virtual-time-budget={1000 * seconds:.0f}", "--dump-dom", page.as_uri()],
            capture_output=True, text=True, timeout=PATIENCE, check=True,
        )  # fmt: skip
    return done.stdout


def with_script(page: Path, script: str, into: Path) -> Path:
    """A copy of the page that runs ``script`` at its end."""
    script = script.replace("</script", "<\\/script")
    into.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    return into


def framed(page: Path, script: str, folder: Path, *, width: int, seconds: float = 5) -> Any:
    """What ``script`` posts to the page's parent, in a frame ``width`` px wide: no window is as narrow."""
    copy = with_script(page, script, folder / "framed.html")
    frame = folder / "frame.html"
    frame.write_text(
        f'<body><iframe src="{copy.name}" style="width:{width}px;height:900px"></iframe>'
        "<script>addEventListener('message', (e) => "
        "{ document.title = 'RESULT:' + JSON.stringify(e.data) + ':END'; })</script></body>"
    )
    # On a busy machine the window's time may be over before the frame's own process has begun.
    for longer in (1, 10, 100):
        shown = dom(frame, seconds=longer * seconds)
        if found := re.search(r"<title>RESULT:(.*):END</title>", shown, re.DOTALL):
            return json.loads(html.unescape(found[1]))
    raise AssertionError("the page posted nothing")


def violations(page: Path, folder: Path, *, width: int, themes: tuple[str, ...] = THEMES) -> Any:
    """What axe-core finds wrong with the page at ``width`` px: theme, rule and places of each.

    In themes after the first the rules of colours are tried: no other depends on them.
    """
    script = f"""
      {_axe()}
      addEventListener("load", async () => {{
        const found = [];
        for (const theme of {json.dumps(themes)}) {{
          document.documentElement.dataset.theme = theme;
          const rules = theme === {json.dumps(themes[0])} ? {{}} : {{ runOnly: {json.dumps(_OF_COLOURS)} }};
          const told = await axe.run(document, {{ resultTypes: ["violations"], ...rules }});
          for (const rule of told.violations)
            found.push([theme, rule.id, rule.nodes.map((node) => node.target.join(" ")).slice(0, 5)]);
        }}
        parent.postMessage(found, "*");
      }});
    """
    return framed(page, script, folder, width=width, seconds=600)


@functools.cache
def _axe() -> str:
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
