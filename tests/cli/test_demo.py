"""The page of `garment-transfer demo`, in a real browser."""

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from garment_transfer import Person, Pipeline, sample_bundle, sample_people

pytest.importorskip("gradio", reason="the extra demo is not installed")

from garment_transfer.cli.page import flow_picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


#: Texts whose contrast with what is behind them is below 4.5, and controls without a name.
_FAULTS = """() => {
  const luminance = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((level) => {
    const share = level / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  }).reduce((sum, share, i) => sum + share * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faults = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; (text = texts.nextNode()); ) {
    const element = text.parentElement;
    if (!text.data.trim() || !element.checkVisibility({visibilityProperty: true})) continue;
    const pair = [getComputedStyle(element).color, behind(element)].map(luminance);
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) faults.push(`${text.data.trim()}: ${ratio.toFixed(1)}`);
  }
  for (const e of document.querySelectorAll("button, input:not([type=file]), select, textarea")) {
    const name = e.ariaLabel || e.innerText || e.title || e.labels?.length ||
      e.querySelector("img")?.alt;
    if (!name && e.checkVisibility()) faults.push(e.outerHTML);
  }
  return faults;
}"""


@pytest.fixture(scope="module")
def url(tmp_path_factory, free_port) -> Iterator[str]:
    """The page, served by the command; fails at its end if files are left."""
    temporary = tmp_path_factory.mktemp("temporary")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    main = "from garment_transfer.cli.main import main; main()"
    command = [sys.executable, "-c", main, "demo", "--threads", "1", "--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == f"{address} is ready; Ctrl-C ends it\n"
            yield address
            assert list(temporary.rglob("*.*"))
        finally:
            server.terminate()
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


@pytest.fixture
def page(url) -> Iterator[Any]:
    """The loaded page; fails at its end if the console had errors."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    errors: list[str] = []
    with api.sync_playwright() as playwright:
        # The sandbox needs user namespaces, which containers do not grant.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 1000})
        page.set_default_timeout(60_000)
        page.on("console", lambda said: said.type == "error" and errors.append(said.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        yield page
        browser.close()
    assert errors == []
    assert all(there.startswith((url, "data:", "blob:")) for there in asked)


def picture(page: Any, name: str) -> np.ndarray:
    """A picture of the page, as the browser loaded it."""
    source = page.locator(f"#{name} img").get_attribute("src")
    with urllib.request.urlopen(source) as answer:
        return np.array(Image.open(answer).convert("RGB"))


def changed(page: Any, name: str, do: Callable[[], None]) -> np.ndarray:
    """The picture after an action that changes it."""
    locator = page.locator(f"#{name} img")
    before = locator.get_attribute("src")
    do()
    page.wait_for_function(
        "([name, before]) => document.querySelector(`#${name} img`)?.src !== before"
        " && document.querySelector(`#${name} img`)?.complete",
        arg=[name, before],
    )
    return picture(page, name)


def test_choose_a_pair_and_press(page):
    person, owner = map(Person.load, sample_people())
    assert (picture(page, "owner") == owner.image).all()
    first = picture(page, "result")
    # The other way round: the owner in the person's garment.
    by_keyboard = page.get_by_role("group", name="Person").get_by_role("button").nth(1)
    chosen = changed(page, "person", lambda: by_keyboard.press("Enter"))
    assert (chosen == owner.image).all()
    chosen = changed(page, "owner", page.locator("#owner-choice img").nth(0).click)
    assert (chosen == person.image).all()
    screen = page.locator("#result img").screenshot()
    button = page.get_by_role("button", name="Transfer", exact=True)
    result = changed(page, "result", lambda: button.press("Enter"))
    expected = Pipeline.load(sample_bundle(), threads=1).transfer(owner, person)
    assert (result == expected.image).all()
    assert not np.array_equal(result, first)
    assert page.locator("#result img").screenshot() != screen
    warped = picture(page, "warped")
    worn = expected.transfer_parsing == 4
    assert (warped[worn] == expected.warped_garment[worn]).all()
    assert (warped[~worn] == 255).all()
    labels = picture(page, "parsing")
    assert len(np.unique(labels.reshape(-1, 3), axis=0)) == len(
        np.unique(expected.transfer_parsing)
    )
    flow = picture(page, "flow")
    assert np.ptp(flow[worn], axis=-1).mean() > 20  # colours, not greys
    table = page.locator("#times").inner_text()
    for stage in ("onnxruntime, ms", "fit", "parsing", "warping", "regrowth", "compose", "all"):
        assert stage in table
    assert "photo 1024x768, networks 256x192" in table


def test_own_files(page, tmp_path):
    page.get_by_role("button", name="Your own photos").click()
    files = [str(path) for path in sorted(sample_people()[1].iterdir())]

    def upload(paths: list[str]) -> None:
        page.locator("#person-files input[type=file]").set_input_files(paths)
        page.locator("#person-files").get_by_text(Path(paths[-1]).stem).first.wait_for()

    # Without meta.json nobody knows what the ids mean: the loader's own words, no server's path.
    upload([path for path in files if not path.endswith("meta.json")])
    page.locator("#person-use").click()
    toast = page.get_by_text("meta.json is missing", exact=False)
    toast.wait_for()
    assert toast.inner_text().startswith('meta.json is missing, which names "parse"')
    assert "/tmp" not in toast.inner_text()
    page.get_by_label("Clear").first.click()
    upload(files)
    shown = changed(page, "person", page.locator("#person-use").click)
    assert (shown == Person.load(sample_people()[1]).image).all()


def test_two_bare_photos_on_a_phone(page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("button", name="Your own photos").press("Enter")
    people = []
    for role, folder in zip(("person", "owner"), reversed(sample_people()), strict=True):
        photo = next(folder.glob("image.*"))
        people.append(Person.from_photo(photo))
        page.locator(f"#{role}-files input[type=file]").set_input_files(photo)
        page.locator(f"#{role}-files").get_by_text(photo.stem).first.wait_for()
        page.locator(f"#{role}-use").press("Enter")
        page.locator(f"#{role}-maps img").wait_for()  # what the network made of the photo
        assert (picture(page, role) == people[-1].image).all()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate(_FAULTS) == []
    result = changed(page, "result", lambda: page.locator("#transfer").press("Enter"))
    expected = Pipeline.load(sample_bundle(), threads=1).transfer(*people)
    assert (result == expected.image).all()


def test_a_photo_of_a_few_pixels(pipeline, make_person):
    """There is no room for the wheel of the flow's colours."""
    pixels = np.full((4, 3), 4, np.uint8)
    tiny = Person.from_arrays(
        np.zeros((4, 3, 3), np.uint8), pixels, np.dstack([pixels // 2, pixels, pixels])
    )
    transfer = pipeline.transfer(tiny, make_person())
    assert flow_picture(transfer, pipeline.fit(tiny)).shape == (4, 3, 3)
