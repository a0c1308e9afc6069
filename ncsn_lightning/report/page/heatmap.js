// Any metric over any two factors. Jobs that have not finished are listed, with the command that completes the sweep.
const GLYPHS = { waiting: "○", running: "◐", interrupted: "◔", failed: "✕", diverged: "∞", preempted: "◑", finished: "●" };

function drawHeatMap(section) {
	if (keys.length < 2) return section.append(note("This needs two swept parameters."));
	const options = keys.map((key) => [key, key]);
	section.append(h("div", { class: "choices" },
		choice("Rows", options, view.rows, (value) => change(value === view.columns ? { rows: value, columns: view.rows } : { rows: value })),
		choice("Columns", options, view.columns, (value) => change(value === view.rows ? { columns: value, rows: view.columns } : { columns: value }))));
	const rows = bands(view.rows), columns = bands(view.columns);
	const cells = cellsOf(rows, columns);
	const good = goodness([...cells.values()].map((cell) => cell.mean));
	const head = h("tr", {}, h("td", { class: "corner" }, h("span", {}, `${view.rows} ↓`), h("span", {}, `${view.columns} →`)), columns.labels.map((level) => h("th", { scope: "col" }, level)));
	const body = rows.labels.map((row) => h("tr", {}, h("th", { scope: "row" }, row), columns.labels.map((column) => cellOf(cells.get(`${row}\n${column}`), good, [[rows, row], [columns, column]]))));
	section.append(h("div", { class: "scroll" }, h("table", { class: "heat", "aria-label": `${view.metric} over ${view.rows} and ${view.columns}` }, h("thead", {}, head), h("tbody", {}, body))));
	section.append(scaleOf(cells), note("Each cell shows the mean of its finished jobs, ± their standard deviation. A click on a cell lists its jobs."));
	drawMissing(section);
}

// The values of a factor as labels; the many numbers of a search are put into BANDS ranges of equal length.
const BANDS = 8;

function bands(key) {
	const { values, numbers: sizes } = data.factors[keys.indexOf(key)];
	if (!sizes || sizes.length <= 12) return { key, labels: values, of: (job) => levelText(job, key), exact: true };
	const place = isLog(sizes) ? Math.log : (size) => size, back = isLog(sizes) ? Math.exp : (size) => size;
	const low = place(sizes[0]), step = (place(sizes.at(-1)) - low) / BANDS;
	const labels = Array.from({ length: BANDS }, (_, index) => `${plain(back(low + index * step))} … ${plain(back(low + (index + 1) * step))}`);
	const of = (job) => labels[Math.min(BANDS - 1, Math.floor((place(sizes[job.levels[keys.indexOf(key)]]) - low) / step))];
	return { key, labels, of, exact: false };
}

function cellsOf(rows, columns) {
	const members = new Map();
	for (const job of jobs) {
		const key = `${rows.of(job)}\n${columns.of(job)}`;
		members.set(key, [...(members.get(key) ?? []), job]);
	}
	return new Map([...members].map(([key, found]) => [key, { ...numbers(found), jobs: found }]));
}

function cellOf(cell, good, place) {
	if (!cell) return h("td", { class: "unplanned" }, h("span", { title: "not part of the sweep" }, "·"));
	const name = place.map(([{ key }, value]) => setting(key, value)).join(" ");
	const find = place.filter(([{ exact }]) => exact).map(([{ key }, value]) => setting(key, value)).join(" ");
	const go = () => change({ find, state: "", at: "jobs" });
	const lacking = cell.jobs.filter((job) => job.state !== "finished");
	const states = [...new Set(lacking.map((job) => job.state))];
	const missing = lacking.length ? `${states.length === 1 ? `${GLYPHS[states[0]]} ` : ""}${cell.planned - lacking.length} of ${cell.planned}` : "";
	const said = `${name}: ${cell.n ? number(cell.mean) : "no value"}${lacking.length ? `, ${plural(lacking.length, "job")} ${states.join(" or ")}` : ""}`;
	if (!cell.n) return h("td", { class: "hole" }, h("button", { type: "button", onclick: go, "aria-label": said, title: said }, h("b", {}, states.map((state) => GLYPHS[state]).join("") || "–"), h("small", {}, states.join(", ") || "no value")));
	const shade = good(cell.mean);
	return h("td", { class: shade > 0.62 ? "good" : "bad", style: `background:${ramp(shade)}` },
		h("button", { type: "button", onclick: go, "aria-label": said, title: said },
			h("b", {}, number(cell.mean)),
			h("small", {}, Number.isFinite(cell.deviation) ? `± ${number(cell.deviation, 2)}` : "one job"),
			missing && h("small", { class: "lacking" }, missing)));
}

function scaleOf(cells) {
	const means = [...cells.values()].map((cell) => cell.mean).filter(Number.isFinite);
	if (!means.length) return null;
	return h("p", { class: "key-scale", "aria-hidden": "true" }, number(Math.min(...means)), h("i", { style: `background:linear-gradient(90deg,${ramp(1)},${ramp(0.5)},${ramp(0)})` }), number(Math.max(...means)), isLog(means) ? " (logarithmic)" : "");
}

function drawMissing(section) {
	const lacking = jobs.filter((job) => job.state !== "finished");
	if (!lacking.length) return;
	const shown = view.more.includes("m") ? lacking : lacking.slice(0, 8);
	section.append(
		h("h3", {}, `${plural(lacking.length, "job")} of ${jobs.length} ${lacking.length === 1 ? "has" : "have"} not finished`),
		h("p", {}, "This command completes the sweep; finished jobs are not run again, the others go on where they stopped:"),
		command(data.command),
		h("ul", { class: "missing" }, shown.map((job) => h("li", {}, h("span", { class: `state ${job.state}` }, job.state), h("span", {}, label(job, ""), job.reason && h("small", {}, job.reason))))));
	more(section, "m", lacking.length - shown.length, "jobs");
}
