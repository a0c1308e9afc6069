// The answer first: the best configuration, how sure that is, and all of them in order.
const SHOWN = 12, MOST = 40; // rows: so many, and as many as cannot be told from the best, at first

function drawAnswer(section) {
	const found = data.answers[view.metric];
	if (!found) {
		section.append(h("p", { class: "lead" }, "No job has finished yet, so there is no answer. The same command goes on where it stopped:"), command(data.command));
		return;
	}
	const best = jobs[found.best];
	const resultOf = (job) => numbers(groups(seedIndex < 0 ? "" : data.seed).find((group) => group.first === job).jobs);
	const result = resultOf(best), isComplete = found.complete[0] === found.best;
	section.append(
		h("div", { class: "best" },
			h("p", { class: "best-name" }, chips(named(best, data.seed))),
			h("p", { class: "best-value" }, h("strong", {}, plusMinus(result.mean, result.error)), " ", view.metric),
			h("p", { class: "best-how" }, sureness(result)),
			!isComplete && h("p", { class: "provisional" }, provisional(result, found, resultOf)),
			h("p", { class: "verdict" }, result.n > 1 ? verdict(found) : "From one seed nobody can tell whether the others are worse.", " ", twins(found), " ", pending()),
			found.idle.map((line) => h("p", { class: "idle" }, line)),
			command(found.command),
		),
	);
	drawRanking(section, found, result.n > 1);
}

function sureness({ n, planned }) {
	if (n < 2) return n < planned ? "one seed so far: nothing is known about its spread" : "one seed: nothing is known about its spread; sweep seed=0,1,2 to learn it";
	return `mean ± standard error over ${n} seeds`;
}

function provisional({ n, planned }, { complete }, resultOf) {
	const lead = `This leader is provisional: ${n} of its ${planned} seeds ${n === 1 ? "has" : "have"} finished. `;
	if (!complete.length) return `${lead}No configuration has all of its seeds yet.`;
	const beside = jobs[complete[0]], { mean, error } = resultOf(beside);
	const of = complete.length === 1 ? "The one configuration whose seeds have all finished" : `The best of the ${complete.length} whose seeds have all finished`;
	return `${lead}${of}: ${label(beside, data.seed)}, ${plusMinus(mean, error)}.`;
}

function verdict({ ties, comparisons }) {
	const rest = comparisons.length - 1;
	if (!rest) return "No other configuration has finished.";
	if (!ties) return `Each of the ${rest} other configurations is worse than it, beyond what its seeds explain.`;
	if (ties === rest) return `${rest === 1 ? "The one other configuration" : `None of the ${rest} other configurations`} can${rest === 1 ? "not" : ""} be told from it by these seeds.`;
	return `${ties} of the ${rest} other configurations cannot be told from it by these seeds; ${ties === 1 ? "it is" : "they are"} marked below.`;
}

function twins({ twins }) {
	if (!twins) return "";
	return `${twins === 1 ? "One of them has" : `${twins} of them have`} the very same numbers: what sets ${twins === 1 ? "it" : "them"} apart changed nothing that this metric sees.`;
}

function pending() {
	const open = jobs.filter((job) => ["waiting", "running", "interrupted", "preempted"].includes(job.state)).length;
	return open ? `${plural(open, "job")} of ${jobs.length} ${open === 1 ? "is" : "are"} still to come, and may change this.` : "";
}

function drawRanking(section, found, several) {
	const compared = new Map(found.comparisons.map(([first, seeds, effect, low, high, told]) => [first, { seeds, effect, low, high, told, ratio: found.ratios }]));
	const bySeeds = view.over === data.seed || seedIndex < 0;
	const rows = ranked();
	const tied = bySeeds && several ? rows.findLastIndex((row) => compared.get(row.first.index)?.told === false) : 0;
	const shown = view.more.includes("r") ? rows : rows.slice(0, Math.min(Math.max(SHOWN, tied + 1), MOST));
	const scale = track(shown);
	section.append(h("h3", {}, bySeeds ? "All configurations, best first" : `In order of their mean over ${view.over || "nothing: job by job"}`));
	const list = h("ol", { class: "ranking", style: `--names:${Math.max(namesOf(), 1)}` }, axis(scale, bySeeds && several));
	for (const row of shown) list.append(rankingRow(row, scale, bySeeds && several ? compared.get(row.first.index) : null, row.first.index === found.best, found));
	section.append(h("div", { class: "scroll" }, list));
	more(section, "r", rows.length - shown.length, "configurations");
	if (bySeeds && several) section.append(howItWasTold());
	if (!bySeeds) section.append(note(`Dots are the single values of ${view.over || "each job"}, the bar is the standard error of their mean.`));
}

function track(rows) {
	const values = rows.flatMap((row) => row.values);
	const scale = isLog(values) ? Charts.scaleLog() : Charts.scaleLinear();
	const low = Math.min(...values), high = Math.max(...values);
	const room = low < high ? 0 : Math.abs(low) * 0.1 || 1;
	return scale.domain([low - room, high + room]).range([2, 98]);
}

// Every setting has a column of its own; where there is no room for columns, each is said with its key.
function namesOf() {
	return keys.filter((key) => key !== view.over).length;
}

function axis(scale, compared) {
	const marks = ticks(scale).map((value) => h("span", { style: `left:${scale(value)}%` }, plain(value)));
	const names = keys.filter((key) => key !== view.over);
	return h("li", { class: "axis", "aria-hidden": "true" }, (names.length ? names : [""]).map((key) => h("span", {}, key)), h("span", { class: "track" }, marks), h("span"), h("span", { class: "difference" }, compared && "worse by (95 %)"));
}

function ticks(scale) {
	const found = scale.ticks(3).filter((value) => scale(value) >= 0 && scale(value) <= 100);
	if (found.length <= 5) return found;
	const decades = found.filter((value) => Number.isInteger(Math.round(Math.log10(value) * 1e6) / 1e6));
	return decades.length > 1 ? decades : found.filter((value) => /^[125]/.test(value.toExponential()));
}

function rankingRow(row, scale, comparison, isBest, found) {
	const clamp = (value) => Math.min(100, Math.max(0, scale(value)));
	const error = row.error || 0;
	const from = clamp(Math.max(row.mean - error, scale.domain()[0])), to = clamp(row.mean + error);
	const kind = isBest ? "is-best" : comparison && !comparison.told ? "is-tied" : "";
	const text = isBest ? (found.complete[0] === found.best ? "the best" : "leads, provisionally") : comparison && !comparison.told ? "cannot be told from it" : "";
	return h("li", { class: kind },
		namesOf() ? keys.filter((key) => key !== view.over).map((key) => h("span", { class: "level", "data-key": key }, levelText(row.first, key) || "–")) : h("span", {}, "the only one"),
		h("span", { class: "track", "aria-hidden": "true" },
			ticks(scale).map((value) => h("i", { class: "tick", style: `left:${scale(value)}%` })),
			h("i", { class: "range", style: `left:${from}%;width:${to - from}%` }),
			row.values.map((value) => h("i", { class: "dot", style: `left:${scale(value)}%` })),
			h("i", { class: "mean", style: `left:${scale(row.mean)}%` })),
		h("span", { class: "value" }, plusMinus(row.mean, row.error), row.n < row.planned && h("small", {}, `${row.n} of ${row.planned} finished`), text && h("em", {}, text)),
		h("span", { class: "difference" }, comparison && !isBest ? worse(comparison) : ""),
	);
}

function worse({ seeds, effect, low, high, ratio }) {
	if (!seeds) return "no common seed";
	const sign = ratio ? "× " : "";
	if (seeds === 1) return `${sign}${number(effect)}, one seed`;
	return `${sign}${number(effect, 2)} [${number(low, 2)}, ${number(high, 2)}]`;
}

function howItWasTold() {
	return h("details", { class: "note" },
		h("summary", {}, "How this was told"),
		h("p", {}, "Small dots are seeds, the large one is their mean, the bar its standard error. The best configuration is the one with the lowest mean; it is provisional while seeds of it are missing, and one of whose seeds any diverged comes after all others. “Worse by” is the factor between two configurations, its geometric mean over the seeds that both share (where a metric can be 0 or less: the difference), with its 95 % bootstrap interval, widened as Student’s t asks for few seeds. Where the interval holds 1 (of a difference: 0), the two cannot be told apart. Each interval is for one comparison; with many of them, one in twenty is wrong by chance."),
	);
}

function more(section, letter, hidden, what) {
	if (view.more.includes(letter)) section.append(h("button", { type: "button", class: "more", onclick: () => change({ more: view.more.replace(letter, "") }) }, "Show fewer"));
	else if (hidden > 0) section.append(h("button", { type: "button", class: "more", onclick: () => change({ more: view.more + letter }) }, `Show ${hidden} more ${what}`));
}
