// The answer first: the best configuration, how sure that is, and all of them in order.
const SHOWN = 12, MOST = 40; // rows shown at first: SHOWN, or up to MOST if more cannot be told from the best

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
			h("p", { class: "verdict" }, result.n > 1 ? verdict(found) : "One seed cannot tell whether the others are worse.", " ", twins(found), " ", pending()),
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
	return `${twins === 1 ? "One of them has" : `${twins} of them have`} exactly the same values: the parameters in which ${twins === 1 ? "it differs" : "they differ"} have no effect on this metric.`;
}

function pending() {
	const open = jobs.filter((job) => ["waiting", "running", "interrupted", "preempted"].includes(job.state)).length;
	return open ? `${plural(open, "job")} of ${jobs.length} ${open === 1 ? "is" : "are"} still to come, and may change this.` : "";
}

function drawRanking(section, found, several) {
	const compared = new Map(found.comparisons.map(([first, seeds, effect, low, high, differs]) => [first, { seeds, effect, low, high, differs, ratio: found.ratios }]));
	const bySeeds = view.over === data.seed || seedIndex < 0;
	const rows = ranked();
	const tied = bySeeds && several ? rows.findLastIndex((row) => compared.get(row.first.index)?.differs === false) : 0;
	const shown = view.more.includes("r") ? rows : rows.slice(0, Math.min(Math.max(SHOWN, tied + 1), MOST));
	const scale = track(shown);
	section.append(h("h3", {}, bySeeds ? "All configurations, best first" : `${view.over ? `In order of the mean over ${view.over}` : "In order, job by job"}`));
	const list = h("ol", { class: "ranking", style: `--names:${Math.max(namesOf(), 1)}` }, axis(scale, bySeeds && several));
	for (const row of shown) list.append(rankingRow(row, scale, bySeeds && several ? compared.get(row.first.index) : null, row.first.index === found.best, found));
	section.append(h("div", { class: "scroll" }, list));
	more(section, "r", rows.length - shown.length, "configurations");
	if (bySeeds && several) section.append(howItIsCompared());
	if (!bySeeds) section.append(note(`Dots are the values of ${view.over || "each job"}, and the bar is the standard error of their mean.`));
}

function track(rows) {
	const values = rows.flatMap((row) => row.values);
	const scale = isLog(values) ? Charts.scaleLog() : Charts.scaleLinear();
	const low = Math.min(...values), high = Math.max(...values);
	const room = low < high ? 0 : Math.abs(low) * 0.1 || 1;
	return scale.domain([low - room, high + room]).range([2, 98]);
}

// The number of swept keys in a row. Each has a column; on a narrow page, where there are no columns, its key is shown.
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
	const kind = isBest ? "is-best" : comparison && !comparison.differs ? "is-tied" : "";
	const text = isBest ? (found.complete[0] === found.best ? "the best" : "leads, provisionally") : comparison && !comparison.differs ? "cannot be told from it" : "";
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

function howItIsCompared() {
	return h("details", { class: "note" },
		h("summary", {}, "How configurations are compared"),
		h("p", {}, "Small dots are seeds, the large dot is their mean, and the bar is its standard error. The best configuration has the lowest mean; it is provisional while some of its seeds have not finished. Configurations of which a seed diverged come after all others. “Worse by” is the ratio of a configuration to the best one, as a geometric mean over the seeds that both have (for a metric that can be 0 or less: the difference). Its interval is a 95 % bootstrap interval, widened by Student’s t for few seeds. If the interval contains 1 (for a difference: 0), the two cannot be told apart. Each interval is for one comparison: of many, one in twenty is wrong by chance."),
	);
}

function more(section, letter, hidden, what) {
	if (view.more.includes(letter)) section.append(h("button", { type: "button", class: "more", onclick: () => change({ more: view.more.replace(letter, "") }) }, "Show fewer"));
	else if (hidden > 0) section.append(h("button", { type: "button", class: "more", onclick: () => change({ more: view.more + letter }) }, `Show ${hidden} more ${what}`));
}
