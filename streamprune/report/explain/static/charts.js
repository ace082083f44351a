// Charts as SVG, drawn at the width that there is.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function part(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function sheet(box, height, label) {
  const width = Math.max(260, box.clientWidth);
  const made = part(box, "svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  return [made, width];
}

const LEFT = 46, RIGHT = 6;

/* Segments and the curve, kept tokens, attention: one column a frame. */
function drawTimeline() {
  const box = document.getElementById("timeline"), frames = DATA.grid.frames;
  box.replaceChildren();
  const attention = DATA.attention ? DATA.attention.frames : null;
  const [chart, width] = sheet(box, attention ? 376 : 286, "Similarity, kept tokens and attention of each frame; the table below says the same");
  const step = (width - LEFT - RIGHT) / frames, x = (frame) => LEFT + frame * step;
  drawTrack(chart, width);
  const lowest = Math.min(...DATA.similarity, 1), room = Math.max(1 - lowest, 1e-6) * 1.12, low = 1 - room;
  const top = 66, high = 84, y = (value) => top + high * (1 - (value - low) / room);
  DATA.segments.edges.forEach(([start, stop], number) => {
    part(chart, "rect", { class: number % 2 ? "odd" : "even", x: x(start), y: top, width: (stop - start) * step, height: high });
    if (start) part(chart, "line", { class: "border", x1: x(start), x2: x(start), y1: top - 4, y2: top + high });
  });
  part(chart, "text", { class: "name", x: LEFT, y: top - 9 }, `Similarity of neighbours, ${DATA.segments.edges.length} segment${DATA.segments.edges.length > 1 ? "s" : ""}`);
  scale(chart, top, high, [1, low], (value) => value.toFixed(2));
  if (DATA.similarity.length) {
    const points = DATA.similarity.map((value, frame) => [x(frame + 1), y(value)]);
    part(chart, "path", { class: "curve", d: "M" + points.map((one) => one.join(" ")).join("L") });
    if (step > 9) for (const [cx, cy] of points) part(chart, "circle", { class: "dot", cx, cy, r: 2.4 });
  }
  const rows = DATA.kept.per_frame, most = Math.max(...rows, 1), after = lastRows();
  bars(chart, x, step, 190, 66, "Tokens kept", rows, most, count, "bar");
  if (after) after.forEach((value, frame) => ghostHatch(chart, x(frame), step, 190, 66, value / most, rows[frame] / most));
  if (attention) bars(chart, x, step, 286, 66, "Attention of the question", attention, Math.max(...attention, 1e-9), percent, "bar warm");
  const bottom = attention ? 352 : 256;
  const every = Math.ceil(frames / Math.max(2, Math.floor((width - LEFT) / 62)));
  for (let frame = 0; frame < frames; frame += every) part(chart, "text", { x: x(frame) + step / 2, y: bottom + 15, "text-anchor": "middle" }, time(DATA.pts_seconds[frame]));
  for (let frame = 0; frame < frames; frame++) {
    const hot = part(chart, "rect", { class: "hot", x: x(frame), y: top, width: step, height: bottom - top });
    hot.addEventListener("pointerenter", () => chooseFrame(frame, hot));
    hot.addEventListener("pointerleave", () => chooseFrame(-1, hot));
  }
}

/* Of a method inside the language model: what of each frame reaches the last layer. */
function lastRows() {
  if (!DATA.in_llm) return null;
  const found = new Array(DATA.grid.frames).fill(0), last = DATA.in_llm.present[DATA.in_llm.present.length - 1];
  DATA.kept.index.forEach((place, row) => { if (place >= 0 && last[row] === "1") found[Math.floor(place / PER_FRAME)]++; });
  return found;
}

function drawTrack(chart, width) {
  const long = DATA.duration_seconds || DATA.pts_seconds[DATA.pts_seconds.length - 1] || 1, room = width - LEFT - RIGHT;
  part(chart, "rect", { class: "track", x: LEFT, y: 18, width: room, height: 12, rx: 4 });
  part(chart, "text", { class: "name", x: LEFT, y: 11 }, "Moments of the video that were looked at");
  for (const picture of DATA.pictures.flat()) {
    const at = LEFT + Math.min(1, picture.pts_seconds / long) * room;
    part(chart, "line", { class: "tick", x1: at, x2: at, y1: 16, y2: 32 });
  }
  part(chart, "text", { x: LEFT - 6, y: 28, "text-anchor": "end" }, "0");
  part(chart, "text", { x: width - RIGHT, y: 44, "text-anchor": "end" }, time(long));
}

function scale(chart, top, high, [most, least], words) {
  part(chart, "text", { x: LEFT - 6, y: top + 9, "text-anchor": "end" }, words(most));
  part(chart, "text", { x: LEFT - 6, y: top + high, "text-anchor": "end" }, words(least));
}

function bars(chart, x, step, top, high, name, values, most, words, className) {
  part(chart, "text", { class: "name", x: LEFT, y: top - 9 }, name);
  part(chart, "line", { class: "axis", x1: LEFT, x2: x(values.length), y1: top + high, y2: top + high });
  scale(chart, top, high, [most, 0], (value) => (value ? words(value) : "0"));
  const gap = Math.min(3, step * .2);
  values.forEach((value, number) => part(chart, "rect", {
    class: className, x: x(number) + gap / 2, width: Math.max(1, step - gap), y: top + high * (1 - value / most), height: Math.max(value ? 1 : 0, high * value / most), rx: Math.min(2, step / 6),
  }));
}

/* The part of a bar that is let go inside the language model. */
function ghostHatch(chart, x, step, top, high, reached, kept) {
  const gap = Math.min(3, step * .2), y1 = top + high * (1 - kept), y2 = top + high * (1 - reached);
  if (y2 - y1 < 1) return;
  part(chart, "rect", { x: x + gap / 2, y: y1, width: Math.max(1, step - gap), height: y2 - y1, style: "fill: var(--card); opacity: .55" });
}

function chooseFrame(frame, hot) {
  for (const figure of strip.querySelectorAll("figure")) figure.dataset.chosen = Number(figure.dataset.frame) === frame;
  hot.dataset.on = frame >= 0;
  const words = document.getElementById("time-told");
  if (frame < 0) { words.textContent = "Point at a frame."; return; }
  const segment = DATA.segments.edges.findIndex(([start, stop]) => frame >= start && frame < stop);
  words.textContent = `Frame ${frame + 1} at ${time(DATA.pts_seconds[frame])}, segment ${segment + 1}: ${count(DATA.kept.per_frame[frame])} of ${PER_FRAME} tokens kept`
    + (DATA.attention ? `, ${percent(DATA.attention.frames[frame])} of the attention` : "")
    + (frame ? `, ${DATA.similarity[frame - 1].toFixed(4)} like the frame before.` : ".");
}

function drawLayers() {
  const box = document.getElementById("layer-charts"), own = DATA.reduced, full = DATA.full;
  box.replaceChildren();
  const kilo = (value) => value >= 2 ** 20 ? `${(value / 2 ** 20).toFixed(1)} MB` : `${(value / 1024).toFixed(value < 10240 ? 1 : 0)} KB`;
  for (const [name, key, words] of [["Visual tokens", "layer_tokens", count], ["KV cache", "kv_bytes", kilo]]) {
    const [chart, width] = sheet(box, 128, `${name} of each layer; the table below says the same`);
    const values = own[key], most = Math.max(...values, ...(full ? full[key] : []), 1), step = (width - 62 - RIGHT) / values.length;
    const x = (number) => 62 + number * step, top = 24, high = 78, gap = Math.min(8, step * .25);
    part(chart, "text", { class: "name", x: 62, y: 14 }, name);
    part(chart, "line", { class: "axis", x1: 62, x2: width - RIGHT, y1: top + high, y2: top + high });
    part(chart, "text", { x: 56, y: top + 9, "text-anchor": "end" }, words(most));
    part(chart, "text", { x: 56, y: top + high, "text-anchor": "end" }, "0");
    const every = Math.ceil(values.length / Math.max(2, Math.floor(width / 34)));
    values.forEach((value, number) => {
      const left = x(number) + gap / 2, wide = Math.max(1, step - gap);
      part(chart, "rect", { class: "bar", x: left, width: wide, y: top + high * (1 - value / most), height: high * value / most });
      if (full) part(chart, "rect", { class: "ghost", x: left, width: wide, y: top + high * (1 - full[key][number] / most), height: high * full[key][number] / most });
      if (number % every === 0) part(chart, "text", { x: x(number) + step / 2, y: top + high + 16, "text-anchor": "middle" }, number);
    });
  }
}

function table(box, head, rows) {
  const made = document.createElement("table"), [top, body] = [made.createTHead().insertRow(), made.createTBody()];
  for (const name of head) { const cell = document.createElement("th"); cell.scope = "col"; cell.textContent = name; top.append(cell); }
  for (const row of rows) { const line = body.insertRow(); for (const value of row) line.insertCell().textContent = value; }
  box.replaceChildren(made);
}

function fillTables() {
  table(document.getElementById("time-table"), ["frame", "time", "like the one before", "tokens kept", ...(DATA.attention ? ["attention"] : [])],
    DATA.pts_seconds.map((seconds, frame) => [frame + 1, time(seconds), frame ? DATA.similarity[frame - 1].toFixed(4) : "", DATA.kept.per_frame[frame], ...(DATA.attention ? [percent(DATA.attention.frames[frame], 2)] : [])]));
  const names = DATA.full ? [DATA.reduced, DATA.full] : [DATA.reduced];
  table(document.getElementById("layer-table"), ["layer", ...names.flatMap((run) => [`${run.label}: tokens`, "KV bytes"])],
    DATA.reduced.kv_bytes.map((_, layer) => [layer, ...names.flatMap((run) => [count(run.layer_tokens[layer]), count(run.kv_bytes[layer])])]));
}
