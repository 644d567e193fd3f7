"""examples/browser in headless Chromium: the page trains, says what was drawn, and gives the driver's weights."""

import contextlib
import http.client
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.javascript import (
    AGREEMENTS,
    EXAMPLES,
    prepare,
    program,
    require_agreement,
    require_package,
    trained_by_the_driver,
)

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)
PATIENCE = 120  # seconds; the machine may be busy


@contextlib.contextmanager
def served(generated: Path) -> Iterator[str]:
    """Serve the page on a free port; yield its address."""
    command = [program("node"), "serve.mjs", "--port", "0", "--generated", str(generated)]
    with subprocess.Popen(command, cwd=EXAMPLES / "browser", stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_package("browser", "onnxruntime-web")
    program("node"), program("chromium"), program("chromedriver")
    return prepare(tmp_path_factory.mktemp("browser") / "generated")


@pytest.fixture(scope="module")
def address(generated: Path) -> Iterator[str]:
    with served(generated) as address:
        yield address


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(service=Service(program("chromedriver")), options=options)
    yield driver
    driver.quit()


class Page:
    """The page as a visitor sees it."""

    def __init__(self, browser: Chrome, address: str) -> None:
        self.browser = browser
        self.complaints()  # of an earlier page
        browser.get(address)

    def complaints(self) -> list[str]:
        """Return what the console was told since the last call."""
        return [str(entry["message"]) for entry in self.browser.execute("getLog", {"type": "browser"})["value"]]

    def text(self, name: str) -> str:
        return self.browser.find_element(By.ID, name).text

    def click(self, name: str) -> None:
        self.browser.find_element(By.ID, name).click()

    @property
    def state(self) -> str:
        return str(self.browser.execute_script("return document.documentElement.dataset.state"))

    @property
    def accuracy(self) -> float:
        text = self.text("accuracy")
        return float(text.removesuffix(" %")) / 100 if text.endswith("%") else 0.0

    @property
    def step(self) -> int:
        return int(self.text("step").split(" / ")[0])

    def wait(self, what: str, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert self.state != "failed", self.text("failure")
            assert time.monotonic() < end, f"not {what}: {self.text('status')} step {self.text('step')}"
            time.sleep(0.05)

    def wait_for(self, state: str) -> None:
        self.wait(state, lambda: self.state == state)

    def errors(self) -> list[str]:
        """What the console and the page itself complain of."""
        return self.complaints() + ([self.text("failure")] if self.text("failure") else [])


@AGREEMENTS
def test_weights_agree_with_the_driver(
    overrides: Sequence[str],
    steps: int,
    tolerance: float,
    generated: Path,
    browser: Chrome,
    downloads: Path,
    tmp_path: Path,
) -> None:
    folder, weights = prepare(tmp_path, overrides) if overrides else generated, downloads / "weights.safetensors"
    weights.unlink(missing_ok=True)
    with served(folder) as address:
        page = Page(browser, f"{address}?steps={steps}")
        page.wait_for("ready")
        page.click("train")
        page.wait_for("finished")
        assert page.step == steps
        page.click("download")
        page.wait("downloaded", weights.exists)  # it gets its name when it is complete
    require_agreement(weights, trained_by_the_driver(folder, steps), tolerance, "onnxruntime-web")
    assert page.errors() == []


def test_a_visitor_trains_and_draws(browser: Chrome, address: str) -> None:
    page = Page(browser, f"{address}?steps=1000")  # so many that no machine is done before it can be paused
    page.wait_for("ready")
    page.wait("tested", lambda: page.accuracy > 0)
    assert page.accuracy < 0.5, "weights that were never trained cannot know digits"
    page.click("train")
    page.wait("trained", lambda: page.accuracy > 0.95 and page.step >= 60)
    page.click("pause")
    page.wait_for("paused")
    assert page.text("train") == "Go on"
    assert 60 <= page.step < 1000

    pad = browser.find_element(By.ID, "pad")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
    pen = ActionChains(browser, duration=10).move_to_element_with_offset(pad, 0, -70).click_and_hold()
    for _ in range(7):
        pen = pen.move_by_offset(0, 20)
    pen.release().perform()
    page.wait("classified", lambda: page.text("verdict").startswith("This looks like a "))
    assert page.text("verdict").startswith("This looks like a 1 ("), page.text("verdict")
    shares = [float(bar.text.split()[1]) for bar in browser.find_elements(By.CSS_SELECTOR, "#bars li")]
    assert len(shares) == 10
    assert shares.index(max(shares)) == 1
    assert sum(shares) == pytest.approx(100, abs=0.5)

    page.click("reset")
    page.wait("reset", lambda: page.state == "ready" and page.accuracy < 0.5)
    assert page.step == 0
    assert page.errors() == []


def test_without_webgpu_the_page_says_so_and_trains(browser: Chrome, address: str) -> None:
    page = Page(browser, f"{address}?engine=webgpu&steps=2")
    page.wait_for("ready")
    assert "This browser offers no WebGPU here" in page.text("notice")
    assert "engine: WebAssembly" in page.text("engine")
    page.click("train")
    page.wait_for("finished")


def test_missing_files_are_said_with_the_command_that_makes_them(browser: Chrome, tmp_path: Path) -> None:
    with served(tmp_path) as address:
        page = Page(browser, address)
        end = time.monotonic() + PATIENCE
        while page.state != "failed" and time.monotonic() < end:
            time.sleep(0.05)
        assert "The server has no generated/model/manifest.json." in page.text("failure")
        assert "python examples/browser/prepare.py" in page.text("failure")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 302),
        ("/browser/", 200),
        ("/javascript/trainer.mjs", 200),
        ("/browser/generated/model/manifest.json", 200),
        ("/browser/nothing.mjs", 404),
        ("/README.md", 404),
        ("/browser/../../README.md", 404),
        ("/browser/%2e%2e/%2e%2e/README.md", 404),
        ("/browser/..%2f..%2fREADME.md", 404),
        ("/browser/generated/..%2fserve.mjs", 404),
        ("/browser//etc/passwd", 404),
        ("//%", 404),
    ],
)
def test_the_server_gives_the_page_and_nothing_else(address: str, path: str, status: int) -> None:
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == status
    if status == 200:  # without these, WebAssembly has no threads
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    connection.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "many"], "--port should be a number from 0 to 65535, not many"),
        (["--prot", "1"], "Unknown option '--prot'"),
    ],
)
def test_the_server_says_mistakes_in_a_sentence(arguments: list[str], said: str) -> None:
    command = [program("node"), str(EXAMPLES / "browser" / "serve.mjs"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "    at " not in result.stderr  # a line of a stack
