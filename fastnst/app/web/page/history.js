// The results of this session: a click shows one and puts its pictures and controls back.

import * as api from "./api.js";
import { element } from "./element.js";
import { parameters, sides } from "./words.js";

export class History {
  constructor(list, page, chosen) {
    this.list = list;
    this.page = page;
    this.chosen = chosen;
    this.results = [];
    this.selected = null;
    this.live = null;
  }

  // The newest first; before them the run that goes on, if there is one.
  show() {
    const tiles = this.results.map((result) => this.tile(result.id, api.smallUrl(result.id), `${result.id} · ${result.size} px`, tooltip(result, this.page)));
    tiles.reverse();
    if (this.live) tiles.unshift(this.tile("live", this.live, "now", "The current run"));
    const scrolled = this.list.scrollTop;
    this.list.replaceChildren(...tiles);
    this.list.scrollTop = scrolled;
  }

  put(results) {
    this.results = results;
    this.show();
  }

  // The newest preview of the run; null when there is none.
  run(url) {
    const image = this.list.querySelector("[data-result=live] img");
    if (url && image) {
      this.live = url;
      image.src = url;
    } else if (url !== this.live) {
      this.live = url;
      this.show();
    }
  }

  select(id) {
    this.selected = id;
    for (const button of this.list.querySelectorAll("button")) button.ariaPressed = button.dataset.result === id;
  }

  get(id) {
    return this.results.find((result) => result.id === id);
  }

  tile(id, url, text, title) {
    const button = element("button", { type: "button", title, ariaPressed: this.selected === id }, element("img", { src: url, alt: "" }), element("span", {}, text));
    button.dataset.result = id;
    button.addEventListener("click", () => this.chosen(id));
    return element("li", {}, button);
  }
}

function tooltip(result, page) {
  return [result.name, `${sides(result)} px, ${result.iterations} iterations`, ...parameters(result, page)].join("\n");
}
