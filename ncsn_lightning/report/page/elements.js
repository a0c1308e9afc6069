// Elements and numbers. All text is inserted as text, never as HTML.
function h(tag, attributes = {}, ...children) {
	const element = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
		else if (name === "style") element.style.cssText = value;
		else if (value === true) element.setAttribute(name, "");
		else if (value !== false && value != null) element.setAttribute(name, value);
	}
	element.append(...children.flat().filter((child) => child != null && child !== false));
	return element;
}

function choice(label, options, value, act) {
	const list = h("select", { onchange: (event) => act(event.target.value) });
	for (const [key, text] of options) list.append(h("option", { value: key, selected: key === value }, text));
	return h("label", { class: "choice" }, h("span", {}, label), list);
}

function command(text) {
	const code = h("code", { tabindex: 0 }, text);
	const button = h("button", { type: "button", class: "copy", "aria-label": `Copy: ${text}` }, "Copy");
	button.addEventListener("click", async () => {
		try {
			await navigator.clipboard.writeText(text);
			button.textContent = "Copied";
		} catch {
			getSelection().selectAllChildren(code); // without access to the clipboard the text is selected, to be copied by keyboard
			button.textContent = "Selected";
		}
		setTimeout(() => (button.textContent = "Copy"), 1500);
	});
	return h("div", { class: "command" }, code, button);
}

function note(...children) {
	return h("p", { class: "note" }, ...children);
}

function chips(levels) {
	const parts = levels.map(([key, value]) => h("span", { class: "chip" }, h("span", { class: "key" }, key), value));
	return h("span", { class: "chips" }, parts.length ? parts : "the only configuration");
}

const MINUS = "−";

function number(value, digits = 3) {
	if (value == null || !Number.isFinite(value)) return "–";
	if (value === 0) return "0";
	const size = Math.abs(value);
	if (size >= 1e5 || size < 1e-3) {
		const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
		return `${mantissa.replace("-", MINUS)}e${exponent.replace("+", "").replace("-", MINUS)}`;
	}
	return Number(value.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits, minimumSignificantDigits: size < 1e3 ? digits : undefined, useGrouping: false }).replace("-", MINUS);
}

// A mean and its error, rounded to the same decimal place, so that the error has two digits.
function plusMinus(mean, error) {
	if (!Number.isFinite(error) || error === 0) return number(mean);
	const power = Math.floor(Math.log10(Math.abs(mean) || 1));
	const scale = power < -3 || power > 4 ? 10 ** power : 1;
	const places = Math.min(12, Math.max(0, 1 - Math.floor(Math.log10(error / scale))));
	const text = `${(mean / scale).toFixed(places)} ± ${(error / scale).toFixed(places)}`.replaceAll("-", MINUS);
	return scale === 1 ? text : `(${text})e${String(power).replace("-", MINUS)}`;
}

function percent(share) {
	return share > 0 && share < 0.001 ? "< 0.1\u00a0%" : `${(100 * share).toFixed(1)}\u00a0%`;
}

function plural(count, word, many = `${word}s`) {
	return `${count} ${count === 1 ? word : many}`;
}
