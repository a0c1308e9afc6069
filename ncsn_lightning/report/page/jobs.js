// The table of all jobs, sorted by any column and filtered by words and state, with the command that repeats each job.
const PAGE = 100;

function columnsOf() {
	const origins = new Set(jobs.map((job) => job.revision).filter(Boolean));
	return [
		{ name: "state", of: (job) => job.state, show: (job) => h("span", { class: `state ${job.state}` }, job.state) },
		...keys.map((key, index) => ({ name: key, of: (job) => job.levels[index], show: (job) => levelText(job, key) })),
		...data.metrics.map((name) => ({ name, numeric: true, of: (job) => data.values[name][job.index], show: (job) => number(data.values[name][job.index]) })),
		{ name: "steps", numeric: true, of: (job) => job.steps, show: (job) => job.steps ?? "–" },
		{ name: "seconds", numeric: true, of: (job) => job.seconds, show: (job) => number(job.seconds) },
		...(origins.size > 1 ? [{ name: "revision", of: (job) => job.revision ?? "", show: (job) => h("code", {}, job.revision ?? "–") }] : []),
		{ name: "reason", of: (job) => job.reason, show: (job) => h("span", { class: "reason", title: job.reason }, job.reason) },
		{ name: "folder", of: (job) => job.hash, show: (job) => h("code", {}, job.hash) },
	];
}

// A job matches if it contains every word. A setting must be equal, so that seed=1 does not find seed=10. Quotes keep spaces.
function wordsOf(text) {
	return (text.match(/"[^"]*"|\S+/g) ?? []).map((word) => word.replaceAll('"', ""));
}

function setting(key, value) {
	return /[\s"]/.test(value) ? `"${key}=${value.replaceAll('"', "")}"` : `${key}=${value}`;
}

function matches(job, words) {
	const settings = named(job, "").map((pair) => pair.join("=").replaceAll('"', ""));
	const text = [job.state, job.hash, job.reason, job.revision, ...settings].join(" ").toLowerCase();
	const isSetting = (word) => keys.some((key) => word.startsWith(`${key}=`) && word.length > key.length + 1);
	return words.every((word) => (isSetting(word) ? settings.includes(word) : text.includes(word.toLowerCase())));
}

function drawJobs(section) {
	const columns = columnsOf();
	const states = [...new Set(jobs.map((job) => job.state))];
	const body = h("tbody"), head = h("tr"), said = h("p", { class: "note", "aria-live": "polite" });
	const find = h("input", { type: "search", placeholder: "karras seed=0", value: view.find, oninput: () => keep({ find: find.value }) });
	const list = () => {
		const rows = found(columns);
		const shown = view.more.includes("j") ? rows : rows.slice(0, PAGE);
		body.replaceChildren(...shown.map((job) => rowOf(job, columns)));
		head.replaceChildren(h("th", { scope: "col" }, h("span", { class: "hidden" }, "Command")), ...columns.map((column) => header(column, keep)));
		said.replaceChildren(`${rows.length} of ${plural(jobs.length, "job")}`);
		if (rows.length > shown.length) said.append(", ", h("button", { type: "button", class: "more", onclick: () => keep({ more: `${view.more}j` }) }, `show ${rows.length - shown.length} more`));
	};
	const keep = (values) => {
		Object.assign(view, values);
		for (const name of Object.keys(values)) given.add(name);
		writeFragment();
		list();
	};
	section.append(
		h("div", { class: "choices" },
			h("label", { class: "choice find" }, h("span", {}, "Find"), find),
			choice("State", [["", "all"], ...states.map((state) => [state, state])], view.state, (value) => keep({ state: value }))),
		said,
		h("div", { class: "scroll tall" }, h("table", { class: "jobs", "aria-label": "All jobs" }, h("thead", {}, head), body)));
	list();
}

function found(columns) {
	const words = wordsOf(view.find);
	const rows = jobs.filter((job) => (!view.state || job.state === view.state) && matches(job, words));
	const down = view.sort.startsWith("-");
	const column = columns.find(({ name }) => name === view.sort.replace(/^-/, ""));
	if (!column) return rows;
	const empty = (value) => value == null || value === "";
	return rows.sort((a, b) => {
		const left = column.of(a), right = column.of(b);
		if (empty(left) || empty(right)) return empty(left) - empty(right); // jobs without a value come last in either order
		const order = typeof left === "number" ? left - right : String(left).localeCompare(String(right));
		return down ? -order : order;
	});
}

function header(column, keep) {
	const down = view.sort === `-${column.name}`, up = view.sort === column.name;
	const sort = () => keep({ sort: up ? `-${column.name}` : column.name });
	return h("th", { scope: "col", class: column.numeric ? "numeric" : "", "aria-sort": up ? "ascending" : down ? "descending" : "none" }, h("button", { type: "button", onclick: sort }, column.name, h("i", { "aria-hidden": "true" }, up ? "▲" : down ? "▼" : "")));
}

function rowOf(job, columns) {
	const open = h("button", { type: "button", class: "open", "aria-expanded": "false", "aria-label": `Command of ${label(job, "")}` }, "›");
	const row = h("tr", { class: job.state === "finished" ? "" : "unfinished" }, h("td", {}, open), columns.map((column) => h("td", { class: column.numeric ? "numeric" : "" }, column.show(job))));
	open.addEventListener("click", () => {
		const detail = row.nextElementSibling?.classList.contains("detail") ? row.nextElementSibling : null;
		open.setAttribute("aria-expanded", String(!detail));
		if (detail) return detail.remove();
		row.after(h("tr", { class: "detail" }, h("td", { colspan: columns.length + 1 }, h("div", {}, job.reason && h("p", {}, job.reason, h("small", {}, ` — the traceback is in ${job.hash}/train.log`)), command(repeat(job))))));
	});
	return row;
}
