// What is shown of answers and skills. All text goes in as text, so that nothing of a patch or model acts as HTML.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const percent = (share) => (share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(share > 0.0995 ? 0 : 1)} %`);

function bars(labels, probabilities) {
  const rows = labels.map((label, i) => [label, probabilities[i]]).sort((a, b) => b[1] - a[1]).slice(0, 8);
  rows.sort((a, b) => labels.indexOf(a[0]) - labels.indexOf(b[0]));
  const cells = rows.flatMap(([label, share]) => {
    const bar = element("i");
    bar.style.width = `${100 * share}%`;
    return [
      element("span", { className: "name", title: label }, label),
      element("span", { className: "track" }, bar),
      element("span", { className: "share" }, percent(share)),
    ];
  });
  return element("div", { className: "bars" }, ...cells);
}

function answer(skill, best, content, through = "") {
  const title = element("h3", {}, skill, through && skill !== through ? element("small", {}, ` → ${through}`) : "");
  const head = element("header", {}, title, best);
  return element("article", { className: skill === "base" ? "answer base" : "answer" }, head, content);
}

export function showLabels(texts, results) {
  const base = results.find((result) => result.skill === "base");
  return texts.map((text, i) => {
    const answers = results.map((result) => {
      const one = { ...result, ...result.predictions[i] }; // of the router's choice each text has its own labels
      const { label, confidence, probabilities } = one;
      if (label === null) return answer(result.skill, "", element("p", { className: "note" }, "no skill's texts are like this one"));
      const changed = base && base.task === one.task && base.predictions[i].label !== label;
      const best = element("span", { className: changed ? "best changed" : "best" }, element("b", {}, label), ` ${percent(confidence)}`);
      const cut = one.cut ? element("p", { className: "note cut" }, "too long: only its beginning was read") : null;
      return answer(result.skill, best, element("div", {}, bars(one.labels, probabilities), cut), one.skill);
    });
    return element("div", { className: "text" }, element("blockquote", {}, text), element("div", { className: "grid" }, ...answers));
  });
}

// Words that are not in the longest common subsequence with the base's.
export function markChanged(base, text) {
  const [a, b] = [base, text].map((whole) => whole.match(/\s+|[^\s]+/g) ?? []);
  const common = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
  const parts = [];
  let i = 0;
  for (let j = 0; j < b.length; j++) {
    while (i < a.length && a[i] !== b[j] && common[i + 1][j] >= common[i][j + 1]) i++;
    const same = i < a.length && a[i] === b[j];
    parts.push(same || !b[j].trim() ? b[j] : element("mark", {}, b[j]));
    if (same) i++;
  }
  return parts;
}

export function showWritten(prompt, written) {
  const base = written.find(({ skill }) => skill === "base");
  const answers = written.map(({ skill, text, finished }) => {
    const parts = base && skill !== "base" ? markChanged(base.text, text) : [text];
    const end = element("span", { className: "best" }, finished === "length" ? "cut at the limit" : "");
    return answer(skill, end, element("p", { className: "written" }, ...parts));
  });
  return [element("div", { className: "text" }, element("blockquote", {}, prompt), element("div", { className: "grid" }, ...answers))];
}

function heatMap({ layers, modules, counts }) {
  const most = Math.log1p(Math.max(...counts.flat()));
  const head = element("tr", {}, element("th"), ...modules.map((name) => element("th", { scope: "col" }, element("span", {}, name))));
  const rows = layers.map((layer, i) => {
    const cells = counts[i].map((count, j) => {
      const share = most ? Math.log1p(count) / most : 0;
      const cell = element("td", { title: `${layer} ${modules[j]}: ${count} entries` }, count ? String(count) : "");
      if (count) cell.style.background = `rgba(var(--heat), ${(0.12 + 0.5 * share).toFixed(3)})`;
      return cell;
    });
    return element("tr", {}, element("th", { scope: "row" }, layer), ...cells);
  });
  const map = element("table", { className: "map" }, element("thead", {}, head), element("tbody", {}, ...rows));
  return element("div", { className: "scroll", tabIndex: 0 }, map);
}

function facts(skill) {
  const { card, task } = skill;
  const metrics = card.metrics?.test ?? card.metrics ?? {};
  const rows = [
    ["Entries", `${card.k.toLocaleString()}${card.density ? ` (${(100 * card.density).toPrecision(2)} % of the base)` : ""}`],
    ["File", `${skill.bytes.toLocaleString()} bytes`],
    ["From", skill.source],
    ["Method", card.method?.name ?? card.method?.method],
    ["Task", task && `${task.name}: ${task.labels.join(", ")}`],
    ["Longest text", task && `${task.max_length.toLocaleString()} tokens`],
    ["No labels", task ? null : skill.why_no_task],
    ["Confidence", skill.temperature ? `calibrated, temperature ${skill.temperature.toFixed(2)}` : task && "softmax as it is, not calibrated"],
    ["Accuracy", typeof metrics.accuracy === "number" ? `${metrics.accuracy.toFixed(3)} on its author's test split` : null],
    ["License", card.licence],
  ];
  return element("dl", {}, ...rows.filter((row) => row[1]).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

export function showPlace(skill) {
  const card = element("details", {}, element("summary", {}, "Card"), element("pre", {}, JSON.stringify(skill.card, null, 2)));
  const about = element("div", { className: "about" }, heatMap(skill.map), element("div", {}, facts(skill), card));
  return element("article", { className: "place" }, element("h3", {}, skill.name), about);
}
