"""The page of a report in a real browser: Debian's chromium, driven by selenium."""

import base64
import io
import itertools
import json
import math
import shlex
import shutil
import urllib.parse

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains, ChromeOptions
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait
from synthetic import GRIDS, make_sweep

from ncsn_lightning.report import answer, write_report
from ncsn_lightning.sweeps.folder import read_sweep

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium here; apt-get install chromium chromium-driver"
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--force-color-profile=srgb"),
)
STATES = {5: "failed", 11: "diverged", 17: "interrupted", 18: "waiting", 19: "waiting", 20: "waiting", 30: "running"}
SECTIONS = [
    "answer",
    "variance",
    "parameters",
    "heat",
    "parallel",
    "levels",
    "training",
    "samples",
    "weighting",
    "jobs",
]


class Page:
    """A page in the browser, and what went over its network and console since it was opened."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, fragment="", *, width=1280, dark=False):
        self.driver.get("about:blank")
        self.messages(), self.requests()
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(path.as_uri() + fragment)
        return self

    def draw(self):
        """Every section, as for a print."""
        self.run("dispatchEvent(new Event('beforeprint'))")
        return self

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def choose(self, label, value):
        found = [e for e in self.find("label.choice") if e.text.startswith(label)]
        Select(found[0].find_element(By.TAG_NAME, "select")).select_by_value(value)

    def view(self):
        return dict(urllib.parse.parse_qsl(urllib.parse.urlparse(self.driver.current_url).fragment))

    def column(self, name):
        """What the table of jobs shows in a column."""
        place = [text.rstrip("▲▼") for text in self.texts("table.jobs th")].index(name) + 1
        return self.texts(f"table.jobs tbody td:nth-child({place})")

    def wait(self, what):
        WebDriverWait(self.driver, 20).until(lambda _: what())

    def messages(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield Page(driver)
    driver.quit()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = make_sweep(tmp_path_factory.mktemp("sweeps") / "schedule_weighting", GRIDS[72], states=STATES)
    return read_sweep(write_report(read_sweep(folder)).parent)


@pytest.fixture
def page(browser, sweep):
    return browser.open(sweep.folder / "report.html")


def test_all_of_it_is_drawn_without_an_error_or_a_request(page):
    page.draw()
    assert [element.get_attribute("id") for element in page.find("main > section")] == SECTIONS
    for name in SECTIONS:
        assert page.run("return document.querySelector(arguments[0]).innerText.length", f"#{name} .body") > 20
    assert len(page.find("main svg")) == 6
    assert page.messages() == []
    assert page.requests() == [page.driver.current_url]


def test_the_answer_is_the_one_of_python(page, sweep):
    found = answer(sweep)
    best = page.find("#answer .best")[0].text
    assert "schedule\xa0" not in best
    for key, value in found.best.overrides.items():
        assert f"{key}{value}" in page.texts(".best-name")[0]
    mean, error = map(float, page.texts(".best-value strong")[0].split(" ± "))
    assert mean == pytest.approx(found.best.mean, rel=0.01)
    assert error == pytest.approx(found.best.standard_error, rel=0.05)
    assert page.texts(".best code") == [found.command]
    assert len(page.find(".ranking .is-tied")) == len(found.ties) > 0
    assert "6 jobs of 72 are still to come" not in best
    assert "5 jobs of 72 are still to come" in best  # what failed or diverged is not


def test_the_metric_changes_the_heat_map_and_everything_else(page, sweep):
    page.draw()
    before = page.texts("table.heat b")
    page.choose("Metric", "off_support")
    page.draw()
    cells = page.texts("table.heat b")
    assert len(cells) == 24
    assert cells != before
    rows, columns = (sweep.factors[key] for key in ("schedule", "weighting"))
    for text, (row, column) in zip(cells, itertools.product(rows, columns), strict=True):
        setting = {"schedule": row, "weighting": column}.items()
        jobs = [job for job in sweep.jobs if setting <= job.overrides.items()]
        values = [job.metrics["off_support"] for job in jobs if job.state == "finished"]
        if values:
            assert float(text) == pytest.approx(np.mean(values), rel=0.01)
        else:
            assert text == "○"  # three that wait
    assert "off_support" in page.texts(".best-value")[0]
    assert page.view() == {"metric": "off_support"}
    page.choose("Rows", "seed")
    assert page.texts("table.heat tbody th") == ["0", "1", "2"]
    assert page.messages() == []


def test_cells_that_miss_jobs_say_so_and_lead_to_them(page, sweep):
    page.draw()
    assert page.texts("table.heat .lacking") == ["✕ 2 of 3", "∞ 2 of 3", "◔ 2 of 3", "◐ 2 of 3"]
    assert len(page.find("table.heat .hole")) == 1
    assert page.texts("#heat .command code") == [sweep.command]
    assert "7 jobs of 72 have not finished" in page.texts("#heat h3")[0]
    page.run("document.querySelector('table.heat .hole button').click()")
    assert page.view() == {"find": "schedule=linear weighting=inverse_variance", "at": "jobs"}
    assert page.column("state") == ["waiting"] * 3
    assert page.texts("table.jobs .reason") == [""] * 3


def test_jobs_are_sorted(page, sweep):
    page.draw()
    header = """[...document.querySelectorAll("table.jobs th button")]
        .find((e) => e.textContent.startsWith("score_error")).click()"""
    for order in (1, -1):
        page.run(header)
        shown = [float(text.replace("−", "-")) for text in page.column("score_error") if text != "–"]
        assert len(shown) == 65
        assert shown == sorted(shown, key=lambda value: order * value)
        assert page.column("score_error")[-7:] == ["–"] * 7  # those without a value are last, whichever way
    assert page.view() == {"sort": "-score_error"}
    assert page.find("table.jobs th[aria-sort=descending]")[0].text.startswith("score_error")


def test_jobs_are_filtered(page):
    page.draw()
    find = page.find("#jobs input")[0]
    find.send_keys("karras seed=1")
    assert page.column("schedule") == ["karras"] * 6
    assert page.column("seed") == ["1"] * 6
    find.clear()
    find.send_keys("seed=")  # not finished yet: a word like others
    assert len(page.column("state")) == 72
    find.clear()
    find.send_keys("loss is diverged")
    assert page.column("state") == ["diverged"]
    find.clear()
    find.send_keys(" ")
    page.choose("State", "failed")
    assert page.column("state") == ["failed"]
    assert page.texts("#jobs .note")[0] == "1 of 72 jobs"
    assert page.view()["state"] == "failed"


def test_a_row_has_its_command_and_its_reason(page, sweep):
    page.open(sweep.folder / "report.html", "#state=failed&at=jobs")
    page.wait(lambda: page.find("table.jobs .open"))
    page.run("document.querySelector('table.jobs .open').click()")
    job = sweep.jobs[5]
    detail = page.texts("table.jobs .detail")[0]
    assert f"RuntimeError: the loss is failed <b>here</b> — the traceback is in {job.hash}/train.log" in detail
    assert shlex.split(page.texts("table.jobs .detail code")[0]) == ["python", "scripts/train.py", *job.arguments()]


def test_any_factor_can_be_averaged_over(page, sweep):
    page.draw()
    page.choose("Averaged over", "schedule")
    page.run("[...document.querySelectorAll('#answer .more')].at(-1).click()")
    rows = page.texts(".ranking li:not(.axis) .value")
    assert len(rows) == 18  # weighting × seed
    setting = {"weighting": "edm", "seed": "1"}.items()
    values = [job.metrics["score_error"] for job in sweep.jobs if setting <= job.overrides.items()]
    (row,) = [row.text for row in page.find(".ranking li") if row.text.startswith("edm\n1\n")]
    mean, error = map(float, row.splitlines()[2].split(" ± "))
    assert mean == pytest.approx(np.mean(values), rel=0.01)
    assert error == pytest.approx(np.std(values, ddof=1) / 2, rel=0.05)
    page.choose("Averaged over", "")
    page.draw()
    assert len(page.find("#samples .card")) == 25  # the truth, and the first 24 jobs
    assert page.messages() == []


def test_brushing_an_axis_chooses_configurations(page, sweep):
    page.draw()
    axis = page.find(".parallel .axis .brush .overlay")[0]
    page.run("arguments[0].scrollIntoView({ block: 'center' })", axis)
    box = axis.rect
    drag = ActionChains(page.driver, duration=50).move_to_element_with_offset(axis, 0, -int(box["height"] / 2) + 2)
    drag.click_and_hold().move_by_offset(0, int(box["height"] * 0.3)).release().perform()
    said = page.texts("#parallel .note")[0]
    chosen = page.run("return document.querySelectorAll('.parallel path:not(.out)').length")
    assert said.startswith(f"{chosen} of 23 configurations chosen, the best of them schedule=")
    assert 0 < chosen < 23
    assert page.view()["brush"].startswith("schedule*")
    again = page.open(sweep.folder / "report.html", f"#{urllib.parse.urlencode(page.view())}").draw()
    assert again.texts("#parallel .note")[0] == said
    assert page.messages() == []


def test_headings_of_parallel_axes_keep_apart(browser, tmp_path):
    """Also on a phone, of long keys."""
    factors = {
        "sampler.steps_per_level": ["1", "2"],
        "data.batch_size": ["64", "128"],
        "network.hidden_dims": ["8", "9"],
    }
    page = browser.open(write_report(read_sweep(make_sweep(tmp_path / "s", factors, samples=0))), width=400).draw()
    boxes = page.run("return [...document.querySelectorAll('.parallel .title')].map((e) => e.getBoundingClientRect())")
    assert len(boxes) >= 5
    for left, right in itertools.pairwise(sorted(boxes, key=lambda box: box["left"])):
        assert left["right"] + 8 < right["left"]
    svg = page.run("return document.querySelector('svg.parallel').getBoundingClientRect()")
    assert min(box["left"] for box in boxes) >= svg["left"]
    assert max(box["right"] for box in boxes) <= svg["right"]


def test_a_leader_that_misses_seeds_is_provisional(browser, tmp_path):
    """The best one by far has one seed of three; of the others one is whole."""
    factors = {"schedule": ["karras", "linear", "geometric"], "seed": ["0", "1", "2"]}
    states = dict.fromkeys((1, 2, 8), "waiting")
    page = browser.open(write_report(read_sweep(make_sweep(tmp_path / "s", factors, states=states, samples=0))))
    assert "schedulekarras" in page.texts(".best-name")[0]
    (said,) = page.texts(".provisional")
    assert said.startswith(
        "This leader is provisional: 1 of its 3 seeds has finished. The one configuration whose seeds have all "
        "finished: schedule=linear, 0.0"
    )
    assert page.texts(".ranking .is-best em") == ["leads, provisionally"]


def test_a_view_is_a_link(page, sweep):
    view = {"metric": "fisher_error", "over": "weighting", "rows": "seed", "columns": "schedule", "of": "log"}
    view |= {"curve": "score_error", "color": "seed", "sort": "-steps", "find": "seed=2", "theme": "dark", "more": "rm"}
    page.open(sweep.folder / "report.html", f"#{urllib.parse.urlencode(view)}").draw()
    chosen = {
        e.text.partition("\n")[0]: Select(e.find_element(By.TAG_NAME, "select"))
        for e in page.find(".choice:has(select)")
    }
    shown = {name: choice.first_selected_option.get_attribute("value") for name, choice in chosen.items()}
    assert shown == {
        "Theme": "dark", "Metric": "fisher_error", "Averaged over": "weighting", "Rows": "seed", "Columns": "schedule",
        "Variance of": "log", "Curve": "score_error", "Colour": "seed", "State": "",
    }  # fmt: skip
    assert page.column("seed") == ["2"] * 24
    assert page.find("#jobs input")[0].get_attribute("value") == "seed=2"
    assert len(page.find(".ranking li:not(.axis)")) == 12
    page.choose("State", "finished")
    assert page.view() == view | {"state": "finished"}
    page.open(
        sweep.folder / "report.html", "#metric=nothing&over=%3Cb%3E&rows=x&brush=%25&sort=y&more=%F0%9F%92%A9"
    ).draw()
    assert "score_error" in page.texts(".best-value")[0]
    assert page.messages() == []


def test_a_link_leads_to_its_section(page, sweep):
    page.open(sweep.folder / "report.html", "#at=samples")
    page.wait(lambda: 0 < page.run("return document.querySelector('#samples').getBoundingClientRect().top") < 300)
    page.find("#contents a")[0].click()
    page.wait(lambda: 0 < page.run("return document.querySelector('#answer').getBoundingClientRect().top") < 300)
    assert page.view() == {"at": "answer"}


@pytest.mark.parametrize(("width", "dark"), list(itertools.product((1280, 400), (False, True))))
def test_it_fits_and_can_be_read(page, sweep, width, dark, tmp_path):
    """No sideways scrolling; the theme's own colours; every text clear of what is behind it."""
    page.open(sweep.folder / "report.html", width=width, dark=dark).draw()
    assert page.run("return document.documentElement.scrollWidth") <= width
    shot = page.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot))).convert("L"), dtype=float)
    assert (np.median(image) < 60) == dark
    assert image.std() > 10
    for selector in (
        "#answer .verdict",
        ".note",
        ".bars .name",
        ".totals .failed",
        ".level",
        ".legend li",
        "th",
        "code",
    ):
        assert page.run(CONTRAST, selector) >= 4.5, selector
    assert page.messages() == []


CONTRAST = """
const [element] = document.querySelectorAll(arguments[0]);
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const channels = (color) => {
	canvas.clearRect(0, 0, 1, 1);
	canvas.fillStyle = color;
	canvas.fillRect(0, 0, 1, 1);
	return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = (color) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, index) => {
	const value = channels(color)[index] / 255;
	return sum + weight * (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
}, 0);
let behind = element;
while (channels(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(light);
return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
"""


def test_everything_has_a_name_for_those_who_do_not_see_it(page):
    page.draw()
    nameless = """
    const named = (e) => e.ariaLabel || e.getAttribute("aria-labelledby") || e.alt || e.textContent.trim();
    return [...document.querySelectorAll("button, select, input, img, svg, table, a, section")]
        .filter((e) => !named(e) && !e.closest("label")).map((e) => e.outerHTML.slice(0, 100))"""
    assert page.run(nameless) == []
    levels = page.run("return [...document.querySelectorAll('h1, h2, h3')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_text_of_a_configuration_runs_nothing(browser, tmp_path):
    from test_report import NASTY

    factors = {"path": NASTY, "+a.b": ["<b>1</b>", "2"], "seed": ["0", "1"]}
    folder = make_sweep(tmp_path / "<i>sweep", factors, samples=300, question="<svg onload=\"document.title='taken'\">")
    sweep = read_sweep(write_report(read_sweep(folder)).parent)
    page = browser.open(sweep.folder / "report.html", "#rows=path&columns=%2Ba.b").draw()
    assert page.driver.title == "<i>sweep · sweep report"
    assert page.texts("h1") == ["<i>sweep"]
    assert page.texts("table.heat tbody th") == NASTY
    assert (
        page.run("return document.querySelectorAll('main script, main i i, main b b, [onerror], [onload]').length") == 0
    )
    page.run("document.querySelectorAll('table.heat td button')[4].click()")
    assert page.column("path") == [NASTY[2]] * 2
    for button in page.find("table.jobs .open")[:1]:
        page.run("arguments[0].click()", button)
    (command,) = page.texts("table.jobs .detail code")
    assert shlex.split(command)[2:] == next(job for job in sweep.jobs if job.overrides["path"] == NASTY[2]).arguments()
    assert (page.messages(), page.requests()) == ([], [(sweep.folder / "report.html").as_uri()])


BARE = {
    "one factor, no seed": ({"schedule": ["linear", "karras"]}, {}),
    "seeds alone": ({"seed": ["0", "1", "2"]}, {}),
    "one job": ({"seed": ["0"]}, {}),
    "nothing finished": ({"schedule": ["linear", "karras"], "seed": ["0", "1"]}, dict.fromkeys(range(4), "failed")),
    "nothing begun": ({"schedule": ["linear", "karras"], "seed": ["0", "1"]}, dict.fromkeys(range(4), "waiting")),
    "one finished": ({"a": ["1", "2"], "b": ["1", "2"], "seed": ["0", "1"]}, dict.fromkeys(range(7), "running")),
    "many numbers": ({"optimizer.lr": [str(0.001 * k) for k in range(1, 31)], "weighting": ["learned"]}, {3: "failed"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BARE)
def test_sweeps_with_little_in_them(name, browser, tmp_path):
    factors, states = BARE[name]
    folder = make_sweep(tmp_path / "s", factors, states=states, samples=100, noise=0)
    page = browser.open(write_report(read_sweep(folder))).draw()
    for key in page.run(
        "return [...document.querySelectorAll('#controls label:last-child option')].map((e) => e.value)"
    ):
        page.choose("Averaged over", key)
        page.draw()
    assert page.messages() == []
    assert len(page.find("table.jobs tbody tr")) == math.prod(map(len, factors.values()))
    if not answer(read_sweep(folder)):
        assert "No job has finished yet" in page.find("#answer")[0].text


def test_a_thousand_jobs(browser, tmp_path):
    folder = make_sweep(tmp_path / "s", GRIDS[1000], samples=100)
    page = browser.open(write_report(read_sweep(folder))).draw()
    page.choose("Metric", "fisher_error")
    page.draw()
    page.find("#jobs input")[0].send_keys("karras")
    assert page.texts("#jobs .note")[0] == "250 of 1000 jobs, show 150 more"
    assert page.messages() == []
