"""The report in a real, offline browser: every panel is drawn and shows the values of the ledger."""

import pytest

from tests.browser import LOCAL, chromium, open_page, screenshot


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module", params=["light", "dark"])
def page(request, browser, written):
    page = open_page(browser, written.page.as_uri(), dark=request.param == "dark")
    page.theme = request.param
    page.wait_for_selector("html[data-plots=drawn]")
    screenshot(page, f"report-{page.theme}", full_page=True)
    yield page
    page.close()


def test_every_panel_is_drawn_without_an_error_and_without_a_network(page):
    assert page.problems == []
    assert [url for url in page.fetched if not url.startswith(("file:", "data:", "blob:"))] == []
    plots = page.eval_on_selector_all(
        "[data-plot]", "all => all.map(p => [p.dataset.plot, !!p.querySelector('.main-svg, canvas'), p.clientHeight])"
    )
    assert len(plots) >= 14
    assert [name for name, is_drawn, height in plots if not is_drawn or height < 50] == []
    assert LOCAL.match(page.url)


def test_the_plotted_points_match_the_ledger(page, reported):
    trials = {trial.number: trial for trial in reported.read()}
    drawn = page.evaluate(
        """() => document.getElementById("plot-history").data
             .filter(trace => trace.mode === "markers")
             .flatMap(trace => Array.from(trace.x).map((x, i) => [x, trace.y[i]]))"""
    )
    expected = {(t.number, t.value) for t in trials.values() if t.value is not None and t.status != "failed"}
    assert {(number, value) for number, value in drawn} == expected
    curves = page.evaluate(
        """() => document.getElementById("plot-learning-curves").data.slice(0, -2)
             .flatMap(trace => Array.from(trace.x).map((x, i) => [trace.customdata[i], x, trace.y[i]]))
             .filter(point => point[0] !== null)"""
    )
    assert {tuple(point) for point in curves} == {
        (t.number, n, epoch.metrics["val/accuracy"]) for t in trials.values() for n, epoch in t.epochs_by_number.items()
    }


def test_the_best_trial_in_the_table_matches_the_ledger(page, reported):
    best = max((t for t in reported.read() if t.status == "finished"), key=lambda trial: trial.value)
    first = page.locator("#result table tbody tr").first
    assert first.locator("td").all_inner_texts()[:3] == [str(best.number), f"{best.value:.4f}", str(best.epoch)]
    assert f"{best.value:.4f}" in page.locator("header").inner_text()


COVERED = """plot => {
    const box = (element) => element.getBoundingClientRect(), toolbar = box(plot.querySelector(".modebar"));
    const covers = (other) => toolbar.left < other.right && toolbar.right > other.left
        && toolbar.top < other.bottom && toolbar.bottom > other.top;
    return Array.from(plot.querySelectorAll(".legend, .xtitle")).map(box).filter(covers).length;
}"""


@pytest.mark.parametrize("width", [1280, 420])
def test_the_toolbar_appears_on_hover_and_never_covers_a_legend_or_a_title(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.mouse.move(0, 0)
    buttons = set()
    for plot in page.query_selector_all("[data-plot]"):
        group = plot.query_selector(".modebar-group")
        assert group.evaluate("element => getComputedStyle(element).opacity") == "0"
        plot.hover()
        page.wait_for_function("element => getComputedStyle(element).opacity === '1'", arg=group)
        assert plot.evaluate(COVERED) == 0, plot.get_attribute("data-plot")
        page.mouse.move(0, 0)
        buttons |= {button.get_attribute("data-title").lower() for button in plot.query_selector_all(".modebar-btn")}
    page.set_viewport_size({"width": 1280, "height": 900})
    assert buttons == {"download plot as a png", "zoom", "pan", "reset axes"}


def test_text_contrasts_with_the_page_in_both_themes(page):
    ink, paper = page.evaluate(
        "() => [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    light = [sum(map(int, colour[4:-1].split(", "))) for colour in (ink, paper)]
    assert abs(light[0] - light[1]) > 500
    assert (light[0] > light[1]) == (page.theme == "dark")


def test_the_keyboard_reaches_every_section_and_the_first_table(page):
    page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
    links = page.eval_on_selector_all("nav a", "all => all.map(a => a.getAttribute('href'))")
    reached = []
    for _ in range(len(links) + 2):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "() => document.activeElement.getAttribute('href') || document.activeElement.getAttribute('aria-label')"
            )
        )
    assert reached == ["#main", *links, "The best trials"]
    page.locator("nav a").first.focus()
    page.keyboard.press("Enter")
    assert page.url.endswith(links[0])
