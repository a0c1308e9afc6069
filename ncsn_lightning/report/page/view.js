// The settings of the view, which are kept in the URL's fragment, so that every view has a link.
const data = JSON.parse(document.getElementById("data").textContent);
const keys = data.factors.map((factor) => factor.key);
const seedIndex = keys.indexOf(data.seed);
const others = keys.filter((key) => key !== data.seed);

const defaults = {
	metric: data.metrics.includes(data.metric) ? data.metric : (data.metrics[0] ?? ""),
	over: seedIndex < 0 ? "" : data.seed, // the factor that is averaged over, "" for none
	of: "linear", // what the variance is of: the metric, or its logarithm
	rows: others[0] ?? keys[0] ?? "",
	columns: others[1] ?? keys.find((key) => key !== (others[0] ?? keys[0])) ?? "",
	color: "",
	curve: "",
	brush: "",
	find: "",
	state: "",
	sort: "",
	more: "",
	theme: "",
	at: "",
};
const allowed = {
	metric: data.metrics,
	over: ["", ...keys],
	of: ["linear", "log"],
	rows: keys,
	columns: keys,
	color: ["", ...keys],
	theme: ["", "light", "dark"],
};
const view = { ...defaults };

function readFragment() {
	const found = new URLSearchParams(location.hash.slice(1));
	for (const name of Object.keys(defaults)) {
		const value = found.get(name) ?? defaults[name];
		view[name] = !allowed[name] || allowed[name].includes(value) ? value : defaults[name];
	}
	// A factor that is averaged over cannot colour lines; by default the first factor with few values does.
	const coloured = keys.filter((key) => key !== view.over);
	const few = coloured.find((key) => levelsOf(key).length > 1 && levelsOf(key).length <= 8);
	if (!view.color || view.color === view.over) view.color = few ?? coloured[0] ?? "";
}

function levelsOf(key) {
	return data.factors[keys.indexOf(key)]?.values ?? [];
}

function writeFragment() {
	const kept = Object.keys(defaults).filter((name) => view[name] !== defaults[name] && given.has(name));
	const text = new URLSearchParams(kept.map((name) => [name, view[name]])).toString();
	history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

// The names of settings that the user has changed; a link contains only these.
const given = new Set(new URLSearchParams(location.hash.slice(1)).keys());

function change(values) {
	Object.assign(view, values);
	for (const name of Object.keys(values)) given.add(name);
	writeFragment();
	readFragment();
	draw(Object.keys(values));
}
