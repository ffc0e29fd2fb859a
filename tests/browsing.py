"""A real browser for the tests of the replay page: Chromium and its driver, as in Debian's packages chromium and
chromium-driver, and selenium from the extra `test`.
"""

import shutil

import pytest

FLAGS = """--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking
    --disable-component-update --disable-sync"""
KEYS = {
    "→": "\ue014",
    "←": "\ue012",
    "↓": "\ue015",
    "End": "\ue010",
    "Home": "\ue011",
    "Enter": "\ue007",
    "Tab": "\ue004",
}


def started(profile):
    """A running browser, with an empty profile in a folder. Skips the test where there is none, and says so."""
    reason = "selenium is not installed: pip install -e '.[test]'"
    webdriver = pytest.importorskip("selenium.webdriver", reason=reason)
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("there is no chromium with its chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


class Page:
    """A page in the browser, of a file or an address; 1280 x 860 and light unless said otherwise. What is on it, as a
    person sees it."""

    def __init__(self, browser, file, width=1280, height=860, dark=False):
        self.browser = browser
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get(file if isinstance(file, str) else file.as_uri())
        browser.execute_async_script(
            "const told = arguments[0], look = () => document.body.matches('.ready') ? told() : setTimeout(look, 10);"
            "look()"
        )

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def press(self, *keys):
        for key in keys:
            self.browser.switch_to.active_element.send_keys(KEYS.get(key, key))

    def press_often(self, key, times):
        self.browser.switch_to.active_element.send_keys(KEYS[key] * times)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector)

    def table(self, name):
        """The numbers of the array that is shown under a name, as floats."""
        cells = self.texts(f'figure[data-name="{name}"] td')
        return [float(cell.replace("−", "-")) for cell in cells]

    def boxes(self):
        return self.run("return [...document.querySelectorAll('.box')].map((box) => box.dataset.key)")

    def errors(self):
        return [entry["message"] for entry in self.browser.get_log("browser")]
