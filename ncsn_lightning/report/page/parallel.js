// Parallel coordinates: a line for each configuration, through its settings and metrics; brushing an axis selects lines.
const GAP = 112, SPACE = 14; // pixels between axes, and between their headings, at least

function drawParallel(section) {
	const rows = ranked().reverse(); // the best is drawn last, and so on top
	if (!rows.length) return section.append(note("No job has finished yet."));
	const axes = axesOf(rows);
	const heads = axes.map((axis) => headWidth(heading(axis.key))), edge = Math.max(60, heads[0] / 2 + 2, heads.at(-1) / 2 + 2);
	const least = Math.max(GAP, ...heads.slice(1).map((head, index) => (head + heads[index]) / 2 + SPACE));
	const width = Math.max(section.clientWidth, 2 * edge + least * (axes.length - 1)), height = 340;
	const top = 46, bottom = height - 18, gap = (width - 2 * edge) / (axes.length - 1);
	const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
	const plot = Charts.select(svg).attr("viewBox", `0 0 ${width} ${height}`).attr("width", width).attr("height", height).attr("class", "parallel").attr("role", "img").attr("aria-label", "Parallel coordinates: a line a configuration");
	axes.forEach((axis, index) => Object.assign(axis, { x: edge + index * gap, scale: axis.scale.range([bottom, top]) }));
	const good = goodness(rows.map((row) => row.mean));
	const lines = plot.append("g").attr("fill", "none").selectAll("path").data(rows).join("path")
		.attr("d", (row) => pathOf(axes, row))
		.attr("style", (row) => `stroke:${ramp(0.25 + 0.75 * good(row.mean))}`)
		.attr("stroke-width", rows.length > FEW ? 1.2 : 2);
	lines.append("title").text((row) => `${label(row.first)}\n${view.metric} ${plusMinus(row.mean, row.error)}`);
	const said = h("p", { class: "note", "aria-live": "polite" });
	const brushes = readBrushes(axes);
	const apply = () => {
		const inside = (row) => axes.every((axis) => within(axis, row, brushes.get(axis.key)));
		lines.classed("out", (row) => !inside(row));
		const chosen = rows.filter(inside).reverse();
		said.replaceChildren(brushes.size ? `${chosen.length} of ${plural(rows.length, "configuration")} chosen${chosen.length ? `, the best of them ${label(chosen[0].first)}: ${plusMinus(chosen[0].mean, chosen[0].error)}` : ""}. Double-click an axis to clear its selection.` : "Drag along an axis to choose the lines that pass through that range. The stronger a line’s colour, the better its configuration.");
	};
	for (const axis of axes) drawAxis(plot, axis, brushes, [top, bottom], apply);
	apply();
	section.append(h("div", { class: "scroll" }, svg), said);
}

function axesOf(rows) {
	const swept = keys.filter((key) => key !== view.over && levelsOf(key).length > 1).map((key) => {
		const { values, numbers: sizes } = data.factors[keys.indexOf(key)];
		const index = keys.indexOf(key);
		if (!sizes || values.length <= 8) return { key, of: (row) => levelText(row.first, key), scale: Charts.scalePoint().domain(values).padding(0.3), ticks: values };
		const scale = (isLog(sizes) ? Charts.scaleLog() : Charts.scaleLinear()).domain([Math.min(...sizes), Math.max(...sizes)]);
		return { key, of: (row) => sizes[row.first.levels[index]], scale, ticks: ticks(scale.copy().range([0, 100])) };
	});
	const others = data.metrics.filter((name) => name !== view.metric && /error|off_support/.test(name)).slice(0, 2);
	const metrics = [...others.reverse(), view.metric].map((name) => {
		const values = new Map(rows.map((row) => [row.first, numbers(row.jobs, name).mean]));
		const found = [...values.values()].filter(Number.isFinite);
		const low = Math.min(...found), high = Math.max(...found);
		const scale = (isLog(found) ? Charts.scaleLog() : Charts.scaleLinear()).domain(low < high ? [low, high] : [low - 1, low + 1]);
		return { key: name, of: (row) => values.get(row.first), scale, ticks: ticks(scale.copy().range([0, 100])) };
	});
	return [...swept, ...metrics.filter((axis) => Number.isFinite(axis.scale.domain()[0]))];
}

function pathOf(axes, row) {
	const points = axes.map((axis) => [axis.x, axis.scale(axis.of(row))]).filter(([, y]) => Number.isFinite(y));
	return points.map(([x, y], index) => {
		if (!index) return `M${x},${y.toFixed(1)}`;
		const middle = (points[index - 1][0] + x) / 2;
		return `C${middle},${points[index - 1][1].toFixed(1)} ${middle},${y.toFixed(1)} ${x},${y.toFixed(1)}`;
	}).join("");
}

function heading(key) {
	return key.length > 18 ? key.split(".").at(-1) : key;
}

// The width of a heading in pixels, in the font that the style sheet gives it.
function headWidth(text) {
	const context = document.createElement("canvas").getContext("2d");
	context.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
	return context.measureText(text).width;
}

function drawAxis(plot, axis, brushes, [top, bottom], apply) {
	const group = plot.append("g").attr("transform", `translate(${axis.x},0)`).attr("class", "axis");
	group.append("line").attr("y1", top).attr("y2", bottom);
	group.append("text").attr("class", "title").attr("y", 18).attr("text-anchor", "middle").text(heading(axis.key));
	for (const value of axis.ticks) group.append("text").attr("x", 8).attr("y", axis.scale(value)).attr("dy", "0.32em").text(typeof value === "number" ? number(value, 2) : shortened(value));
	const brush = Charts.brushY().extent([[-14, top - 6], [14, bottom + 6]]);
	const handle = group.append("g").attr("class", "brush").call(brush);
	const held = brushes.get(axis.key);
	if (held) handle.call(brush.move, held.map((share) => bottom - share * (bottom - top)));
	brush.on("brush end", (event) => {
		if (event.selection) brushes.set(axis.key, event.selection.map((y) => (bottom - y) / (bottom - top)));
		else brushes.delete(axis.key);
		apply();
		if (event.type === "end") keepBrushes(brushes);
	});
	axis.share = (value) => (bottom - axis.scale(value)) / (bottom - top);
}

function within(axis, row, brush) {
	if (!brush) return true;
	const share = axis.share(axis.of(row));
	return share <= brush[0] && share >= brush[1];
}

// In the URL's fragment a brush is a range of its axis, from 0 at the foot to 1 at the top: `schedule*0.2*0.5`.
function keepBrushes(brushes) {
	view.brush = [...brushes].map(([key, [high, low]]) => [key, low.toFixed(3), high.toFixed(3)].join("*")).join("!");
	given.add("brush");
	writeFragment();
}

function readBrushes(axes) {
	const parts = view.brush.split("!").map((part) => part.split("*")).filter((part) => part.length === 3);
	return new Map(parts.filter(([key]) => axes.some((axis) => axis.key === key)).map(([key, low, high]) => [key, [Number(high), Number(low)]]));
}
