// A mask painted over the image: where it is painted, the style goes; elsewhere it does not.

import * as api from "./api.js";
import { element } from "./element.js";

const LONGEST = 1024, WIDTH = 1 / 12; // pixels of the mask, and the brush as a part of them

export class Brush {
  constructor(pair, button, clear, begin) {
    this.pair = pair;
    this.button = button;
    this.clearing = clear;
    this.canvas = element("canvas", { className: "mask" });
    this.forget();
    button.addEventListener("click", () => {
      const picture = begin();
      if (!picture) return;
      this.fit(picture);
      this.press(button.ariaPressed !== "true");
    });
    clear.addEventListener("click", () => this.forget());
    let last = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      last = this.at(event);
      this.line(last, last);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (last === null) return;
      const now = this.at(event);
      this.line(last, now);
      last = now;
    });
    for (const kind of ["pointerup", "pointercancel"]) this.canvas.addEventListener(kind, () => (last = null));
  }

  press(on) {
    this.button.ariaPressed = String(on);
    this.canvas.hidden = !on;
  }

  // Makes the mask as wide and high as the picture, unless it is already.
  fit({ width, height }) {
    const scale = Math.min(1, LONGEST / Math.max(width, height));
    const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
    if (this.canvas.width !== wide || this.canvas.height !== high) Object.assign(this.canvas, { width: wide, height: high });
    this.pair.append(this.canvas);
  }

  // The place of the pointer in the mask.
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.canvas.width, ((event.clientY - box.top) / box.height) * this.canvas.height];
  }

  line(from, to) {
    const pen = this.canvas.getContext("2d");
    Object.assign(pen, { lineCap: "round", lineWidth: WIDTH * Math.max(this.canvas.width, this.canvas.height), strokeStyle: "#fff" });
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(...to);
    pen.stroke();
    this.keep();
  }

  forget() {
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.canvas.remove();
    this.painted = false;
    this.forgotten = (this.forgotten ?? 0) + 1;
    this.clearing.hidden = true;
    this.press(false);
  }

  // Lays a mask that was painted before, at `url` or null for none, over the picture.
  async put(picture, url) {
    this.forget();
    if (!url) return;
    const turn = this.forgotten, image = element("img", { src: url });
    await image.decode();
    if (turn !== this.forgotten) return;
    this.fit(picture);
    this.canvas.getContext("2d").drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
    this.keep();
  }

  keep() {
    this.painted = true;
    this.clearing.hidden = false;
  }

  // The mask's name at the server, or null where nothing is painted.
  async sent() {
    if (!this.painted) return null;
    const blob = await new Promise((done) => this.canvas.toBlob(done, "image/png"));
    return (await api.upload(new File([blob], "mask.png"), "mask")).id;
  }
}
