// What matters: the exact analysis of variance on a grid, else the importances that a random forest gives.
const EFFECTS = 9;

function drawVariance(section) {
	if (data.importance) return drawImportance(section, data.importance);
	const found = data.shares[view.metric];
	if (!found) {
		section.append(note("Not enough jobs have finished: the analysis of variance needs a complete part of the grid."));
		return;
	}
	const of = found.log ? view.of : "linear";
	const effects = found[of];
	if (!effects.length) {
		section.append(note(`${view.metric} is the same in all ${found.jobs} jobs: there is no variance to explain.`));
		return;
	}
	if (found.log) section.append(h("div", { class: "choices" }, choice("Variance of", [["linear", view.metric], ["log", `log ${view.metric}`]], of, (value) => change({ of: value }))));
	section.append(h("p", { class: "lead" }, sentence(effects, found.seeds)));
	section.append(bars(folded(effects).map(([factors, share, chance]) => [factors.length ? factors.join(" × ") : `seeds${found.seeds > 1 ? "" : " (only one)"}`, share, chance, factors.length === 0])));
	section.append(note(explained(found)));
}

function sentence(effects, seedsInACell) {
	const named = effects.slice(0, -1).filter(([, share]) => share >= 0.01).slice(0, 3).map(([factors, share], index) => `${factors.join(" × ")}${index ? "" : " explains"} ${percent(share)}`);
	const seeds = seedsInACell > 1 ? `the seeds alone ${percent(effects.at(-1)[1])}` : "an unknown part of it is the seed’s";
	if (!named.length) return `Of the variance between jobs nearly all comes from the seeds, ${percent(effects.at(-1)[1])}.`;
	return `Of the variance between jobs, ${named.join(", ")} and ${seeds}.`;
}

// The EFFECTS largest effects; the smaller ones are summed into one row, so that the shares still sum to 1.
function folded(effects) {
	const seeds = effects.at(-1), rest = effects.slice(0, -1);
	if (rest.length <= EFFECTS) return effects;
	const small = rest.slice(EFFECTS);
	const sum = (column) => small.reduce((total, effect) => total + effect[column], 0);
	return [...rest.slice(0, EFFECTS), [[`${small.length} more`], sum(1), sum(2)], seeds];
}

function explained({ jobs: used, seeds, left_out }) {
	const gone = Object.entries(left_out).map(([key, values]) => ` without ${key}=${values.join(",")}`);
	const what = "Sums of squares of each factor, each interaction and the seeds, exact and without a model; the shares sum to 1. ";
	const line = seeds > 1 ? "The line across a bar is the share that it would have by chance from the seeds alone. " : "With one seed in each cell the highest interaction cannot be told from chance. ";
	const part = used < jobs.length ? `The grid has holes; this is the largest part of it that has none: ${used} of ${jobs.length} jobs, ${plural(seeds, "seed")} a cell${gone.join("")}.` : `All ${used} jobs are in it.`;
	return what + line + part;
}

function drawImportance(section, { metric, shares, note: remark }) {
	if (remark || !shares.length) {
		section.append(note(remark || "All values are equal: nothing to explain."));
		return;
	}
	section.append(bars(shares.map(([key, share, chance]) => [key, share, chance, share <= chance])));
	section.append(note(`The points form no grid, so these shares of ${metric} come from a random forest (fANOVA): how much of the variance each single parameter explains. The line across a bar is the share that the same forest gives a random number; a parameter that does not exceed it may not matter at all.`));
}

function bars(rows) {
	const most = Math.max(...rows.map(([, share, chance]) => Math.max(share, chance ?? 0)), 1e-9);
	return h("ul", { class: "bars" }, rows.map(([name, share, chance, pale]) =>
		h("li", { class: pale ? "pale" : "" },
			h("span", { class: "name" }, name),
			h("span", { class: "track", "aria-hidden": "true" },
				h("i", { class: "bar-share", style: `width:${(100 * share) / most}%` }),
				chance != null && h("i", { class: "chance", style: `left:${(100 * chance) / most}%` })),
			h("span", { class: "value" }, percent(share)))));
}
