"""Check the built site in Chromium and list problems: `make docs-check`.

Checked are links and anchors between pages, images, the width on a phone, script errors and the search. Links to other
sites are not checked. Needs the binary `chromium` (Debian: `apt-get install chromium`).
"""

from __future__ import annotations

import shutil
import sys
import threading
from contextlib import contextmanager
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

SITE = Path(__file__).parent / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE_PX = 400
TERMS = ("noise ceiling", "M2OST", "spot_grid")
"""Search terms, each of which must be found."""
BROKEN_IMAGES = """[...document.images].filter(image => image.src.startsWith(location.origin) && !image.naturalWidth)
    .map(image => image.getAttribute("src"))"""
TOO_WIDE = f"""[...document.querySelectorAll("main *")].filter(element => {{
    const box = element.getBoundingClientRect();
    if (box.right <= {PHONE_PX} + 1 || !box.height) return false;
    for (let above = element.parentElement; above; above = above.parentElement)
        if (["auto", "scroll", "hidden"].includes(getComputedStyle(above).overflowX)) return false;
    return true;
}}).map(element => element.tagName.toLowerCase() + ": " + element.textContent.trim().slice(0, 60))"""


def main() -> int:
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        print("needs the binary `chromium` (Debian: `apt-get install chromium`)", file=sys.stderr)
        return 2
    pages = sorted(SITE.rglob("*.html"))
    if not pages:
        print(f"{SITE} contains no page: run `make docs` first", file=sys.stderr)
        return 2
    found = [problem for page in pages for problem in dead_links(page)]
    with serve(SITE) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--headless", "--no-sandbox", "--disable-gpu"])
        phone = browser.new_context(viewport={"width": PHONE_PX, "height": 800})
        phone.route(lambda url: not url.startswith(address), lambda route: route.abort())
        tab = phone.new_page()
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(f"script: {error.message}"))
        for page in pages:
            name = page.relative_to(SITE).as_posix()
            tab.goto(f"{address}/{name}")
            found += [f"{name}: {problem}" for problem in (*page_problems(tab), *errors)]
            errors.clear()
        found += [f"search: nothing found for {term!r}" for term in TERMS if not count_hits(tab, address, term)]
        browser.close()
    print("\n".join(found) or f"{len(pages)} pages: no problems with links, images, width and search")
    return int(bool(found))


def dead_links(page: Path) -> Iterator[str]:
    """Links of a page to pages, files and anchors that do not exist."""
    for link in soup(page).find_all("a", href=True):
        parts = urlsplit(str(link["href"]))
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        anchor = unquote(parts.fragment) if target.suffix == ".html" else ""
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield f"{page.relative_to(SITE)}: {link['href']} has no target"


@cache
def anchors(page: Path) -> frozenset[str]:
    return frozenset(str(element["id"]) for element in soup(page).find_all(id=True))


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP within the block; yields the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Do not log requests."""


def page_problems(tab: Page) -> Iterator[str]:
    """Images that are not shown, and elements that are too wide, on the open page."""
    tab.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    tab.wait_for_function("[...document.images].every(image => image.complete)")
    yield from (f"image {source} is not shown" for source in tab.evaluate(BROKEN_IMAGES))
    width = tab.evaluate("document.documentElement.scrollWidth")
    if width > PHONE_PX:
        yield f"{width} px wide; {'; '.join(tab.evaluate(TOO_WIDE)[:3])}"


def count_hits(tab: Page, address: str, term: str) -> int:
    """Number of pages that the search of the site finds."""
    tab.goto(f"{address}/search.html?q={term.replace(' ', '+')}")
    tab.wait_for_function("document.querySelector('.search-summary')?.textContent.match(/found|did not match/)")
    return tab.locator("ul.search li a").count()


if __name__ == "__main__":
    sys.exit(main())
