#!/usr/bin/env bash
# Make ncsn_lightning/report/page/charts.js anew: what the report needs of Observable Plot and D3, in one file, with the
# licences of all that is in it. Needs npm; run it to take newer versions, then open a report and look.
set -euo pipefail
cd "$(dirname "$0")/../../ncsn_lightning/report/page"
PLOT=0.6.17 D3=7.9.2 ESBUILD=0.28.2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

npm install --silent --no-audit --no-fund --prefix "$work" "@observablehq/plot@$PLOT" "d3@$D3" "esbuild@$ESBUILD"
cat > "$work/entry.js" <<'JS'
export { plot, dot, line, ruleX, ruleY, areaY, text, tip, pointer } from "@observablehq/plot";
export { brushY } from "d3-brush";
export { select } from "d3-selection";
export { scaleLinear, scaleLog, scalePoint } from "d3-scale";
JS
"$work/node_modules/.bin/esbuild" "$work/entry.js" --bundle --minify --format=iife --global-name=Charts --target=es2022 \
	--legal-comments=none --log-level=warning --metafile="$work/meta.json" --outfile="$work/charts.js"
node - "$work" > charts.js <<'JS'
const fs = require("fs"), path = require("path"), work = process.argv[2];
const inputs = Object.values(JSON.parse(fs.readFileSync(`${work}/meta.json`)).outputs)[0].inputs;
const names = new Set();
for (const [file, { bytesInOutput }] of Object.entries(inputs)) {
	const found = file.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//);
	if (found && bytesInOutput > 0) names.add(found[1]);
}
const licences = new Map();
for (const name of [...names].sort()) {
	const folder = `${work}/node_modules/${name}`;
	const { version } = JSON.parse(fs.readFileSync(`${folder}/package.json`));
	const file = fs.readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
	const text = fs.readFileSync(path.join(folder, file), "utf8").trim();
	licences.set(text, [...(licences.get(text) ?? []), `${name} ${version}`]);
}
const notices = [...licences].map(([text, packages]) => `${packages.join(", ")}\n\n${text}`);
const source = fs.readFileSync(`${work}/charts.js`, "utf8");
process.stdout.write(`/*\nMade by scripts/tools/vendor_charts.sh. It holds parts of:\n\n${notices.join("\n\n---\n\n").replaceAll("*/", "* /")}\n*/\n${source}`);
JS
ls -l charts.js
