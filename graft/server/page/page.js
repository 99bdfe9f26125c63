// The page: which skills are on, what is asked of them, and where the answers go.

import { classify, listSkills, write } from "./api.js";
import { element, showLabels, showPlace, showWritten } from "./results.js";

const $ = (id) => document.getElementById(id);
const MOST = 24; // skills whose places are drawn
const state = { base: "", skills: [], composed: [], on: new Set(["base"]) };

const names = () => ["base", ...state.skills.map((skill) => skill.name), ...state.composed];
const wanted = () => names().filter((name) => state.on.has(name));

function drawSkills() {
  const chips = names().map((name) => {
    const box = element("input", { type: "checkbox", checked: state.on.has(name), name });
    box.addEventListener("change", () => {
      if (box.checked) state.on.add(name);
      else state.on.delete(name);
      drawPlaces();
    });
    const skill = state.skills.find((item) => item.name === name);
    const size = skill ? element("small", {}, `${Math.ceil(skill.bytes / 1000).toLocaleString()} kB`) : null;
    return element("span", { className: "chip" }, element("label", {}, box, element("span", {}, name), size));
  });
  $("skills").replaceChildren(...chips);
}

function drawChoices() {
  const options = state.skills.map(({ name }) => element("option", { value: name }, name));
  $("first").replaceChildren(...options);
  $("second").replaceChildren(...options.map((option) => option.cloneNode(true)));
  if (state.skills.length > 1) $("second").selectedIndex = 1;
  $("compose").hidden = state.skills.length < 2;
  const tasks = state.skills.filter((skill) => skill.task);
  const own = element("option", { value: "" }, "each skill itself");
  $("task").replaceChildren(...tasks.map(({ name }) => element("option", { value: name }, name)), ...(tasks.length > 1 ? [own] : []));
}

function drawPlaces() {
  const parts = new Set(wanted().flatMap((name) => name.split("+")));
  const shown = state.skills.filter((skill) => parts.has(skill.name)).slice(0, MOST);
  const none = element("p", { className: "note" }, "Switch a skill on to see where it is.");
  $("places").replaceChildren(...(shown.length ? shown.map(showPlace) : [none]));
}

function showTab(name) {
  for (const tab of ["classify", "write"]) {
    $(tab).hidden = tab !== name;
    $(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
  }
}

function show(nodes, legend) {
  $("legend").textContent = legend;
  $("results").replaceChildren(...nodes);
  $("results-section").hidden = false;
}

async function compare() {
  const texts = $("texts").value.split("\n").map((text) => text.trim()).filter(Boolean);
  const task = $("task").value;
  const skills = wanted().filter((name) => task || name !== "base");
  if (!texts.length) throw new Error("type a text first");
  if (!skills.length) throw new Error("switch on a skill first");
  const { results } = await classify(texts, skills, task);
  const calibrated = results.filter((result) => result.calibration !== "none").map((result) => result.skill);
  const how = calibrated.length ? `Calibrated by temperature: ${calibrated.join(", ")}; the others are` : "Probabilities are";
  show(showLabels(texts, results), `${how} softmax as it is. A label that differs from the base's is marked.`);
}

async function generate() {
  const prompt = $("prompt").value;
  if (!prompt.trim()) throw new Error("type a prompt first");
  if (!wanted().length) throw new Error("switch on a skill first");
  const settings = { max_tokens: Number($("tokens").value), temperature: Number($("temperature").value), seed: 0, chat: $("chat").checked };
  const written = await Promise.all(wanted().map(async (skill) => ({ skill, ...(await write(skill, prompt, settings)) })));
  show(showWritten(prompt, written), "Words that differ from the base's are marked.");
}

function onSubmit(form, action) {
  $(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = $(form).querySelector("button[type=submit]");
    button.disabled = true;
    $("problem").hidden = true;
    try {
      await action();
    } catch (error) {
      $("problem").textContent = error.message;
      $("problem").hidden = false;
    } finally {
      button.disabled = false;
    }
  });
}

function composeTwo() {
  const [first, second] = [$("first").value, $("second").value];
  if (first === second) throw new Error("choose two different skills");
  const name = `${first}+${second}`;
  if (!state.composed.includes(name)) state.composed.push(name);
  state.on.add(name);
  drawSkills();
  drawPlaces();
}

async function begin() {
  const { base, generates, skills } = await listSkills();
  Object.assign(state, { base, skills });
  for (const skill of skills.slice(0, 4)) state.on.add(skill.name);
  const total = skills.reduce((sum, skill) => sum + skill.bytes, 0);
  $("summary").textContent = `${base} with ${skills.length} skill${skills.length === 1 ? "" : "s"}, ${Math.ceil(total / 1000).toLocaleString()} kB together`;
  const labels = skills.some((skill) => skill.task);
  $("tabs").hidden = !(generates && labels);
  showTab(labels || !generates ? "classify" : "write");
  drawSkills();
  drawChoices();
  drawPlaces();
  document.body.dataset.ready = "true";
}

$("tab-classify").addEventListener("click", () => showTab("classify"));
$("tab-write").addEventListener("click", () => showTab("write"));
onSubmit("classify", compare);
onSubmit("write", generate);
onSubmit("compose", async () => composeTwo());
begin().catch((error) => {
  $("summary").textContent = error.message;
});
