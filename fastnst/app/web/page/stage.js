// The image in the middle, and the line and the bar under it.

import { element } from "./element.js";

export class Stage {
  constructor(view, bar, said) {
    this.view = view;
    this.bar = bar;
    this.said = said;
    this.shown = null;
    this.asked = 0;
    this.before = null;
    this.pair = element("div", { className: "pair" });
    view.append(this.pair);
    this.cut = element("input", { type: "range", min: 0, max: 100, value: 50, hidden: true, className: "cut", ariaLabel: "How much of the content is shown" });
    this.cut.addEventListener("input", () => this.compare());
    this.pair.append(this.cut);
    const [compare, full] = ["#compare", "#full"].map((id) => view.querySelector(id));
    compare.addEventListener("click", () =>
      this.toggle(compare, () => {
        this.compare();
        this.cut.focus({ preventScroll: true });
      }),
    );
    full.addEventListener("click", () => this.toggle(full, () => view.classList.toggle("real", full.ariaPressed === "true")));
    this.comparing = () => compare.ariaPressed === "true" && this.before !== null;
  }

  toggle(button, act) {
    button.ariaPressed = button.ariaPressed === "true" ? "false" : "true";
    act();
  }

  // Lays the content, at `url` or null for none, over the left of the image as far as the slider says.
  compare(url = this.before) {
    this.before = url;
    const on = this.comparing();
    this.cut.hidden = !on;
    const old = this.pair.querySelector(".before");
    if (!on) {
      old?.remove();
      return;
    }
    const image = old ?? element("img", { className: "before", alt: "The content" });
    if (image.getAttribute("src") !== url) image.src = url;
    image.style.clipPath = `inset(0 ${100 - this.cut.value}% 0 0)`;
    if (!old) this.cut.before(image);
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
    for (const old of this.pair.querySelectorAll("img:not(.before)")) old.remove();
    this.pair.prepend(image);
    const ratio = window.devicePixelRatio || 1;
    this.pair.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
    this.pair.style.setProperty("--width", `${image.naturalWidth / ratio}px`);
    this.pair.style.setProperty("--height", `${image.naturalHeight / ratio}px`);
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
