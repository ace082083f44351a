// Stage, layer and colours: what the reader switches.
"use strict";

const depth = document.getElementById("depth");
let chosen = VIEWS.find((one) => one.id === DATA.first_view) || VIEWS[0];

function buildViews() {
  const box = document.getElementById("views");
  for (const one of VIEWS) {
    const label = document.createElement("label"), input = document.createElement("input"), words = document.createElement("span");
    input.type = "radio";
    input.name = "view";
    input.value = one.id;
    input.checked = one === chosen;
    input.addEventListener("change", () => choose(one));
    words.textContent = one.label;
    label.append(input, words);
    box.append(label);
  }
}

function choose(one) {
  chosen = one;
  const layers = one.layers || [0];
  depth.max = layers.length - 1;
  depth.value = one.id === "cache" ? 0 : layers.length - 1;
  document.getElementById("layer").dataset.single = layers.length < 2;
  document.getElementById("view-lead").textContent = one.lead();
  buildLegend(one);
  show();
}

function show() {
  const number = Number(depth.value), layers = chosen.layers || [0];
  const found = chosen.make(number);
  showView(found, chosen.id);
  const kept = found.state.reduce((sum, state) => sum + (state === KEPT || state === PARTLY), 0);
  const words = chosen.layers ? `${layers[number]} (of ${layers[0]} to ${layers[layers.length - 1]}): ${count(kept)} of ${count(found.state.length)} ${found.perPicture ? "patches" : "tokens"}` : "";
  document.getElementById("layer-told").textContent = words;
  depth.setAttribute("aria-valuetext", words);
  strip.dataset.view = chosen.id;
  strip.dataset.kept = kept;
}

function buildLegend(one) {
  const box = document.getElementById("legend");
  const occurring = new Set((one.layers || [0]).flatMap((_, number) => [...new Set(one.make(number).state)]));
  const entries = one.legend.filter(([state]) => occurring.has(state)).map(([state, words]) => [state, words, false]);
  if (occurring.has(MERGED)) entries.push([KEPT, "stands for several", true]);
  box.replaceChildren(...entries.map(([state, words, holder]) => {
    const entry = document.createElement("li"), canvas = document.createElement("canvas"), brush = canvas.getContext("2d");
    canvas.width = canvas.height = 44;
    brush.fillStyle = "#c9a66b";
    brush.fillRect(0, 0, 44, 22);
    brush.fillStyle = "#6f9d6a";
    brush.fillRect(0, 22, 44, 22);
    paintCell(brush, state, .5, 0, 0, 44, 44);
    if (holder) outline(brush, "#e69f00", 0, 0, 44, 44, 6);
    canvas.setAttribute("aria-hidden", "true");
    entry.append(canvas, words);
    return entry;
  }));
}

function buildTheme() {
  const button = document.getElementById("theme"), names = ["system", "light", "dark"];
  let now = 0;
  button.addEventListener("click", () => {
    now = (now + 1) % names.length;
    if (now) document.documentElement.dataset.theme = names[now];
    else delete document.documentElement.dataset.theme;
    button.textContent = `Colours: ${names[now]}`;
    button.setAttribute("aria-label", `colours: ${now ? names[now] : "as the system"}`);
  });
}

function drawCharts() {
  drawTimeline();
  drawLayers();
}

document.getElementById("layer").dataset.never = !VIEWS.some((one) => one.layers);
buildStrip();
buildViews();
buildTheme();
choose(chosen);
fillTables();
drawCharts();
depth.addEventListener("input", show);
let drawn = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === drawn) return;
  drawn = window.innerWidth;
  drawCharts();
});
document.documentElement.dataset.ready = "true";
