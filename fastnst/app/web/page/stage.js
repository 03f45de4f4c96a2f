// The image in the middle, and the line and the bar under it.

import { element } from "./element.js";

export class Stage {
  constructor(view, bar, said) {
    this.view = view;
    this.bar = bar;
    this.said = said;
    this.shown = null;
    this.asked = 0;
  }

  // Shows the image at `url` once it is decoded, so that nothing flickers; a later call overtakes an earlier one.
  async show(url, alt) {
    if (url === this.shown) return;
    this.shown = url;
    const turn = ++this.asked;
    const image = element("img", { src: url, alt });
    try {
      await image.decode();
    } catch {
      return;
    }
    if (turn < this.drawn) return;
    this.drawn = turn;
    document.body.dataset.stage = "full";
    for (const old of this.view.querySelectorAll("img")) old.remove();
    this.view.append(image);
  }

  // An empty well while the first image is on its way.
  wait() {
    if (document.body.dataset.stage === "empty") document.body.dataset.stage = "waiting";
  }

  say([first, second]) {
    this.said.replaceChildren(first, element("small", { title: second }, second));
  }

  progress(done) {
    this.bar.firstElementChild.style.transform = `scaleX(${done})`;
    this.bar.setAttribute("aria-valuenow", Math.round(done * 100));
  }
}
