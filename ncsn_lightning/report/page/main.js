// The sections of the page. Each is drawn when it comes near the window, and again when a view setting of its has changed.
const sections = [
	{ id: "answer", title: "Answer", draw: drawAnswer, on: ["metric", "over", "more"] },
	{ id: "variance", title: "What matters", draw: drawVariance, on: ["metric", "of"] },
	{ id: "parameters", title: "Each parameter", draw: drawParameters, on: ["metric", "over"], wide: true },
	{ id: "heat", title: "Two parameters", draw: drawHeatMap, on: ["metric", "rows", "columns", "more"] },
	{ id: "parallel", title: "All parameters", draw: drawParallel, on: ["metric", "over"], wide: true, when: keys.length > 2 },
	{ id: "levels", title: "Error by noise level", draw: drawLevels, on: ["metric", "over", "color"], wide: true },
	{ id: "training", title: "Training", draw: drawSteps, on: ["metric", "over", "color", "curve"], wide: true },
	{ id: "samples", title: "Samples", draw: drawSamples, on: ["metric", "over", "more"] },
	{ id: "weighting", title: "Learned weighting", draw: drawWeighting, on: ["metric", "over", "color"], wide: true, when: "learned_weighting" in data.levels },
	{ id: "jobs", title: "Jobs", draw: drawJobs, on: ["find", "state"] },
].filter((section) => section.when !== false);

function drawSection(section) {
	section.stale = false;
	const focused = section.body.contains(document.activeElement) && document.activeElement.matches("select") ? [...section.body.querySelectorAll("select")].indexOf(document.activeElement) : -1;
	section.body.style.minHeight = `${section.body.offsetHeight}px`; // keeps the sections below in place while this one is empty
	section.body.replaceChildren();
	section.draw(section.body);
	section.body.style.minHeight = "";
	section.body.querySelectorAll("select")[focused]?.focus();
}

function draw(names) {
	for (const section of sections) {
		if (!names.some((name) => section.on.includes(name))) continue;
		section.stale = true;
		if (section.near) drawSection(section);
	}
	drawControls();
	document.documentElement.dataset.theme = view.theme;
	if (names.includes("at") && view.at) scrollTo(view.at);
}

function scrollTo(id) {
	const section = sections.find((one) => one.id === id);
	if (!section) return;
	// The sections above must be drawn first, because their heights decide where this one is.
	for (const one of sections.slice(0, sections.indexOf(section) + 1)) if (one.stale) drawSection(one);
	section.element.scrollIntoView();
	section.heading.focus({ preventScroll: true });
}

function drawControls() {
	const over = [...keys.map((key) => [key, key]), ["", "nothing"]];
	const focused = document.activeElement?.closest("#controls label") ? [...document.querySelectorAll("#controls select")].indexOf(document.activeElement) : -1;
	const list = document.getElementById("controls");
	list.replaceChildren(
		data.metrics.length ? choice("Metric", data.metrics.map((name) => [name, name]), view.metric, (value) => change({ metric: value })) : "",
		choice("Averaged over", over, view.over, (value) => change({ over: value })),
	);
	list.querySelectorAll("select")[focused]?.focus();
	const themes = [["", "auto"], ["light", "light"], ["dark", "dark"]];
	document.getElementById("theme").replaceChildren(choice("Theme", themes, view.theme, (value) => change({ theme: value })));
}

function build() {
	const main = document.getElementById("main"), contents = document.getElementById("contents");
	for (const section of sections) {
		section.heading = h("h2", { id: `${section.id}-title`, tabindex: -1 }, section.title);
		section.body = h("div", { class: "body" });
		section.element = h("section", { id: section.id, "aria-labelledby": `${section.id}-title` }, section.heading, section.body);
		section.stale = true;
		main.append(section.element);
		contents.append(h("li", {}, h("a", { href: `#at=${section.id}`, onclick: (event) => { event.preventDefault(); change({ at: section.id }); } }, section.title)));
	}
	const watcher = new IntersectionObserver((entries) => {
		for (const entry of entries) {
			const section = sections.find((one) => one.element === entry.target);
			section.near = entry.isIntersecting;
			if (section.near && section.stale) drawSection(section);
		}
	}, { rootMargin: "600px 0px" });
	for (const section of sections) watcher.observe(section.element);
	let width = main.clientWidth, waiting;
	new ResizeObserver(() => {
		clearTimeout(waiting);
		waiting = setTimeout(() => {
			if (main.clientWidth === width) return;
			width = main.clientWidth;
			for (const section of sections.filter((one) => one.wide)) section.near ? drawSection(section) : (section.stale = true);
		}, 150);
	}).observe(main);
	addEventListener("beforeprint", () => sections.filter((section) => section.stale).forEach(drawSection));
	addEventListener("hashchange", () => {
		for (const name of new URLSearchParams(location.hash.slice(1)).keys()) given.add(name);
		readFragment();
		draw([...Object.keys(defaults)]);
	});
}

readFragment();
build();
drawControls();
document.documentElement.dataset.theme = view.theme;
drawSection(sections[0]);
if (view.at) requestAnimationFrame(() => scrollTo(view.at));
