// Jobs, grouped by all swept keys but the one that is averaged over, and the statistics of each group.
const jobs = data.jobs.hash.map((hash, index) => ({
	index,
	hash,
	state: data.jobs.state[index],
	levels: data.jobs.levels[index],
	steps: data.jobs.steps[index],
	seconds: data.jobs.seconds[index],
	reason: data.jobs.reason[index],
	revision: data.jobs.revision[index],
}));

// A metric of a finished job; values of other jobs say nothing about their configuration.
function measured(job, metric = view.metric) {
	return job.state === "finished" ? (data.values[metric]?.[job.index] ?? NaN) : NaN;
}

function levelText(job, key) {
	const factor = keys.indexOf(key);
	return data.factors[factor]?.values[job.levels[factor]] ?? "";
}

function named(job, without = view.over) {
	return keys.filter((key) => key !== without && levelText(job, key) !== "").map((key) => [key, levelText(job, key)]);
}

function label(job, without = view.over) {
	return named(job, without).map((pair) => pair.join("=")).join(" ") || "the only configuration";
}

function repeat(job) {
	const swept = data.factors.map((factor, index) => factor.written[job.levels[index]]).filter(Boolean);
	return [data.program, data.jobs.fixed[job.index], ...swept].filter(Boolean).join(" ");
}

const grouped = new Map();

function groups(over = view.over) {
	if (!grouped.has(over)) {
		const found = new Map();
		for (const job of jobs) {
			const key = job.levels.map((level, index) => (keys[index] === over ? "" : level)).join();
			if (!found.has(key)) found.set(key, { jobs: [], first: job });
			found.get(key).jobs.push(job);
		}
		grouped.set(over, [...found.values()]);
	}
	return grouped.get(over);
}

function numbers(members, metric = view.metric) {
	return spread(members.map((job) => measured(job, metric)), members.length);
}

function spread(values, planned = values.length) {
	const found = values.filter(Number.isFinite);
	const n = found.length;
	const mean = n ? found.reduce((sum, value) => sum + value, 0) / n : NaN;
	const variance = n > 1 ? found.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1) : NaN;
	const deviation = Math.sqrt(variance);
	return { values: found, n, planned, mean, deviation, error: deviation / Math.sqrt(n), low: Math.min(...found), high: Math.max(...found) };
}

function ranked(metric = view.metric) {
	const rows = groups().map((group) => ({ ...group, ...numbers(group.jobs, metric) }));
	const diverged = (row) => row.jobs.some((job) => job.state === "diverged"); // diverging counts as worse than any value
	return rows.filter((row) => row.n).sort((a, b) => diverged(a) - diverged(b) || a.mean - b.mean);
}

// Whether an axis should be logarithmic: all values are positive and span more than a factor of ten.
function isLog(values) {
	const found = values.filter(Number.isFinite);
	return found.length > 0 && found.every((value) => value > 0) && Math.max(...found) / Math.min(...found) > 10;
}

// A function that says how good a value is among others, from 0, the worst, to 1, the best.
function goodness(values) {
	const found = values.filter(Number.isFinite);
	const place = isLog(found) ? Math.log : (value) => value;
	const low = place(Math.min(...found)), high = place(Math.max(...found));
	return (value) => (high > low ? (high - place(value)) / (high - low) : 1);
}

// A colour between worst (0) and best (1), made of CSS variables so that it follows the theme.
function ramp(good) {
	return `color-mix(in oklab, var(--best) ${(100 * good).toFixed(1)}%, var(--worst))`;
}

const COLORS = 8;

function colorOf(job) {
	const levels = levelsOf(view.color);
	const index = levels.indexOf(levelText(job, view.color));
	if (levels.length <= COLORS) return `var(--c${Math.max(index, 0)})`;
	return ramp(1 - index / (levels.length - 1));
}
