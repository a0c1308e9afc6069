// Pictures of samples: first draws of the target, then each configuration with its seeds side by side, on the same axes.
const CARDS = 24;

function drawSamples(section) {
	if (!data.gallery.length) return section.append(note("No job has left samples yet."));
	for (const [index, target] of data.gallery.entries()) drawTarget(section, target, `s${index}`);
	section.append(note("Each picture shows the density of samples on a square-root scale from 0 to the target’s highest density, the same for all pictures of a target. “Truth” shows as many draws of the target as a job has samples."));
}

function drawTarget(section, target, letter) {
	const [left, right, low, high] = target.frame;
	const rows = groups().map((group) => ({ ...group, ...numbers(group.jobs), pictured: group.jobs.some((job) => target.jobs[job.index]) })).filter((row) => row.pictured);
	rows.sort((a, b) => (a.n ? a.mean : Infinity) - (b.n ? b.mean : Infinity));
	const open = view.more.includes(letter);
	const shown = open ? rows : rows.slice(0, CARDS);
	const ratio = (right - left) / (high - low);
	const truth = h("figure", { class: "card truth" }, h("div", { class: "pictures" }, picture(target.truth, "samples of the truth", ratio)), h("figcaption", {}, h("strong", {}, "Truth"), h("small", {}, `x₁ ${number(left, 2)} … ${number(right, 2)}, x₂ ${number(low, 2)} … ${number(high, 2)}`)));
	if (data.gallery.length > 1) section.append(h("h3", {}, common(Object.keys(target.jobs).map((index) => jobs[index]))));
	const most = Math.max(...shown.map((row) => row.jobs.length), 1);
	section.append(h("div", { class: "gallery", style: `--card:${Math.max(13.5, Math.min(4.4 * most, 36))}rem` }, truth, shown.map((row) => card(row, target, ratio))));
	more(section, letter, rows.length - shown.length, "configurations");
}

// The settings that the jobs on a target share with each other but not with all jobs: `distribution=moons`.
function common(members) {
	const shared = (list) => named(list[0], "").filter(([key, value]) => list.every((job) => levelText(job, key) === value)).map((pair) => pair.join("="));
	const everywhere = shared(jobs);
	return shared(members).filter((pair) => !everywhere.includes(pair)).join(" ") || "one of the targets";
}

function card(row, target, ratio) {
	const pictures = row.jobs.map((job) => (target.jobs[job.index] ? picture(target.jobs[job.index], `samples of ${label(job, "")}, ${job.state}`, ratio) : hole(job, ratio)));
	return h("figure", { class: row.jobs.length > 1 ? "card several" : "card" }, h("div", { class: "pictures" }, pictures), h("figcaption", {}, chips(named(row.first)), h("small", {}, row.n ? `${view.metric} ${plusMinus(row.mean, row.error)}` : "not finished")));
}

function picture(bytes, text, ratio) {
	return h("img", { src: `data:image/png;base64,${bytes}`, alt: text, title: text, style: `aspect-ratio:${ratio}`, decoding: "async" });
}

function hole(job, ratio) {
	return h("span", { class: "hole", style: `aspect-ratio:${ratio}`, title: `${label(job, "")}: ${job.state}` }, GLYPHS[job.state], h("span", { class: "hidden" }, job.state));
}
