// What became of every token, stage by stage, read off the page's data.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const KEPT = 0, MERGED = 1, DROPPED = 2, REUSED = 3, PARTLY = 4, LIGHT = 5, BEFORE = 6;
const PER_FRAME = DATA.grid.rows * DATA.grid.cols;
const TOKENS = DATA.grid.frames * PER_FRAME;
const PICTURES = DATA.pictures.flat().length;

const count = (value) => Math.round(value).toLocaleString("en");
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

/* One way to look at the film: the fates of `frames` x `rows` x `cols` places.
   state: what became of each; into: the place that each is part of, -1 = none, itself where it stands alone;
   strength: how much of it is there, for states that come in degrees; words(place) says more about one. */
function view(rows, cols, perPicture) {
  const places = (perPicture ? PICTURES : DATA.grid.frames) * rows * cols;
  return {
    rows, cols, perPicture, state: new Uint8Array(places), into: new Int32Array(places).fill(-1),
    strength: new Float32Array(places).fill(1), words: () => "",
  };
}

function towerFates(layer) {
  const tower = DATA.tower, found = view(tower.rows, tower.cols, true);
  const at = tower.layers.filter((number) => number <= layer).length;
  for (let place = 0; place < found.state.length; place++) {
    let to = place, merged = true;
    while (tower.left_at[to] >= 0 && tower.left_at[to] < at) {
      merged = merged && tower.merged[to] === "1";
      to = tower.into[to];
    }
    found.into[place] = to;
    found.state[place] = to === place ? KEPT : merged ? MERGED : DROPPED;
  }
  found.words = (place, where) => found.state[place] === KEPT ? "goes on as it is"
    : found.state[place] === MERGED ? `was merged into ${where(found.into[place])}`
      : `goes no further; its result is read back from ${where(found.into[place])}`;
  return found;
}

function towerReuse(layer) {
  const found = view(DATA.grid.rows, DATA.grid.cols, false), marks = DATA.tower.recomputed[layer];
  for (let place = 0; place < TOKENS; place++) found.state[place] = marks[place] === "1" ? KEPT : REUSED;
  found.words = (place) => {
    const layers = DATA.tower.recomputed.filter((one) => one[place] === "1").length;
    return `${found.state[place] === KEPT ? "computed anew" : "reused from an earlier frame"} in this layer; computed anew in ${layers} of ${DATA.tower.recomputed.length} layers`;
  };
  return found;
}

const sizeWords = (row) => {
  const size = DATA.kept.size[row];
  return size === 1 ? "" : ` and stands for ${Number(size.toFixed(2))} tokens`;
};

function keptFates() {
  const found = view(DATA.grid.rows, DATA.grid.cols, false), { index, source } = DATA.kept;
  for (let place = 0; place < TOKENS; place++) {
    const row = source[place];
    found.into[place] = row < 0 ? -1 : index[row];
    found.state[place] = row < 0 ? DROPPED : index[row] === place ? KEPT : MERGED;
  }
  found.words = (place, where) => {
    const row = source[place];
    if (row < 0) return "was dropped before the language model";
    return index[row] === place ? `is kept${sizeWords(row)}` : `went mostly into ${where(index[row])}, which stands for ${Number(DATA.kept.size[row].toFixed(2))} tokens`;
  };
  return found;
}

function inside(layer) {
  const before = keptFates(), found = view(DATA.grid.rows, DATA.grid.cols, false);
  const { index, source } = DATA.kept, present = DATA.in_llm.present[layer], into = new Map();
  for (const [at, row, to] of DATA.in_llm.merged) if (at <= layer) into.set(row, to);
  const standing = (row) => {
    for (let steps = 0; row !== undefined && present[row] !== "1" && steps <= into.size; steps++) row = into.get(row);
    return row !== undefined && present[row] === "1" ? row : -1;
  };
  for (let place = 0; place < TOKENS; place++) {
    const row = source[place];
    if (row < 0) { found.state[place] = BEFORE; continue; }
    const to = standing(row);
    found.into[place] = to < 0 ? -1 : index[to];
    found.state[place] = to < 0 ? (before.state[place] === KEPT ? DROPPED : BEFORE) : index[to] === place ? KEPT : MERGED;
  }
  found.words = (place, where) => {
    const row = source[place];
    if (row < 0) return "was dropped before the language model";
    const to = standing(row);
    if (to < 0) return index[row] === place ? "was let go inside the language model" : `went into ${where(index[row])} before the language model, which was let go inside`;
    return index[to] === place ? `enters this layer${sizeWords(to)}` : `enters this layer as part of ${where(index[to])}`;
  };
  return found;
}

function cached(number) {
  const found = view(DATA.grid.rows, DATA.grid.cols, false), layer = DATA.cache.layers[number];
  const { index, source } = DATA.kept, heads = DATA.cache.heads;
  for (let place = 0; place < TOKENS; place++) {
    const row = source[place], held = row < 0 ? 0 : layer.held[row];
    found.strength[place] = held / heads;
    found.into[place] = row < 0 || !held ? -1 : index[row];
    found.state[place] = row < 0 ? BEFORE : !held ? DROPPED : index[row] !== place ? MERGED : held < heads ? PARTLY : KEPT;
  }
  found.words = (place, where) => {
    const row = source[place];
    if (row < 0) return "was dropped before the language model";
    const part = index[row] === place ? "" : `as part of ${where(index[row])} `;
    return `${part}is held by ${layer.held[row]} of ${heads} heads in this layer`;
  };
  return found;
}

function looked() {
  const found = view(DATA.grid.rows, DATA.grid.cols, false), shares = DATA.attention.tokens;
  // one place in fifty is fully bright: a single peak would leave the rest black
  const most = [...shares].sort((one, other) => other - one)[Math.floor(shares.length / 50)];
  for (let place = 0; place < TOKENS; place++) {
    found.state[place] = LIGHT;
    found.strength[place] = most ? Math.min(1, Math.sqrt(shares[place] / most)) : 0;
  }
  found.words = (place) => `gets ${percent(shares[place], 3)} of the question's attention (an even share is ${percent(1 / TOKENS, 3)})`;
  return found;
}

function plain() {
  const found = view(DATA.grid.rows, DATA.grid.cols, false);
  found.words = () => "as it was shown to the model";
  return found;
}

/* The views that this run has, each with its layers and what to say about it. */
const VIEWS = [{ id: "pictures", label: "Pictures", make: plain, legend: [], lead: () => DATA.lead.pictures }];
if (DATA.tower) {
  const reuses = Boolean(DATA.tower.recomputed);
  VIEWS.push({
    id: "tower", label: "Vision tower", make: reuses ? towerReuse : towerFates,
    layers: Array.from({ length: reuses ? DATA.tower.recomputed.length : DATA.tower.tokens.length }, (_, n) => n),
    legend: reuses ? [[KEPT, "computed anew"], [REUSED, "reused from an earlier frame"]]
      : [[KEPT, "goes on"], [MERGED, "merged into another patch"], [DROPPED, "goes no further, read back from another"]],
    lead: () => DATA.lead.tower,
  });
}
VIEWS.push({
  id: "kept", label: "Before the LLM", make: keptFates, lead: () => DATA.lead.kept,
  legend: [[KEPT, "kept"], [MERGED, "merged into another token"], [DROPPED, "dropped"]],
});
if (DATA.in_llm) VIEWS.push({
  id: "in_llm", label: "In the LLM", make: inside, layers: DATA.in_llm.present.map((_, n) => n), lead: () => DATA.lead.in_llm,
  legend: [[KEPT, "enters the layer"], [MERGED, "enters as part of another token"], [DROPPED, "let go inside the LLM"], [BEFORE, "gone before"]],
});
if (DATA.cache) VIEWS.push({
  id: "cache", label: "KV cache", make: cached, layers: DATA.cache.layers.map((one) => one.layer), lead: () => DATA.lead.cache,
  legend: [[KEPT, "held by all heads"], [PARTLY, "held by some"], [MERGED, "held as part of another token"], [DROPPED, "held by none"], [BEFORE, "gone before"]],
});
if (DATA.attention && DATA.attention.tokens.length) VIEWS.push({
  id: "attention", label: "Attention", make: looked, lead: () => DATA.lead.attention, legend: [[LIGHT, "the brighter, the more the question looks there"]],
});
