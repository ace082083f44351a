// The one WebSocket: reconnects by itself, and says why when it may not.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10000;
const HEADER_BYTES = 12;
// close codes after which coming back by itself would be wrong: opened elsewhere, not used for long
const FINAL = new Set([4001, 4002]);
const TOO_LARGE = 1009;
const SESSION_KEY = "streamprune-session";

/** Events: "open", "message" (detail: object), "view" (detail: {told, jpeg}), "state" (detail: {state, text}). */
export class Connection extends EventTarget {
  #socket = null;
  #wait = FIRST_WAIT_MS;
  #timer = 0;

  get ready() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  open() {
    clearTimeout(this.#timer);
    const address = new URL("live", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    const session = sessionStorage.getItem(SESSION_KEY);
    if (session) address.searchParams.set("session", session);
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.addEventListener("message", (event) => this.#hear(event.data));
    socket.addEventListener("close", (event) => this.#closed(socket, event));
    this.#socket = socket;
    this.#tell("waiting", "connecting");
  }

  /** Send an object; false when there is no connection. */
  say(message) {
    if (this.ready) this.#socket.send(JSON.stringify(message));
    return this.ready;
  }

  /** Send a JPEG; its number comes back in "seen", "refused" or "replaced". */
  sendPicture(number, seconds, jpeg) {
    const header = new DataView(new ArrayBuffer(HEADER_BYTES));
    header.setUint32(0, number);
    header.setFloat64(4, seconds);
    this.#socket.send(new Blob([header.buffer, jpeg]));
  }

  #hear(data) {
    if (data instanceof ArrayBuffer) {
      const length = new DataView(data).getUint32(0);
      const told = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      const jpeg = new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" });
      this.dispatchEvent(new CustomEvent("view", { detail: { told, jpeg } }));
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "hello") {
      sessionStorage.setItem(SESSION_KEY, message.session);
      this.#wait = FIRST_WAIT_MS;
      this.#tell("open", "connected");
    }
    this.dispatchEvent(new CustomEvent("message", { detail: message }));
  }

  async #closed(socket, event) {
    if (socket !== this.#socket) return;
    if (FINAL.has(event.code)) {
      this.#tell("over", "closed", `The connection was closed: ${event.reason}. Reload the page to go on here.`);
      return;
    }
    if (event.code === TOO_LARGE) {
      this.#tell("lost", "lost", "The server hung up on a message that is too large.");
    }
    if (await this.#refused()) return;
    const wait = this.#wait * (0.75 + Math.random() / 2);
    this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT_MS);
    this.#tell("lost", `connection lost, trying again in ${Math.ceil(wait / 1000)} s`);
    this.#timer = setTimeout(() => this.open(), wait);
  }

  /** A server that is there and lets nobody in is not asked again and again. */
  async #refused() {
    try {
      const answer = await fetch("health", { cache: "no-store" });
      if (answer.status !== 401 && answer.status !== 421) return false;
      this.#tell("over", "not let in", await answer.text());
      return true;
    } catch {
      return false;
    }
  }

  #tell(state, text, notice = "") {
    this.dispatchEvent(new CustomEvent("state", { detail: { state, text, notice } }));
  }
}
