"""examples/browser in headless Chromium: the page trains, says what was drawn, and gives the driver's weights."""

import contextlib
import http.client
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.javascript import (
    AGREEMENTS,
    EXAMPLES,
    FIRST,
    package_of_a_checkpoint,
    prepare,
    program,
    require_agreement,
    require_package,
    spoilt,
    trained_by_the_driver,
)

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.common.exceptions import WebDriverException
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
def serving(generated: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve the page on a free port; yield the server and the page's address."""
    command = [program("node"), "serve.mjs", "--port", "0", "--generated", str(generated)]
    with subprocess.Popen(command, cwd=EXAMPLES / "browser", stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        silent = threading.Timer(PATIENCE, server.kill)
        silent.start()
        try:
            address = server.stdout.readline().strip()
            silent.cancel()
            assert address, f"the server said nothing for {PATIENCE} seconds, or ended"
            yield server, address
        finally:
            silent.cancel()
            server.terminate()


@contextlib.contextmanager
def served(generated: Path) -> Iterator[str]:
    """Serve the page on a free port; yield its address."""
    with serving(generated) as (_, address):
        yield address


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
    try:
        driver = Chrome(service=Service(program("chromedriver")), options=options)
    except WebDriverException as error:
        pytest.skip(f"Chromium does not start: {error.msg}")
    yield driver
    driver.quit()


def wait_until(what: str, done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, f"not {what}"
        time.sleep(0.05)


def keep_the_worker(browser: Chrome) -> None:
    """Make pages keep their worker as `worker`, and the types of what it tells in `told`."""
    source = """
        const Plain = Worker;
        window.told = [];
        window.Worker = class extends Plain {
          constructor(...given) {
            super(...given);
            window.worker = this;
            this.addEventListener("message", ({ data }) => told.push(data.type));
          }
        };
    """
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})


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
    keep_the_worker(browser)
    page = Page(browser, f"{address}?steps=1000000")  # so many that no machine is done before it can be paused
    page.wait_for("ready")
    page.wait("tested", lambda: page.accuracy > 0)
    assert page.accuracy < 0.5, "weights that were never trained cannot know digits"
    page.click("train")
    page.wait("trained", lambda: page.accuracy > 0.95 and page.step >= 60)
    page.click("pause")
    page.wait_for("paused")
    assert page.text("train") == "Go on"
    assert page.step >= 60
    loss = browser.find_element(By.ID, "loss-chart").get_attribute("aria-label")
    assert loss == f"Loss by step: {page.text('loss')} after {page.step} steps"

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

    ActionChains(browser, duration=10).move_to_element(pad).click_and_hold().move_by_offset(0, 20).perform()
    mouse = 1  # its pointerId
    browser.execute_script(
        "document.getElementById('clear').click();"
        f"arguments[0].dispatchEvent(new PointerEvent('pointermove', {{ pointerId: {mouse} }}))",
        pad,
    )
    ActionChains(browser).release().perform()
    assert browser.find_element(By.ID, "pad-hint").is_displayed(), "what was cleared does not go on"
    assert page.text("verdict").startswith("Draw above")

    page.click("reset")
    page.wait("reset", lambda: page.state == "ready" and page.accuracy < 0.5)
    assert page.step == 0
    assert page.errors() == []

    page.click("train")
    page.wait("trained", lambda: page.step > 0)
    browser.execute_script("worker.postMessage({ type: 'predict', id: 0, image: null })")
    wait_until(
        "stopped", lambda: browser.execute_script("return told.slice(told.indexOf('failure')).at(-1)") == "stopped"
    )
    assert (page.state, page.text("status")) == ("failed", "Stopped.")
    assert page.text("failure")
    assert [name for name in ("train", "pause", "reset") if browser.find_element(By.ID, name).is_enabled()] == []


def test_training_that_diverges_may_begin_anew(browser: Chrome, generated: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(generated / "model")
    spoilt(generated, tmp_path)
    with served(tmp_path) as address:
        page = Page(browser, address)
        page.wait_for("ready")
        page.click("train")
        page.wait_for("diverged")
        assert page.text("failure") == "Training diverged: the loss is NaN at step 1. Reset starts anew."
        page.click("reset")
        page.wait_for("ready")
        assert (page.text("failure"), page.step) == ("", 0)


def test_without_webgpu_the_page_says_so_and_goes_on_from_a_package(
    browser: Chrome, generated: Path, tmp_path: Path
) -> None:
    with served(package_of_a_checkpoint(generated, tmp_path)) as address:
        page = Page(browser, f"{address}?engine=webgpu&steps=2")
        page.wait_for("ready")
        adapter = "navigator.gpu ? navigator.gpu.requestAdapter() : Promise.resolve(null)"
        if not browser.execute_async_script(f"({adapter}).then((found) => arguments[0](found !== null))"):
            assert "This browser offers no WebGPU here" in page.text("notice")
            assert "engine: WebAssembly" in page.text("engine")
        assert page.text("step") == f"{FIRST} / {FIRST + 2}"
        page.click("train")
        page.wait_for("finished")
        assert page.text("step") == f"{FIRST + 2} / {FIRST + 2}"


def test_missing_files_are_said_with_the_command_that_makes_them(browser: Chrome, tmp_path: Path) -> None:
    with served(tmp_path) as address:
        page = Page(browser, address)
        wait_until("failed", lambda: page.state == "failed")
        assert "The server has no generated/model/manifest.json." in page.text("failure")
        assert "python examples/browser/prepare.py" in page.text("failure")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 302),
        ("/browser", 302),
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
    found = []
    for method in ("GET", "HEAD"):
        connection.request(method, path)
        response = connection.getresponse()
        content = response.read()
        found.append([response.status, response.headers["Content-Length"]])
        # Without these, WebAssembly has no threads.
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert bool(content) == (method == "GET" and status != 302)
    connection.close()
    assert found[0][0] == status
    assert found[0] == found[1] or status != 200
    assert found[0][0] == found[1][0]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_downloads_that_are_broken_off_leave_no_file_open(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(32 * 2**20))  # more than sockets take
    with serving(tmp_path) as (server, address):

        def opened() -> int:
            files = Path(f"/proc/{server.pid}/fd").iterdir()
            return sum(os.path.realpath(file) == str(large.resolve()) for file in files)

        with socket.create_connection((urlsplit(address).hostname or "", urlsplit(address).port or 0)) as visitor:
            visitor.sendall(b"GET /browser/generated/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert visitor.recv(1000).startswith(b"HTTP/1.1 200 OK")
            wait_until("opened", lambda: opened() == 1)
        wait_until("closed", lambda: opened() == 0)


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
