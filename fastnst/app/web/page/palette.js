// The styles that come with fastnst: a swatch of each, and a blend of two of them.

import * as api from "./api.js";
import { element } from "./element.js";

export class Palette {
  // `put` takes the pictures and, of two, their shares as text, or null.
  constructor(root, names, { put, attempt }) {
    this.put = put;
    this.attempt = attempt;
    this.chosen = [];
    this.swatches = names.map((name) => {
      const title = name.replace("style_", "");
      const swatch = element("button", { type: "button", title, ariaLabel: `Style ${title}`, ariaPressed: "false" }, element("img", { src: api.swatchUrl(name), alt: "" }));
      swatch.addEventListener("click", () => this.choose([name]));
      return { name, swatch };
    });
    const options = names.map((name) => element("option", { value: name }, name.replace("style_", "")));
    this.other = element("select", { ariaLabel: "Blend with" }, element("option", { value: "" }, "nothing"), ...options);
    this.slider = element("input", { type: "range", min: 0, max: 100, value: 50, ariaLabel: "Share of the second style" });
    this.row = element("div", { className: "blend off" }, element("label", {}, "Blend with ", this.other), this.slider);
    this.other.addEventListener("change", () => this.choose([this.chosen[0], this.other.value].filter(Boolean)));
    this.slider.addEventListener("input", () => this.put(null, this.shares()));
    this.names = element("span");
    root.append(element("h2", {}, "Or click a style", this.names), element("div", { className: "swatches" }, ...this.swatches.map(({ swatch }) => swatch)), this.row);
  }

  shares() {
    return this.chosen.length === 2 ? `${100 - this.slider.value},${this.slider.value}` : null;
  }

  choose(names) {
    return this.attempt(async () => {
      const pictures = [];
      for (const name of new Set(names)) pictures.push(await api.example(name));
      this.chosen = [...new Set(names)];
      this.put(pictures, this.shares());
    });
  }

  // Shows which of the styles the pictures of the slot are, and their shares; those of a blend that is over are taken back.
  show(pictures, shares) {
    const known = this.swatches.map(({ name }) => name);
    const names = pictures.map(({ name }) => name.replace(/\.jpg$/, ""));
    this.chosen = names.length <= 2 && names.every((name) => known.includes(name)) ? names : [];
    for (const { name, swatch } of this.swatches) swatch.ariaPressed = String(this.chosen.includes(name));
    this.names.textContent = this.chosen.map((name) => name.replace("style_", "")).join(" and ");
    if (this.chosen.length === 2) {
      const [first, second] = (shares || "1,1").trim().split(/[ ,]+/).map(Number);
      this.slider.value = (100 * second) / (first + second);
    }
    const blended = this.blended;
    this.blended = this.chosen.length === 2 && Boolean(shares);
    if (blended && this.chosen.length !== 2) this.put(null, null);
    this.row.classList.toggle("off", this.chosen.length === 0); // its place stays, so that nothing jumps
    this.slider.hidden = this.chosen.length < 2;
    this.other.value = this.chosen[1] ?? "";
    for (const option of this.other.options) option.disabled = option.value !== "" && option.value === this.chosen[0];
  }
}
