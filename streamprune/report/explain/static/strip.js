// The film: pictures with the fates of their tokens drawn over them, by pointer and by keyboard.
"use strict";

const strip = document.getElementById("strip"), told = document.getElementById("told");
const SHOTS = [];  // one entry a picture: its canvas, frame and number within all pictures
const ACROSS = 300;
let shown = null, lines = null;

const time = (seconds) => `${seconds.toFixed(2)}\u00a0s`;

function buildStrip() {
  const most = Math.max(...DATA.pictures.map((pair) => pair.length));
  strip.style.setProperty("--wide", `${most > 1 ? 230 : DATA.grid.frames > 32 ? 112 : 136}px`);
  DATA.pictures.forEach((pair, frame) => {
    const figure = document.createElement("figure"), row = document.createElement("div");
    row.className = "pair";
    pair.forEach((picture) => row.append(buildShot(picture, frame)));
    const caption = document.createElement("figcaption");
    caption.innerHTML = "<span></span><b></b>";
    caption.firstChild.textContent = `${frame + 1} · ${time(DATA.pts_seconds[frame])}`;
    figure.append(row, caption);
    figure.dataset.frame = frame;
    strip.append(figure);
  });
  lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  lines.setAttribute("class", "lines");
  lines.setAttribute("aria-hidden", "true");
  strip.append(lines);
}

function buildShot(picture, frame) {
  const box = document.createElement("div"), image = new Image(), canvas = document.createElement("canvas");
  box.className = "shot";
  box.style.aspectRatio = `${picture.cols} / ${picture.rows}`;
  image.alt = "";
  image.width = picture.cols;
  image.height = picture.rows;
  image.src = picture.url;
  canvas.width = ACROSS;
  canvas.height = Math.round(ACROSS * picture.rows / picture.cols);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  const shot = { canvas, frame, number: SHOTS.length, cursor: -1 };
  SHOTS.push(shot);
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    point(shot, Math.floor((event.clientY - box.top) / box.height * shown.rows), Math.floor((event.clientX - box.left) / box.width * shown.cols));
  });
  canvas.addEventListener("pointerleave", forget);
  canvas.addEventListener("focus", () => { if (shot.cursor < 0) shot.cursor = 0; walk(shot, 0, 0); });
  canvas.addEventListener("blur", forget);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    walk(shot, ...step);
  });
  box.append(image, canvas);
  return box;
}

function walk(shot, rows, cols) {
  const row = Math.floor(shot.cursor / shown.cols) + rows, col = shot.cursor % shown.cols + cols;
  point(shot, row, col);
}

/* Number of a place of the view: counted over pictures where they differ, else over frames. */
const base = (shot) => (shown.perPicture ? shot.number : shot.frame) * shown.rows * shown.cols;

function where(place) {
  const each = shown.rows * shown.cols, at = Math.floor(place / each), within = place % each;
  const frame = shown.perPicture ? SHOTS[at].frame : at;
  return `frame ${frame + 1}, row ${Math.floor(within / shown.cols) + 1}, column ${within % shown.cols + 1}`;
}

function point(shot, row, col) {
  row = Math.min(Math.max(row, 0), shown.rows - 1);
  col = Math.min(Math.max(col, 0), shown.cols - 1);
  const cell = row * shown.cols + col, place = base(shot) + cell;
  if (shot.cursor === cell && told.dataset.place === String(place)) return;
  shot.cursor = cell;
  told.dataset.place = place;
  const group = members(place);
  const words = where(place);
  told.textContent = `${words[0].toUpperCase()}${words.slice(1)} (${time(DATA.pts_seconds[shot.frame])}) ${shown.words(place, where)}.`
    + (group.length > 1 ? ` The yellow places became one: ${count(group.length)} of them.` : "");
  paint(new Set(group.length ? group : [place]), place);
  connect(group);
}

function forget() {
  delete told.dataset.place;
  told.textContent = "Point at a place of a frame.";
  paint(new Set(), -1);
  lines.replaceChildren();
}

/* All places that stand as one with `place`. */
function members(place) {
  const to = shown.into[place], found = [];
  if (to >= 0) shown.into.forEach((one, other) => { if (one === to) found.push(other); });
  return found;
}

function connect(group) {
  lines.replaceChildren();
  if (group.length < 2) return;
  const to = shown.into[group[0]], end = middle(to), outer = strip.getBoundingClientRect();
  for (const place of group.slice(0, 300)) {
    if (place === to) continue;
    const start = middle(place);
    const [x1, y1, x2, y2] = [start.x - outer.left, start.y - outer.top, end.x - outer.left, end.y - outer.top];
    const bend = Math.min(60, Math.hypot(x2 - x1, y2 - y1) / 4);
    for (const under of [true, false]) {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", `M${x1} ${y1}Q${(x1 + x2) / 2} ${(y1 + y2) / 2 - bend} ${x2} ${y2}`);
      if (under) path.setAttribute("class", "under");
      lines.append(path);
    }
  }
}

function middle(place) {
  const each = shown.rows * shown.cols, at = Math.floor(place / each), within = place % each;
  const shot = shown.perPicture ? SHOTS[at] : SHOTS.find((one) => one.frame === at);
  const box = shot.canvas.getBoundingClientRect();
  return {
    x: box.left + (within % shown.cols + .5) * box.width / shown.cols,
    y: box.top + (Math.floor(within / shown.cols) + .5) * box.height / shown.rows,
  };
}

function paint(marked, pointed) {
  for (const shot of SHOTS) paintShot(shot, marked, pointed);
}

function paintShot(shot, marked, pointed) {
  const brush = shot.canvas.getContext("2d"), { width, height } = shot.canvas;
  const wide = width / shown.cols, high = height / shown.rows, first = base(shot);
  const holders = shown.holders;
  brush.clearRect(0, 0, width, height);
  for (let cell = 0; cell < shown.rows * shown.cols; cell++) {
    const place = first + cell, x = cell % shown.cols * wide, y = Math.floor(cell / shown.cols) * high;
    paintCell(brush, shown.state[place], shown.strength[place], x, y, wide, high);
    if (holders.has(place)) outline(brush, "#e69f00", x, y, wide, high, Math.max(1.5, wide / 12));
  }
  for (const place of marked) {
    const cell = place - first;
    if (cell < 0 || cell >= shown.rows * shown.cols) continue;
    const x = cell % shown.cols * wide, y = Math.floor(cell / shown.cols) * high;
    outline(brush, "#10151b", x, y, wide, high, 5);
    outline(brush, place === pointed ? "#ffffff" : "#f0e442", x, y, wide, high, 2.6);
  }
}

function outline(brush, colour, x, y, wide, high, width) {
  brush.strokeStyle = colour;
  brush.lineWidth = width;
  brush.strokeRect(x + width / 2, y + width / 2, wide - width, high - width);
}

/* Never by colour alone: lines for merged, crosses for dropped, dots for reused, a level for partly held. */
function paintCell(brush, state, strength, x, y, wide, high) {
  const fill = (colour) => { brush.fillStyle = colour; brush.fillRect(x, y, wide, high); };
  brush.lineWidth = Math.max(1, wide / 18);
  if (state === MERGED) {
    fill("rgb(0 90 160 / 46%)");
    brush.strokeStyle = "rgb(150 212 255 / 85%)";
    stroke(brush, [[x, y + high, x + wide, y]]);
  } else if (state === DROPPED) {
    fill("rgb(12 16 22 / 84%)");
    brush.strokeStyle = "rgb(255 255 255 / 38%)";
    const [a, b] = [wide * .34, high * .34];
    stroke(brush, [[x + a, y + b, x + wide - a, y + high - b], [x + wide - a, y + b, x + a, y + high - b]]);
  } else if (state === BEFORE) {
    fill("rgb(70 78 88 / 90%)");
  } else if (state === REUSED) {
    fill("rgb(150 60 120 / 52%)");
    brush.fillStyle = "rgb(255 225 245 / 90%)";
    brush.beginPath();
    brush.arc(x + wide / 2, y + high / 2, Math.max(1.4, wide / 9), 0, 7);
    brush.fill();
  } else if (state === PARTLY) {
    brush.fillStyle = "rgb(12 16 22 / 78%)";
    brush.fillRect(x, y, wide, high * (1 - strength));
    brush.strokeStyle = "rgb(255 255 255 / 60%)";
    stroke(brush, [[x, y + high * (1 - strength), x + wide, y + high * (1 - strength)]]);
  } else if (state === LIGHT) {
    fill(`rgb(8 11 16 / ${Math.round(88 * (1 - strength))}%)`);
  }
}

function stroke(brush, segments) {
  brush.beginPath();
  for (const [x1, y1, x2, y2] of segments) { brush.moveTo(x1, y1); brush.lineTo(x2, y2); }
  brush.stroke();
}

/* Show `found`; captions count what each frame has. */
function showView(found, label) {
  shown = found;
  const members = new Map();
  found.into.forEach((to, place) => { if (to >= 0 && to !== place) members.set(to, true); });
  found.holders = new Set([...members.keys()].filter((place) => found.state[place] === KEPT));
  paint(new Set(), -1);
  lines.replaceChildren();
  for (const figure of strip.querySelectorAll("figure")) {
    const shots = SHOTS.filter((one) => one.frame === Number(figure.dataset.frame));
    const each = found.rows * found.cols, starts = found.perPicture ? shots.map((one) => one.number * each) : [shots[0].frame * each];
    let kept = 0;
    for (const start of starts) for (let place = start; place < start + each; place++) kept += found.state[place] === KEPT || found.state[place] === PARTLY;
    const all = starts.length * each, lit = found.state[starts[0]] === LIGHT;
    const spoken = lit ? "" : `: ${kept} of ${all} ${found.perPicture ? "patches" : "tokens"}`;
    const words = lit ? percent(DATA.attention.frames[shots[0].frame]) : label === "pictures" ? `${all}` : `${kept}/${all}`;
    figure.querySelector("b").textContent = words;
    for (const shot of shots) shot.canvas.setAttribute("aria-label", `Frame ${shot.frame + 1} at ${time(DATA.pts_seconds[shot.frame])}${spoken}. Arrow keys go through its places.`);
  }
}
