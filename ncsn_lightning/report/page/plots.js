// Plots of curves and points. A plot is drawn for the width of its section; its colours are CSS variables of the theme.
const FEW = 40; // with more curves than this each is drawn thinner

function figure(section, options, names) {
	const width = Math.max(280, Math.min(section.clientWidth, 1100));
	const plot = Charts.plot({ style: { fontSize: "12px", background: "none" }, color: { type: "identity" }, ...options, width });
	plot.setAttribute("role", "img");
	if (options.ariaLabel) plot.setAttribute("aria-label", options.ariaLabel);
	if (names) highlight(plot);
	section.append(h("div", { class: "figure" }, plot));
	return plot;
}

// The curve under the pointer is highlighted.
function highlight(plot) {
	const curves = [...plot.querySelectorAll("[aria-label=line] > path")];
	plot.addEventListener("input", () => {
		const at = plot.value?.name;
		plot.classList.toggle("pointed", at != null);
		for (const curve of curves) curve.classList.toggle("at", curve.getAttribute("aria-label") === at);
	});
}

// The points of one curve for each group: at every x the mean over its jobs, the lowest and the highest value.
function curves(rowsOf) {
	const points = [];
	for (const group of groups()) {
		const name = label(group.first), color = colorOf(group.first);
		const at = new Map();
		for (const job of group.jobs) {
			for (const [x, y] of rowsOf(job)) at.has(x) ? at.get(x).push(y) : at.set(x, [y]);
		}
		for (const [x, values] of [...at].sort((a, b) => a[0] - b[0])) {
			const { n, mean, low, high } = spread(values);
			if (n) points.push({ name, color, x, y: mean, low, high, n });
		}
	}
	return points;
}

function best() {
	const found = data.answers[view.metric];
	return found ? label(jobs[found.best]) : null;
}

function curvePlot(section, points, { x, y, height = 380, marks = [], log = true, dots = false, also = [], ariaLabel }) {
	const count = new Set(points.map((point) => point.name)).size;
	const scale = log ? scaleFor([...points.flatMap(({ low, high }) => [low, high]), ...also]) : { type: "linear", nice: true };
	const sizes = points.map((point) => point.x);
	const opacity = count > FEW ? 0.35 : 0.85, first = best();
	const tip = (point) => `${point.name}\n${x.label} ${number(point.x)}\n${y.label} ${number(point.y)}${point.n > 1 ? `\n${number(point.low)} … ${number(point.high)} over ${point.n}` : ""}`;
	section.append(legend());
	figure(section, {
		height,
		marginTop: 28,
		marginLeft: 56,
		marginBottom: 40,
		ariaLabel,
		x: { tickFormat: plain, ...logarithmic(Math.min(...sizes), Math.max(...sizes)), ...x },
		y: { ticks: 6, tickFormat: plain, grid: true, ...scale, ...y },
		marks: [
			...marks,
			Charts.ruleX(points.filter((point) => point.high > point.low), { x: "x", y1: "low", y2: "high", stroke: "color", strokeOpacity: count > FEW ? 0.15 : 0.4 }),
			Charts.line(points, { x: "x", y: "y", z: "name", stroke: "color", strokeOpacity: opacity, strokeWidth: (point) => (point.name === first ? 3 : count > FEW ? 1 : 1.6), ariaLabel: "name" }),
			dots ? Charts.dot(points, { x: "x", y: "y", fill: "color", r: count > FEW ? 1 : 2.5, fillOpacity: opacity }) : null,
			Charts.tip(points, Charts.pointer({ x: "x", y: "y", title: tip, fontSize: 12, lineHeight: 1.35, lineWidth: 30 })),
		],
	}, true);
}

// A logarithmic scale for positive values, else a linear one, or one that is linear only about 0 for large values.
function scaleFor(values) {
	const low = Math.min(...values), high = Math.max(...values);
	if (low > 0) return logarithmic(low, high);
	const most = Math.max(-low, high);
	if (most < 50) return { type: "linear", nice: true };
	const powers = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];
	return { type: "symlog", ticks: [...powers.map((power) => -power), 0, ...powers].filter((tick) => tick >= low && tick <= high) };
}

// A logarithmic scale with a small margin and few ticks: powers of ten, with 2 and 5 of each or all digits if there is room.
function logarithmic(low, high) {
	const room = (high / low) ** 0.04;
	const [from, to] = high > low * 1.05 ? [low / room, high * room] : [low / 1.2, high * 1.2];
	const decades = Math.log10(to / from);
	const first = Math.floor(Math.log10(from));
	const powers = Array.from({ length: Math.ceil(decades) + 2 }, (_, index) => first + index);
	const steps = decades > 2.5 ? [1] : decades > 0.7 ? [1, 2, 5] : [1, 2, 3, 4, 5, 6, 7, 8, 9];
	const ticks = powers.flatMap((power) => steps.map((step) => Number(`${step}e${power}`)));
	return { type: "log", domain: [from, to], ticks: ticks.filter((tick) => tick >= from && tick <= to) };
}

function plain(value) {
	if (value === 0) return "0";
	const size = Math.abs(value);
	return (size < 1e-3 || size >= 1e5 ? Number(value.toPrecision(2)).toExponential().replace("+", "") : String(Number(value.toPrecision(3)))).replaceAll("-", MINUS);
}

function legend() {
	const levels = levelsOf(view.color);
	if (!levels.length || view.color === view.over) return null;
	const pick = keys.filter((key) => key !== view.over).map((key) => [key, key]);
	const marks = levels.length <= COLORS ? levels.map((level, index) => h("li", {}, h("i", { style: `background:var(--c${index})` }), level)) : [h("li", {}, levels[0], h("i", { class: "long", style: `background:linear-gradient(90deg,${ramp(1)},${ramp(0)})` }), levels.at(-1))];
	return h("div", { class: "legend" }, choice("Colour", pick, view.color, (value) => change({ color: value })), h("ul", {}, marks));
}

function drawLevels(section) {
	const points = curves((job) => levelPoints(job, "score_error"));
	if (!points.length) return section.append(note("No finished job has measured its score error by level."));
	curvePlot(section, points, {
		x: { label: "noise level σ (data units)" },
		y: { label: "relative score error" },
		dots: true,
		also: [0.9, 1.4],
		marks: [Charts.ruleY([1], { stroke: "var(--muted)" }), Charts.text([1], { y: (value) => value, frameAnchor: "right", text: () => "no better than the zero score", dy: -4, lineAnchor: "bottom", fill: "var(--muted)", textAnchor: "end" })],
		ariaLabel: "Relative score error against the noise level, one line a configuration",
	});
	section.append(note(`Each line is a configuration: the mean over ${view.over || "its one job"}, with bars from the lowest to the highest value at each level. E‖s_θ − s‖² / E‖s‖²: 0 is exact. The thick line is the best one.`));
}

function levelPoints(job, name) {
	const row = data.levels[name]?.rows[job.index];
	return row ? data.levels[name].sigmas[row[0]].map((sigma, index) => [sigma, row[index + 1]]) : [];
}

function drawSteps(section) {
	const names = Object.keys(data.steps);
	if (!names.length) return section.append(note("No job has logged anything yet."));
	const name = names.includes(view.curve) ? view.curve : names[0];
	const { steps, rows } = data.steps[name];
	const points = curves((job) => (rows[job.index] ?? []).flatMap((value, index) => (value == null || !["finished", "running"].includes(job.state) ? [] : [[steps[index], value]])));
	section.append(choice("Curve", names.map((key) => [key, key]), name, (value) => change({ curve: value })));
	const lost = jobs.filter((job) => rows[job.index] && ["failed", "diverged", "interrupted", "preempted"].includes(job.state));
	const broken = lost.flatMap((job) => rows[job.index].flatMap((value, index) => (value == null ? [] : [{ name: `${job.state}: ${label(job, "")}`, x: steps[index], y: value }])));
	curvePlot(section, points.length ? points : broken.map((point) => ({ ...point, low: point.y, high: point.y, n: 1, color: "var(--failed)" })), {
		x: { label: "optimiser step" },
		y: { label: name },
		marks: [Charts.line(broken, { x: "x", y: "y", z: "name", stroke: "var(--failed)", strokeDasharray: "4 3", strokeOpacity: 0.7 })],
		ariaLabel: `${name} against the optimiser step, one line a configuration`,
	});
	section.append(note("Training losses do not compare across weightings, schedules or targets, because each weighs the levels differently; score_error does compare. ", broken.length ? `Dashed: ${plural(lost.length, "job")} that did not finish.` : ""));
}

function drawWeighting(section) {
	const name = "learned_weighting";
	const points = curves((job) => levelPoints(job, name));
	const optimum = curves((job) => levelPoints(job, "optimal_weighting"));
	curvePlot(section, points, {
		x: { label: "noise level σ (data units)" },
		y: { label: "u (nats)" },
		log: false,
		marks: [Charts.dot(optimum, { x: "x", y: "y", stroke: "color", r: 3.5 })],
		ariaLabel: "The learned weighting u against the noise level, one line a configuration",
	});
	section.append(note("Lines: the learned u(σ) of λ = σ² e^(−u). Rings: its optimum ln E[σ² e / D], estimated at the end of the training; the closer a line is to its rings, the better u has been learned."));
}

function drawParameters(section) {
	const rows = ranked();
	if (!rows.length) return section.append(note("No job has finished yet."));
	const shown = keys.filter((key) => key !== view.over && levelsOf(key).length > 1);
	if (!shown.length) return section.append(note("No other parameter is swept than the one that is averaged over."));
	const log = isLog(rows.map((row) => row.mean));
	const values = rows.flatMap((row) => row.values).filter((value) => !log || value > 0);
	const domain = [Math.min(...values), Math.max(...values)];
	const grid = h("div", { class: "parameters" });
	section.append(grid);
	const columns = Math.max(1, Math.min(shown.length, 3, Math.floor(grid.clientWidth / 300)));
	const room = Math.min(560, Math.floor((grid.clientWidth - 32 * (columns - 1)) / columns));
	for (const key of shown) grid.append(parameter(key, rows, log, domain, room));
	section.append(note(`Every dot is a configuration${view.over ? `, the mean over ${view.over}, with a line from the lowest to the highest value` : ""}; the bar is the median of the dots at a value, and the band contains their middle half.`));
}

// Few values, numbers or not, stand side by side at equal distances; the many numbers of a search have a numeric axis.
function parameter(key, rows, log, domain, width) {
	const { values, numbers: sizes } = data.factors[keys.indexOf(key)];
	const aside = !sizes || values.length <= 12;
	const shift = (index) => ((index * 0.618) % 1) * 0.4 - 0.2;
	const points = rows.map((row, index) => {
		const level = row.first.levels[keys.indexOf(key)];
		return { level, x: aside ? level + shift(index) : sizes[level], y: row.mean, low: row.low, high: row.high, name: label(row.first) };
	}).filter((point) => point.level >= 0);
	const boxes = aside ? values.map((_, level) => ({ x: level, ...quartiles(points.filter((point) => point.level === level).map((point) => point.y)) })).filter((box) => box.n) : [];
	const long = aside && Math.max(...values.map((value) => value.length)) * 7.5 > (width - 70) / values.length;
	const ticks = { type: "linear", domain: [-0.5, values.length - 0.5], ticks: values.map((_, level) => level), tickFormat: (level) => shortened(values[level]), tickRotate: long ? -32 : 0 };
	const plot = Charts.plot({
		width,
		height: 260 + (long ? 50 : 0),
		marginTop: 26,
		marginLeft: long ? 66 : 52,
		marginBottom: long ? 80 : 30,
		style: { fontSize: "12px", background: "none" },
		x: { label: null, ...(aside ? ticks : { tickFormat: plain, ...(isLog(sizes) ? logarithmic(Math.min(...sizes), Math.max(...sizes)) : { type: "linear", ticks: 5 }) }) },
		y: { label: view.metric, grid: true, ticks: 5, tickFormat: plain, ...(log ? logarithmic(...domain) : { type: "linear", domain, nice: true }) },
		marks: [
			Charts.ruleX(boxes, { x: "x", y1: "q1", y2: "q3", stroke: "var(--accent)", strokeWidth: 24, strokeOpacity: 0.18 }),
			Charts.ruleX(points.filter((point) => point.high > point.low && (!log || point.low > 0)), { x: "x", y1: "low", y2: "high", stroke: "var(--ink)", strokeOpacity: 0.45 }),
			Charts.dot(points, { x: "x", y: "y", r: points.length > 100 ? 2 : 3, fill: "var(--ink)", fillOpacity: 0.6 }),
			Charts.ruleY(boxes, { x1: (box) => box.x - 0.3, x2: (box) => box.x + 0.3, y: "median", stroke: "var(--accent)", strokeWidth: 3 }),
			Charts.tip(points, Charts.pointer({ x: "x", y: "y", title: (point) => `${point.name}\n${number(point.y)}${point.high > point.low ? `\n${number(point.low)} … ${number(point.high)}` : ""}`, fontSize: 12, lineHeight: 1.35, lineWidth: 30 })),
		],
	});
	plot.setAttribute("role", "img");
	plot.setAttribute("aria-label", `${view.metric} at each ${key}`);
	return h("div", { class: "parameter" }, h("h3", {}, key), plot);
}

function shortened(text) {
	return text.length > 18 ? `${text.slice(0, 17)}…` : text;
}

function quartiles(values) {
	const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
	const at = (share) => {
		const place = share * (sorted.length - 1), low = Math.floor(place);
		return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
	};
	return { n: sorted.length, q1: at(0.25), median: at(0.5), q3: at(0.75) };
}
