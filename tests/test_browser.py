"""The page in a real browser: it is quiet, whole, asks the network for nothing and fits a phone, light and dark.

Chromium is driven over its DevTools pipe, in which messages are JSON that ends in a zero byte: no further library.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from test_comparison_report import invented

from sgg_jax.report.comparison import section
from sgg_jax.report.page import Picture, Section, Settings, Svg, Table, Text, page, write_page
from sgg_jax.report.plots import class_bars, curves

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")

PHONE, WIDE = 390, 1400  # CSS pixels
SECONDS = 25  # for everything, or the test fails
FLAGS = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
FLAGS += ["--no-first-run", "--disable-background-networking", "--disable-extensions", "--hide-scrollbars"]
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND"]  # no request leaves this machine, whatever a page asks for
# The browser reads from descriptor 3 and writes to 4; first out of the way, in case the pipes themselves are those.
START = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
LOOK = """new Promise(done => setTimeout(done, 50)).then(() => {
  const root = document.documentElement, text = document.querySelector('.plot text');
  document.querySelectorAll('details').forEach(element => element.open = true);
  return {
    pictures: [...document.images].map(image => [image.complete, image.naturalWidth]),
    overflow: Math.max(root.scrollWidth, document.body.scrollWidth) - root.clientWidth,
    width: innerWidth,
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
    colors: [document.body, document.querySelector('h1')].map(e => getComputedStyle(e))
      .flatMap(style => [style.backgroundColor, style.color]).concat(text ? getComputedStyle(text).fill : []),
  };
})"""


class Browser:
    def __init__(self, write, read):
        self.pipes, self.buffer, self.number, self.events = (write, read), b"", 0, []
        self.session, self.deadline = None, time.monotonic() + SECONDS
        self.call("Browser.getVersion")  # a browser that does not start fails here

    def call(self, method, **params):
        """What the browser answers; events that come before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.pipes[0], json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def read(self):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.pipes[1]], [], [], max(0, self.deadline - time.monotonic()))
            assert ready, f"no answer from {CHROMIUM} in time"
            part = os.read(self.pipes[1], 1 << 16)
            assert part, f"{CHROMIUM} ended"
            self.buffer += part
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def look(self, path, width=WIDE, dark=False):
        """Opens a file in a new tab of this width; what is in it, what it asked for, what it complained of."""
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        loader = self.call("Page.navigate", url=path.as_uri())["loaderId"]
        while not any(e["name"] == "load" and e["loaderId"] == loader for e in self.of("Page.lifecycleEvent")):
            self.events.append(self.read())
        # The answer is a promise that waits a moment for what comes after the load, such as late complaints.
        answer = self.call("Runtime.evaluate", expression=LOOK, returnByValue=True, awaitPromise=True)
        found = answer["result"]["value"]
        urls = [event["request"]["url"] for event in self.of("Network.requestWillBeSent")]
        found["foreign"] = [url for url in urls if not url.startswith("data:") and url != path.as_uri()]
        found["requests"] = len(urls)
        found["complaints"] = [str(event) for event in self.complaints()]
        return found

    def of(self, method):
        """What the present tab's events of this kind say."""
        mine = (event for event in self.events if event.get("sessionId") == self.session)
        return (event["params"] for event in mine if event.get("method") == method)

    def complaints(self):
        yield from self.of("Runtime.exceptionThrown")
        yield from (e for e in self.of("Runtime.consoleAPICalled") if e["type"] in ("error", "warning", "assert"))
        yield from (e for e in self.of("Log.entryAdded") if e["entry"]["level"] in ("error", "warning"))


@contextmanager
def running(folder):
    """A browser with its profile in `folder`."""
    there, write = os.pipe()
    read, back = os.pipe()
    command = [sys.executable, "-c", START, str(there), str(back), CHROMIUM, *FLAGS, f"--user-data-dir={folder}"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, pass_fds=(there, back), stdout=log, stderr=log)
    os.close(there), os.close(back)
    try:
        try:
            browser = Browser(write, read)
            yield browser
            browser.session = None
            browser.call("Browser.close")
            process.wait(5)
        finally:
            os.close(write), os.close(read)
            process.kill()
            process.wait()
    except (AssertionError, OSError) as error:
        error.add_note((folder / "log").read_text(errors="replace")[-2000:])
        raise


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with running(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def every_block():
    """A page made of every kind of block, each too wide for a phone where that is possible."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 900, 3), np.uint8))
    small = noise.crop((0, 0, 16, 12))
    names = [f"class {i}" for i in range(19)]
    table = Table(
        ["run", *names], [["unbroken" * 12, *range(19)]], "A wide table. " + "unbroken" * 20, {"class 3": "max"}
    )
    settings = Settings({"unet": {"channels": 64, "deep": {"a" * 80: "b" * 200}}})
    blocks = [Text("One.\n\nTwo, " + "unbroken" * 30), table, settings]
    plots = [Svg(curves({"a": ([1, 2], [3, 4])}, "x", "y"), "Curve."), Svg(class_bars(names, {"a": range(19)}, "IoU"))]
    pictures = [Picture(noise, "Wide."), Picture(small, "Small.", scale=8)]
    sections = [Section("Words and tables", blocks), Section("Plots", plots), Section("Pictures", pictures)]
    compared = section(invented(), ["road", "building", "sky", "person", "car", "train"], "the judge's last layer")
    return page("A page of every block " + "unbroken" * 12, "What it is.", [compared, *sections])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, every_block())
    return path


def broken(path, folder, old, new):
    """A copy of the page with something changed."""
    html = path.read_text()
    assert old in html
    (folder / "broken.html").write_text(html.replace(old, new, 1))
    return folder / "broken.html"


def luminance(color):
    """0..255, of "rgb(1, 2, 3)"."""
    red, green, blue = map(float, color[color.index("(") + 1 : -1].split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, WIDE])
def test_page_is_quiet_and_whole_and_fits(browser, path, width, dark):
    found = browser.look(path, width, dark)
    assert (found["width"], found["dark"]) == (width, dark)
    assert found["complaints"] == []
    assert found["foreign"] == []
    assert found["requests"] >= 3  # itself and its pictures: requests are seen at all
    assert found["pictures"] == [[True, 900], [True, 16]]
    assert found["overflow"] <= 0
    paper, ink, _, heading, plot = found["colors"]
    assert all((luminance(text) > luminance(paper)) == dark for text in (ink, heading, plot))
    assert all(abs(luminance(text) - luminance(paper)) > 120 for text in (ink, heading, plot))


# That the checks above can fail


def test_a_broken_picture_is_seen(browser, path, tmp_path):
    found = browser.look(broken(path, tmp_path, "data:image/png;base64,iVBOR", "data:image/png;base64,AAAAA"))
    assert found["pictures"] == [[True, 0], [True, 16]]


@pytest.mark.parametrize(
    ("script", "complaint"),
    [("console.error('oh')", "oh"), ("console.warn('ah')", "ah"), ("throw new Error('eh')", "eh"), ("nowhere.js", "")],
)
def test_complaints_are_seen(browser, path, tmp_path, script, complaint):
    element = f'<script src="{script}"></script>' if not complaint else f"<script>{script}</script>"
    found = browser.look(broken(path, tmp_path, "</main>", f"</main>{element}"))
    assert len(found["complaints"]) == 1
    assert complaint in found["complaints"][0]


def test_a_request_to_the_network_is_seen(browser, path, tmp_path):
    url = "https://network.invalid/a.png"
    found = browser.look(broken(path, tmp_path, "</main>", f'</main><img src="{url}" alt="">'))
    assert found["foreign"] == [url]
    assert found["complaints"]


def test_what_is_too_wide_for_a_phone_is_seen(browser, path, tmp_path):
    wide = broken(path, tmp_path, "</main>", '</main><div style="width: 600px">wide</div>')
    assert browser.look(wide, PHONE)["overflow"] > 150
    assert browser.look(wide, WIDE)["overflow"] <= 0
