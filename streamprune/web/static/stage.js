// The picture the model saw, and over it what became of each patch.

import { clock } from "./format.js";

const LONGEST_SIDE = 960;
const KEPT = 1;
const REUSED = 2;

/** Draws into the canvas and tells the same in words. */
export class Stage {
  #canvas = document.getElementById("stage");
  #chip = document.getElementById("chip");
  #switch = document.getElementById("overlay");
  #picture = null;
  #told = null;

  constructor() {
    this.#canvas.dataset.overlays = "0";
    this.#switch.addEventListener("change", () => this.#draw());
  }

  /** `picture`: canvas or ImageBitmap; `told`: what the server said of it. One that was skipped, or waits
   * for another, leaves what is shown as it is: the model has not seen it. */
  show(picture, told) {
    if (told.cells || !this.#picture) {
      this.#picture = picture;
      this.#told = told;
      document.getElementById("empty").hidden = true;
      this.#draw();
      this.#count();
    }
    this.#say(told);
    if (told.cells) this.#canvas.dataset.overlays = String(Number(this.#canvas.dataset.overlays) + 1);
  }

  #draw() {
    if (!this.#picture) return;
    const { width: cols, height: rows } = this.#picture;
    const scale = LONGEST_SIDE / Math.max(cols, rows);
    this.#canvas.width = Math.round(cols * scale);
    this.#canvas.height = Math.round(rows * scale);
    const context = this.#canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#picture, 0, 0, this.#canvas.width, this.#canvas.height);
    if (this.#switch.checked && this.#told.cells) this.#drawCells(context);
  }

  #drawCells(context) {
    const [rows, cols] = this.#told.grid;
    const [high, wide] = [this.#canvas.height / rows, this.#canvas.width / cols];
    const hatch = hatching(context);
    const border = Math.max(2, Math.min(high, wide) / 22);
    context.lineWidth = border;
    context.strokeStyle = "#5b95ff";
    [...this.#told.cells].forEach((digit, index) => {
      const [left, top] = [(index % cols) * wide, Math.floor(index / cols) * high];
      if (!(Number(digit) & KEPT)) {
        context.fillStyle = "rgb(9 13 19 / 66%)";
        context.fillRect(left, top, wide, high);
        context.fillStyle = hatch;
        context.fillRect(left, top, wide, high);
      }
      if (Number(digit) & REUSED) {
        context.strokeRect(left + border, top + border, wide - 2 * border, high - 2 * border);
      }
    });
  }

  #flags() {
    return [...(this.#told.cells ?? "")].map(Number);
  }

  #count() {
    const flags = this.#flags();
    const count = (flag) => flags.filter((value) => value & flag).length;
    const shown = { kept: count(KEPT), reused: count(REUSED), dropped: flags.length - count(KEPT) };
    for (const [name, number] of Object.entries(shown)) {
      document.getElementById(`count-${name}`).textContent = flags.length ? number : "–";
    }
  }

  #say(told) {
    const flags = this.#flags();
    const kept = flags.filter((value) => value & KEPT).length;
    const words = !told.accepted ? `skipped: ${told.reason}`
      : told.cells ? `${kept} of ${flags.length} patches kept` : "waits for its pair";
    this.#chip.hidden = false;
    this.#chip.textContent = `${clock(told.seconds)} · ${words}`;
    this.#canvas.setAttribute("aria-label", `Picture of ${clock(this.#told.seconds)}: ` +
      `${kept} of ${flags.length} patches kept. At ${clock(told.seconds)}: ${words}.`);
  }
}

/** Thin slanted lines, so that dropped patches can be told from dark ones without seeing colours. */
function hatching(context) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 12;
  const lines = tile.getContext("2d");
  lines.strokeStyle = "rgb(255 255 255 / 20%)";
  lines.lineWidth = 1.5;
  for (const shift of [-12, 0, 12]) {
    lines.beginPath();
    lines.moveTo(shift, 12);
    lines.lineTo(shift + 12, 0);
    lines.stroke();
  }
  return context.createPattern(tile, "repeat");
}
