// What it costs: rates, shares, and the bytes of every tier against the budget.

import { bytes, clock, duration, element, percent } from "./format.js";

// in the order in which things are remembered; colours that differ in lightness too
const TIERS = {
  sinks: ["Beginning", "#3f62a0"],
  recent: ["Recent", "#0d9488"],
  mid: ["Mid-term", "#5eb0ef"],
  archive: ["Archive", "#7c5cd6"],
  index: ["Index", "#c084fc"],
  features: ["Features", "#e0792b"],
  dialogue: ["Dialogue", "#e5b53b"],
  working: ["Working copy", "#8fa3b8"],
  tower: ["Tower cache", "#d64c7f"],
  frames: ["Waiting pictures", "#84a94f"],
};
const OTHER = ["", "#999999"];

const tile = (name) => document.getElementById(`tile-${name}`);

function put(name, text, small = "") {
  tile(name).textContent = text;
  if (small) tile(name).append(element("small", "", small));
}

/** Numbers that the page itself measures: from taking a picture to seeing what became of it. */
export function showLatency(ms) {
  put("latency", duration(ms), "until seen");
}

/** A "stats" message. */
export function showStats(stats) {
  const { seen, accepted, skipped } = stats.frames;
  put("fps", stats.fps.toFixed(1), "a second");
  put("kept", stats.tokens_in ? percent(stats.tokens_kept / stats.tokens_in) : "–",
    stats.tokens_in ? `${stats.tokens_kept} of ${stats.tokens_in}` : "");
  put("tower", accepted ? percent(stats.tower_share) : "–", accepted ? "of its work" : "");
  put("frames", String(seen), skipped ? `${skipped} skipped` : "");
  const from = stats.remembers_from_seconds;
  put("remembers", from === null ? "–" : clock((stats.newest_seconds ?? from) - from),
    from === null ? "" : `from ${clock(from)} on`);
  if (stats.latency_seconds !== null && stats.source) showLatency(stats.latency_seconds * 1000);
  showMemory(stats);
}

function showMemory(stats) {
  const held = Object.entries(stats.held).filter(([name, count]) => count > 0 && name !== "spill");
  const total = held.reduce((sum, [, count]) => sum + count, 0);
  document.getElementById("memory-total").textContent =
    `${bytes(total)} of ${bytes(stats.memory_bytes)}, at most ${bytes(stats.peak_bytes)} until now`;
  const bar = document.getElementById("memory-bar");
  bar.setAttribute("aria-valuenow", String(Math.round((100 * total) / stats.memory_bytes)));
  bar.setAttribute("aria-valuetext", `${bytes(total)} of ${bytes(stats.memory_bytes)}`);
  const order = Object.keys(TIERS);
  held.sort(([one], [two]) => order.indexOf(one) - order.indexOf(two));
  bar.replaceChildren(...held.map(([name, count]) => {
    const part = element("span");
    part.style.width = `${(100 * count) / stats.memory_bytes}%`;
    part.style.background = (TIERS[name] ?? OTHER)[1];
    part.title = `${name}: ${bytes(count)}`;
    return part;
  }));
  const listed = stats.held.spill ? [...held, ["spill", stats.held.spill]] : held;
  document.getElementById("memory-tiers").replaceChildren(...listed.map(([name, count]) => {
    const row = element("li");
    const swatch = element("i");
    const [label, color] = name === "spill" ? ["On disk", OTHER[1]] : TIERS[name] ?? [name, OTHER[1]];
    swatch.style.background = color;
    const tokens = stats.tiers[name]?.tokens;
    row.append(swatch, element("span", "", label),
      element("span", "", bytes(count) + (tokens ? ` · ${tokens} tokens` : "")));
    return row;
  }));
}

/** What the stream was opened with. */
export function showSettings(settings) {
  const rows = Object.entries(settings).flatMap(([name, value]) => [
    element("dt", "", name.replaceAll("_", " ")),
    element("dd", "", typeof value === "object" ? JSON.stringify(value) : String(value)),
  ]);
  document.getElementById("settings").replaceChildren(...rows);
}
