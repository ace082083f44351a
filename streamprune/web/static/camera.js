// Pictures of a webcam or of a video file, at a rate, and never two on their way at once.

const LONGEST_SIDE = 640;
const QUALITIES = [0.92, 0.8, 0.6, 0.4];
// an answer that does not come for so long will not come any more
const PATIENCE_MS = 15000;

const REASONS = {
  NotAllowedError: "The browser was not allowed to use the camera. Allow it in the address bar, then start again.",
  NotFoundError: "No camera was found. Plug one in, or play a video file.",
  NotReadableError: "The camera is used by another program.",
  OverconstrainedError: "That camera is not there any more; choose another.",
};

/** Shows `video` and calls `send(number, seconds, jpeg)`; pictures wait in it until `settle`. */
export class Camera {
  fps = 2;
  maxBytes = Infinity;
  #video;
  #send;
  #complain;
  #onEnd;
  #stream = null;
  #timer = 0;
  #number = 0;
  #began = 0;
  #slot = -1; // time is cut into slots of a picture each, so that late pictures do not crowd the next
  #waiting = null; // {number, picture, sentAt} on its way
  #capturing = false;

  constructor(video, { send, complain, onEnd }) {
    this.#video = video;
    this.#send = send;
    this.#complain = complain;
    this.#onEnd = onEnd;
  }

  get running() {
    return this.#timer !== 0;
  }

  /** Start the webcam `deviceId`, or any; false when it cannot be had, and the reason was told. */
  async startCamera(deviceId = "") {
    this.stop();
    if (!navigator.mediaDevices?.getUserMedia) {
      this.#complain("Browsers lend cameras only to pages of this machine or over https. " +
        "Open this page as 127.0.0.1 or behind https, or play a video file.");
      return false;
    }
    try {
      const wanted = deviceId ? { deviceId: { exact: deviceId } } : true;
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    } catch (error) {
      this.#complain(REASONS[error.name] ?? `The camera cannot be used: ${error.message}`);
      return false;
    }
    this.#stream.getVideoTracks()[0].addEventListener("ended", () => {
      this.stop();
      this.#complain("The camera stopped.");
    });
    this.#video.srcObject = this.#stream;
    return this.#play();
  }

  /** Play a file of this computer, again and again; only pictures of it are sent. */
  async startFile(file) {
    this.stop();
    this.#video.src = URL.createObjectURL(file);
    this.#video.loop = true;
    return this.#play();
  }

  stop() {
    const ran = this.running;
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#waiting = null;
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    if (this.#video.src) URL.revokeObjectURL(this.#video.src);
    this.#video.srcObject = null;
    this.#video.removeAttribute("src");
    this.#video.load();
    this.#video.hidden = true;
    if (ran) this.#onEnd();
  }

  setRate(fps) {
    this.fps = fps;
    this.#slot = -1;
    if (this.running) this.#tick();
  }

  /** The server is done with picture `number`: returns {picture, ms} if it was the one on its way. */
  settle(number) {
    const done = this.#waiting?.number === number ? this.#waiting : null;
    if (done) this.#waiting = null;
    if (this.running) this.#capture();
    return done && { picture: done.picture, ms: performance.now() - done.sentAt };
  }

  /** A new connection: what was on its way is lost. */
  forget() {
    this.#waiting = null;
  }

  async #play() {
    this.#video.hidden = false;
    try {
      await this.#video.play();
    } catch (error) {
      this.stop();
      this.#complain(`The video cannot be played: ${error.message}`);
      return false;
    }
    this.#began ||= performance.now();
    this.#tick();
    return true;
  }

  /** Once in the middle of every slot. */
  #tick() {
    clearTimeout(this.#timer);
    const slots = ((performance.now() - this.#began) * this.fps) / 1000;
    this.#timer = setTimeout(() => this.#tick(), (1000 * (Math.floor(slots + 0.5) + 0.5 - slots)) / this.fps + 1);
    this.#capture();
  }

  /** Take the picture of this slot, unless there is one, or the last one is still on its way. */
  async #capture() {
    const slot = Math.floor(((performance.now() - this.#began) * this.fps) / 1000);
    const late = this.#waiting && performance.now() - this.#waiting.sentAt > PATIENCE_MS;
    if (slot <= this.#slot || (this.#waiting && !late) || this.#capturing || !this.#video.videoWidth) return;
    this.#capturing = true;
    try {
      const picture = this.#draw();
      const sentAt = performance.now();
      const jpeg = await this.#compress(picture);
      const number = this.#number;
      if (jpeg && this.running && this.#send(number, (sentAt - this.#began) / 1000, jpeg)) {
        this.#waiting = { number, picture, sentAt };
        this.#slot = slot;
        this.#number += 1;
      }
    } finally {
      this.#capturing = false;
    }
  }

  #draw() {
    const { videoWidth: cols, videoHeight: rows } = this.#video;
    const scale = Math.min(1, LONGEST_SIDE / Math.max(cols, rows));
    const picture = document.createElement("canvas");
    picture.width = Math.round(cols * scale);
    picture.height = Math.round(rows * scale);
    const context = picture.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#video, 0, 0, picture.width, picture.height);
    return picture;
  }

  async #compress(picture) {
    for (const quality of QUALITIES) {
      const jpeg = await new Promise((done) => picture.toBlob(done, "image/jpeg", quality));
      if (jpeg && jpeg.size <= this.maxBytes) return jpeg;
    }
    this.stop();
    this.#complain(`The server takes pictures of at most ${this.maxBytes} bytes, and these are larger.`);
    return null;
  }
}
