// The places for pictures: dropped, chosen, shown small.

import * as api from "./api.js";
import { element } from "./element.js";

export class Slot {
  constructor(root, { most, complain, changed }) {
    this.role = root.dataset.role;
    this.drop = root.querySelector(".drop");
    this.caption = root.querySelector(".caption");
    this.input = root.querySelector("input");
    this.most = most;
    this.complain = complain;
    this.changed = changed;
    this.pictures = [];
    this.input.addEventListener("change", () => this.take([...this.input.files]));
    this.input.addEventListener("cancel", () => (this.adding = false));
    this.drop.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.drop.classList.add("over");
    });
    this.drop.addEventListener("dragleave", () => this.drop.classList.remove("over"));
    this.drop.addEventListener("drop", (event) => {
      event.preventDefault();
      this.drop.classList.remove("over");
      this.take([...event.dataTransfer.files]);
    });
    this.show();
  }

  // Takes files in the place of those there, or with `adding` beside them.
  async take(files) {
    const before = this.adding ? this.pictures : [];
    this.adding = false;
    if (files.length === 0) return;
    this.drop.classList.remove("bad");
    this.drop.classList.add("busy");
    try {
      if (before.length + files.length > this.most) throw new Error(`give at most ${this.most} ${this.role} pictures`);
      const taken = [];
      for (const file of files) taken.push(await api.upload(file, this.role));
      this.put([...before, ...taken]);
    } catch (error) {
      this.drop.classList.add("bad");
      this.complain(error.message);
    } finally {
      this.drop.classList.remove("busy");
      this.input.value = "";
    }
  }

  put(pictures) {
    this.pictures = pictures;
    this.drop.classList.remove("bad");
    this.show();
    this.changed();
  }

  show() {
    this.drop.classList.toggle("full", this.pictures.length > 0);
    const images = this.pictures.map(({ id, name }) => element("img", { src: api.uploadUrl(id), alt: name }));
    this.drop.querySelector(".pictures").replaceChildren(...images);
    if (this.pictures.length === 0) {
      this.caption.replaceChildren();
      return;
    }
    const text = this.pictures.length === 1 ? this.pictures[0].name : `${this.pictures.length} pictures`;
    const title = this.pictures.map(({ name, width, height }) => `${name}, ${width} × ${height}`).join("\n");
    const parts = [element("span", { title }, text)];
    if (this.most > this.pictures.length) parts.push(this.button("add", "Add another picture", () => this.add()));
    if (this.pictures.length > 1) parts.push(this.button("clear", "Remove all of them", () => this.put([])));
    this.caption.replaceChildren(...parts);
  }

  add() {
    this.adding = true;
    this.input.click();
  }

  button(text, title, act) {
    const made = element("button", { type: "button", title }, text);
    made.addEventListener("click", act);
    return made;
  }
}
