// The page: connects what is seen, what is asked and what is heard.

import { Camera } from "./camera.js";
import { Connection } from "./connection.js";
import { element } from "./format.js";
import { showLatency, showSettings, showStats } from "./gauges.js";
import { Questions } from "./questions.js";
import { Stage } from "./stage.js";
import { Watches } from "./watches.js";

const RATES = [0.2, 0.5, 1, 2, 4, 8, 15];
const MOST_NOTICES = 3;

const byId = (id) => document.getElementById(id);
const connection = new Connection();
const stage = new Stage();
const questions = new Questions(connection, complain);
const watches = new Watches(connection, complain);
const camera = new Camera(byId("preview"), {
  send: (number, seconds, jpeg) => {
    if (!connection.ready) return false;
    connection.sendPicture(number, seconds, jpeg);
    return true;
  },
  complain,
  onEnd: () => { byId("camera-start").textContent = "Start camera"; },
});
let fresh = true;

/** Tell the user what is wrong until it is read; the same thing once. */
function complain(text) {
  const notices = byId("notices");
  if ([...notices.children].some((notice) => notice.firstChild.textContent === text)) return;
  const notice = element("div", "notice");
  const close = element("button", "plain", "Dismiss");
  close.type = "button";
  close.addEventListener("click", () => notice.remove());
  notice.append(element("span", "", text), close);
  notices.append(notice);
  while (notices.childElementCount > MOST_NOTICES) notices.firstElementChild.remove();
}

function greet(hello) {
  const own = hello.mode === "page";
  byId("camera-controls").hidden = !own;
  byId("source").hidden = own;
  byId("model").hidden = false;
  byId("model").textContent = hello.model;
  byId("empty").textContent = own ? "Start the camera, or play a video file." : "Waiting for the source.";
  camera.maxBytes = hello.max_upload_bytes;
  camera.forget();
  if (fresh) offerRates(hello.fps);
  fresh = false;
  showSettings(hello.settings);
  questions.restore(hello.history);
  watches.restore(hello.watches);
}

function offerRates(most) {
  const rates = [...RATES.filter((rate) => rate < most), most];
  byId("fps").replaceChildren(...rates.map((rate) => new Option(String(rate), String(rate), false, rate === most)));
  camera.setRate(most);
}

function showSource(source) {
  const line = byId("source");
  line.dataset.bad = String(!source.connected);
  const parts = [source.name, source.connected ? "connected" : source.error || "not connected"];
  if (source.dropped) parts.push(`${source.dropped} pictures passed over`);
  if (source.reconnects) parts.push(`reconnected ${source.reconnects} times`);
  line.textContent = parts.join(" · ");
}

function seen(told) {
  const done = camera.settle(told.number);
  if (!done) return;
  stage.show(done.picture, told);
  showLatency(done.ms);
}

const handlers = {
  hello: greet,
  seen,
  replaced: ({ number }) => camera.settle(number),
  refused: ({ number, message }) => { camera.settle(number); complain(message); },
  stats: (stats) => { showStats(stats); if (stats.source) showSource(stats.source); },
  asked: (exchange) => questions.add(exchange),
  piece: ({ id, text }) => questions.piece(id, text),
  answered: (exchange) => questions.finish(exchange),
  watching: (watch) => watches.add(watch),
  alert: (alert) => watches.alert(alert),
  unwatched: ({ id }) => watches.remove(id),
  reset: () => questions.restore([]),
  error: ({ message }) => complain(message),
};

connection.addEventListener("message", ({ detail }) => handlers[detail.type]?.(detail));
connection.addEventListener("view", async ({ detail: { told, jpeg } }) => {
  try {
    stage.show(await createImageBitmap(jpeg), told);
  } finally {
    connection.say({ type: "shown", number: told.number });
  }
});
connection.addEventListener("state", ({ detail: { state, text, notice } }) => {
  const pill = byId("connection");
  pill.dataset.state = state;
  pill.textContent = text;
  if (notice) complain(notice);
});

async function listCameras() {
  const devices = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  byId("cameras-field").hidden = devices.length < 2;
  const chosen = byId("cameras").value;
  byId("cameras").replaceChildren(...devices.map(({ deviceId, label }, index) =>
    new Option(label || `Camera ${index + 1}`, deviceId, false, deviceId === chosen)));
}

async function startCamera(deviceId) {
  if (!await camera.startCamera(deviceId)) return;
  byId("camera-start").textContent = "Stop";
  await listCameras();
}

byId("camera-start").addEventListener("click", async () => {
  if (camera.running) camera.stop();
  else await startCamera(byId("cameras").value);
});
byId("cameras").addEventListener("change", () => startCamera(byId("cameras").value));
byId("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file && await camera.startFile(file)) byId("camera-start").textContent = "Stop";
  event.target.value = "";
});
byId("fps").addEventListener("change", () => camera.setRate(Number(byId("fps").value)));
byId("reset").addEventListener("click", () => {
  if (confirm("Forget everything that was seen and asked?")) connection.say({ type: "reset" });
});
window.addEventListener("pagehide", () => camera.stop());

connection.open();
