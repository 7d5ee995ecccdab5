"""The site: every public name is in the reference; where it is built, its links, and a browser.

`make docs` builds it. Without that, and without a Chromium, what needs them is skipped and says so.
"""

import http.server
import importlib
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import funcattr as fa

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "docs"
FILES = sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html"))
PAGES = [path for path in FILES if not path.startswith("_static")]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
built = pytest.mark.skipif("index.html" not in PAGES, reason="the site is not built: make docs")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
MODULES = (
    "rules",
    "composites",
    "viz",
    "dataset",
    "compat.captum",
    "compat.torchray",
    "compat.zennit",
)


def public_names():
    for name in fa.__all__:
        yield f"funcattr.{name}"
    for module in MODULES:
        for name in importlib.import_module(f"funcattr.{module}").__all__:
            yield f"funcattr.{module}.{name}"


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    listed = re.findall(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)$", text, re.MULTILINE)
    modules = {f"funcattr.{module}" for module in MODULES}
    errors = {f"funcattr.errors.{name}Error" for name in ("NoMatch", "HiddenSite", "Store")}
    assert set(public_names()) | modules | errors == set(listed)
    assert len(listed) == len(set(listed)) > 100


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed((SITE / path).read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.update(found[key] for key in ("id", "name") if found.get(key))
        self.links += [found[key] for key in ("href", "src") if found.get(key)]


@built
def test_no_link_is_dead():
    pages = {path: Page(path) for path in PAGES}
    dead, inside = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue  # others' pages are not asked for here
            inside += 1
            target = (SITE / path).parent / unquote(parts.path) if parts.path else SITE / path
            name = target.resolve().relative_to(SITE.resolve()).as_posix()
            ids = pages[name].ids if name in pages else ()
            if not target.exists() or (name in pages and unquote(parts.fragment) not in {"", *ids}):
                dead.append((path, link))
    assert not dead
    assert inside > 500


@built
def test_every_tutorial_ran_and_ends_in_a_picture_or_a_table():
    sources = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
    assert len(sources) > 5
    for source in sources:
        text = (SITE / "gallery" / f"{source.stem}.html").read_text("utf-8")
        assert "sphx-glr-single-img" in text or "<table" in text or "sphx-glr-horizontal" in text
        assert "Traceback" not in text


PROBE = """<!doctype html><meta charset="utf-8"><pre id="found"></pre><script>
const visits = %s, found = [];
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
async function visit([page, width]) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  const loaded = new Promise((done) => (frame.onload = done));
  frame.src = "/" + page;
  document.body.append(frame);
  await loaded;
  const doc = frame.contentDocument, images = [...doc.images];
  images.forEach((image) => (image.loading = "eager"));
  for (let i = 0; i < 50 && images.some((image) => !image.complete); i++) await wait(50);
  const results = () => [...doc.querySelectorAll("#search-results li a")].map((a) => a.href);
  if (page.startsWith("search")) for (let i = 0; i < 100 && !results().length; i++) await wait(50);
  found.push({
    page, width,
    title: doc.title,
    text: doc.body.innerText.length,
    broken: images.filter((image) => !image.naturalWidth).map((image) => image.src),
    pictures: images.map((image) => image.getBoundingClientRect().width),
    wide: doc.documentElement.scrollWidth,
    results: results(),
  });
  frame.remove();
}
(async () => {
  for (const one of visits) await visit(one);
  document.getElementById("found").textContent = "done " + JSON.stringify(found);
})();
</script>"""
WIDTHS = {"desktop": 1280, "phone": 390}


class Server(http.server.SimpleHTTPRequestHandler):
    """The site, and a page that visits all others in frames."""

    probe = b""

    def do_GET(self):
        if self.path != "/probe.html":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.probe)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    """What a browser found on every page, at both widths."""
    visits = [[page, width] for page in PAGES for width in WIDTHS.values()]
    visits.append(["search.html?q=guided_backprop", 1280])
    handler = type("Probed", (Server,), {"probe": (PROBE % json.dumps(visits)).encode()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update --dump-dom"
    flags += " --virtual-time-budget=600000"
    profile = tmp_path_factory.mktemp("profile")
    url = f"http://127.0.0.1:{server.server_port}/probe.html"
    try:
        done = subprocess.run(
            [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", url],
            capture_output=True, text=True, timeout=240, check=True,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    match = re.search(r'<pre id="found">done (.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stdout[-500:] + done.stderr[-500:]
    return json.loads(unescape(match[1]))


@built
@browser
def test_every_page_loads_with_its_pictures(visited):
    assert len(visited) == 2 * len(PAGES) + 1 > 60
    assert not [(v["page"], v["broken"]) for v in visited if v["broken"]]
    assert not [v["page"] for v in visited if not v["title"] or v["text"] < 100]
    pictures = [v for v in visited if v["page"].startswith("gallery/0") and not v["pictures"]]
    assert not pictures


@built
@browser
def test_no_page_is_wider_than_its_screen(visited):
    wide = [(v["page"], v["width"], v["wide"]) for v in visited if v["wide"] > v["width"]]
    assert not wide
    assert not [v["page"] for v in visited if max(v["pictures"], default=0) > v["width"]]


@built
@browser
def test_the_search_finds_guided_backprop(visited):
    (search,) = (v for v in visited if "?q=" in v["page"])
    found = [urlsplit(link).path for link in search["results"]]
    assert "/reference.html" in found
